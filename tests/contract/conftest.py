"""Fixtures: vector and single envs of both worlds, closed in the end, and plays in them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from comparison import assert_same, to_numpy
from worlds import (
    HORIZON,
    IDS,
    SEED,
    E,
    Event,
    copied,
    play,
)

import glam_env  # noqa: F401  (registers the ids)
from glam_env.envs.base import PixelVectorEnv


@pytest.fixture(scope="module", autouse=True)
def _surroundings(saved_checkpoint: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLAM_CHECKPOINTS", str(saved_checkpoint.parent))
        patch.setenv("SDL_VIDEODRIVER", "dummy")
        yield


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def make() -> Iterator[Callable[..., PixelVectorEnv]]:
    """Make a world's vector env by its id and close it in the end."""
    made: list[PixelVectorEnv] = []

    def make_envs(world: str, num_envs: int = E, **options: Any) -> PixelVectorEnv:
        options = {"device": "cpu", "max_episode_steps": HORIZON} | options
        made.append(gym.make_vec(IDS[world], num_envs=num_envs, **options))
        return made[-1]

    yield make_envs
    for envs in made:
        envs.close()


@pytest.fixture
def make_single() -> Iterator[Callable[..., gym.Env]]:
    """Make a world's single env by its id and close it in the end."""
    made: list[gym.Env] = []

    def make_env(world: str, **options: Any) -> gym.Env:
        made.append(gym.make(IDS[world], device="cpu", **options))
        return made[-1]

    yield make_env
    for env in made:
        env.close()


@pytest.fixture(scope="module")
def keep(_surroundings: None) -> Iterator[Callable[..., PixelVectorEnv]]:
    """Return the module's env of a world, an array type, an observation type and a mode."""

    @cache
    def envs_of(world: str, array_type: str, obs_type: str, mode: str) -> PixelVectorEnv:
        made.append(
            gym.make_vec(
                IDS[world],
                num_envs=E,
                device="cpu",
                max_episode_steps=HORIZON,
                array_type=array_type,
                obs_type=obs_type,
                autoreset_mode=mode,
                render_mode="rgb_array",
            )
        )
        return made[-1]

    made: list[PixelVectorEnv] = []
    yield envs_of
    for envs in made:
        envs.close()


@pytest.fixture(scope="module")
def firsts_of(keep: Callable[..., PixelVectorEnv]) -> Callable[..., list[np.ndarray]]:
    """Return each row's first observation in its n-th episode, which depends on n only."""

    @cache
    def first_observations(world: str, obs_type: str) -> list[np.ndarray]:
        envs = keep(world, "numpy", obs_type, "DISABLED")
        return [envs.reset(seed=SEED if n == 0 else None)[0] for n in range(3)]

    return first_observations


@pytest.fixture(scope="module")
def played(keep: Callable[..., PixelVectorEnv]) -> Callable[..., list[Event]]:
    """Play each of the module's envs while the caller overwrites what it receives."""

    @cache
    def play_of(world: str, array_type: str, obs_type: str, mode: str) -> list[Event]:
        envs = keep(world, array_type, obs_type, mode)
        taken: list[tuple[Any, np.ndarray]] = []

        def spoil(value: Any) -> None:
            if isinstance(value, dict | tuple):
                for item in value.values() if isinstance(value, dict) else value:
                    spoil(item)
            else:
                value[:] = 1
                taken.append((value, copied(value)))

        events = play(envs, taken=lambda parts: (spoil(parts), spoil(envs.render())))
        for value, was in taken:
            assert_same(to_numpy(value), was)  # nor does the env write to it later
        return events

    return play_of
