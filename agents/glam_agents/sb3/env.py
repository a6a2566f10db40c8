"""Stable-Baselines3 in dreams: a vector env of this package as one of SB3's.

>>> from glam_env.envs.dream.env import DreamVectorEnv
>>> from stable_baselines3 import PPO
>>> from stable_baselines3.common.vec_env import VecMonitor
>>> dreams = DreamVectorEnv("Pong", 64, array_type="torch", obs_type="latent")
>>> model = PPO("MlpPolicy", VecMonitor(SB3VecEnv(dreams)))  # doctest: +SKIP
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor

from glam_env.checks import require_count
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.envs.wrappers import FrameStacker
from glam_env.errors import GlamError

try:
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor
except ModuleNotFoundError as error:
    if error.name != "stable_baselines3":
        raise
    raise GlamError('this needs Stable-Baselines3: pip install "glam-env[sb3]"') from error

Indices = int | Iterable[int] | None


class SB3VecEnv(VecEnv):
    """A Gymnasium vector env as SB3 wants it; put SB3's ``VecMonitor`` around it.

    Images come channels first, (C·k, H, W) uint8, features as (F·k,) float32, k of them stacked.
    All of that is done where the env's tensors lie; then one copy goes to numpy. Every array that
    is handed out belongs to the caller. ``infos`` are E fresh dicts, and only those of rows that
    have ended hold something: ``terminal_observation``, ``TimeLimit.truncated``, and what the env
    had to say of the last step.

    ``seed`` and ``set_options`` wait for the next ``reset``, which uses them up. One seed fixes all
    rows: the first of those that SB3 counts up. An option that differs from row to row, such as
    ``context``, reaches the env as one array.

    Args:
        envs: in autoreset mode SAME_STEP, of either array type (``"torch"`` saves a copy).
        frame_stack: k.

    Raises:
        GlamError: another autoreset mode, or observations that are neither images nor vectors.
    """

    def __init__(self, envs: VectorEnv, frame_stack: int = 1) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise GlamError(
                "SB3 begins episodes in the step that ends them: make the env with "
                f"autoreset_mode='SAME_STEP', not {getattr(mode, 'name', mode)}"
            )
        self.envs = envs
        self._stacker = FrameStacker(frame_stack)
        self._everyone = torch.ones(envs.num_envs, dtype=torch.bool)
        self._actions: Any = None
        space = _stacked_space(envs.single_observation_space, frame_stack)
        self._image = len(space.shape) == 3
        super().__init__(envs.num_envs, space, envs.single_action_space)

    @property
    def spec(self) -> Any:
        """Of the env beneath."""
        return self.envs.spec

    # --- the hot loop ------------------------------------------------------------------------

    def reset(self) -> np.ndarray:
        """Begins all rows, with the seed and the options that have been set for it.

        Raises:
            GlamError: options that the env refuses, or that rows do not have in common.
        """
        seed, options = self._seeds[0], self._options
        self._reset_seeds()
        self._reset_options()
        observations, info = self.envs.reset(seed=seed, options=_join_options(options))
        self.reset_infos = _split_info(info, range(self.num_envs))
        seen = self._prepare(observations)
        return to_host(self._stacker.push(seen, self._everyone.to(seen.device)))

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Steps all rows.

        Returns:
            (E, …) observations, (E) float32 rewards, (E) bool dones, and E infos.
        """
        observations, rewards, terminations, truncations, info = self.envs.step(self._actions)
        terminated = torch.as_tensor(terminations)
        done = terminated | torch.as_tensor(truncations)
        dones = to_host(done)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            self._tell_ends(infos, info, done, terminated)
        stack = self._stacker.push(self._prepare(observations), done)
        own_rewards = to_host(torch.as_tensor(rewards).to(torch.float32, copy=True))
        return to_host(stack), own_rewards, dones, infos

    def _tell_ends(
        self, infos: list[dict[str, Any]], info: dict[str, Any], done: Tensor, terminated: Tensor
    ) -> None:
        """Fills the infos of rows that have ended."""
        rows = done.nonzero().flatten()
        final = info["final_obs"]
        if isinstance(final, np.ndarray):  # of objects, with nothing where no row has ended
            final = np.stack([final[row] for row in rows.tolist()])
        else:
            final = final[rows]
        observations = to_host(self._stacker.peek(self._prepare(final), rows))
        truncated = to_host(~terminated[rows])
        numbers = rows.tolist()
        parting = _split_info(info.get("final_info", {}), numbers)
        for at, row in enumerate(numbers):
            infos[row] = parting[at]
            infos[row]["terminal_observation"] = observations[at]
            infos[row]["TimeLimit.truncated"] = bool(truncated[at])
            self.reset_infos[row] = {}

    def _prepare(self, observations: Any) -> Tensor:
        """The env's observations as tensors where they lie, images channels first."""
        seen = torch.as_tensor(observations)
        return seen.movedim(-1, 1) if self._image else seen

    # --- the rest of SB3's interface ---------------------------------------------------------

    def close(self) -> None:
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """A (64, 64, 3) uint8 frame of each row, given ``render_mode="rgb_array"``."""
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"render_mode is {self.render_mode!r}; images need 'rgb_array'", stacklevel=2
            )
            return [None] * self.num_envs
        frames: Any = self.envs.render()
        return list(frames)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of rows: of a wrapper beneath, or of the env.

        Raises:
            AttributeError: there is none, as SB3 expects it.
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
        """Notes an attribute, which all rows share.

        Raises:
            GlamError: only some rows are meant.
        """
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise GlamError(f"{attr_name} is one for all {self.num_envs} rows: give no indices")
        self.envs.unwrapped.set_attr(attr_name, value)  # pyright: ignore[reportAttributeAccessIssue]

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """What a method gives for rows; of dreams there is one such method, ``render``.

        Raises:
            GlamError: another one, or none.
        """
        base: Any = self.envs.unwrapped
        values = base.call(method_name, *method_args, **method_kwargs)
        return [values[row] for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Indices = None) -> list[bool]:
        """Whether a wrapper of this class lies around the rows, which have theirs in common."""
        env, found = self.envs, isinstance(self.envs, wrapper_class)
        while not found and isinstance(env, VectorWrapper):
            env = env.env
            found = isinstance(env, wrapper_class)
        return [found for _ in self._get_indices(indices)]


