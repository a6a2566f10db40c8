"""Stable-Baselines3 in dreams.

The package has a bridge between vector envs, and the run of ``glam sb3``.

>>> from glam_agents.sb3 import SB3VecEnv, make_vec_env  # doctest: +SKIP

Importing this package imports neither PyTorch nor Stable-Baselines3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glam_agents.sb3.env import ClippedRewards, SB3VecEnv, make_vec_env

__all__ = ["ClippedRewards", "SB3VecEnv", "make_vec_env"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from glam_agents.sb3 import env

        return getattr(env, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
