"""Algorithms of Stable-Baselines3 with settings for dreams, and what they need around them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from glam_agents.sb3.env import to_host
from glam_env.envs.wrappers import FrameStacker
from glam_env.errors import GlamError

if TYPE_CHECKING:
    from gymnasium import spaces
    from stable_baselines3.common.base_class import BaseAlgorithm

ALGORITHMS = ("ppo", "a2c", "dqn", "qrdqn")
REPLAY_BYTES = 2**30
MINIBATCHES = 8  # of a rollout of PPO's

_ACTOR_CRITIC = {"gamma": 0.985, "gae_lambda": 0.95, "ent_coef": 0.01}
_REPLAYED = {
    "gamma": 0.985,
    "learning_rate": 3e-4,
    "learning_starts": 5_000,
    "train_freq": 4,
    "gradient_steps": 4,
    "batch_size": 128,
    "target_update_interval": 4_000,
    "exploration_fraction": 0.2,
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {
        **_ACTOR_CRITIC,
        "n_steps": 128,
        "n_epochs": 4,
        "learning_rate": 5e-4,
    },
    "a2c": {**_ACTOR_CRITIC, "n_steps": 8, "learning_rate": 1e-3, "normalize_advantage": True},
    "dqn": _REPLAYED,
    # The loss is over pairs of quantiles: with sb3-contrib's 200, an update takes 15 times as long.
    "qrdqn": {**_REPLAYED, "policy_kwargs": {"n_quantiles": 50}},
}


def is_replayed(name: str) -> bool:
    """Whether an algorithm learns the values of actions from a replay buffer."""
    return "learning_starts" in _SETTINGS[name]


def find_algorithm(name: str) -> type[BaseAlgorithm]:
    """The class of one of :data:`ALGORITHMS`.

    Raises:
        GlamError: the library that has it is not installed.
    """
    module = "sb3_contrib" if name == "qrdqn" else "stable_baselines3"
    try:
        return getattr(importlib.import_module(module), name.upper())
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise GlamError(f"{name} needs sb3-contrib: pip install sb3-contrib") from error


def find_settings(name: str, space: spaces.Box, num_envs: int) -> dict[str, Any]:
    """The arguments of an algorithm.

    Args:
        name: one of :data:`ALGORITHMS`.
        space: of one observation, an image or a vector; a replay buffer is as long as fits in
            :data:`REPLAY_BYTES`.
        num_envs: of the env.
    """
    settings = dict(_SETTINGS[name], policy="CnnPolicy" if len(space.shape) == 3 else "MlpPolicy")
    if name == "ppo":
        settings["batch_size"] = settings["n_steps"] * num_envs // MINIBATCHES
    if is_replayed(name):
        size = 2 * int(np.prod(space.shape)) * np.dtype(space.dtype).itemsize
        settings["buffer_size"] = min(REPLAY_BYTES // size, 100_000)
    return settings


class FramePolicy:
    """An agent of stacked frames as a policy in the real game.

    Args:
        choose: (E, 3·k, 64, 64) uint8 to (E) actions.
        frame_stack: k.
    """

    def __init__(self, choose: Callable[[np.ndarray], np.ndarray], frame_stack: int) -> None:
        self._choose, self._frame_stack = choose, frame_stack

    def begin(self, num_envs: int, seed: int) -> None:
        """Forgets all frames; what is random in the play is up to ``choose``."""
        self._stacker = FrameStacker(self._frame_stack)

    def act(self, frames: np.ndarray, first: np.ndarray) -> np.ndarray:
        """(E, 64, 64, 3) uint8 frames and (E) bool firsts to (E) actions."""
        seen = torch.from_numpy(frames).movedim(-1, 1)
        return self._choose(to_host(self._stacker.push(seen, torch.from_numpy(first))))
