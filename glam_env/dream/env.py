"""``DreamEnv``: one dream as a Gymnasium env."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from glam_env.dream.snapshot import DreamSnapshot
from glam_env.dream.vector_env import DreamVectorEnv
from glam_env.single_base import PixelEnv


class DreamEnv(PixelEnv):
    """One dream of a game: the only row of a :class:`DreamVectorEnv`, to the bit.

    Arguments, observations, info and options are those of the vector env (``context`` among the
    options of reset); see :class:`~glam_env.single_base.PixelEnv` for what one row has not.
    """

    _envs: DreamVectorEnv

    def __init__(
        self,
        game: str = "Pong",
        *,
        device: str | torch.device = "auto",
        array_type: str = "numpy",
        obs_type: str = "rgb",
        max_episode_steps: int | None = None,
        horizon: int | None = None,
        temperature: float = 1.0,
        termination: str = "threshold",
        reward: str = "mean",
        max_doubt: float | None = None,
        checkpoint: str | Path | None = None,
        contexts: str | Path | Mapping[str, Any] | None = None,
        backend: str = "auto",
        precision: str = "auto",
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            DreamVectorEnv,
            render_mode,
            horizon,
            game=game,
            device=device,
            array_type=array_type,
            obs_type=obs_type,
            max_episode_steps=max_episode_steps,
            temperature=temperature,
            termination=termination,
            reward=reward,
            max_doubt=max_doubt,
            checkpoint=checkpoint,
            contexts=contexts,
            backend=backend,
            precision=precision,
        )

    @property
    def num_contexts(self) -> int:
        """Real moments that the dream can start from: those of reset's ``context``, from 0."""
        return self._envs.num_contexts

    def get_state(self) -> DreamSnapshot:
        """A copy of the dream and of what it will draw: a snapshot of one."""
        return self._envs.get_state()

    def set_state(self, state: DreamSnapshot) -> Any:
        """Puts the dream where a snapshot's stood; returns its observation."""
        return self._envs.set_state(state)[0]
