"""``PixelEnv``: one dream, or one game, as a Gymnasium env."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from glam_env.checks import require_choice, require_integers
from glam_env.envs.base import RENDER_FPS, PixelVectorEnv
from glam_env.envs.spec import PlainSpec
from glam_env.errors import GlamError

SINGLE_RENDER_MODES = ("rgb_array", "human")


class PixelEnv(PlainSpec, gym.Env):
    """The only row of a :class:`~glam_env.envs.base.PixelVectorEnv`, to the bit.

    Observations, info and options are those of the vector env, without its batch dimension; there
    is no autoreset and no ``reset_mask``. With ``array_type="torch"`` observations are tensors on
    the device; rewards and flags are Python's own either way.

    ``gymnasium.make`` keeps ``max_episode_steps`` for itself and wraps a ``TimeLimit`` around
    the env, which can shorten the env's own horizon but not extend it: give it ``horizon``.

    Args:
        make: the vector env's class.
        render_mode: None, ``"rgb_array"`` for a frame, ``"human"`` for a window.
        horizon: another name of ``max_episode_steps``, which gets through ``gymnasium.make``.
        options: of the vector env.

    Raises:
        GlamError: an impossible option.
    """

    metadata = {"render_modes": list(SINGLE_RENDER_MODES), "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(
        self,
        make: Callable[..., PixelVectorEnv],
        render_mode: str | None,
        horizon: int | None,
        **options: Any,
    ) -> None:
        require_choice("render_mode", render_mode, (None, *SINGLE_RENDER_MODES))
        if horizon is not None:
            if options["max_episode_steps"] not in (None, horizon):
                raise GlamError("horizon and max_episode_steps are two names of one: give either")
            options["max_episode_steps"] = horizon
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
        """Takes one action, an integer of Python, numpy or torch.

        Raises:
            GlamError: it is anything else, or the env has to be reset; nothing has moved then.
        """
        chosen = require_integers("action", action)
        if chosen.numel() != 1:
            raise GlamError(f"action must be one integer, got shape {tuple(chosen.shape)}")
        observations, rewards, terminations, truncations, info = self._envs.step(chosen.reshape(1))
        return (
            observations[0],
            float(rewards[0]),
            bool(terminations[0]),
            bool(truncations[0]),
            # A name and its mask: what the row has no value of is left out.
            {name: float(info[name][0]) for name in info if info.get(f"_{name}", [False])[0]},
        )

    def render(self) -> Any:
        """The (64, 64, 3) uint8 frame with ``render_mode="rgb_array"``, else None."""
        frames = self._envs.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Lets go of the world, of its tensors on the device, and of the window."""
        self._envs.close()
