"""The emulator's steps a second, with the settings that are fastest for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import glam_env  # noqa: F401  registers the ids
from glam_env.bench.clock import (
    ACTIONS,
    Figure,
    OnProgress,
    Rounds,
    Stepping,
    Turns,
    random_actions,
    take_turns,
)
from glam_env.envs.atari.emulator import FRAME_SIZE, FRAME_SKIP, make_envs
from glam_env.games import find_game

EMULATOR_ENVS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of games side by side that are tried."""

NOOPS = 30


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class BareEmulator:
    """ale-py's AtariVectorEnv with nothing around it, stepped with random actions.

    Args:
        game: A game's name.
        num_envs: Games side by side.
        num_threads: Threads that run them.
    """

    def __init__(self, game: str, num_envs: int, num_threads: int) -> None:
        self.num_envs, self.num_threads = num_envs, num_threads
        found = find_game(game)
        self._envs = make_envs(found.ale_id, num_envs, 0.0, num_threads, NOOPS)
        self._envs.reset(seed=0)
        generator = np.random.default_rng(0)
        actions = generator.integers(found.num_actions, size=(ACTIONS, num_envs))
        cpu = torch.device("cpu")
        self.stepping = Stepping(self._envs.step, list(actions), num_envs, cpu)


@dataclass(frozen=True)
class EmulatorSpeed:
    """The emulator's speed on the cores that the dreams get, with its fastest settings.

    Attributes:
        num_envs: Games side by side in these settings.
        num_threads: Threads in these settings.
        tried: All settings, as (num_envs, num_threads, env steps a second).
        bare: Env steps a second of ale-py's AtariVectorEnv itself.
        real: Env steps a second of this package's env around it, GLAMReal, in tensors.
    """

    num_envs: int
    num_threads: int
    tried: tuple[tuple[int, int, float], ...]
    bare: Figure
    real: Figure

    def as_json(self) -> dict[str, Any]:
        """Return the figures for `json.dumps`."""
        names = ("num_envs", "num_threads", "steps_per_second")
        return {
            "num_envs": self.num_envs,
            "num_threads": self.num_threads,
            "tried": [dict(zip(names, one, strict=True)) for one in self.tried],
            "frames": f"{FRAME_SIZE}x{FRAME_SIZE} RGB, the last two of {FRAME_SKIP} in a maximum",
            "bare": self.bare.as_json(),
            "real": self.real.as_json(),
        }


def measure_emulator(
    game: str, turns: Turns, threads: int | None, on_progress: OnProgress
) -> tuple[EmulatorSpeed, Callable[[], float]]:
    """Find the emulator's fastest settings, and measure it with them.

    Args:
        game: A game's name.
        turns: Number and length of the turns.
        threads: The most threads that it may use; None for as many as there are cores.
        on_progress: Takes reports of progress.

    Returns:
        Its speed, and a function that takes one turn and returns env steps a second.

    Raises:
        GlamError: If ale-py is not installed.
    """
    most = usable_cores() if threads is None else threads
    settings = [
        (envs, count)
        for count in sorted({max(1, most // 2), most})
        for envs in EMULATOR_ENVS
        if envs >= count
    ] or [(most, most)]
    tried: list[tuple[int, int, float]] = []
    for at, (envs, count) in enumerate(settings):
        stepping = BareEmulator(game, envs, count).stepping
        steps = stepping.warm_up(turns.seconds / 2)
        tried.append((envs, count, max(stepping.rate(steps) for _ in range(2))))
        on_progress("emulator's settings", at + 1, len(settings))
    envs, count, _ = max(tried, key=lambda one: one[2])
    bare = BareEmulator(game, envs, count).stepping
    steps = turns.steps_of(bare)

    def turn() -> float:
        return bare.rate(steps)

    real = gym.make_vec(f"GLAMReal-{game}-v0", num_envs=envs, array_type="torch", device="cpu")
    with closing(real):
        real.reset(seed=0)
        own = Stepping(
            real.step, random_actions(real, torch.device("cpu")), envs, torch.device("cpu")
        )
        own_steps = turns.steps_of(own)
        players = {"bare": turn, "real": lambda: own.rate(own_steps)}
        rounds = Rounds("emulator", turns.repeats, on_progress)
        figures = take_turns(players, turns.repeats, rounds)
    return EmulatorSpeed(envs, count, tuple(tried), **figures), turn
