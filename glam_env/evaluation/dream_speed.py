"""Dream steps a second beside the emulator's, by turns, and what a long dream costs."""

from __future__ import annotations

import os
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
from glam_env.atari.emulator import FRAME_SIZE, FRAME_SKIP, make_envs
from glam_env.dream.vector_env import DreamVectorEnv
from glam_env.errors import GlamError
from glam_env.evaluation.bench_world import BenchWorld
from glam_env.evaluation.speed import (
    Figure,
    Memory,
    PeakMemory,
    Stepping,
    free_memory,
    memory_now,
    release_memory,
    take_turns,
    wait_for,
)
from glam_env.games import find_game

Progress = Callable[[str, int, int], None]

EMULATOR_ENVS = (1, 2, 4, 8, 16, 32, 64)
"""Games side by side, of the emulator's settings that are tried."""

ACTIONS = 64  # vector steps after which random actions repeat
NOOPS = 30


@dataclass(frozen=True)
class Turns:
    """How measurements take turns.

    Attributes:
        repeats: turns of each.
        steps: vector steps of a turn; None: as many as fill ``seconds``.
        seconds: length of a turn.
    """

    repeats: int
    steps: int | None
    seconds: float

    def steps_of(self, stepping: Stepping) -> int:
        """Vector steps of a turn of an env; warms it up."""
        fitting = stepping.warm_up(self.seconds)
        return fitting if self.steps is None else self.steps


# --- the emulator --------------------------------------------------------------------------------


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class BareEmulator:
    """ale-py's AtariVectorEnv with nothing around it, stepped with random actions.

    Args:
        game: its name.
        num_envs: games side by side.
        num_threads: that run them.
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
    """The emulator on the cores that the dreams get, in the settings that are fastest for it.

    Attributes:
        num_envs, num_threads: those settings.
        tried: all that were, as (num_envs, num_threads, env steps a second).
        bare: env steps a second of ale-py's AtariVectorEnv itself.
        real: of this package's env around it, GLAMReal, in tensors.
    """

    num_envs: int
    num_threads: int
    tried: tuple[tuple[int, int, float], ...]
    bare: Figure
    real: Figure

    def as_json(self) -> dict[str, Any]:
        """For ``json.dumps``."""
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
    game: str, turns: Turns, threads: int | None, progress: Progress
) -> tuple[EmulatorSpeed, Callable[[], float]]:
    """Finds the emulator's fastest settings, and measures it in them.

    Args:
        game: its name.
        turns: their number and length.
        threads: the most it may use; None: as many as there are cores.
        progress: told how far it is.

    Returns:
        Its speed; and a turn of it, which gives env steps a second.

    Raises:
        GlamError: ale-py is not installed.
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
        progress("emulator's settings", at + 1, len(settings))
    envs, count, _ = max(tried, key=lambda one: one[2])
    bare = BareEmulator(game, envs, count).stepping
    steps = turns.steps_of(bare)

    def turn() -> float:
        return bare.rate(steps)

    real = gym.make_vec(f"GLAMReal-{game}-v0", num_envs=envs, array_type="torch", device="cpu")
    with closing(real):
        real.reset(seed=0)
        own = Stepping(real.step, _actions(real, torch.device("cpu")), envs, torch.device("cpu"))
        own_steps = turns.steps_of(own)
        players = {"bare": turn, "real": lambda: own.rate(own_steps)}
        rounds = _Rounds("emulator", turns.repeats, progress)
        figures = take_turns(players, turns.repeats, rounds)
    return EmulatorSpeed(envs, count, tuple(tried), **figures), turn


# --- dreams --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DreamSpeed:
    """Dreams side by side.

    Attributes:
        obs_type: what they show.
        num_envs: E.
        steps: vector steps of a turn.
        dream: env steps a second.
        emulator: the emulator's in the turns between; None without it.
        memory: of making the env, resetting and stepping it.
    """

    obs_type: str
    num_envs: int
    steps: int
    dream: Figure
    emulator: Figure | None
    memory: Memory

    @property
    def ratio(self) -> Figure | None:
        """Dream : emulator, turn by turn."""
        return None if self.emulator is None else self.dream.over(self.emulator)

    def as_json(self) -> dict[str, Any]:
        """For ``json.dumps``."""
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
    """Dreams that do not fit: ``obs_type``, ``num_envs``, and ``why``."""

    obs_type: str
    num_envs: int
    why: str

    def as_json(self) -> dict[str, Any]:
        """For ``json.dumps``."""
        return asdict(self)


def measure_dreams(
    world: BenchWorld,
    obs_type: str,
    env_counts: tuple[int, ...],
    turns: Turns,
    device: torch.device,
    emulator: Callable[[], float] | None,
    progress: Progress,
) -> list[DreamSpeed | LeftOut]:
    """Steps dreams as a user does, the emulator in the turns between.

    Args:
        world: whose dreams.
        obs_type: what they show.
        env_counts: numbers of dreams side by side.
        turns: their number and length.
        device: where the dreams live.
        emulator: a turn of it, see :func:`measure_emulator`.
        progress: told how far it is.
    """
    found: list[DreamSpeed | LeftOut] = []
    speed: DreamSpeed | None = None
    for num_envs in sorted(env_counts):
        if speed is not None and (why := _too_many(speed, num_envs, device)):
            found.append(LeftOut(obs_type, num_envs, why))
            continue
        name = f"{world.preset}, {num_envs} dreams, {obs_type}"
        rounds = _Rounds(name, turns.repeats, progress)
        speed = _measure_dreams(world, obs_type, num_envs, turns, device, emulator, rounds)
        found.append(speed)
    return found


