"""``NativeStepper``: the :class:`DreamStepper` of a CPU with a compiler.

The same numbers up to rounding, computed by ``step.cpp`` in one pass over the rows: everything
between a weight and the next state stays in the caches, and a row's numbers are the same bit for
bit whatever stands beside it and however many threads there are.
"""

from __future__ import annotations

import ctypes
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glam_env.errors import GlamError
from glam_env.fast.native.build import load_library
from glam_env.fast.step import DreamStepper, Foretold, Scan
from glam_env.model.config import WorldModelConfig
from glam_env.model.cores.glam import GlamConfig, GlamState
from glam_env.model.structures import DreamState
from glam_env.model.world_model import WorldModel

WINDOW_NUMBERS = 1024  # of step.cpp: window · size at most


def _fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class _Dense(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "weight bias"),
        *_fields(ctypes.c_int64, "inputs outputs half"),
    ]


class _ScanWeights(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "taps bias decay half_decay skip"),
        *_fields(_Dense, "select read dt"),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_int64, "categoricals classes actions width inner size taps window rank"),
        *_fields(ctypes.c_int64, "bins lanes_of_categoricals"),
        *_fields(ctypes.c_float, "unimix temperature"),
        *_fields(ctypes.c_void_p, "table embed_scale embed_shift"),
        *_fields(_Dense, "embed"),
        *_fields(_Dense * 2, "into"),
        *_fields(_ScanWeights * 2, "scan"),
        *_fields(_Dense * 2, "out"),
        *_fields(ctypes.c_void_p, "variation_scale variation_shift"),
        *_fields(_Dense, "prior heads"),
        *_fields(ctypes.c_void_p, "first_scale first_shift second_scale second_shift"),
        *_fields(_Dense * 2, "middle"),
        *_fields(_Dense, "reward"),
        *_fields(ctypes.c_void_p, "centers termination"),
    ]


class _Part(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "source into"),
        *_fields(ctypes.c_int64, "source_rows into_rows bytes"),
    ]


class _Rows(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "code action window conv ssm local draw h"),
        *_fields(ctypes.c_void_p, "new_code new_window new_conv new_ssm new_local new_h"),
        *_fields(ctypes.c_void_p, "reward reward_logits termination_logit entropy features"),
    ]


class Layout(NamedTuple):
    """Of the compiled library: numbers of a vector, ``lanes`` of float32 and ``halves`` of float16
    (0 if this CPU has no products of them), and ``vectors`` of weights in a panel."""

    lanes: int
    halves: int
    vectors: int


def layout() -> Layout:
    """What weights are laid out for."""
    found = [ctypes.c_int64() for _ in Layout._fields]
    load_library().glam_layout(*map(ctypes.byref, found))
    return Layout(*(number.value for number in found))


def suits(config: WorldModelConfig) -> bool:
    """Whether ``step.cpp`` can step a world model of these sizes."""
    lanes = layout().lanes
    core = config.core
    if not isinstance(core, GlamConfig):
        return False
    inner = core.expand * config.width
    return (
        core.global_depth == core.local_depth == 1
        and config.width % lanes == inner % lanes == 0
        and core.local_window * core.state_size <= WINDOW_NUMBERS
    )


def _channels_inside(state: Tensor) -> Tensor:
    """(E, depth, d_inner, n) with d_inner innermost in memory; no copy where it is so already."""
    return state.transpose(2, 3).contiguous().transpose(2, 3)


def _in_memory(state: DreamState) -> list[Tensor]:
    """The parts of a state as ``step.cpp`` has them, views of them."""
    code, h, (window, conv, ssm, local) = state
    return [code, h, window, conv.transpose(2, 3), ssm.transpose(2, 3), local]


def _alike(x: Tensor, y: Tensor) -> bool:
    """Whether rows of both are the same bytes for the same numbers."""
    contiguous = x.is_contiguous() and y.is_contiguous()
    return contiguous and x.dtype == y.dtype and x.shape[1:] == y.shape[1:]


