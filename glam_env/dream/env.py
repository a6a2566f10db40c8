"""``DreamEnv``: one dream as a Gymnasium env."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode

from glam_env.dream.vector_env import RENDER_FPS, RENDER_MODES, DreamVectorEnv
from glam_env.errors import GlamError


class DreamEnv(gym.Env):
    """One dream of a game: the only row of a :class:`DreamVectorEnv`, to the bit.

    Arguments, observations, info and options are those of the vector env, without its batch
    dimension; there is no autoreset and no ``reset_mask``. With ``array_type="torch"``
    observations are tensors on the device; rewards and flags are Python's own either way.

    ``gymnasium.make`` keeps ``max_episode_steps`` for itself and wraps a ``TimeLimit`` around
    the env, which can shorten the dream's horizon but not extend it.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(
        self,
        game: str = "Pong",
        *,
        device: str | torch.device = "auto",
        array_type: str = "numpy",
        obs_type: str = "rgb",
        max_episode_steps: int | None = None,
        temperature: float = 1.0,
        termination: str = "threshold",
        reward: str = "mean",
        checkpoint: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        self._envs = DreamVectorEnv(
            game,
            1,
            device=device,
            array_type=array_type,
            obs_type=obs_type,
            max_episode_steps=max_episode_steps,
            autoreset_mode=AutoresetMode.DISABLED,
            temperature=temperature,
            termination=termination,
            reward=reward,
            checkpoint=checkpoint,
            render_mode=render_mode,
        )
        self.metadata = {"render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}
        self.render_mode = render_mode
        self.action_space = self._envs.single_action_space
        self.observation_space = self._envs.single_observation_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins a new dream; ``options={"context": i}`` says from which real moment."""
        if options and "reset_mask" in options:
            raise GlamError("reset_mask is an option of the vector env; this is one dream")
        observations, _ = self._envs.reset(seed=seed, options=options)
        super().reset(seed=seed)
        return observations[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one action, an integer of Python, numpy or torch."""
        actions = action.reshape(1) if isinstance(action, torch.Tensor) else [action]
        observations, rewards, terminations, truncations, info = self._envs.step(actions)
        return (
            observations[0],
            float(rewards[0]),
            bool(terminations[0]),
            bool(truncations[0]),
            {"prior_entropy": float(info["prior_entropy"][0])},
        )

    def render(self) -> Any:
        """The (64, 64, 3) uint8 frame, if ``render_mode="rgb_array"``."""
        frames = self._envs.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Lets go of the tensors."""
        self._envs.close()
