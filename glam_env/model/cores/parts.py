"""The parts of GLAM alone: ``local`` is LMamba, ``global`` is GMamba."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from glam_env.model.cores.base import CoreConfig, CoreOutput, SequenceCore, require_length
from glam_env.model.cores.glam import GMamba, LMamba, before, require_window
from glam_env.model.cores.stack import LARGEST_MAMBA, MOST_BLOCKS, StackState, require_at_most


@dataclass(frozen=True)
class LocalConfig(CoreConfig):
    """Sizes of the core ``local``, the row "w/o G" of table 2.

    Attributes:
        local_window: s, the features that LMamba sees.
        local_depth: Mamba blocks; as many as STORM's transformer has layers.
        state_size: N, SSM states of each inner channel.
        conv_width: Width of Mamba's causal convolution.
        expand: d_inner / D.
    """

    name: str = "local"
    local_window: int = 4
    local_depth: int = 2
    state_size: int = 16
    conv_width: int = 4
    expand: int = 2

    @property
    def context(self) -> int:
        """Steps before the first output: a full window."""
        return self.local_window

    def validate(self) -> None:
        """Check all values; ValueError if one is out of range."""
        super().validate()
        require_window(self.local_window)
        require_at_most(self, {"local_depth": MOST_BLOCKS} | LARGEST_MAMBA)


class LocalState(NamedTuple):
    """State of the core ``local`` between steps, float32.

    Attributes:
        window: (B, s−1, D) the last features, oldest first.
        local: (B, s−1, ·) what :class:`LMamba` keeps of them.
    """

    window: Tensor
    local: Tensor


class LocalCore(SequenceCore):
    """LMamba alone, h_t = u^l_t; nothing returns a variation.

    Args:
        width: D.
        config: Sizes.
    """

    def __init__(self, width: int, config: LocalConfig) -> None:
        super().__init__()
        config.validate()
        self.width, self.context = width, config.context
        self.lmamba = LMamba(width, config)

    def forward(self, e: Tensor) -> CoreOutput:
        require_length(e, self.context)
        h, inputs = self.lmamba(e)
        return CoreOutput(h, None, LocalState(e, inputs))

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> LocalState:
        past = self.context - 1
        return LocalState(
            torch.zeros(batch, past, self.width, device=device),
            torch.zeros(batch, past, self.lmamba.cache_width, device=device),
        )

    def step(
        self, e: Tensor, state: LocalState, first: Tensor | None = None
    ) -> tuple[Tensor, LocalState]:
        """Run one position; the first feature of a sequence fills its window."""
        e, window = e.float(), state.window
        if first is not None:
            window = torch.where(first[:, None, None], e.unsqueeze(1), window)
        window = torch.cat([window, e.unsqueeze(1)], 1)  # (B, s, D)
        h, local = self.lmamba.step(window, state.local, first)
        return h, LocalState(window[:, 1:], local[:, 1:].float())

    def state_at(self, output: CoreOutput, rows: Tensor, positions: Tensor) -> LocalState:
        behind = before(rows, positions, self.context - 1)
        return LocalState(*(part.detach()[behind].float() for part in output.trace))


@dataclass(frozen=True)
class GlobalConfig(CoreConfig):
    """Sizes of the core ``global``.

    Attributes:
        global_depth: Mamba blocks stacked in GMamba.
        state_size: N, SSM states of each inner channel.
        conv_width: Width of Mamba's causal convolution.
        expand: d_inner / D.
    """

    name: str = "global"
    global_depth: int = 1
    state_size: int = 16
    conv_width: int = 4
    expand: int = 2

    @property
    def context(self) -> int:
        """Steps before the first output: two features, of which one difference is taken."""
        return 2

    def validate(self) -> None:
        """Check all values; ValueError if one is out of range."""
        super().validate()
        require_at_most(self, {"global_depth": MOST_BLOCKS} | LARGEST_MAMBA)


class GlobalState(NamedTuple):
    """State of the core ``global`` between steps, float32.

    Attributes:
        last: (B, D) the last feature.
        conv: As in :class:`~glam_env.model.cores.stack.StackState`.
        ssm: The same.
    """

    last: Tensor
    conv: Tensor
    ssm: Tensor


class GlobalCore(SequenceCore):
    """GMamba alone, h_t = u^g_t.

    Args:
        width: D.
        config: Sizes.
    """

    has_variation = True

    def __init__(self, width: int, config: GlobalConfig) -> None:
        super().__init__()
        config.validate()
        self.width, self.context = width, config.context
        self.gmamba = GMamba(width, config.global_depth, config)

    def forward(self, e: Tensor) -> CoreOutput:
        require_length(e, self.context)
        h, traces = self.gmamba(e[:, 1:] - e[:, :-1])  # (B, L−1, D) from t = 1
        return CoreOutput(h, h, (e, traces))

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> GlobalState:
        return GlobalState(
            torch.zeros(batch, self.width, device=device), *self.gmamba.empty(batch, device)
        )

    def step(
        self, e: Tensor, state: GlobalState, first: Tensor | None = None
    ) -> tuple[Tensor, GlobalState]:
        """Run one position; at the first of a sequence the difference is 0."""
        e, last = e.float(), state.last
        if first is not None:
            last = torch.where(first[:, None], e, last)
        h, stack = self.gmamba.step(e - last, StackState(state.conv, state.ssm), first)
        return h, GlobalState(e, *stack)

    def state_at(self, output: CoreOutput, rows: Tensor, positions: Tensor) -> GlobalState:
        e, traces = output.trace
        # d_t is the difference of index t − 1.
        stack = self.gmamba.state_at(traces, rows, positions - 1)
        return GlobalState(e.detach()[rows, positions].float(), *stack)
