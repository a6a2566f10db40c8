"""Random actions in place of the agent's: a dream knows only what its replay shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


class Exploration:
    """Draws random actions, and holds each for a while.

    Actions drawn anew at each step hardly move a paddle: where it would go if one were held, no
    replay shows, and dreams make something up.

    Args:
        chances: share of an env's steps that are random, one for each env and over again.
        num_envs: E.
        num_actions: A.
        hold: mean number of steps for which a random action is held; how long is geometric.
    """

    def __init__(
        self, chances: Sequence[float], num_envs: int, num_actions: int, hold: float = 1.0
    ) -> None:
        self.chances = np.resize(chances, num_envs)
        self._num_actions, self._hold = num_actions, hold
        # Of the steps that are not held already, so many begin to be: then the share is right.
        self._begin = self.chances / (self.chances + hold * (1.0 - self.chances))
        self._action = np.zeros(num_envs, np.int64)
        self._left = np.zeros(num_envs, np.int64)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The next step's: (E,) int64 actions, and (E,) bool, where they are to be taken."""
        size = len(self.chances)
        actions = rng.integers(self._num_actions, size=size)
        begin = (rng.random(size) < self._begin) & (self._left == 0)
        steps = rng.geometric(1.0 / self._hold, size=size) if self._hold > 1.0 else 1
        self._action = np.where(begin, actions, self._action)
        self._left = np.where(begin, steps, self._left)
        held = self._left > 0
        self._left -= held
        return self._action.copy(), held

    def state(self) -> dict[str, Any]:
        """What a run's checkpoint keeps."""
        return {"action": torch.from_numpy(self._action), "left": torch.from_numpy(self._left)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes back to a :meth:`state`."""
        self._action = state["action"].cpu().numpy().copy()
        self._left = state["left"].cpu().numpy().copy()
