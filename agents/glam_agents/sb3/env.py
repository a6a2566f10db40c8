"""The bridge to Stable-Baselines3: a Gymnasium vector env as an SB3 ``VecEnv``.

>>> from glam_env.envs.dream.env import DreamVectorEnv
>>> from stable_baselines3 import PPO
>>> from stable_baselines3.common.vec_env import VecMonitor
>>> dreams = DreamVectorEnv("Pong", 64, array_type="torch", obs_type="latent")
>>> model = PPO("MlpPolicy", VecMonitor(SB3VecEnv(dreams)))  # doctest: +SKIP
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor

from glam_env.envs.wrappers import FrameStacker
from glam_env.errors import GlamError
from glam_env.games import find_game
from glam_env.registration import DREAM_ID

try:
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor
except ModuleNotFoundError as error:
    if error.name != "stable_baselines3":
        raise
    raise GlamError('this needs Stable-Baselines3: pip install "glam-env[sb3]"') from error

Indices = int | Iterable[int] | None


class SB3VecEnv(VecEnv):
    """A Gymnasium vector env as an SB3 ``VecEnv``.

    Put SB3's ``VecMonitor`` around it.

    Observations are images (E, C·k, H, W) uint8, channels first, or features (E, F·k) float32,
    with k observations stacked. The work is done on the env's device, then one copy goes to
    numpy. The caller owns every array that is returned.

    Each step returns E new info dicts. Only those of rows that have ended are not empty: they hold
    ``terminal_observation``, ``TimeLimit.truncated``, and what the env's ``final_info`` holds for
    the row.

    ``seed`` and ``set_options`` apply to the next ``reset`` only. One seed determines all rows:
    the first of those that SB3 counts up. An option that differs between rows, such as
    ``context``, is passed to the env as one array.

    Args:
        envs: a vector env in autoreset mode SAME_STEP, of either array type. ``"torch"`` saves a
            copy.
        frame_stack: k, the number of stacked observations.

    Raises:
        GlamError: another autoreset mode, or observations that are neither images nor vectors.
    """

    def __init__(self, envs: VectorEnv, frame_stack: int = 1) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise GlamError(
                "SB3 starts episodes in the step that ends the last ones: make the env with "
                f"autoreset_mode='SAME_STEP', not {getattr(mode, 'name', mode)}"
            )
        self.envs = envs
        self._stacker = FrameStacker(frame_stack)
        self._all_rows = torch.ones(envs.num_envs, dtype=torch.bool)
        self._actions: Any = None
        space = _stacked_space(envs.single_observation_space, frame_stack)
        self._is_image = len(space.shape) == 3
        super().__init__(envs.num_envs, space, envs.single_action_space)

    @property
    def spec(self) -> Any:
        """The spec of the vector env."""
        return self.envs.spec

    # --- the hot loop ------------------------------------------------------------------------

    def reset(self) -> np.ndarray:
        """Reset all rows, with the seed and the options that were set for it.

        Raises:
            GlamError: options that the env refuses, or that are missing for some rows.
        """
        seed, options = self._seeds[0], self._options
        self._reset_seeds()
        self._reset_options()
        observations, info = self.envs.reset(seed=seed, options=_join_options(options))
        self.reset_infos = _split_info(info, range(self.num_envs))
        seen = self._prepare(observations)
        return to_host(self._stacker.push(seen, self._all_rows.to(seen.device)))

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the (E) actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step all rows.

        Returns:
            (E, …) observations, (E) float32 rewards, (E) bool dones, and E infos.
        """
        observations, rewards, terminations, truncations, info = self.envs.step(self._actions)
        terminated = torch.as_tensor(terminations)
        done = terminated | torch.as_tensor(truncations)
        dones = to_host(done)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            self._fill_ended(infos, info, done, terminated)
        stack = self._stacker.push(self._prepare(observations), done)
        own_rewards = to_host(torch.as_tensor(rewards).to(torch.float32, copy=True))
        return to_host(stack), own_rewards, dones, infos

    def _fill_ended(
        self, infos: list[dict[str, Any]], info: dict[str, Any], done: Tensor, terminated: Tensor
    ) -> None:
        """Fill the infos of rows that have ended."""
        rows = done.nonzero().flatten()
        final = info["final_obs"]
        if isinstance(final, np.ndarray):  # of objects; None where no row has ended
            final = np.stack([final[row] for row in rows.tolist()])
        else:
            final = final[rows]
        observations = to_host(self._stacker.peek(self._prepare(final), rows))
        truncated = to_host(~terminated[rows])
        numbers = rows.tolist()
        final_infos = _split_info(info.get("final_info", {}), numbers)
        for at, row in enumerate(numbers):
            infos[row] = final_infos[at]
            infos[row]["terminal_observation"] = observations[at]
            infos[row]["TimeLimit.truncated"] = bool(truncated[at])
            self.reset_infos[row] = {}

    def _prepare(self, observations: Any) -> Tensor:
        """Return observations as tensors on the env's device, images channels first."""
        seen = torch.as_tensor(observations)
        return seen.movedim(-1, 1) if self._is_image else seen

    # --- the rest of SB3's interface ---------------------------------------------------------

    def close(self) -> None:
        """Close the vector env."""
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a (64, 64, 3) uint8 frame of each row, given ``render_mode="rgb_array"``."""
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"render_mode is {self.render_mode!r}; images need 'rgb_array'", stacklevel=2
            )
            return [None] * self.num_envs
        frames: Any = self.envs.render()
        return list(frames)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return an attribute of rows: of a wrapper inside, or of the env.

        Raises:
            AttributeError: there is none. SB3's ``has_attr`` relies on it.
        """
        chosen, layer = self._get_indices(indices), self.envs
        while isinstance(layer, VectorWrapper):
            if attr_name in vars(layer):
                return [vars(layer)[attr_name] for _ in chosen]
            layer = layer.env
        try:
            values = layer.get_attr(attr_name)  # pyright: ignore[reportAttributeAccessIssue]
        except GlamError as error:
            raise AttributeError(str(error)) from error
        return [values[row] for row in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute, which all rows share.

        Raises:
            GlamError: ``indices`` name only some rows, or the attribute is fixed.
        """
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise GlamError(f"{attr_name} is one for all {self.num_envs} rows: give no indices")
        self.envs.unwrapped.set_attr(attr_name, value)  # pyright: ignore[reportAttributeAccessIssue]

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method and return its values for rows.

        Dreams have one such method, ``render``.

        Raises:
            GlamError: another method, or none.
        """
        base: Any = self.envs.unwrapped
        values = base.call(method_name, *method_args, **method_kwargs)
        return [values[row] for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Indices = None) -> list[bool]:
        """Return for each row whether a wrapper of this class is around it.

        All rows have the same wrappers.
        """
        env, found = self.envs, isinstance(self.envs, wrapper_class)
        while not found and isinstance(env, VectorWrapper):
            env = env.env
            found = isinstance(env, wrapper_class)
        return [found for _ in self._get_indices(indices)]


def make_vec_env(
    game: str,
    n_envs: int = 1,
    *,
    seed: int | None = None,
    frame_stack: int = 1,
    **options: Any,
) -> VecMonitor:
    """Make dreams, or real games, as an SB3 ``VecEnv`` with a ``VecMonitor``.

    >>> from glam_agents.sb3 import make_vec_env
    >>> from stable_baselines3 import PPO
    >>> model = PPO("CnnPolicy", make_vec_env("Pong", 16, frame_stack=4))  # doctest: +SKIP

    Args:
        game: a game's name, to make its dreams; or an env id, such as ``GLAMReal-Pong-v0``.
        n_envs: E, the number of envs, which are one batch.
        seed: seed of the first reset.
        frame_stack: number of stacked observations, channels first.
        options: options of the env, such as ``obs_type="latent"``.

    Raises:
        GlamError: there is no such game, or an option is wrong.
    """
    env_id = game if game.startswith("GLAM") else DREAM_ID.format(game=find_game(game).name)
    envs = gym.make_vec(env_id, num_envs=n_envs, **{"array_type": "torch", **options})
    bridge = SB3VecEnv(envs, frame_stack)
    bridge.seed(seed)
    return VecMonitor(bridge)


class ClippedRewards(VecEnvWrapper):
    """Clip rewards to [−1, 1], as DQN does on Atari (Mnih et al., 2015).

    The same hyperparameters then work for all games. Around ``VecMonitor``, the recorded returns
    are unclipped.
    """

    def reset(self) -> Any:
        """Reset all rows."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Step all rows."""
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, np.clip(rewards, -1.0, 1.0), dones, infos


def to_host(tensor: Tensor) -> np.ndarray:
    """Return a contiguous numpy array."""
    return tensor.contiguous().cpu().numpy()


def _stacked_space(space: Any, count: int) -> spaces.Box:
    """Return the space of ``count`` stacked observations, images channels first."""
    if not isinstance(space, spaces.Box) or len(space.shape) not in (1, 3):
        raise GlamError(f"SB3VecEnv takes images (H, W, C) or vectors, not {space}")
    low, high = (np.moveaxis(bound, -1, 0) for bound in (space.low, space.high))
    return spaces.Box(
        np.concatenate([low] * count), np.concatenate([high] * count), dtype=space.dtype.type
    )


def _join_options(options: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Turn the options of rows into those of a vector env.

    A value that all rows share is passed on; values that differ become one array.
    """
    names: set[str] = set().union(*options)
    if "reset_mask" in names:
        raise GlamError("SB3 resets all rows together: leave out reset_mask")
    joined: dict[str, Any] = {}
    for name in sorted(names):
        if missing := [row for row, given in enumerate(options) if name not in given]:
            raise GlamError(
                f"option {name!r} must be given for every row; row {missing[0]} has none"
            )
        values = [given[name] for given in options]
        same = all(np.array_equal(value, values[0]) for value in values[1:])
        joined[name] = values[0] if same else np.asarray(values)
    return joined or None


def _split_info(info: dict[str, Any], rows: Iterable[int]) -> list[dict[str, Any]]:
    """Split a vector env's info into a new dict for each row, with its values."""
    columns = {
        name: (to_host(torch.as_tensor(value)), to_host(torch.as_tensor(info[f"_{name}"])))
        for name, value in info.items()
        if f"_{name}" in info
    }
    return [
        {name: value[row].item() for name, (value, mask) in columns.items() if mask[row]}
        for row in rows
    ]
