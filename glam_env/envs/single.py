"""``PixelEnv``: one dream, or one real game, as a Gymnasium env."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from glam_env.checks import require_choice, require_integers, require_options
from glam_env.envs.atari_habits import AtariHabits
from glam_env.envs.base import RENDER_FPS, PixelVectorEnv
from glam_env.envs.callers import refuse_callers
from glam_env.envs.dream.options import DreamOptions, read_options
from glam_env.envs.lifetime import Copied
from glam_env.envs.plain_spec import PlainSpec
from glam_env.errors import GlamError

SINGLE_RENDER_MODES = ("rgb_array", "human")


class PixelEnv(AtariHabits, Copied, PlainSpec, gym.Env):
    """The only row of a :class:`~glam_env.envs.base.PixelVectorEnv`, bit for bit.

    Observations, info and options are those of the vector env, without its batch dimension; there
    is no autoreset and no ``reset_mask``. With ``array_type="torch"`` observations are tensors on
    the device; rewards and flags are always Python numbers.

    Args:
        make: the vector env's class.
        kind: the class of its options.
        horizon: another name of ``max_episode_steps``.
        options: options of the vector env, or None.
        given: options as keyword arguments; they win over ``options``.

    Raises:
        GlamError: an option is unknown or impossible.
    """

    metadata = {"render_modes": list(SINGLE_RENDER_MODES), "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(
        self,
        make: Callable[..., PixelVectorEnv],
        kind: type[DreamOptions],
        game: str,
        horizon: int | None,
        options: DreamOptions | None,
        given: Mapping[str, Any],
    ) -> None:
        if "autoreset_mode" in given:
            raise GlamError("autoreset_mode is an option of the vector env; this env has none")
        chosen = read_options(kind, options, given)
        require_choice("render_mode", chosen.render_mode, (None, *SINGLE_RENDER_MODES))
        if horizon is not None:
            if chosen.max_episode_steps not in (None, horizon):
                raise GlamError("horizon and max_episode_steps are the same option: give only one")
            chosen = replace(chosen, max_episode_steps=horizon)
        chosen = replace(chosen, autoreset_mode=AutoresetMode.DISABLED)
        self._envs = make(game, 1, options=chosen)
        self.metadata = {"render_modes": list(SINGLE_RENDER_MODES), "render_fps": RENDER_FPS}
        self.game = self._envs.game
        self.render_mode = chosen.render_mode
        self.action_space = self._envs.single_action_space
        self.observation_space = self._envs.single_observation_space

    @property
    def max_episode_steps(self) -> int:
        """The horizon: the number of steps after which an episode is truncated."""
        return self._envs.max_episode_steps

    def _set_horizon(self, steps: int) -> None:
        """Truncate episodes after ``steps`` steps from now on."""
        self._envs._set_horizon(steps)

    def _is_closed(self) -> bool:
        return self._envs.closed

    def _recipe(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (game, _), options = self._envs._recipe()
        return (game,), options

    def _moving(self) -> dict[str, Any]:
        return super()._moving() | {"envs": self._envs._moving()}

    def _continue(self, moving: dict[str, Any]) -> None:
        super()._continue(moving)
        self._envs._continue(moving["envs"])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: fixes all random draws from here on.
            options: those of the vector env without ``reset_mask``.

        Returns:
            The first observation, and an empty info.

        Raises:
            GlamError: an option is wrong; the env is then unchanged.
        """
        refuse_callers(self._envs.array_type)
        options = require_options(options)
        if "reset_mask" in options:
            one = self._envs.rows_are[:-1]
            raise GlamError(f"reset_mask is an option of the vector env; this is one {one}")
        observations, _ = self._envs.reset(seed=seed, options=options)
        super().reset(seed=seed)
        return observations[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one action, an integer of Python, numpy or torch.

        Returns:
            Observation, reward, termination, truncation, and info.

        Raises:
            GlamError: the action is invalid, or the env has to be reset; the env is then
                unchanged.
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
            # Each entry has a mask; an entry whose mask is false for the row is left out.
            {name: float(info[name][0]) for name in info if info.get(f"_{name}", [False])[0]},
        )

    def render(self) -> Any:
        """Return the (64, 64, 3) uint8 frame with ``render_mode="rgb_array"``, else None."""
        frames = self._envs.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Release the world, its tensors on the device, and the window."""
        self._envs.close()
