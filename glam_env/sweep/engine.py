"""The interface between a sweep and its engine.

Scheduling, resources and retries are up to the engine.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Protocol

from glam_env.sweep.matrix import RunSpec
from glam_env.sweep.worker import Outcome


def new_session() -> str:
    """Return a random name for one start of a sweep."""
    return uuid.uuid4().hex[:12]


class Engine(Protocol):
    """Engine that executes the runs of a sweep.

    Attributes:
        session: Marks this start of the sweep; the runs carry it.
        device: Device of the runs, by the resources of each.
        where: What the runs run on, in words.
        note: Message for the user before the sweep starts; empty for none.
    """

    session: str
    device: str
    where: str
    note: str

    def start(self, runs: Sequence[RunSpec]) -> None:
        """Submit runs; each starts when there is room for it."""
        ...

    def poll(self, seconds: float) -> Mapping[str, Outcome]:
        """Wait for runs to end, for at most ``seconds`` seconds.

        Returns:
            Outcomes of the runs that have ended since the last call, by name.
        """
        ...

    def stop(self) -> None:
        """Ask all runs to save and stop; `poll` returns each when it has."""
        ...

    def close(self) -> None:
        """Release the engine."""
        ...


def gave_up(retries: int, why: object) -> Outcome:
    """Return the outcome of a run that was lost too often."""
    times = "once" if retries == 0 else f"{retries + 1} times"
    line = (str(why).strip().splitlines() or [type(why).__name__])[-1]
    return Outcome("failed", f"lost {times}, the last time: {line}")
