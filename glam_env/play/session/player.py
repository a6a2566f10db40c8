"""``Player``: the agent of a session, for any number of rows."""

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
        policy: The policy of the agent.
        world_model: Gives the features on which it acts.
        seed: Seed of its random draws.
    """

    def __init__(self, policy: Policy, world_model: WorldModel, seed: int) -> None:
        self.policy, self.world_model = policy, world_model
        device = world_model.device
        self.generator = torch.Generator(device).manual_seed(seed)
        self._choose: Callable[[DreamState, np.ndarray], Tensor] | None = None

    def act(self, state: DreamState, frames: np.ndarray, pasts: list[Past]) -> list[int]:
        """Choose the actions of N rows.

        Args:
            state: State of N rows.
            frames: (N, 64, 64, 3) uint8, their current frames.
            pasts: N pasts, all of one length. They are only read in the first call after
                :meth:`forget`.
        """
        if self._choose is None:
            self._choose = self._begin(pasts)
        return self._choose(state, frames).tolist()

    def forget(self) -> None:
        """Forget the past: the next action does not follow the last one."""
        self._choose = None

    def _begin(self, pasts: list[Past]) -> Callable[[DreamState, np.ndarray], Tensor]:
        if isinstance(self.policy, FramePolicy):
            on_frames = self.policy.begin(as_history(pasts), self.generator)
            return lambda _state, frames: on_frames(frames)
        on_features = self.policy.begin(len(pasts), self.generator)
        return lambda state, _frames: on_features(self.world_model.features(state))