def _stacked_space(space: Any, count: int) -> spaces.Box:
    """The space of ``count`` joined observations, images channels first."""
    if not isinstance(space, spaces.Box) or len(space.shape) not in (1, 3):
        raise GlamError(f"SB3VecEnv takes images (H, W, C) or vectors, not {space}")
    low, high = (np.moveaxis(bound, -1, 0) for bound in (space.low, space.high))
    return spaces.Box(
        np.concatenate([low] * count), np.concatenate([high] * count), dtype=space.dtype.type
    )


def to_host(tensor: Tensor) -> np.ndarray:
    """A numpy array of one piece."""
    return tensor.contiguous().cpu().numpy()


def _join_options(options: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Rows' options as those of the vector env: what all rows agree on as it is, else an array."""
    names: set[str] = set().union(*options)
    if "reset_mask" in names:
        raise GlamError("SB3 begins all rows together: leave out reset_mask")
    joined: dict[str, Any] = {}
    for name in sorted(names):
        if lacking := [row for row, given in enumerate(options) if name not in given]:
            raise GlamError(
                f"option {name!r} must be given for every row; row {lacking[0]} has none"
            )
        values = [given[name] for given in options]
        same = all(np.array_equal(value, values[0]) for value in values[1:])
        joined[name] = values[0] if same else np.asarray(values)
    return joined or None


def _split_info(info: dict[str, Any], rows: Iterable[int]) -> list[dict[str, Any]]:
    """One fresh dict for each of the rows, of what a vector env's info holds for it."""
    told = {
        name: (to_host(torch.as_tensor(value)), to_host(torch.as_tensor(info[f"_{name}"])))
        for name, value in info.items()
        if f"_{name}" in info
    }
    return [
        {name: value[row].item() for name, (value, mask) in told.items() if mask[row]}
        for row in rows
    ]


class ClippedRewards(VecEnvWrapper):
    """Rewards cut to [−1, 1], as DQN's on Atari (Mnih et al. 2015): one setting learns all games.

    Around ``VecMonitor`` it leaves the returns that are told as they are.
    """

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, np.clip(rewards, -1.0, 1.0), dones, infos


# --- what the bridge costs -----------------------------------------------------------------------


@dataclass(frozen=True)
class BridgeSpeed:
    """Dream steps a second, medians of runs that took turns.

    Attributes:
        num_envs, obs_type, frame_stack: what was measured.
        bare: the env itself, tensors in and out.
        bridged: within :class:`SB3VecEnv`; monitored: and within SB3's ``VecMonitor``.
        ratio, monitored_ratio: medians over the turns of bridged / bare, monitored / bare.
    """

    num_envs: int
    obs_type: str
    frame_stack: int
    bare: float
    bridged: float
    monitored: float
    ratio: float
    monitored_ratio: float

    def as_json(self) -> dict[str, Any]:
        """For ``json.dumps``."""
        return asdict(self)


def measure_bridge(
    game: str = "Pong",
    *,
    num_envs: int = 64,
    obs_type: str = "latent",
    frame_stack: int = 1,
    steps: int = 128,
    repeats: int = 5,
    device: str = "auto",
    checkpoint: str | Path | None = None,
    seed: int = 0,
) -> BridgeSpeed:
    """Steps one dream env bare and through the bridge, by turns, with the same random actions.

    Args:
        game, num_envs, obs_type, device, checkpoint: of the dreams.
        frame_stack: of the bridge.
        steps: vector steps of each turn.
        repeats: turns.
        seed: of dreams and actions.

    Raises:
        GlamError: an impossible option.
    """
    require_count("steps", steps)
    require_count("repeats", repeats)
    envs = DreamVectorEnv(
        game,
        num_envs,
        device=device,
        array_type="torch",
        obs_type=obs_type,
        checkpoint=checkpoint,
    )
    with closing(envs):
        bridge = SB3VecEnv(envs, frame_stack)
        monitor = VecMonitor(bridge)
        generator = np.random.default_rng(seed)
        actions = generator.integers(bridge.action_space.n, size=(steps, num_envs))  # pyright: ignore[reportAttributeAccessIssue]
        tensors = torch.from_numpy(actions).to(envs.device)

        def run(begin: Callable[[], Any], step: Callable[[Any], Any], chosen: Any) -> float:
            begin()
            step(chosen[0])
            _wait_for(envs.device)
            start = time.perf_counter()
            for action in chosen:
                step(action)
            _wait_for(envs.device)
            return steps * num_envs / (time.perf_counter() - start)

        turns = []
        for _ in range(repeats):
            bare = run(lambda: envs.reset(seed=seed), envs.step, tensors)
            bridge.seed(seed)
            bridged = run(bridge.reset, bridge.step, actions)
            bridge.seed(seed)
            turns.append((bare, bridged, run(monitor.reset, monitor.step, actions)))
    bare, bridged, monitored = (statistics.median(column) for column in zip(*turns, strict=True))
    return BridgeSpeed(
        num_envs,
        obs_type,
        frame_stack,
        bare,
        bridged,
        monitored,
        statistics.median(turn[1] / turn[0] for turn in turns),
        statistics.median(turn[2] / turn[0] for turn in turns),
    )


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
