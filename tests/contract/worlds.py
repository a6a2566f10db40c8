"""The dreamt and the real world of one game, and plays in them that tests compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from comparison import assert_same, to_numpy
from gymnasium.vector import AutoresetMode

from glam_env.envs.base import PixelVectorEnv

E, HORIZON, STEPS, SEED = 2, 4, 7, 3
IDS = {"dream": "GLAMDream-Pong-v0", "real": "GLAMReal-Pong-v0"}
ARRAYS = ("numpy", "torch")
OBSERVATIONS = ("rgb", "grayscale", "latent")
SPACES = {
    "rgb": ((64, 64, 3), np.uint8),
    "grayscale": ((64, 64, 1), np.uint8),
    "latent": ((4 * 4 + 16,), np.float32),
}
FIRST, LAST = np.arange(E) == 0, np.arange(E) == E - 1

worlds = pytest.mark.parametrize(
    "world", ["dream", pytest.param("real", marks=pytest.mark.emulator)]
)
# Both worlds have one base class, which alone uses Gymnasium in these tests: on its oldest version,
# the dream shows what there is to see.
worlds_of_one_base = pytest.mark.parametrize(
    "world",
    ["dream", pytest.param("real", marks=[pytest.mark.emulator, pytest.mark.one_gymnasium])],
)
arrays = pytest.mark.parametrize("array_type", ARRAYS)
observations = pytest.mark.parametrize("obs_type", OBSERVATIONS)
modes = pytest.mark.parametrize("mode", [mode.name for mode in AutoresetMode])


class Event(NamedTuple):
    """The result of a reset (2 parts) or a step (5 parts).

    ``parts`` are copies in numpy, ``outline`` holds the type, dtype and shape of each part.
    """

    parts: list[Any]
    outline: list[Any]

    @property
    def done(self) -> np.ndarray:
        return self.parts[2] | self.parts[3]


def actions_at(t: int, num_envs: int = E) -> np.ndarray:
    return (np.arange(num_envs) * 5 + t) % 6


def outline(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: outline(item) for name, item in value.items()}
    return type(value), value.dtype, tuple(value.shape)


def copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    return to_numpy(value).copy()


def play(
    envs: PixelVectorEnv,
    steps: int = STEPS,
    seed: int | None = SEED,
    taken: Callable[[tuple[Any, ...]], None] = lambda parts: None,
) -> list[Event]:
    """Reset (unless the seed is None) and step; ``taken`` is called with each result.

    The last row is reset after the second step, so that rows end at different steps; where the env
    resets none by itself, those that end are reset at once.
    """
    events = []

    def note(parts: tuple[Any, ...]) -> Event:
        events.append(Event([copied(part) for part in parts], [outline(part) for part in parts]))
        taken(parts)
        return events[-1]

    if seed is not None:
        note(envs.reset(seed=seed))
    for t in range(steps):
        done = note(envs.step(actions_at(t, envs.num_envs))).done
        if t == 1 and seed is not None and not done[-1]:
            note(envs.reset(options={"reset_mask": LAST.copy()}))
        if envs.autoreset_mode is AutoresetMode.DISABLED and done.any():
            note(envs.reset(options={"reset_mask": done.copy()}))
    return events


def assert_equal(one: list[Event], other: list[Event]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert_same(a.parts, b.parts)
