"""``AtariHabits``: attributes that code for Atari expects of an env."""

from __future__ import annotations

from typing import NoReturn

from glam_env.envs.callers import FRAMES
from glam_env.errors import GlamAttributeError, GlamError
from glam_env.games import GAMES

KEYS = {"UP": "w", "LEFT": "a", "DOWN": "s", "RIGHT": "d", "FIRE": " "}
"""Keys of the parts of an action, as in ale-py; NOOP is ``e``."""


class AtariHabits:
    """Mixin of envs of one game: names and keys of its actions, and no ``ale``."""

    game: str

    def get_action_meanings(self) -> list[str]:
        """Return what each action presses, such as ``["NOOP", "FIRE", "RIGHT", …]``."""
        return list(GAMES[self.game].action_meanings)

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """Return the action of each combination of keys.

        ``gymnasium.utils.play.play`` reads it. Directions are ``w``, ``a``, ``s`` and ``d``, FIRE
        is space, NOOP is ``e``.
        """
        return {
            tuple(sorted(key for part, key in KEYS.items() if part in meaning)) or ("e",): action
            for action, meaning in enumerate(self.get_action_meanings())
        }

    @property
    def ale(self) -> NoReturn:
        """Raise an AttributeError that explains why the env has no ``ale``."""
        raise GlamAttributeError(
            f"this env has no ale: {FRAMES}; leave out wrappers that ask for it, such as "
            "AtariWrapper, AtariPreprocessing and EpisodicLifeEnv"
        )

    @property
    def _frameskip(self) -> NoReturn:  # Gymnasium's AtariPreprocessing reads it
        raise GlamError(f"{FRAMES}: leave the wrapper AtariPreprocessing out")
