"""The core of GLAM: GMamba, LMamba, and their sum.

Symbols: e_t features, d_t = e_t − e_{t−1} their differences, u^g_t what GMamba predicts of the
variation, u^l_t what LMamba infers from the window, h_t = u^g_t + u^l_t. Shapes: B batch, L length,
D width, s the local window, d_inner and N as in :mod:`glam_env.model.cores.mamba`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glam_env.model.cores.base import CoreConfig, CoreOutput, SequenceCore
from glam_env.model.cores.mamba import Mamba, MambaTrace

_LARGEST = {
    "local_window": 1024,
    "global_depth": 32,
    "local_depth": 32,
    "state_size": 1024,
    "conv_width": 256,
    "expand": 64,
}


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
        if self.local_window < 2:
            raise ValueError(f"core.local_window must be at least 2, got {self.local_window}")
        for name, most in _LARGEST.items():
            if (value := getattr(self, name)) > most:
                raise ValueError(f"core.{name} must be at most {most}, got {value}")


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


class MambaBlock(nn.Module):
    """A residual block, x + Mamba(LayerNorm(x))."""

    def __init__(self, width: int, config: GlamConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mamba = Mamba(width, config.state_size, config.conv_width, config.expand)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mamba(self.norm(x))


class GMamba(nn.Module):
    """Predict the next variation from all variations so far (eq. 7).

    g_t = d_t + Mamba(LayerNorm(d))_t, u^g_t = SiLU(LayerNorm(W g_t)).

    Args:
        width: D.
        config: Sizes.
    """

    def __init__(self, width: int, config: GlamConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MambaBlock(width, config) for _ in range(config.global_depth))
        self.project = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, differences: Tensor) -> tuple[Tensor, list[MambaTrace]]:
        """Map (B, L−1, D) differences d_1 … d_{L−1} to u^g, and return the traces."""
        g, traces = differences, []
        for block in self.blocks:
            assert isinstance(block, MambaBlock)
            out, trace = block.mamba.forward_traced(block.norm(g))
            g = g + out
            traces.append(trace)
        return self._head(g), traces

    def step(self, d: Tensor, conv: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map one difference (B, D) to u^g (B, D) and the new conv and ssm states."""
        g, convs, ssms = d, [], []
        for depth, block in enumerate(self.blocks):
            assert isinstance(block, MambaBlock)
            out, new_conv, new_ssm = block.mamba.step(block.norm(g), conv[:, depth], ssm[:, depth])
            g = g + out
            convs.append(new_conv)
            ssms.append(new_ssm)
        return self._head(g), stacked(convs), stacked(ssms)

    def _head(self, g: Tensor) -> Tensor:
        return F.silu(self.norm(self.project(g)))


def stacked(states: list[Tensor]) -> Tensor:
    """Stack the states of blocks along dim 1; one block needs no copy."""
    return states[0].unsqueeze(1) if len(states) == 1 else torch.stack(states, 1)


class LMamba(nn.Module):
    """Infer from the last s features, and from nothing older (eq. 6).

    On the window e_{t−s+1} … e_t, u^l_t = W' l_t, where l_t is the last position of
    e + Mamba(LayerNorm(e)).

    Args:
        width: D.
        config: Sizes.
    """

    def __init__(self, width: int, config: GlamConfig) -> None:
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
        self.gmamba = GMamba(width, config)
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
        if e.shape[1] <= first:
            raise ValueError(f"a sequence needs at least {first + 1} steps, got {e.shape[1]}")
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
            row = first[:, None, None]
            window = torch.where(row, e.unsqueeze(1), window)
            conv = conv.masked_fill(row[..., None], 0.0)
            ssm = ssm.masked_fill(row[..., None], 0.0)
        variation, new_conv, new_ssm = self.gmamba.step(e - window[:, -1], conv, ssm)
        if first is not None:  # the parallel pass has no difference at its first position
            new_conv = torch.where(row[..., None], conv, new_conv)
            new_ssm = torch.where(row[..., None], ssm, new_ssm)
        window = torch.cat([window, e.unsqueeze(1)], dim=1)  # (B, s, D)
        u_l, local = self.lmamba.step(window, local, first)
        return variation + u_l, GlamState(window[:, 1:], new_conv, new_ssm, local[:, 1:].float())

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> GlamState:
        """Return zeros; the next :meth:`step` must mark all rows as first."""
        c = self.config
        inner = c.expand * self.width
        return GlamState(
            torch.zeros(batch, c.local_window - 1, self.width, device=device),
            torch.zeros(batch, c.global_depth, inner, c.conv_width - 1, device=device),
            torch.zeros(batch, c.global_depth, inner, c.state_size, device=device),
            torch.zeros(batch, c.local_window - 1, self.lmamba.cache_width, device=device),
        )

    def state_at(self, output: CoreOutput, rows: Tensor, positions: Tensor) -> GlamState:
        """Return the states after given positions; see :meth:`SequenceCore.state_at`."""
        c = self.config
        device = rows.device
        back = torch.arange(c.local_window - 2, -1, -1, device=device)
        behind = rows[:, None], positions[:, None] - back
        features, inputs, blocks = output.trace
        window, local = features.detach()[behind], inputs.detach()[behind]
        taps = torch.arange(c.conv_width - 1, device=device)
        convs, ssms = [], []
        for trace in blocks:
            padded = F.pad(trace.inputs.detach(), (0, 0, c.conv_width - 1, 0))
            # d_t has index t − 1, so its tail ends at t − 1 + (d_conv − 1) of the padded inputs.
            tail = padded[rows[:, None], positions[:, None] + taps]  # (N, d_conv−1, d_inner)
            convs.append(tail.transpose(1, 2).float())
            ssms.append(trace.states.detach()[rows, positions - 1])
        return GlamState(window.float(), torch.stack(convs, 1), torch.stack(ssms, 1), local.float())
