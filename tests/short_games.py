"""Real games that are cut after a few steps, for tests that need no whole ones."""

from __future__ import annotations

import pytest

from glam_env.envs.atari.emulator import FRAME_SKIP

STEPS = 200


def cut_games(patch: pytest.MonkeyPatch, steps: int = STEPS) -> None:
    """Cut the games of all emulators made from now on; a whole one of Pong has 900 steps."""
    patch.setattr("glam_env.envs.atari.emulator.MAX_FRAMES", FRAME_SKIP * steps)
