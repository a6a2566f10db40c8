"""Any sequence core, computed again at each step over the last features alone.

The paper's imagination does so, over 16 steps. All other steps of this project carry the core's
state on instead, which costs less and forgets nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from glam_env.model.cores.base import CoreOutput, SequenceCore, require_length
from glam_env.model.mode import evaluating

WINDOW_STEPS = 16
"""The paper's context length l, in imagination and on the real game (table 3)."""


class WindowState(NamedTuple):
    """State between steps: the last features.

    Attributes:
        features: (B, n, D) float32, oldest first; zeros behind those that there are.
        count: (B) int64, how many there are, n at most.
    """

    features: Tensor
    count: Tensor


class WindowCore(SequenceCore):
    """A core that sees the last n features at each step, from an empty state.

    :meth:`step` returns what a parallel pass of the core over these features returns last. A
    sequence that is shorter than the core's ``context`` is run by the core's own steps.

    Args:
        core: It is used in evaluation mode, and shares its weights.
        width: D.
        steps: n, at least the core's ``context``.

    Raises:
        ValueError: ``steps`` is less.
    """

    def __init__(self, core: SequenceCore, width: int, steps: int = WINDOW_STEPS) -> None:
        super().__init__()
        if steps < core.context:
            raise ValueError(
                f"the core needs {core.context} steps, a window of {steps} is too short"
            )
        self.core, self.width, self.steps = core, width, steps
        self.context = core.context

    def forward(self, e: Tensor) -> CoreOutput:
        """Compute h of every window of a sequence; its first n steps are one pass."""
        require_length(e, self.context)
        n, length = self.steps, e.shape[1]
        with evaluating(self.core):
            h = self.core(e[:, :n]).h
            if length > n:
                windows = e.unfold(1, n, 1)[:, 1:].transpose(2, 3)  # (B, L − n, n, D)
                later = self.core(windows.flatten(0, 1)).h[:, -1]
                h = torch.cat([h, later.unflatten(0, windows.shape[:2])], 1)
        return CoreOutput(h, None, e)

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> WindowState:
        return WindowState(
            torch.zeros(batch, self.steps, self.width, device=device),
            torch.zeros(batch, dtype=torch.int64, device=device),
        )

    def step(
        self, e: Tensor, state: WindowState, first: Tensor | None = None
    ) -> tuple[Tensor, WindowState]:
        features, count = state
        if first is not None:
            features = features.masked_fill(first[:, None, None], 0.0)
            count = count.masked_fill(first, 0)
        moved = torch.cat([features[:, 1:], torch.zeros_like(features[:, :1])], 1)
        features = torch.where((count >= self.steps)[:, None, None], moved, features)
        place = torch.arange(self.steps, device=e.device)
        here = place == count.clamp(0, self.steps - 1)[:, None]  # (B, n)
        features = torch.where(here[..., None], e.float().unsqueeze(1), features)
        state = WindowState(features, (count + 1).clamp(1, self.steps))
        return self.read(state), state

    def read(self, state: WindowState) -> Tensor:
        """Compute h of the last step (B, D)."""
        features, count = state
        early, inner = [], self.core.initial_state(len(count), count.device)
        with evaluating(self.core):
            for t in range(self.context - 1):  # before the parallel pass has an output
                first = torch.full_like(count, t == 0, dtype=torch.bool)
                h, inner = self.core.step(features[:, t], inner, first)
                early.append(h)
            h = self.core(features).h  # (B, n − context + 1, D); what is behind has no influence
        h = torch.cat([torch.stack(early, 1).to(h.dtype), h], 1) if early else h
        return h[torch.arange(len(count), device=count.device), count - 1]

    def state_at(self, output: CoreOutput, rows: Tensor, positions: Tensor) -> WindowState:
        return self.state_of(output.trace, rows, positions)

    def state_of(self, e: Tensor, rows: Tensor, positions: Tensor) -> WindowState:
        """Return the states after given steps of sequences.

        Args:
            e: (B, L, D) features.
            rows: (N) int64, the sequences.
            positions: (N) int64, the steps.
        """
        count = (positions + 1).clamp_max(self.steps)
        place = torch.arange(self.steps, device=rows.device)
        index = (positions + 1 - count)[:, None] + place  # (N, n)
        features = e.detach()[rows[:, None], index.clamp_max(e.shape[1] - 1)].float()
        return WindowState(features.masked_fill((place >= count[:, None])[..., None], 0.0), count)
