"""The core of GLAM: GMamba, LMamba, and their sum.

Symbols: e_t features, d_t = e_t − e_{t−1} their differences, u^g_t what GMamba predicts of the
variation, u^l_t what LMamba infers from the window, h_t = u^g_t + u^l_t. Shapes: B batch, L length,
D width, s the local window, d_inner and N as in :mod:`glam_env.model.cores.mamba`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glam_env.model.cores.base import CoreConfig, CoreOutput, SequenceCore, require_length
from glam_env.model.cores.mamba import MambaTrace
from glam_env.model.cores.stack import (
    LARGEST_MAMBA,
    MOST_BLOCKS,
    MambaBlock,
    MambaSizes,
    MambaStack,
    StackState,
    require_at_most,
)

LARGEST_WINDOW = 1024


@dataclass(frozen=True)
class GlamConfig(CoreConfig):
    """Sizes of the core ``glam``; the defaults are the paper's (table 3).

    Attributes:
        local_window: s, the features that LMamba sees.
        global_depth: Mamba blocks stacked in GMamba.
        local_depth: Mamba blocks stacked in LMamba.
        state_size: N, SSM states of each inner channel.
        conv_width: Width of Mamba's causal convolution.
        expand: d_inner / D.
    """

    name: str = "glam"
    local_window: int = 4
    global_depth: int = 1
    local_depth: int = 1
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
        depths = {"global_depth": MOST_BLOCKS, "local_depth": MOST_BLOCKS}
        require_at_most(self, depths | LARGEST_MAMBA)


def require_window(local_window: int) -> None:
    """Check LMamba's window; ValueError if it is out of range."""
    if local_window < 2:
        raise ValueError(f"core.local_window must be at least 2, got {local_window}")
    if local_window > LARGEST_WINDOW:
        raise ValueError(f"core.local_window must be at most {LARGEST_WINDOW}, got {local_window}")


class LocalSizes(MambaSizes, Protocol):
    """The sizes of LMamba, as in :class:`GlamConfig`."""

    @property
    def local_window(self) -> int: ...
    @property
    def local_depth(self) -> int: ...


class GlamState(NamedTuple):
    """State of the core between steps, float32, one row a sequence.

    Attributes:
        window: (B, s−1, D) the last features, oldest first.
        conv: (B, depth, d_inner, d_conv−1) the convolution tails of GMamba.
        ssm: (B, depth, d_inner, N) the SSM states of GMamba.
        local: (B, s−1, d_inner) the inputs of LMamba's convolution for the features of
            ``window``; (B, s−1, 0) if LMamba is a stack of blocks, which cannot use them again.
    """

    window: Tensor
    conv: Tensor
    ssm: Tensor
    local: Tensor


class GlamTrace(NamedTuple):
    """What :meth:`GlamCore.state_at` reads of a parallel pass.

    Attributes:
        features: (B, L, D).
        local: (B, L, ·) of LMamba, as in :class:`GlamState`.
        blocks: One trace for each block of GMamba.
    """

    features: Tensor
    local: Tensor
    blocks: list[MambaTrace]


class GMamba(MambaStack):
    """Predict the next variation from all variations so far (eq. 7).

    g_t = d_t + Mamba(LayerNorm(d))_t, u^g_t = SiLU(LayerNorm(W g_t)).

    Args:
        width: D.
        depth: Mamba blocks.
        config: Their sizes.
    """

    def __init__(self, width: int, depth: int, config: MambaSizes) -> None:
        super().__init__(width, depth, config)
        self.project = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, differences: Tensor) -> tuple[Tensor, list[MambaTrace]]:
        """Map (B, L−1, D) differences d_1 … d_{L−1} to u^g, and return the traces."""
        g, traces = self.run(differences)
        return self._head(g), traces

    def step(
        self, d: Tensor, state: StackState, first: Tensor | None = None
    ) -> tuple[Tensor, StackState]:
        """Map one difference (B, D) to u^g (B, D), and return the new state.

        Rows where the (B) bool ``first`` is true have no difference yet: their state stays empty.
        """
        if first is not None:
            state = state.cleared(first)
        g, conv, ssm = self.advance(d, *state)
        new = StackState(conv, ssm)
        if first is not None:  # the parallel pass has no difference at its first position
            new = new.cleared(first)
        return self._head(g), new

    def _head(self, g: Tensor) -> Tensor:
        return F.silu(self.norm(self.project(g)))


