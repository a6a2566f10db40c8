"""Learned Atari as Gymnasium environments: importing this package registers their ids.

>>> import gymnasium as gym, glam_env
>>> env = gym.make("GLAMDream-Pong-v0")  # doctest: +SKIP
"""

from glam_env.errors import GlamError
from glam_env.registration import register_envs

__version__ = "0.2.0"
__all__ = ["GlamError", "__version__", "register_envs"]

register_envs()
