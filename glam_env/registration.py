"""The env ids, two for each game; registering them imports no env.

``GLAMDream-<Game>-v0`` is the learned simulator, ``GLAMReal-<Game>-v0`` the emulator with the same
spaces.
"""

from __future__ import annotations

import gymnasium

from glam_env.games import GAMES

DREAM_ID = "GLAMDream-{game}-v0"
REAL_ID = "GLAMReal-{game}-v0"

_ENTRY_POINTS = {
    DREAM_ID: ("glam_env.envs.dream.env:DreamEnv", "glam_env.envs.dream.env:DreamVectorEnv"),
    REAL_ID: ("glam_env.envs.atari.env:RealEnv", "glam_env.envs.atari.env:RealVectorEnv"),
}


def register_envs() -> None:
    """Register all ids with Gymnasium; ids that it already knows are kept.

    Gymnasium adds only its check of the call order. The envs truncate episodes themselves, and
    Gymnasium's passive checker knows numpy only (the tests run the full one).
    """
    for template, (entry_point, vector_entry_point) in _ENTRY_POINTS.items():
        for game in GAMES:
            env_id = template.format(game=game)
            if env_id not in gymnasium.registry:
                gymnasium.register(
                    id=env_id,
                    entry_point=entry_point,
                    vector_entry_point=vector_entry_point,
                    disable_env_checker=True,
                    kwargs={"game": game},
                )
