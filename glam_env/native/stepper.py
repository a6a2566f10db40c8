"""``NativeStepper``: the :class:`DreamStepper` of a CPU with a compiler.

The same numbers up to rounding, computed by ``step.cpp`` in one pass over the rows: everything
between a weight and the next state stays in the caches, and a row's numbers are the same bit for
bit whatever stands beside it and however many threads there are.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor, nn

from glam_env.errors import GlamError
from glam_env.model.inference import DreamStepper, Foretold, Scan
from glam_env.model.structures import DreamState, WorldModelConfig
from glam_env.model.variation import CoreState
from glam_env.model.world_model import WorldModel
from glam_env.native.build import load_library

WINDOW_NUMBERS = 1024  # of step.cpp: window · size at most


def _fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class _Dense(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "weight bias"),
        *_fields(ctypes.c_int64, "inputs outputs"),
    ]


class _ScanWeights(ctypes.Structure):
    _fields_ = [*_fields(ctypes.c_void_p, "taps bias decay skip"), *_fields(_Dense, "select dt")]


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


class _Rows(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "code action window conv ssm local draw h"),
        *_fields(ctypes.c_void_p, "new_code new_window new_conv new_ssm new_local new_h"),
        *_fields(ctypes.c_void_p, "reward reward_logits termination_logit entropy features"),
    ]


def layout() -> tuple[int, int]:
    """Lanes of a vector, and outputs of a panel of weights, of the compiled library."""
    lanes, panel = ctypes.c_int64(), ctypes.c_int64()
    load_library().glam_layout(ctypes.byref(lanes), ctypes.byref(panel))
    return lanes.value, panel.value


def suits(config: WorldModelConfig) -> bool:
    """Whether ``step.cpp`` can step a world model of these sizes."""
    lanes, _ = layout()
    inner = config.expand * config.width
    return (
        config.global_depth == config.local_depth == 1
        and config.width % lanes == inner % lanes == 0
        and config.local_window * config.state_size <= WINDOW_NUMBERS
    )


def _channels_inside(state: Tensor) -> Tensor:
    """(E, depth, d_inner, n) with d_inner innermost in memory; no copy where it is so already."""
    return state.transpose(2, 3).contiguous().transpose(2, 3)


class NativeStepper(DreamStepper):
    """See the module's docstring; weights and arguments are :class:`DreamStepper`'s.

    Raises:
        GlamError: the library can't be had, or the sizes do not suit it.
    """

    @torch.no_grad()
    def __init__(self, world_model: WorldModel, *, temperature: float = 1.0) -> None:
        super().__init__(world_model, temperature=temperature)
        c = self.config
        if self._table.device.type != "cpu" or not suits(c):
            raise GlamError(
                "the native step is for CPUs, one Mamba block of each kind, and widths of whole "
                f"vectors ({layout()[0]}); take backend 'auto' or 'torch'"
            )
        self._lanes, self._panel = layout()
        self._library = load_library()
        self._kept: list[Tensor] = []
        self._model = self._describe()

    def _describe(self) -> _Model:
        c, m = self.config, _Model()
        m.categoricals, m.classes, m.actions = c.categoricals, c.classes, c.num_actions
        m.width, m.inner, m.size = c.width, c.expand * c.width, c.state_size
        m.taps, m.window, m.bins = c.conv_width, c.local_window, c.reward_bins
        m.rank = self._scans[0].dt.shape[1]
        m.lanes_of_categoricals = -(-c.categoricals // self._lanes) * self._lanes
        m.unimix, m.temperature = c.unimix, self.temperature
        m.table = self._keep(self._table)
        m.embed_scale, m.embed_shift = map(self._keep, _parameters(self._embed_norm))
        m.embed = self._dense(_parameters(self._embed_out)[0].T)
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

    def _keep(self, x: Tensor) -> int:
        """The address of the numbers, which live as long as this object."""
        self._kept.append(x.detach().float().contiguous())
        return self._kept[-1].data_ptr()

    def _dense(self, weight: Tensor, bias: Tensor | None = None, beyond: float = 0.0) -> _Dense:
        """(in, out) weights in panels; outputs that fill the last vector are ``beyond``."""
        inputs, outputs = weight.shape
        width = -(-outputs // self._lanes) * self._lanes
        whole = width // self._panel * self._panel
        wide = _padded(weight, width)
        panels = wide[:, :whole].unflatten(1, (-1, self._panel)).transpose(0, 1)
        packed = torch.cat([panels.flatten(), wide[:, whole:].flatten()])
        kept = None if bias is None else self._keep(_padded(bias, width, beyond))
        return _Dense(self._keep(packed), kept, inputs, width)

    def _scan(self, scan: Scan) -> _ScanWeights:
        return _ScanWeights(
            self._keep(scan.taps),
            self._keep(scan.bias),
            self._keep(scan.a_rows / math.log(2.0)),
            self._keep(scan.skip),
            self._dense(scan.select.T),
            self._dense(scan.dt.T, scan.dt_bias),
        )

    def _prior_by_classes(self, lanes: int) -> _Dense:
        """The prior's outputs class by class, so that a vector holds one class of many latents."""
        c = self.config

        def turned(x: Tensor) -> Tensor:
            return _padded(x.unflatten(-1, (c.categoricals, c.classes)).mT, lanes).flatten(-2)

        return self._dense(turned(self._prior.weight.T), turned(self._prior.bias.unsqueeze(0))[0])

    @torch.no_grad()
    def step(self, state: DreamState, action: Tensor, draw: Tensor) -> Foretold:
        rows = len(action)
        told = [torch.empty(rows) for _ in range(3)]
        logits = torch.empty(rows, self.config.reward_bins)
        after = self._advance(state, action, draw, [told[0], logits, *told[1:]])
        return Foretold(after, told[0], logits, told[1], told[2])

    @torch.no_grad()
    def go_on(self, state: DreamState, action: Tensor, draw: Tensor) -> DreamState:
        return self._advance(state, action, draw, [])

    def _advance(
        self, state: DreamState, action: Tensor, draw: Tensor, told: list[Tensor]
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
        code, h = torch.empty_like(before[0]), torch.empty(rows, self.config.width)
        window, local = torch.empty_like(before[2]), torch.empty_like(before[5])
        conv, ssm = torch.empty_like(before[3]), torch.empty_like(before[4])
        after = [code, window, conv, ssm, local, h]
        pointers = [x.data_ptr() for x in before] + [None] + [x.data_ptr() for x in after]
        pointers += [x.data_ptr() for x in told]
        self._call("glam_step", _Rows(*pointers), rows)
        return DreamState(code, h, CoreState(window, conv, ssm, local))

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

    def features(self, state: DreamState) -> Tensor:
        code, h = state.code.long().contiguous(), state.h.float().contiguous()
        width = self.config.categoricals * self.config.classes + self.config.width
        features = torch.empty(len(h), width)
        told = _Rows(code=code.data_ptr(), h=h.data_ptr(), features=features.data_ptr())
        self._call("glam_features", told, len(h))
        return features

    def _call(self, name: str, rows: _Rows, count: int) -> None:
        threads = ctypes.c_int64(torch.get_num_threads())
        function = getattr(self._library, name)
        refused = function(
            ctypes.byref(self._model), ctypes.byref(rows), ctypes.c_int64(count), threads
        )
        if refused:
            raise IndexError("a code or an action is none of the world model's")


def _parameters(module: nn.Module) -> list[Tensor]:
    """Weight and bias of a layer, or its weight alone."""
    return [parameter.detach() for parameter in module.parameters()]


def _padded(x: Tensor, width: int, value: float = 0.0) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[-1]), value=value)
