"""``PixelEnv``: one dream, or one game, as a Gymnasium env."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode

from glam_env.dream.engine import require_choice
from glam_env.errors import GlamError
from glam_env.vector_base import RENDER_FPS, PixelVectorEnv

SINGLE_RENDER_MODES = ("rgb_array", "human")


class PixelEnv(gym.Env):
    """The only row of a :class:`~glam_env.vector_base.PixelVectorEnv`, to the bit.

    Observations, info and options are those of the vector env, without its batch dimension; there
    is no autoreset and no ``reset_mask``. With ``array_type="torch"`` observations are tensors on
    the device; rewards and flags are Python's own either way.

    ``gymnasium.make`` keeps ``max_episode_steps`` for itself and wraps a ``TimeLimit`` around
    the env, which can shorten the env's own horizon but not extend it.

    Args:
        make: the vector env's class.
        render_mode: None, ``"rgb_array"`` for a frame, ``"human"`` for a window.
        options: of the vector env.
    """

    metadata = {"render_modes": list(SINGLE_RENDER_MODES), "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(
        self, make: Callable[..., PixelVectorEnv], render_mode: str | None, **options: Any
    ) -> None:
        require_choice("render_mode", render_mode, (None, *SINGLE_RENDER_MODES))
        self._envs = make(
            num_envs=1,
            autoreset_mode=AutoresetMode.DISABLED,
            render_mode=render_mode,
            **options,
        )
        self.metadata = {"render_modes": list(SINGLE_RENDER_MODES), "render_fps": RENDER_FPS}
        self.render_mode = render_mode
        self.action_space = self._envs.single_action_space
        self.observation_space = self._envs.single_observation_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins anew."""
        if options and "reset_mask" in options:
            one = self._envs.rows_are[:-1]
            raise GlamError(f"reset_mask is an option of the vector env; this is one {one}")
        observations, _ = self._envs.reset(seed=seed, options=options)
        super().reset(seed=seed)
        return observations[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one action, an integer of Python, numpy or torch."""
        if isinstance(action, torch.Tensor):
            if action.numel() != 1:
                raise GlamError(f"action must be one integer, got shape {tuple(action.shape)}")
            actions: Any = action.reshape(1)
        else:
            actions = [action]
        observations, rewards, terminations, truncations, info = self._envs.step(actions)
        return (
            observations[0],
            float(rewards[0]),
            bool(terminations[0]),
            bool(truncations[0]),
            {name: float(value[0]) for name, value in info.items() if not name.startswith("_")},
        )

    def render(self) -> Any:
        """The (64, 64, 3) uint8 frame with ``render_mode="rgb_array"``, else None."""
        frames = self._envs.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Lets go of the world, of its tensors on the device, and of the window."""
        self._envs.close()
