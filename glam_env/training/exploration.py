"""Random actions during play, so that the replay shows more than the agent's habits.

A dream knows only what its replay shows: where a good agent plays alone, the model forgets how
points are lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


class Exploration:
    """Draws random actions and holds each for a random number of steps.

    Actions that change at every step hardly move a paddle, so without holding them the replay does
    not show where the paddle would go.

    Args:
        chances: Share of random actions among the steps of each env; a shorter list repeats.
        num_envs: E.
        num_actions: A.
        hold: Mean number of steps for which a random action of each env is held (geometric
            distribution); a shorter list repeats.
    """

    def __init__(
        self,
        chances: Sequence[float],
        num_envs: int,
        num_actions: int,
        hold: Sequence[float] = (1.0,),
    ) -> None:
        self.chances = np.resize(chances, num_envs)
        self._num_actions = num_actions
        steps = np.resize(hold, num_envs)
        self._stop = 1.0 / steps  # chance that a hold ends, at each of its steps
        # The share of steps that start a hold among those that are not held.
        self._begin = self.chances / (self.chances + steps * (1.0 - self.chances))
        self._action = np.zeros(num_envs, np.int64)
        self._left = np.zeros(num_envs, np.int64)

    def draw(
        self, rng: np.random.Generator, *, always: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw for one step.

        Args:
            rng: The caller's generator, which a resumed run restores.
            always: Every env takes its random action, whatever its chance.

        Returns:
            (E) int64 actions, and (E) bool, which envs take theirs.
        """
        size = len(self.chances)
        actions = rng.integers(self._num_actions, size=size)
        begin = ((rng.random(size) < self._begin) | always) & (self._left == 0)
        steps = rng.geometric(self._stop) if (self._stop < 1.0).any() else 1
        self._action = np.where(begin, actions, self._action)
        self._left = np.where(begin, steps, self._left)
        held = self._left > 0
        self._left -= held
        return self._action.copy(), held

    def state(self) -> dict[str, Any]:
        """Return what a run's checkpoint stores."""
        return {"action": torch.from_numpy(self._action), "left": torch.from_numpy(self._left)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load a :meth:`state`."""
        self._action = state["action"].cpu().numpy().copy()
        self._left = state["left"].cpu().numpy().copy()
