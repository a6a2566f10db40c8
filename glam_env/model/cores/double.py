"""Two identical cores side by side, summed: the rows "Dbl. Mamba" and "Dbl. Transformer"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from glam_env.model.cores.base import CoreConfig, CoreOutput, SequenceCore, require_length
from glam_env.model.cores.stack import (
    LARGEST_MAMBA,
    MOST_BLOCKS,
    MambaStack,
    StackState,
    require_at_most,
)
from glam_env.model.cores.transformer import TransformerConfig, TransformerCore


class DoubleCore(SequenceCore):
    """The sum of two cores of the same sizes and different weights.

    Args:
        first: A core without variation.
        second: Another one.
    """

    def __init__(self, first: SequenceCore, second: SequenceCore) -> None:
        super().__init__()
        self.context = first.context
        self.first, self.second = first, second

    def forward(self, e: Tensor) -> CoreOutput:
        one, two = self.first(e), self.second(e)
        return CoreOutput(one.h + two.h, None, (one, two))

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> Any:
        return self.first.initial_state(batch, device), self.second.initial_state(batch, device)

    def step(self, e: Tensor, state: Any, first: Tensor | None = None) -> tuple[Tensor, Any]:
        one, two = state
        h, one = self.first.step(e, one, first)
        other, two = self.second.step(e, two, first)
        return h + other, (one, two)

    def state_at(self, output: CoreOutput, rows: Tensor, positions: Tensor) -> Any:
        one, two = output.trace
        return (
            self.first.state_at(one, rows, positions),
            self.second.state_at(two, rows, positions),
        )


@dataclass(frozen=True)
class DoubleMambaConfig(CoreConfig):
    """Sizes of the core ``double_mamba``.

    Attributes:
        depth: Mamba blocks in each of the two.
        state_size: N, SSM states of each inner channel.
        conv_width: Width of Mamba's causal convolution.
        expand: d_inner / D.
    """

    name: str = "double_mamba"
    depth: int = 1
    state_size: int = 16
    conv_width: int = 4
    expand: int = 2

    def validate(self) -> None:
        """Check all values; ValueError if one is out of range."""
        super().validate()
        require_at_most(self, {"depth": MOST_BLOCKS} | LARGEST_MAMBA)


class MambaCore(SequenceCore):
    """Mamba on the features of the whole sequence, and one layer: h_t = W (e + Mamba(LN(e)))_t.

    Args:
        width: D.
        config: Sizes.
    """

    context = 1

    def __init__(self, width: int, config: DoubleMambaConfig) -> None:
        super().__init__()
        self.stack = MambaStack(width, config.depth, config)
        self.project = nn.Linear(width, width)

    def forward(self, e: Tensor) -> CoreOutput:
        require_length(e, self.context)
        x, traces = self.stack.run(e)
        return CoreOutput(self.project(x), None, traces)

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> StackState:
        return self.stack.empty(batch, device)

    def step(
        self, e: Tensor, state: StackState, first: Tensor | None = None
    ) -> tuple[Tensor, StackState]:
        if first is not None:
            state = state.cleared(first)
        x, conv, ssm = self.stack.advance(e.float(), *state)
        return self.project(x), StackState(conv, ssm)

    def state_at(self, output: CoreOutput, rows: Tensor, positions: Tensor) -> StackState:
        return self.stack.state_at(output.trace, rows, positions)


class DoubleMambaCore(DoubleCore):
    """Two Mambas over the features, summed.

    Args:
        width: D.
        config: Sizes.
    """

    def __init__(self, width: int, config: DoubleMambaConfig) -> None:
        config.validate()
        super().__init__(MambaCore(width, config), MambaCore(width, config))


@dataclass(frozen=True)
class DoubleTransformerConfig(TransformerConfig):
    """Sizes of the core ``double_transformer``, those of each of the two."""

    name: str = "double_transformer"


class DoubleTransformerCore(DoubleCore):
    """Two transformers over the features, summed.

    Args:
        width: D.
        config: Sizes.
    """

    def __init__(self, width: int, config: DoubleTransformerConfig) -> None:
        super().__init__(TransformerCore(width, config), TransformerCore(width, config))