class LMamba(nn.Module):
    """Infer from the last s features, and from nothing older (eq. 6).

    On the window e_{t−s+1} … e_t, u^l_t = W' l_t, where l_t is the last position of
    e + Mamba(LayerNorm(e)).

    Args:
        width: D.
        config: Sizes.
    """

    def __init__(self, width: int, config: LocalSizes) -> None:
        super().__init__()
        self.window = config.local_window
        self.blocks = nn.ModuleList(MambaBlock(width, config) for _ in range(config.local_depth))
        self.project = nn.Linear(width, width)
        self.cache_width = config.expand * width if config.local_depth == 1 else 0

    def forward(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, L, D) features to u^l (B, L−s+1, D), and return :meth:`inputs`."""
        *lower, top = self.blocks
        assert isinstance(top, MambaBlock)
        if lower:
            windows = e.unfold(1, self.window, 1).transpose(2, 3)  # (B, W, s, D)
            out = self._over_windows(windows.flatten(0, 1)).unflatten(0, windows.shape[:2])
            return out, self.inputs(e)
        # A single block projects each feature once, not once for every window that contains it.
        inputs, z = top.mamba.project(top.norm(e))
        out = top.mamba.last(inputs, z[:, self.window - 1 :], self.window)  # (B, W, D)
        return self.project(e[:, self.window - 1 :] + out), inputs

    def step(
        self, window: Tensor, local: Tensor, first: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run one position.

        Args:
            window: (B, s, D), the features of the window that ends now.
            local: (B, s−1, cache_width), the :meth:`inputs` of all but the last.
            first: (B) bool, rows whose window consists of the last feature s times.

        Returns:
            u^l (B, D), and ``local`` with the last feature's inputs added, (B, s, cache_width).
        """
        if not self.cache_width:
            return self._over_windows(window), local.new_empty(len(window), self.window, 0)
        block = self.blocks[0]
        assert isinstance(block, MambaBlock)
        inputs, z = block.mamba.project(block.norm(window[:, -1:]))  # (B, 1, d_inner) each
        local = local.to(inputs.dtype)
        if first is not None:
            local = torch.where(first[:, None, None], inputs, local)
        inputs = torch.cat([local, inputs], 1)  # (B, s, d_inner)
        out = block.mamba.last(inputs, z, self.window).squeeze(1)  # (B, D)
        return self.project(window[:, -1] + out), inputs

    def inputs(self, e: Tensor) -> Tensor:
        """Return what later windows need of (..., D) features, (..., ``cache_width``)."""
        if not self.cache_width:
            return e[..., :0]
        block = self.blocks[0]
        assert isinstance(block, MambaBlock)
        return block.mamba.project(block.norm(e))[0]

    def _over_windows(self, x: Tensor) -> Tensor:
        """Map (N, s, D) windows to u^l at their last position, (N, D)."""
        *lower, top = self.blocks
        for block in lower:
            x = block(x)
        assert isinstance(top, MambaBlock)
        inputs, z = top.mamba.project(top.norm(x))
        return self.project(x[:, -1] + top.mamba.last(inputs, z[:, -1:], self.window).squeeze(1))


class GlamCore(SequenceCore):
    """The sum of GMamba and LMamba, h_t = u^g_t + u^l_t.

    Args:
        width: D.
        config: Sizes.
    """

    has_variation = True

    def __init__(self, width: int, config: GlamConfig) -> None:
        super().__init__()
        config.validate()
        self.width, self.config, self.context = width, config, config.context
        self.gmamba = GMamba(width, config.global_depth, config)
        self.lmamba = LMamba(width, config)

    def forward(self, e: Tensor) -> CoreOutput:
        """Infer the states of known sequences in parallel (algorithm 1).

        Args:
            e: (B, L, D) features, L ≥ s.

        Returns:
            The states for t = s − 1 … L − 1, the first with a full window.

        Raises:
            ValueError: L is less than s.
        """
        first = self.context - 1
        require_length(e, self.context)
        variation, traces = self.gmamba(e[:, 1:] - e[:, :-1])  # (B, L−1, D) from t = 1
        variation = variation[:, first - 1 :]  # (B, L−s+1, D) from t = s − 1
        local, inputs = self.lmamba(e)  # (B, L−s+1, D)
        return CoreOutput(variation + local, variation, GlamTrace(e, inputs, traces))

    def step(
        self, e: Tensor, state: GlamState, first: Tensor | None = None
    ) -> tuple[Tensor, GlamState]:
        """Run one position; see :meth:`SequenceCore.step`.

        In a sequence shorter than the window, the first feature fills the missing places, as if
        nothing had changed before it.
        """
        window, conv, ssm, local = state
        e = e.float()
        if first is not None:
            window = torch.where(first[:, None, None], e.unsqueeze(1), window)
        variation, (conv, ssm) = self.gmamba.step(e - window[:, -1], StackState(conv, ssm), first)
        window = torch.cat([window, e.unsqueeze(1)], dim=1)  # (B, s, D)
        u_l, local = self.lmamba.step(window, local, first)
        return variation + u_l, GlamState(window[:, 1:], conv, ssm, local[:, 1:].float())

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> GlamState:
        """Return zeros; the next :meth:`step` must mark all rows as first."""
        window = self.config.local_window - 1
        return GlamState(
            torch.zeros(batch, window, self.width, device=device),
            *self.gmamba.empty(batch, device),
            torch.zeros(batch, window, self.lmamba.cache_width, device=device),
        )

    def state_at(self, output: CoreOutput, rows: Tensor, positions: Tensor) -> GlamState:
        """Return the states after given positions; see :meth:`SequenceCore.state_at`."""
        features, inputs, blocks = output.trace
        behind = before(rows, positions, self.config.local_window - 1)
        window, local = features.detach()[behind], inputs.detach()[behind]
        # d_t is the difference of index t − 1.
        conv, ssm = self.gmamba.state_at(blocks, rows, positions - 1)
        return GlamState(window.float(), conv, ssm, local.float())


def before(rows: Tensor, positions: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return indices of the last ``count`` positions up to given ones, oldest first.

    Args:
        rows: (N) int64.
        positions: (N) int64.
        count: How many.

    Returns:
        An index (N, count) into (B, L, ...).
    """
    back = torch.arange(count - 1, -1, -1, device=rows.device)
    return rows[:, None], positions[:, None] - back