class NativeStepper(DreamStepper):
    """See the module's docstring; weights and arguments are :class:`DreamStepper`'s.

    Args:
        precision: ``"float32"``, or ``"auto"``: where the CPU multiplies float16 (AVX512-FP16),
            matrix products take it, in sums of 64, and so does what LMamba reads of its window;
            all else, and all that is remembered, stays float32. Next to float32, h of the shipped
            Pong is then off by 0.2 % in the mean, and about one in a thousand categoricals drawn
            by the same lot is another.

    Raises:
        GlamError: the library can't be had, or the sizes do not suit it.
    """

    @torch.no_grad()
    def __init__(
        self, world_model: WorldModel, *, temperature: float = 1.0, precision: str = "auto"
    ) -> None:
        super().__init__(world_model, temperature=temperature)
        c = self.config
        if self._table.device.type != "cpu" or not suits(c):
            raise GlamError(
                "the native step is for CPUs, one Mamba block of each kind, and widths of whole "
                f"vectors ({layout().lanes}); take backend 'auto' or 'torch'"
            )
        self._layout = layout()
        self._half = precision == "auto" and self._layout.halves > 0
        self._library = load_library()
        self._feature_dim = c.categoricals * c.classes + c.width
        self._kept: list[Tensor] = []
        self._model = self._describe()

    def _describe(self) -> _Model:
        c, m = self.config, _Model()
        core = c.core
        assert isinstance(core, GlamConfig)
        m.categoricals, m.classes, m.actions = c.categoricals, c.classes, c.num_actions
        m.width, m.inner, m.size = c.width, core.expand * c.width, core.state_size
        m.taps, m.window, m.bins = core.conv_width, core.local_window, c.reward_bins
        m.rank = self._scans[0].dt.shape[1]
        m.lanes_of_categoricals = -(-c.categoricals // self._layout.lanes) * self._layout.lanes
        m.unimix, m.temperature = c.unimix, self.temperature
        m.table = self._keep(self._table)
        m.embed_scale, m.embed_shift = map(self._keep, _parameters(self._embed_norm))
        # Its changes from step to step are what GMamba scales up.
        m.embed = self._dense(_parameters(self._embed_out)[0].T, coarse=False)
        for part, scan in enumerate(self._scans):
            m.into[part] = self._dense(self._in[part], self._in_bias[part, 0])
            m.out[part] = self._dense(self._out[part], self._out_bias[part, 0])
            m.scan[part] = self._scan(scan)
        m.variation_scale, m.variation_shift = map(self._keep, _parameters(self._variation_norm))
        m.prior = self._prior_by_classes(m.lanes_of_categoricals)
        m.heads = self._dense(self._heads_in)
        scales = [self._keep(x) for x in self._heads_norms]
        m.first_scale, m.first_shift, m.second_scale, m.second_shift = scales
        for part in range(2):
            m.middle[part] = self._dense(self._heads_mid[part])
        weight, bias = _parameters(self._reward)
        m.reward = self._dense(weight.T, bias, beyond=-math.inf)
        m.centers = self._keep(_padded(self._centers, m.reward.outputs))
        weight, bias = _parameters(self._termination)
        m.termination = self._keep(torch.cat([weight.flatten(), bias]))
        return m

    def _keep(self, x: Tensor, dtype: torch.dtype = torch.float32) -> int:
        """The address of the numbers, which live as long as this object."""
        self._kept.append(x.detach().to(dtype).contiguous())
        return self._kept[-1].data_ptr()

    def _dense(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        beyond: float = 0.0,
        coarse: bool = True,
    ) -> _Dense:
        """(in, out) weights in panels; outputs that fill the last vector are ``beyond``.
        ``coarse``: float16 will do."""
        inputs, outputs = weight.shape
        half = coarse and self._half and inputs % self._layout.lanes == 0 and _fits_half(weight)
        lanes = self._layout.halves if half else self._layout.lanes
        panel = lanes * self._layout.vectors
        width = -(-outputs // lanes) * lanes
        whole = width // panel * panel
        wide = _padded(weight, width)
        panels = wide[:, :whole].unflatten(1, (-1, panel)).transpose(0, 1)
        packed = torch.cat([panels.flatten(), wide[:, whole:].flatten()])
        kept = None if bias is None else self._keep(_padded(bias, width, beyond))
        dtype = torch.float16 if half else torch.float32
        return _Dense(self._keep(packed, dtype), kept, inputs, width, half)

    def _scan(self, scan: Scan) -> _ScanWeights:
        size = scan.a.shape[1]
        decay = scan.a_rows / math.log(2.0)
        halves = self._half and len(scan.skip) % self._layout.halves == 0
        return _ScanWeights(
            self._keep(scan.taps),
            self._keep(scan.bias),
            self._keep(decay),
            self._keep(decay, torch.float16) if halves else None,
            self._keep(scan.skip),
            self._dense(scan.select[:-size].T),
            self._dense(scan.select[-size:].T),
            self._dense(scan.dt.T, scan.dt_bias, coarse=False),
        )

    def _prior_by_classes(self, lanes: int) -> _Dense:
        """The prior's outputs class by class, so that a vector holds one class of many latents."""
        c = self.config

        def turned(x: Tensor) -> Tensor:
            return _padded(x.unflatten(-1, (c.categoricals, c.classes)).mT, lanes).flatten(-2)

        return self._dense(turned(self._prior.weight.T), turned(self._prior.bias.unsqueeze(0))[0])

    @torch.no_grad()
    def step(
        self,
        state: DreamState,
        action: Tensor,
        draw: Tensor,
        *,
        spend: bool = False,
        show: bool = False,
    ) -> Foretold:
        rows, bins = len(action), self.config.reward_bins
        reward, ending, entropy = (torch.empty(rows) for _ in range(3))
        told = [reward, torch.empty(rows, bins), ending, entropy]
        if show:
            told.append(torch.empty(rows, self._feature_dim))
        return Foretold(self._advance(state, action, draw, told, spend), *told)

    @torch.no_grad()
    def go_on(self, state: DreamState, action: Tensor, draw: Tensor) -> DreamState:
        return self._advance(state, action, draw, [])

    def _advance(
        self,
        state: DreamState,
        action: Tensor,
        draw: Tensor,
        told: list[Tensor],
        spend: bool = False,
    ) -> DreamState:
        core, rows = state.core, len(action)
        before = [
            state.code.long().contiguous(),
            action.long().contiguous(),
            core.window.float().contiguous(),
            _channels_inside(core.conv.float()),
            _channels_inside(core.ssm.float()),
            core.local.float().contiguous(),
            draw.float().contiguous(),
        ]
        kept = before[:1] + before[2:6]
        if not spend:
            kept = [torch.empty_like(part) for part in kept]
        code, window, conv, ssm, local = kept
        h = torch.empty(rows, self.config.width)
        after = [code, window, conv, ssm, local, h]
        pointers = [x.data_ptr() for x in before] + [None] + [x.data_ptr() for x in after]
        pointers += [x.data_ptr() for x in told]
        self._call("glam_step", _Rows(*pointers), rows)
        return DreamState(code, h, GlamState(window, conv, ssm, local))

    @torch.no_grad()
    def outcome(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, h = len(h), h.float().contiguous()
        reward, ending = torch.empty(rows), torch.empty(rows)
        logits = torch.empty(rows, self.config.reward_bins)
        told = _Rows(
            h=h.data_ptr(),
            reward=reward.data_ptr(),
            reward_logits=logits.data_ptr(),
            termination_logit=ending.data_ptr(),
        )
        self._call("glam_outcome", told, rows)
        return reward, logits, ending

    def arrange(self, state: DreamState) -> DreamState:
        code, h, core = state
        window, local = core.window.contiguous(), core.local.contiguous()
        core = GlamState(window, _channels_inside(core.conv), _channels_inside(core.ssm), local)
        return DreamState(code.contiguous(), h.contiguous(), core)

    def put(self, state: DreamState, rows: Tensor, source: DreamState, indices: Tensor) -> None:
        parts = list(zip(_in_memory(source), _in_memory(state), strict=True))
        if not all(_alike(part, own) for part, own in parts):
            return super().put(state, rows, source, indices)
        copied = [
            (x.data_ptr(), y.data_ptr(), len(x), len(y), x.nbytes // len(x)) for x, y in parts
        ]
        indices, rows = indices.contiguous(), rows.contiguous()
        self._refuse(
            self._library.glam_put(
                (_Part * len(parts))(*copied),
                ctypes.c_int64(len(parts)),
                ctypes.c_void_p(indices.data_ptr()),
                ctypes.c_void_p(rows.data_ptr()),
                ctypes.c_int64(len(rows)),
            )
        )
        return None

    def features(self, state: DreamState) -> Tensor:
        code, h = state.code.long().contiguous(), state.h.float().contiguous()
        features = torch.empty(len(h), self._feature_dim)
        told = _Rows(code=code.data_ptr(), h=h.data_ptr(), features=features.data_ptr())
        self._call("glam_features", told, len(h))
        return features

    def _call(self, name: str, rows: _Rows, count: int) -> None:
        threads = ctypes.c_int64(torch.get_num_threads())
        function = getattr(self._library, name)
        refused = function(
            ctypes.byref(self._model), ctypes.byref(rows), ctypes.c_int64(count), threads
        )
        self._refuse(refused)

    def _refuse(self, refused: int) -> None:
        if refused == 1:
            raise IndexError("a code, an action or a row is none of those that there are")
        if refused and self._half:
            raise FloatingPointError(
                "the dreams' numbers leave the range of float16 (65,504): take precision 'float32'"
            )


def _parameters(module: nn.Module) -> list[Tensor]:
    """Weight and bias of a layer, or its weight alone."""
    return [parameter.detach() for parameter in module.parameters()]


def _fits_half(x: Tensor) -> bool:
    return bool(x.abs().max() <= torch.finfo(torch.float16).max)


def _padded(x: Tensor, width: int, value: float = 0.0) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[-1]), value=value)
