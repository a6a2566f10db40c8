"""The env ids: ``GLAMDream-<Game>-v0``, one for each game, as strings that import nothing yet."""

from __future__ import annotations

import gymnasium

from glam_env.games import GAMES

DREAM_ID = "GLAMDream-{game}-v0"


def register_envs() -> None:
    """Registers all ids with Gymnasium; those it already knows are left as they are.

    Gymnasium adds its check of the call order and nothing else: the envs truncate themselves, and
    its passive checker knows numpy only (the tests run the thorough one).
    """
    for game in GAMES:
        env_id = DREAM_ID.format(game=game)
        if env_id not in gymnasium.registry:
            gymnasium.register(
                id=env_id,
                entry_point="glam_env.dream.env:DreamEnv",
                vector_entry_point="glam_env.dream.vector_env:DreamVectorEnv",
                disable_env_checker=True,
                kwargs={"game": game},
            )
