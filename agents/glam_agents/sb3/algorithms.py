"""Algorithms of Stable-Baselines3, with settings for dreams."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from glam_env.errors import GlamError

if TYPE_CHECKING:
    from gymnasium import spaces
    from stable_baselines3.common.base_class import BaseAlgorithm

ALGORITHMS = ("ppo", "a2c", "dqn", "qrdqn")
REPLAY_BYTES = 2**30
REPLAY_STEPS = 100_000
MINIBATCHES = 8  # of a rollout of PPO
HIDDEN = [256, 256]  # sizes of PPO's hidden layers on features
FEATURES_RATE = 1e-3  # PPO's learning rate on features at the start; their layers are normalized
LAST_RATE = 0.05  # share of PPO's learning rate that is left at the end of a run

_INSTALL = {
    "stable_baselines3": 'Stable-Baselines3: pip install "glam-env[sb3]"',
    "sb3_contrib": "sb3-contrib: pip install sb3-contrib",
}

_ACTOR_CRITIC = {"gamma": 0.985, "gae_lambda": 0.95, "ent_coef": 0.01}
_OFF_POLICY = {
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
        "ent_coef": 0.005,
        "n_steps": 128,
        "n_epochs": 4,
        "learning_rate": 5e-4,  # at the start
    },
    "a2c": {**_ACTOR_CRITIC, "n_steps": 8, "learning_rate": 1e-3, "normalize_advantage": True},
    "dqn": _OFF_POLICY,
    # The loss is over pairs of quantiles: with sb3-contrib's 200, an update takes 15 times as long.
    "qrdqn": {**_OFF_POLICY, "policy_kwargs": {"n_quantiles": 50}},
}


def is_off_policy(name: str) -> bool:
    """Return whether an algorithm learns the values of actions from a replay buffer."""
    return "learning_starts" in _SETTINGS[name]


def find_algorithm(name: str) -> type[BaseAlgorithm]:
    """Return the class of one of :data:`ALGORITHMS`.

    Raises:
        GlamError: the library that has it is not installed.
    """
    module = "sb3_contrib" if name == "qrdqn" else "stable_baselines3"
    try:
        return getattr(importlib.import_module(module), name.upper())
    except ModuleNotFoundError as error:
        if error.name not in _INSTALL:
            raise
        raise GlamError(f"{name} needs {_INSTALL[error.name]}") from error


def find_settings(name: str, space: spaces.Box, num_envs: int) -> dict[str, Any]:
    """Return the constructor arguments of an algorithm.

    Args:
        name: one of :data:`ALGORITHMS`.
        space: space of one observation, an image or a vector. A replay buffer holds as many steps
            as fit in :data:`REPLAY_BYTES`, at most :data:`REPLAY_STEPS`.
        num_envs: E.
    """
    settings = dict(_SETTINGS[name], policy="CnnPolicy" if len(space.shape) == 3 else "MlpPolicy")
    if name == "ppo":
        from stable_baselines3.common.utils import LinearSchedule

        settings["batch_size"] = settings["n_steps"] * num_envs // MINIBATCHES
        first = settings["learning_rate"]
        if settings["policy"] == "MlpPolicy":
            from glam_agents.sb3.layers import NormalizedLayers

            first = FEATURES_RATE
            settings["policy_kwargs"] = {
                "features_extractor_class": NormalizedLayers,
                "features_extractor_kwargs": {"sizes": list(HIDDEN)},
                "share_features_extractor": False,
                "net_arch": [],
            }
        settings["learning_rate"] = LinearSchedule(first, LAST_RATE * first, 1.0)
    if is_off_policy(name):
        step_bytes = 2 * int(np.prod(space.shape)) * np.dtype(space.dtype).itemsize
        settings["buffer_size"] = min(REPLAY_BYTES // step_bytes, REPLAY_STEPS)
    return settings
