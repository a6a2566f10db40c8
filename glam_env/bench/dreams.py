"""Dream steps a second beside the emulator's, by turns, and the cost of a long dream."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from time import perf_counter
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
    wait_for,
)
from glam_env.bench.memory import Memory, PeakMemory, free_memory, memory_now, release_memory
from glam_env.bench.world import BenchWorld
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.errors import GlamError


@dataclass(frozen=True)
class DreamSpeed:
    """The speed of dreams side by side.

    Attributes:
        obs_type: What they show.
        num_envs: E, the number of dreams.
        steps: Vector steps of a turn.
        dream: Env steps a second.
        emulator: The emulator's env steps a second in the turns between; None without it.
        memory: Memory for making, resetting and stepping the env.
    """

    obs_type: str
    num_envs: int
    steps: int
    dream: Figure
    emulator: Figure | None
    memory: Memory

    @property
    def ratio(self) -> Figure | None:
        """Return the dream's speed over the emulator's, turn by turn."""
        return None if self.emulator is None else self.dream.over(self.emulator)

    def as_json(self) -> dict[str, Any]:
        """Return the figures for `json.dumps`."""
        return {
            "obs_type": self.obs_type,
            "num_envs": self.num_envs,
            "steps": self.steps,
            "dream": self.dream.as_json(),
            "emulator": None if self.emulator is None else self.emulator.as_json(),
            "ratio": None if self.ratio is None else self.ratio.as_json(),
            "microseconds_per_step": 1e6 / self.dream.median,
            "memory": self.memory.as_json(),
        }


@dataclass(frozen=True)
class LeftOut:
    """Dreams that do not fit into memory: `obs_type`, `num_envs`, and `why`."""

    obs_type: str
    num_envs: int
    why: str

    def as_json(self) -> dict[str, Any]:
        """Return the figures for `json.dumps`."""
        return asdict(self)


def measure_dreams(
    world: BenchWorld,
    obs_type: str,
    env_counts: tuple[int, ...],
    turns: Turns,
    device: torch.device,
    emulator: Callable[[], float] | None,
    on_progress: OnProgress,
) -> list[DreamSpeed | LeftOut]:
    """Step dreams as a user does, with the emulator in the turns between.

    Args:
        world: Whose dreams.
        obs_type: What they show.
        env_counts: Numbers of dreams side by side.
        turns: Number and length of the turns.
        device: Where the dreams live.
        emulator: One turn of the emulator, see `measure_emulator`; None for none.
        on_progress: Takes reports of progress.

    Returns:
        A measurement for each number of dreams, in ascending order.
    """
    found: list[DreamSpeed | LeftOut] = []
    speed: DreamSpeed | None = None
    for num_envs in sorted(env_counts):
        if speed is not None and (why := _too_many(speed, num_envs, device)):
            found.append(LeftOut(obs_type, num_envs, why))
            continue
        name = f"{world.preset}, {num_envs} dreams, {obs_type}"
        rounds = Rounds(name, turns.repeats, on_progress)
        speed = _measure_dreams(world, obs_type, num_envs, turns, device, emulator, rounds)
        found.append(speed)
    return found


def _too_many(smaller: DreamSpeed, num_envs: int, device: torch.device) -> str:
    """Say why so many dreams do not fit, judged by what fewer took; empty if they fit."""
    growth, free = smaller.memory.growth, free_memory(device)
    if growth is None or free is None:
        return ""
    need = growth * num_envs // smaller.num_envs if smaller.num_envs > 16 else growth
    if need <= 0.8 * free:
        return ""
    return f"needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"


def _measure_dreams(
    world: BenchWorld,
    obs_type: str,
    num_envs: int,
    turns: Turns,
    device: torch.device,
    emulator: Callable[[], float] | None,
    rounds: Callable[[], None],
) -> DreamSpeed:
    with (
        PeakMemory(device) as watch,
        open_dreams(world, obs_type, num_envs, device) as stepping,
    ):
        watch.forget_peak()  # opening copies the dreams' state, stepping does not
        steps = turns.steps_of(stepping)
        players = {"dream": lambda: stepping.rate(steps)}
        if emulator is not None:
            players["emulator"] = emulator
        figures = take_turns(players, turns.repeats, rounds)
    return DreamSpeed(
        obs_type,
        num_envs,
        steps,
        figures["dream"],
        figures.get("emulator"),
        watch.memory,
    )


@contextmanager
def open_dreams(
    world: BenchWorld,
    obs_type: str,
    num_envs: int,
    device: torch.device,
    backend: str = "auto",
) -> Iterator[Stepping]:
    """Open dreams in the state of a long run: contexts warmed up, ages spread over the horizon.

    Args:
        world: Whose dreams.
        obs_type: What they show.
        num_envs: E, the number of dreams.
        device: Where the dreams live.
        backend: The env's option.
    """
    with _dreams(world, obs_type, num_envs, device, world.horizon, backend) as envs:
        _warm_contexts(envs)
        _spread_ages(envs)
        yield Stepping(envs.step, random_actions(envs, device), num_envs, device)


@contextmanager
def _dreams(
    world: BenchWorld,
    obs_type: str,
    num_envs: int,
    device: torch.device,
    horizon: int,
    backend: str = "auto",
) -> Iterator[DreamVectorEnv]:
    envs = gym.make_vec(
        f"GLAMDream-{world.game}-v0",
        num_envs=num_envs,
        device=str(device),
        array_type="torch",
        obs_type=obs_type,
        checkpoint=str(world.folder),
        max_episode_steps=horizon,
        backend=backend,
    )
    assert isinstance(envs, DreamVectorEnv)
    with closing(envs):
        yield envs


def _warm_contexts(envs: DreamVectorEnv) -> None:
    """Start a dream from each context once: the first start of each costs more."""
    contexts, rows = envs.num_contexts, np.arange(envs.num_envs)
    for first in range(0, contexts, envs.num_envs):
        envs.reset(seed=0, options={"context": (first + rows) % contexts})


def _spread_ages(envs: DreamVectorEnv) -> None:
    """Spread the dreams' ages evenly from 0 to the horizon, so that all steps have equal ends."""
    state = envs.get_state()
    ages = torch.arange(envs.num_envs, device=envs.device) * envs.max_episode_steps
    ages //= envs.num_envs
    envs.set_state(replace(state, engine=state.engine._replace(steps=ages)))


