"""Residual Mamba blocks, and stacks of them that run in parallel or step by step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glam_env.model.cores.mamba import Mamba, MambaTrace

LARGEST_MAMBA = {"state_size": 1024, "conv_width": 256, "expand": 64}
"""Largest values of :class:`MambaSizes`."""
MOST_BLOCKS = 32


class MambaSizes(Protocol):
    """The sizes of a Mamba block, as the configs of cores have them.

    Attributes:
        state_size: N, SSM states of each inner channel.
        conv_width: Width of the causal convolution.
        expand: d_inner / D.
    """

    @property
    def state_size(self) -> int: ...
    @property
    def conv_width(self) -> int: ...
    @property
    def expand(self) -> int: ...


def require_at_most(config: object, limits: dict[str, int]) -> None:
    """Check sizes of a core's config; ValueError if one exceeds its limit."""
    for name, most in limits.items():
        if (value := getattr(config, name)) > most:
            raise ValueError(f"core.{name} must be at most {most}, got {value}")


class MambaBlock(nn.Module):
    """A residual block, x + Mamba(LayerNorm(x))."""

    def __init__(self, width: int, config: MambaSizes) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mamba = Mamba(width, config.state_size, config.conv_width, config.expand)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mamba(self.norm(x))


class StackState(NamedTuple):
    """State of a :class:`MambaStack` between steps, float32.

    Attributes:
        conv: (B, depth, d_inner, d_conv−1) the convolution tails.
        ssm: (B, depth, d_inner, N) the SSM states.
    """

    conv: Tensor
    ssm: Tensor

    def cleared(self, first: Tensor) -> StackState:
        """Return it with zeros in the rows where the (B) bool ``first`` is true."""
        row = first[:, None, None, None]
        return StackState(self.conv.masked_fill(row, 0.0), self.ssm.masked_fill(row, 0.0))


class MambaStack(nn.Module):
    """Blocks, each on the output of the one before.

    Args:
        width: D.
        depth: Number of blocks.
        config: Sizes of each.
    """

    def __init__(self, width: int, depth: int, config: MambaSizes) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MambaBlock(width, config) for _ in range(depth))

    def run(self, x: Tensor) -> tuple[Tensor, list[MambaTrace]]:
        """Map (B, L, D) to (B, L, D), causally; return one trace a block as well."""
        traces = []
        for block in self.blocks:
            assert isinstance(block, MambaBlock)
            out, trace = block.mamba.forward_traced(block.norm(x))
            x = x + out
            traces.append(trace)
        return x, traces

    def advance(self, x: Tensor, conv: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map one position (B, D) to (B, D) and the new conv and ssm states."""
        convs, ssms = [], []
        for depth, block in enumerate(self.blocks):
            assert isinstance(block, MambaBlock)
            out, new_conv, new_ssm = block.mamba.step(block.norm(x), conv[:, depth], ssm[:, depth])
            x = x + out
            convs.append(new_conv)
            ssms.append(new_ssm)
        return x, stacked(convs), stacked(ssms)

    def empty(self, batch: int, device: torch.device | str | None = None) -> StackState:
        """Return the state before the first position: zeros."""
        mamba, depth = self._mamba, len(self.blocks)
        return StackState(
            torch.zeros(batch, depth, mamba.d_inner, mamba.d_conv - 1, device=device),
            torch.zeros(batch, depth, mamba.d_inner, mamba.d_state, device=device),
        )

    def state_at(self, traces: Iterable[MambaTrace], rows: Tensor, positions: Tensor) -> StackState:
        """Return the states after given positions of :meth:`run`, without gradient.

        Args:
            traces: Of :meth:`run`.
            rows: (N) int64, the sequences.
            positions: (N) int64, indices into its L positions.
        """
        width = self._mamba.d_conv - 1
        taps = torch.arange(1, width + 1, device=rows.device)
        convs, ssms = [], []
        for trace in traces:
            padded = F.pad(trace.inputs.detach(), (0, 0, width, 0))
            tail = padded[rows[:, None], positions[:, None] + taps]  # (N, d_conv−1, d_inner)
            convs.append(tail.transpose(1, 2).float())
            ssms.append(trace.states.detach()[rows, positions])
        return StackState(torch.stack(convs, 1), torch.stack(ssms, 1))

    @property
    def _mamba(self) -> Mamba:
        block = self.blocks[0]
        assert isinstance(block, MambaBlock)
        return block.mamba


def stacked(states: list[Tensor]) -> Tensor:
    """Stack the states of blocks along dim 1; one block needs no copy."""
    return states[0].unsqueeze(1) if len(states) == 1 else torch.stack(states, 1)
