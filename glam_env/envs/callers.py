"""Inspection of the callers of an env: ``gymnasium.make``, wrappers and checkers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

import gymnasium as gym
from gymnasium.envs import registration

from glam_env.errors import GlamError

SECOND_SKIPS = ("AtariPreprocessing", "MaxAndSkipEnv", "MaxAndSkipObservation")
"""Wrappers of Gymnasium, SB3 and CleanRL that step the env several times in a step."""

FRAMES = (
    "a step is 4 frames of the game, already skipped, maximised and resized to 64 x 64, and the "
    "end of a life ends a dream"
)
_DEPTH = 60  # frames of the stack that are looked at


def asked_horizon() -> int | None:
    """Return the ``max_episode_steps`` given to the calling ``gymnasium.make``.

    ``make`` is expected to call the caller of this function. It does not pass the value on, and
    wraps a ``TimeLimit`` around the env, which could only shorten the env's own horizon. Without an
    argument the value is that of the spec, if it has one; for other callers it is None.
    """
    make = sys._getframe(2)  # which sets the spec of an env that it has made
    if make.f_code is not registration.make.__code__:
        return None
    value = make.f_locals["max_episode_steps"]
    if value is None:
        value = make.f_locals["env_spec"].max_episode_steps
    return value if isinstance(value, int) and value > 0 else None


def refuse_callers(array_type: str) -> None:
    """Refuse wrappers that skip frames once more, and tools that compare numpy arrays.

    Raises:
        GlamError: one of them calls the env.
    """
    for frame in _stack():
        caller, module = frame.f_locals.get("self"), frame.f_globals.get("__name__")
        if isinstance(caller, gym.Wrapper) and type(caller).__name__ in SECOND_SKIPS:
            skip = getattr(caller, "_skip", getattr(caller, "frame_skip", 2))
            if skip > 1:
                raise GlamError(f"{FRAMES}: leave the wrapper {type(caller).__name__} out")
        if array_type == "torch" and module == "gymnasium.utils.env_checker":
            raise GlamError(
                "check_env compares numpy arrays, and with array_type='torch' observations are "
                "tensors: check the env with array_type='numpy', whose numbers are the same"
            )


def _stack() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_DEPTH):
        if frame is None:
            return
        yield frame
        frame = frame.f_back
