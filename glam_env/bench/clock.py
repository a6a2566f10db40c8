"""Timing on a machine whose speed drifts: measurements by turns, medians, spreads."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

OnProgress = Callable[[str, int, int], None]
"""Called with the name of a work, how much of it is done, and how much there is."""

ACTIONS = 64  # vector steps after which random actions repeat
LEAST_STEPS = 2  # of a turn, however long each takes


@dataclass(frozen=True)
class Figure:
    """A quantity that was measured once in each turn; `values` are in the order of the turns."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median of the values."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """Return the least value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """Return the greatest value."""
        return max(self.values)

    def over(self, other: Figure) -> Figure:
        """Return the ratios, turn by turn, to a quantity that was measured in the same turns."""
        return Figure(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def as_json(self) -> dict[str, Any]:
        """Return median, low, high and the values, for `json.dumps`."""
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
    """Measure several things by turns: each once, then each once more, and so on.

    Args:
        players: Each does its work once and returns the quantity.
        repeats: Rounds.
        on_turn: Called after each round.

    Returns:
        `repeats` values of each player.
    """
    values: dict[str, list[float]] = {name: [] for name in players}
    for _ in range(repeats):
        for name, play in players.items():
            values[name].append(play())
        on_turn()
    return {name: Figure(tuple(column)) for name, column in values.items()}


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds that some work takes, the device's part included."""
    wait_for(device)
    start = perf_counter()
    work()
    wait_for(device)
    return perf_counter() - start


class Stepping:
    """Step a vector env with given actions, over and over.

    Args:
        step: The env's step.
        actions: Actions of E envs each, taken in order, then from the first again.
        num_envs: E.
        device: Where the env works.

    Attributes:
        done: Vector steps so far.
    """

    def __init__(
        self,
        step: Callable[[Any], Any],
        actions: Sequence[Any],
        num_envs: int,
        device: torch.device,
    ) -> None:
        self._step, self._actions, self.num_envs, self.device = step, actions, num_envs, device
        self.done = 0

    def run(self, steps: int) -> float:
        """Take so many vector steps, and return the seconds that they took."""

        def work() -> None:
            for at in range(self.done, self.done + steps):
                self._step(self._actions[at % len(self._actions)])

        seconds = timed(work, self.device)
        self.done += steps
        return seconds

    def rate(self, steps: int) -> float:
        """Take so many vector steps, and return the env steps a second."""
        return steps * self.num_envs / self.run(steps)

    def warm_up(self, seconds: float) -> int:
        """Step until the speed is known.

        Args:
            seconds: Length of a turn.

        Returns:
            The vector steps that fill about so many seconds, at least two.
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
        repeats: Turns of each measurement.
        steps: Vector steps of a turn; None for as many as fill `seconds`.
        seconds: Length of a turn.
    """

    repeats: int
    steps: int | None
    seconds: float

    def steps_of(self, stepping: Stepping) -> int:
        """Warm an env up, and return the vector steps of its turns."""
        fitting = stepping.warm_up(self.seconds)
        return fitting if self.steps is None else self.steps


def random_actions(envs: Any, device: torch.device) -> list[torch.Tensor]:
    """Draw `ACTIONS` random actions (E) of a vector env, before they are needed."""
    generator = torch.Generator().manual_seed(0)
    count = int(envs.single_action_space.n)
    table = torch.randint(count, (ACTIONS, envs.num_envs), generator=generator)
    return list(table.to(device))


class Rounds:
    """Report rounds of turns as progress; called after each round.

    Args:
        name: Name of the measurement.
        repeats: Rounds.
        on_progress: Takes the report.
    """

    def __init__(self, name: str, repeats: int, on_progress: OnProgress) -> None:
        self._name, self._repeats, self._on_progress, self._done = name, repeats, on_progress, 0
        on_progress(name, 0, repeats)

    def __call__(self) -> None:
        self._done += 1
        self._on_progress(self._name, self._done, self._repeats)
