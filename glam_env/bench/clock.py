"""Timing that holds where a machine's speed drifts: turns, medians, spreads; peaks of memory."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

Progress = Callable[[str, int, int], None]
"""Told of a work how much of how much is done."""

ACTIONS = 64  # vector steps after which random actions repeat
LEAST_STEPS = 2  # of a turn, however long each takes

_STATUS, _CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Figure:
    """A quantity as it was measured, once in each turn; ``values`` in the order of the turns."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the values."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The least value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The greatest value."""
        return max(self.values)

    def over(self, other: Figure) -> Figure:
        """Ratios to another quantity that was measured in the same turns, turn by turn."""
        return Figure(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def as_json(self) -> dict[str, Any]:
        """For ``json.dumps``: median, low, high, and the values themselves."""
        return {
            "median": self.median,
            "low": self.low,
            "high": self.high,
            "values": list(self.values),
        }


def take_turns(
    players: Mapping[str, Callable[[], float]],
    repeats: int,
    on_turn: Callable[[], None] = lambda: None,
) -> dict[str, Figure]:
    """Measures several things in turns: each once, then each once more, …

    Args:
        players: each does its work once and returns the quantity.
        repeats: rounds.
        on_turn: called after every round.

    Returns:
        ``repeats`` values of each player.
    """
    values: dict[str, list[float]] = {name: [] for name in players}
    for _ in range(repeats):
        for name, play in players.items():
            values[name].append(play())
        on_turn()
    return {name: Figure(tuple(column)) for name, column in values.items()}


def wait_for(device: torch.device) -> None:
    """Returns when all that has been asked of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds that some work takes, that of the device included."""
    wait_for(device)
    start = perf_counter()
    work()
    wait_for(device)
    return perf_counter() - start


class Stepping:
    """Steps a vector env with given actions, over and over.

    Args:
        step: of the env.
        actions: of E envs each, one after another; then from the first again.
        num_envs: E.
        device: where the env works.
    """

    def __init__(
        self,
        step: Callable[[Any], Any],
        actions: Sequence[Any],
        num_envs: int,
        device: torch.device,
    ) -> None:
        self._step, self._actions, self.num_envs, self.device = step, actions, num_envs, device
        self.done = 0  # vector steps so far

    def run(self, steps: int) -> float:
        """Takes so many vector steps; returns the seconds they took."""

        def work() -> None:
            for at in range(self.done, self.done + steps):
                self._step(self._actions[at % len(self._actions)])

        seconds = timed(work, self.device)
        self.done += steps
        return seconds

    def rate(self, steps: int) -> float:
        """Takes so many vector steps; returns the env steps a second."""
        return steps * self.num_envs / self.run(steps)

    def warm_up(self, seconds: float) -> int:
        """Steps until the speed can be told.

        Returns:
            The vector steps that fill about so many seconds, two at least.
        """
        self.run(1)  # caches, compiled and captured code
        steps, taken = 1, self.run(1)
        while taken < seconds / 4:
            steps *= 2
            taken = self.run(steps)
        return max(LEAST_STEPS, round(steps * seconds / taken))


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


def random_actions(envs: Any, device: torch.device) -> list[torch.Tensor]:
    """Random actions of a vector env, made before they are wanted."""
    generator = torch.Generator().manual_seed(0)
    count = int(envs.single_action_space.n)
    table = torch.randint(count, (ACTIONS, envs.num_envs), generator=generator)
    return list(table.to(device))


class Rounds:
    """Counts rounds of turns for the progress."""

    def __init__(self, name: str, repeats: int, progress: Progress) -> None:
        self._name, self._repeats, self._progress, self._done = name, repeats, progress, 0
        progress(name, 0, repeats)

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._name, self._done, self._repeats)


# --- memory --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Bytes before some work and at its peak: of the process, or on a CUDA device of PyTorch's
    tensors. None where the system does not tell."""

    before: int | None
    peak: int | None

    @property
    def growth(self) -> int | None:
        """What the work took beyond what there was."""
        return None if self.before is None or self.peak is None else self.peak - self.before

    def as_json(self) -> dict[str, Any]:
        """For ``json.dumps``, in bytes."""
        return {"before": self.before, "peak": self.peak, "growth": self.growth}


class PeakMemory:
    """Watches the memory within a ``with`` block.

    >>> with PeakMemory(torch.device("cpu")) as watch:
    ...     zeros = torch.zeros(1 << 20)
    >>> watch.memory.growth is None or watch.memory.growth > 0
    True
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.memory = Memory(None, None)

    def __enter__(self) -> PeakMemory:
        release_memory(self._device)
        self._before = memory_now(self._device)
        self._reset_peak()
        return self

    def forget_peak(self) -> None:
        """Leaves the peak so far out of what the block will have taken."""
        release_memory(self._device)
        self._reset_peak()

    def _reset_peak(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif os.access(_CLEAR_PEAK, os.W_OK):
            _CLEAR_PEAK.write_text("5")  # resets VmHWM, see proc(5)

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            peak: int | None = torch.cuda.max_memory_allocated(self._device)
        else:
            peak = _status("VmHWM") if os.access(_CLEAR_PEAK, os.W_OK) else None
        self.memory = Memory(self._before, peak)


def memory_now(device: torch.device) -> int | None:
    """Bytes of the process, or of PyTorch's tensors on a CUDA device; None if untold."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS")


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on the machine, or on a CUDA device; None if untold."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    return _kibibytes(meminfo, "MemAvailable") if meminfo.exists() else None


def release_memory(device: torch.device) -> None:
    """Gives back what is no longer used, so that the next measurement begins with it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif os.name == "posix" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _status(name: str) -> int | None:
    return _kibibytes(_STATUS, name) if _STATUS.exists() else None


def _kibibytes(path: Path, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else None
