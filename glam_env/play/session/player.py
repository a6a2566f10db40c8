"""``Player``: the agent of a session, in as many rows as are asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from glam_env.evaluation.play.policies import FramePolicy, Policy
from glam_env.model.structures import DreamState
from glam_env.model.world_model import WorldModel
from glam_env.play.session.worlds import Past, as_history


class Player:
    """An agent that can take over at any moment.

    Args:
        policy: What it does.
        world_model: Gives the features on which it acts.
        seed: Of its draws.
    """

    def __init__(self, policy: Policy, world_model: WorldModel, seed: int) -> None:
        self.policy, self.world_model = policy, world_model
        device = world_model.device
        self.generator = torch.Generator(device).manual_seed(seed)
        self._choose: Callable[[DreamState, np.ndarray], Tensor] | None = None

    def act(self, state: DreamState, frames: np.ndarray, pasts: list[Past]) -> list[int]:
        """Choose the actions of N rows.

        Args:
            state: Of N rows.
            frames: (N, 64, 64, 3) uint8, what they show.
            pasts: The N steps before, all of one length. They are read in the first call after
                :meth:`forget` only.
        """
        if self._choose is None:
            self._choose = self._begin(pasts)
        return self._choose(state, frames).tolist()

    def forget(self) -> None:
        """Expect another moment: the next action does not follow the last one."""
        self._choose = None

    def _begin(self, pasts: list[Past]) -> Callable[[DreamState, np.ndarray], Tensor]:
        if isinstance(self.policy, FramePolicy):
            on_frames = self.policy.begin(as_history(pasts), self.generator)
            return lambda _state, frames: on_frames(frames)
        on_features = self.policy.begin(len(pasts), self.generator)
        return lambda state, _frames: on_features(self.world_model.features(state))