def _too_many(smaller: DreamSpeed, num_envs: int, device: torch.device) -> str:
    """Why so many dreams do not fit, judged by what fewer took; empty if they do."""
    growth, free = smaller.memory.growth, free_memory(device)
    if growth is None or free is None:
        return ""
    need = growth * num_envs // smaller.num_envs if smaller.num_envs > 16 else growth
    return f"needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free" * (need > 0.8 * free)


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
        watch.forget_peak()  # of copying dreams, which stepping does not
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
    world: BenchWorld, obs_type: str, num_envs: int, device: torch.device
) -> Iterator[Stepping]:
    """Dreams as they are after a long time: all contexts warmed up, ages spread over the horizon.

    Args:
        world: whose dreams.
        obs_type: what they show.
        num_envs: E.
        device: where they live.
    """
    with _dreams(world, obs_type, num_envs, device, world.horizon) as envs:
        _warm_contexts(envs)
        _spread_ages(envs)
        yield Stepping(envs.step, _actions(envs, device), num_envs, device)


@contextmanager
def _dreams(
    world: BenchWorld, obs_type: str, num_envs: int, device: torch.device, horizon: int
) -> Iterator[DreamVectorEnv]:
    envs = gym.make_vec(
        f"GLAMDream-{world.game}-v0",
        num_envs=num_envs,
        device=str(device),
        array_type="torch",
        obs_type=obs_type,
        checkpoint=str(world.folder),
        max_episode_steps=horizon,
    )
    assert isinstance(envs, DreamVectorEnv)
    with closing(envs):
        yield envs


def _warm_contexts(envs: DreamVectorEnv) -> None:
    """Starts dreams from every context once, since the first start of each costs more."""
    contexts, rows = envs.num_contexts, np.arange(envs.num_envs)
    for first in range(0, contexts, envs.num_envs):
        envs.reset(seed=0, options={"context": (first + rows) % contexts})


def _spread_ages(envs: DreamVectorEnv) -> None:
    """Makes dreams as old as they are after a long time, evenly from 0 to the horizon, so that
    every step has its share of ends and starts."""
    state = envs.get_state()
    ages = torch.arange(envs.num_envs, device=envs.device) * envs.max_episode_steps
    ages //= envs.num_envs
    envs.set_state(replace(state, engine=state.engine._replace(steps=ages)))


def _actions(envs: Any, device: torch.device) -> list[torch.Tensor]:
    """Random actions, made before they are wanted."""
    generator = torch.Generator().manual_seed(0)
    count = int(envs.single_action_space.n)
    table = torch.randint(count, (ACTIONS, envs.num_envs), generator=generator)
    return list(table.to(device))


class _Rounds:
    """Counts rounds of turns for the progress."""

    def __init__(self, name: str, repeats: int, progress: Progress) -> None:
        self._name, self._repeats, self._progress, self._done = name, repeats, progress, 0
        progress(name, 0, repeats)

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._name, self._done, self._repeats)


# --- a long dream --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LongDream:
    """Dreams that no horizon ends.

    Attributes:
        obs_type, num_envs: as of :class:`DreamSpeed`.
        steps: vector steps.
        ends: dreams that the model itself ended, and that began anew.
        first, last: median seconds of a vector step in the first and in the last tenth.
        before, after: bytes of memory before the first step and after the last; None if untold.
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
        """Bytes more after than before."""
        return None if self.before is None or self.after is None else self.after - self.before

    def as_json(self) -> dict[str, Any]:
        """For ``json.dumps``."""
        ratio = self.last / self.first
        return asdict(self) | {"last_to_first": ratio, "memory_growth": self.growth}


def measure_long_dream(
    world: BenchWorld,
    obs_type: str,
    num_envs: int,
    steps: int,
    device: torch.device,
    progress: Progress,
) -> LongDream:
    """Steps dreams for a long time.

    Args:
        world: whose dreams.
        obs_type: what they show.
        num_envs: E.
        steps: vector steps.
        device: where the dreams live.
        progress: told how far it is.

    Raises:
        GlamError: too few steps to have tenths.
    """
    if steps < 10:
        raise GlamError(f"long must be at least 10 steps, whose tenths are compared; got {steps}")
    warm = 2 * ACTIONS
    name = f"{world.preset}, a dream of {steps:,} steps, {obs_type}"
    with _dreams(world, obs_type, num_envs, device, warm + steps + 1) as envs:
        _warm_contexts(envs)
        stepping = Stepping(envs.step, _actions(envs, device), num_envs, device)
        stepping.run(warm)
        envs.reset(seed=0)
        ends = torch.zeros((), dtype=torch.int64, device=device)
        seconds = np.full(steps, np.nan)  # written once now, so that it takes its memory now
        release_memory(device)
        before = memory_now(device)
        actions = _actions(envs, device)
        for at in range(steps):
            wait_for(device)
            start = perf_counter()
            terminated = envs.step(actions[at % ACTIONS])[2]
            wait_for(device)
            seconds[at] = perf_counter() - start
            ends += terminated.sum()
            if (at + 1) % 100 == 0 or at + 1 == steps:
                progress(name, at + 1, steps)
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
