"""``NativeStepper``: dream steps of the core ``glam`` in C++, for CPUs.

``step.cpp`` computes the numbers of :class:`~glam_env.fast.step.TorchStepper`, up to rounding, in
one pass over the rows, so that all intermediate numbers stay in the caches. The numbers of a row
depend neither on other rows nor on the number of threads, to the bit.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor, nn

from glam_env.errors import GlamError, GlamNumberError
from glam_env.fast.layout import Layout, ScanWeights, lay_out, suits_layout
from glam_env.fast.native.bindings import (
    Dense,
    Memory,
    Model,
    Part,
    Rows,
    Scan,
    VectorSizes,
    load_library,
    vector_sizes,
)
from glam_env.fast.plain import NOT_FINITE, put_rows
from glam_env.model.config import WorldModelConfig
from glam_env.model.cores.glam import GlamConfig, GlamState
from glam_env.model.structures import DreamState, Prediction
from glam_env.model.world_model import WorldModel

WINDOW_NUMBERS = 1024  # largest window · size, as in step.cpp


def suits(config: WorldModelConfig) -> bool:
    """Return whether ``step.cpp`` can step a world model of these sizes."""
    core = config.core
    if not suits_layout(config) or not isinstance(core, GlamConfig):
        return False
    lanes = vector_sizes().lanes
    return (
        core.global_depth == core.local_depth == 1
        and config.width % lanes == core.expand * config.width % lanes == 0
        and config.embed_hidden % lanes == config.prior_hidden % lanes == 0
        and core.local_window * core.state_size <= WINDOW_NUMBERS
    )


class NativeStepper:
    """Steps dreams of the core ``glam``; see :class:`~glam_env.fast.plain.Stepper`.

    Args:
        world_model: In eval mode, on a CPU.
        temperature: Of the latent's draw, times the model's own; 0 takes the likeliest classes.
        precision: ``"float32"`` or ``"auto"``. With ``"auto"``, on a CPU that multiplies float16
            (AVX512-FP16), matrix products take float16, in sums of 64, and so does LMamba's read
            of its window. The state and everything else stay float32. With the shipped Pong, h
            then differs from that of float32 by 0.2 % on average, and about one in a thousand
            categoricals of the same random draw is another.

    Raises:
        BuildError: The library cannot be compiled or loaded.
        GlamError: The world model is not on a CPU, or its core or its sizes do not suit.
    """

    @torch.no_grad()
    def __init__(
        self, world_model: WorldModel, *, temperature: float = 1.0, precision: str = "auto"
    ) -> None:
        config = world_model.config
        if world_model.device.type != "cpu" or not suits(config):
            raise GlamError(
                "the native step needs a CPU, the core 'glam' with one Mamba block of each kind, "
                f"and widths that are multiples of {vector_sizes().lanes}; "
                "take backend 'auto' or 'torch'"
            )
        self._library = load_library()
        self._config = config
        self._feature_dim = config.categoricals * config.classes + config.width
        example = world_model.core.initial_state(1)
        assert isinstance(example, GlamState)
        self._core_shapes = [part.shape[1:] for part in example]
        # The last state whose shapes are known, and its rows: most steps continue from it.
        self._known: DreamState | None = None
        self._known_rows = 0
        packer = _Packer(vector_sizes(), half=precision == "auto")
        self._half, self._memory = packer.half, packer.memory
        temperature = temperature * config.prior_temperature
        self._model = _describe(lay_out(world_model), temperature, packer)

    @torch.no_grad()
    def step(
        self,
        state: DreamState,
        action: Tensor,
        draw: Tensor,
        *,
        spend: bool = False,
        show: bool = False,
    ) -> Prediction:
        rows = len(action)
        reward, termination, entropy = torch.empty(rows), torch.empty(rows), torch.empty(rows)
        logits = torch.empty(rows, self._config.reward_bins)
        features = torch.empty(rows, self._feature_dim) if show else None
        new = self._advance(
            state,
            action,
            draw,
            spend,
            reward=reward.data_ptr(),
            reward_logits=logits.data_ptr(),
            termination_logit=termination.data_ptr(),
            entropy=entropy.data_ptr(),
            features=None if features is None else features.data_ptr(),
        )
        return Prediction(new, reward, logits, termination, entropy, features)

    @torch.no_grad()
    def go_on(self, state: DreamState, action: Tensor, draw: Tensor) -> DreamState:
        return self._advance(state, action, draw, False)

    def _advance(
        self,
        state: DreamState,
        action: Tensor,
        draw: Tensor,
        spend: bool,
        **outputs: int | None,
    ) -> DreamState:
        """Step; ``outputs`` are the addresses of what to compute besides the new state."""
        core, rows = state.core, action.numel()
        if (
            state is not self._known
            or rows != self._known_rows
            or draw.numel() != rows * self._config.categoricals
            or not (action.is_cpu and draw.is_cpu)
        ):
            self._check_shapes(state, action, draw)
        code, action = state.code.long().contiguous(), action.long().contiguous()
        window, local = core.window.float().contiguous(), core.local.float().contiguous()
        conv, ssm = _channels_inside(core.conv.float()), _channels_inside(core.ssm.float())
        draw = draw.float().contiguous()
        new = old = [code, window, conv, ssm, local]
        if not spend:
            new = [torch.empty_like(part) for part in old]
        new_code, new_window, new_conv, new_ssm, new_local = new
        h = torch.empty(rows, self._config.width)
        described = Rows(
            code=code.data_ptr(),
            action=action.data_ptr(),
            window=window.data_ptr(),
            conv=conv.data_ptr(),
            ssm=ssm.data_ptr(),
            local=local.data_ptr(),
            draw=draw.data_ptr(),
            new_code=new_code.data_ptr(),
            new_window=new_window.data_ptr(),
            new_conv=new_conv.data_ptr(),
            new_ssm=new_ssm.data_ptr(),
            new_local=new_local.data_ptr(),
            new_h=h.data_ptr(),
            **outputs,
        )
        self._call(self._library.glam_step, described, rows)
        new = DreamState(new_code, h, GlamState(new_window, new_conv, new_ssm, new_local))
        self._known, self._known_rows = new, rows
        return new

    def _check_shapes(self, state: DreamState, action: Tensor, draw: Tensor) -> None:
        """Check that the memory of all inputs is where, and as large as, C++ reads it."""
        rows, c = action.numel(), self._config
        _require("actions", action, (rows,))
        _require("draws", draw, (rows, c.categoricals))
        _require("codes", state.code, (rows, c.categoricals))
        for name, part, shape in zip(GlamState._fields, state.core, self._core_shapes, strict=True):
            _require(name, part, (rows, *shape))

    @torch.no_grad()
    def outcome(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, h = h.shape[0], h.float().contiguous()
        _require("h", h, (rows, self._config.width))
        reward, termination = torch.empty(rows), torch.empty(rows)
        logits = torch.empty(rows, self._config.reward_bins)
        described = Rows(
            h=h.data_ptr(),
            reward=reward.data_ptr(),
            reward_logits=logits.data_ptr(),
            termination_logit=termination.data_ptr(),
        )
        self._call(self._library.glam_outcome, described, rows)
        return reward, logits, termination

    def arrange(self, state: DreamState) -> DreamState:
        code, h, core = state
        core = GlamState(
            core.window.contiguous(),
            _channels_inside(core.conv),
            _channels_inside(core.ssm),
            core.local.contiguous(),
        )
        return DreamState(code.contiguous(), h.contiguous(), core)

    def put(self, state: DreamState, rows: Tensor, source: DreamState, indices: Tensor) -> None:
        pairs = list(zip(_in_memory(source), _in_memory(state), strict=True))
        if not all(_alike(part, own) for part, own in pairs):
            put_rows(state, rows, source, indices)
            return
        _require("indices", indices, (len(rows),))
        _require("rows", rows, (len(rows),))
        parts = (Part * len(pairs))(
            *(
                Part(
                    source=part.data_ptr(),
                    into=own.data_ptr(),
                    source_rows=len(part),
                    into_rows=len(own),
                    bytes=own.nbytes // max(1, len(own)),
                )
                for part, own in pairs
            )
        )
        indices, rows = indices.long().contiguous(), rows.long().contiguous()
        refused = self._library.glam_put(
            parts, len(parts), indices.data_ptr(), rows.data_ptr(), len(rows)
        )
        self._check(refused)

    def features(self, state: DreamState) -> Tensor:
        code, h = state.code.long().contiguous(), state.h.float().contiguous()
        _require("codes", code, (len(h), self._config.categoricals))
        _require("h", h, (len(h), self._config.width))
        features = torch.empty(len(h), self._feature_dim)
        described = Rows(code=code.data_ptr(), h=h.data_ptr(), features=features.data_ptr())
        self._call(self._library.glam_features, described, len(h))
        return features

    def _call(self, function, rows: Rows, count: int) -> None:
        threads = torch.get_num_threads()
        self._check(function(ctypes.byref(self._model), ctypes.byref(rows), count, threads))

    def _check(self, refused: int) -> None:
        if refused == 1:
            raise IndexError("a code, an action or a row is out of range")
        if refused and self._half:
            raise GlamNumberError(
                "the dreams' numbers leave the range of float16 (65,504): take precision 'float32'"
            )
        if refused:
            raise GlamNumberError(NOT_FINITE)


def _require(name: str, part: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(part.shape) != shape or not part.is_cpu:
        raise ValueError(
            f"{name} must have shape {shape} on the CPU, got {tuple(part.shape)} on {part.device}"
        )


def _channels_inside(state: Tensor) -> Tensor:
    """Return (E, depth, d_inner, n) with d_inner innermost in memory."""
    return state.transpose(2, 3).contiguous().transpose(2, 3)


def _in_memory(state: DreamState) -> list[Tensor]:
    """Return views of the parts of a state in the memory order of ``step.cpp``."""
    code, h, (window, conv, ssm, local) = state
    return [code, h, window, conv.transpose(2, 3), ssm.transpose(2, 3), local]


def _alike(x: Tensor, y: Tensor) -> bool:
    """Return whether the bytes of a row of x can be copied to a row of y."""
    contiguous = x.is_contiguous() and y.is_contiguous()
    return contiguous and x.dtype == y.dtype and x.shape[1:] == y.shape[1:]


class _Packer:
    """Puts weights in the order of memory that ``products.h`` reads.

    Args:
        sizes: Of the library.
        half: Whether products may take float16, where the CPU multiplies it.
    """

    def __init__(self, sizes: VectorSizes, *, half: bool) -> None:
        self.sizes, self.half = sizes, half and sizes.halves > 0
        self.memory = Memory()

    def dense(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        beyond: float = 0.0,
        coarse: bool = True,
    ) -> Dense:
        """Pack a linear layer in panels.

        Args:
            weight: (inputs, outputs).
            bias: (outputs).
            beyond: The bias of outputs that fill up the last vector.
            coarse: Whether float16 is precise enough.
        """
        inputs, outputs = weight.shape
        sizes = self.sizes
        half = coarse and self.half and inputs % sizes.lanes == 0 and _fits_half(weight)
        lanes = sizes.halves if half else sizes.lanes
        panel = lanes * sizes.vectors
        width = -(-outputs // lanes) * lanes
        whole = width // panel * panel
        wide = _padded(weight, width)
        panels = wide[:, :whole].unflatten(1, (-1, panel)).transpose(0, 1)
        packed = torch.cat([panels.flatten(), wide[:, whole:].flatten()])
        return Dense(
            weight=self.memory.keep(packed, torch.float16 if half else torch.float32),
            bias=None if bias is None else self.memory.keep(_padded(bias, width, beyond)),
            inputs=inputs,
            outputs=width,
            half=half,
        )

    def scan(self, weights: ScanWeights) -> Scan:
        """Pack a Mamba between its projections."""
        keep, size = self.memory.keep, weights.a.shape[1]
        decay = weights.a_rows / math.log(2.0)
        halves = self.half and len(weights.skip) % self.sizes.halves == 0
        return Scan(
            taps=keep(weights.taps),
            bias=keep(weights.bias),
            decay=keep(decay),
            half_decay=keep(decay, torch.float16) if halves else None,
            skip=keep(weights.skip),
            select=self.dense(weights.select[:-size].T),
            read=self.dense(weights.select[-size:].T),
            dt=self.dense(weights.dt.T, weights.dt_bias, coarse=False),
        )

    def prior(self, prior: nn.Linear, config: WorldModelConfig, lanes: int) -> Dense:
        """Pack the prior so that a vector holds one class of many categoricals."""

        def turned(x: Tensor) -> Tensor:
            x = x.unflatten(-1, (config.categoricals, config.classes)).mT
            return _padded(x, lanes).flatten(-2)

        return self.dense(turned(prior.weight.T), turned(prior.bias.unsqueeze(0))[0])


def _describe(layout: Layout, temperature: float, packer: _Packer) -> Model:
    """Pack a layout for ``step.cpp``."""
    c, keep, dense = layout.config, packer.memory.keep, packer.dense
    lanes = -(-c.categoricals // packer.sizes.lanes) * packer.sizes.lanes
    reward = dense(layout.reward.T, layout.reward_bias, beyond=-math.inf)
    hidden: dict[str, Any] = {}
    if layout.prior_hidden is not None:
        linear, norm = layout.prior_hidden
        hidden["prior_hidden"] = dense(linear.weight.T)
        hidden |= {"prior_scale": keep(norm.weight), "prior_shift": keep(norm.bias)}
    ending = layout.termination
    return Model(
        categoricals=c.categoricals,
        classes=c.classes,
        actions=c.num_actions,
        width=c.width,
        inner=len(layout.scans[0].skip),
        size=layout.scans[0].a.shape[1],
        taps=len(layout.scans[0].taps),
        window=layout.window,
        rank=layout.scans[0].dt.shape[1],
        bins=c.reward_bins,
        embed_width=layout.table.shape[1],
        prior_width=c.prior_hidden,
        lanes_of_categoricals=lanes,
        expand=layout.expand,
        unimix=c.unimix,
        temperature=temperature,
        table=keep(layout.table),
        embed_scale=keep(layout.embed_norm.weight),
        embed_shift=keep(layout.embed_norm.bias),
        # Not coarse: GMamba scales up the differences between steps.
        embed=dense(layout.embed_out.weight.T, coarse=False),
        into=_pair(*(dense(layout.into[at], layout.into_bias[at, 0]) for at in range(2))),
        scan=(Scan * 2)(*map(packer.scan, layout.scans)),
        out=_pair(*(dense(layout.out[at], layout.out_bias[at, 0]) for at in range(2))),
        variation_scale=keep(layout.variation_norm.weight),
        variation_shift=keep(layout.variation_norm.bias),
        **hidden,
        prior=packer.prior(layout.prior, c, lanes),
        heads=dense(layout.heads_into),
        first_scale=keep(layout.first_scale),
        first_shift=keep(layout.first_shift),
        second_scale=keep(layout.second_scale),
        second_shift=keep(layout.second_shift),
        middle=_pair(*(dense(layout.heads_middle[at]) for at in range(2))),
        reward=reward,
        bin_values=keep(_padded(layout.bin_values, reward.outputs)),
        termination=keep(torch.cat([ending.weight.flatten(), ending.bias])),
    )


def _pair(first: Dense, second: Dense) -> ctypes.Array[Dense]:
    return (Dense * 2)(first, second)


def _fits_half(x: Tensor) -> bool:
    return bool(x.abs().max() <= torch.finfo(torch.float16).max)


def _padded(x: Tensor, width: int, value: float = 0.0) -> Tensor:
    return nn.functional.pad(x, (0, width - x.shape[-1]), value=value)
