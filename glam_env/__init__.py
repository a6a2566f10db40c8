"""Learned Atari games as Gymnasium environments.

>>> import gymnasium as gym, glam_env
>>> env = gym.make("GLAMDream-Pong-v0")  # doctest: +SKIP

Importing the package registers the ids of the environments. It loads neither torch nor the
emulator: the names that need them are imported when they are first used. ``docs/api.md`` lists the
public names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from glam_env.errors import GlamError
from glam_env.games import GAMES
from glam_env.registration import register_envs

if TYPE_CHECKING:
    from glam_env.checkpoint.folder import Checkpoint
    from glam_env.envs.atari.env import RealEnv, RealOptions, RealVectorEnv
    from glam_env.envs.dream.env import DreamEnv, DreamVectorEnv
    from glam_env.envs.dream.options import DreamOptions
    from glam_env.envs.dream.snapshot import DreamSnapshot
    from glam_env.envs.wrappers import EpisodeStatistics, FrameStacker

__version__ = "0.2.0"
__all__ = [
    "GAMES",
    "Checkpoint",
    "DreamEnv",
    "DreamOptions",
    "DreamSnapshot",
    "DreamVectorEnv",
    "EpisodeStatistics",
    "FrameStacker",
    "GlamError",
    "RealEnv",
    "RealOptions",
    "RealVectorEnv",
    "__version__",
    "register_envs",
]

_MODULES = {
    "Checkpoint": "glam_env.checkpoint.folder",
    "DreamEnv": "glam_env.envs.dream.env",
    "DreamOptions": "glam_env.envs.dream.options",
    "DreamSnapshot": "glam_env.envs.dream.snapshot",
    "DreamVectorEnv": "glam_env.envs.dream.env",
    "EpisodeStatistics": "glam_env.envs.wrappers",
    "FrameStacker": "glam_env.envs.wrappers",
    "RealEnv": "glam_env.envs.atari.env",
    "RealOptions": "glam_env.envs.atari.env",
    "RealVectorEnv": "glam_env.envs.atari.env",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_envs()