# --- a long dream --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LongDream:
    """The cost of dreams that no horizon ends.

    Attributes:
        obs_type: What they show.
        num_envs: E, the number of dreams.
        steps: Vector steps.
        ends: Dreams that the model itself ended, and that started again.
        first: Median seconds of a vector step in the first tenth.
        last: Median seconds of a vector step in the last tenth.
        before: Bytes of memory before the first step; None where the system reports none.
        after: Bytes of memory after the last step; None where the system reports none.
    """

    obs_type: str
    num_envs: int
    steps: int
    ends: int
    first: float
    last: float
    before: int | None
    after: int | None

    @property
    def growth(self) -> int | None:
        """Return how many bytes the memory has grown by."""
        return None if self.before is None or self.after is None else self.after - self.before

    def as_json(self) -> dict[str, Any]:
        """Return the figures for `json.dumps`."""
        ratio = self.last / self.first
        return asdict(self) | {"last_to_first": ratio, "memory_growth": self.growth}


def measure_long_dream(
    world: BenchWorld,
    obs_type: str,
    num_envs: int,
    steps: int,
    device: torch.device,
    on_progress: OnProgress,
) -> LongDream:
    """Step dreams for a long time.

    Args:
        world: Whose dreams.
        obs_type: What they show.
        num_envs: E, the number of dreams.
        steps: Vector steps.
        device: Where the dreams live.
        on_progress: Takes reports of progress.

    Raises:
        GlamError: For too few steps to have tenths.
    """
    if steps < 10:
        raise GlamError(f"long must be at least 10 steps, whose tenths are compared; got {steps}")
    warm = 2 * ACTIONS
    name = f"{world.preset}, a dream of {steps:,} steps, {obs_type}"
    with _dreams(world, obs_type, num_envs, device, warm + steps + 1) as envs:
        _warm_contexts(envs)
        stepping = Stepping(envs.step, random_actions(envs, device), num_envs, device)
        stepping.run(warm)
        envs.reset(seed=0)
        ends = torch.zeros((), dtype=torch.int64, device=device)
        seconds = np.full(steps, np.nan)  # written now, so that its memory is taken now
        release_memory(device)
        before = memory_now(device)
        actions = random_actions(envs, device)
        for at in range(steps):
            wait_for(device)
            start = perf_counter()
            terminated = envs.step(actions[at % ACTIONS])[2]
            wait_for(device)
            seconds[at] = perf_counter() - start
            ends += terminated.sum()
            if (at + 1) % 100 == 0 or at + 1 == steps:
                on_progress(name, at + 1, steps)
        release_memory(device)
        after = memory_now(device)
    tenth = steps // 10
    return LongDream(
        obs_type,
        num_envs,
        steps,
        int(ends),
        statistics.median(seconds[:tenth].tolist()),
        statistics.median(seconds[-tenth:].tolist()),
        before,
        after,
    )
