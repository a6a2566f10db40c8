"""Descriptions of runs for people.

They are read from the files of a run, and from what the engine has returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glam_env.console import clock
from glam_env.sweep.matrix import RunSpec
from glam_env.sweep.status import read_status, read_tail
from glam_env.sweep.worker import Outcome
from glam_env.training.config import TrainConfig
from glam_env.training.phases import progress

ORDER = ("running", "failed", "stopped", "finished", "waiting")


@dataclass(frozen=True)
class RunView:
    """Description of a run.

    Attributes:
        name: Game, variant and seed.
        state: running, waiting, finished, stopped or failed.
        phase: The phase of the training, or the command that follows it.
        steps: Progress in the phase.
        rate: Steps or updates per second.
        left: Estimated time until the end of the phase.
        last_return: Mean return of recent episodes.
        note: The machine and the attempt, or why the run failed.
    """

    name: str
    state: str
    phase: str = ""
    steps: str = ""
    rate: str = ""
    left: str = ""
    last_return: str = ""
    note: str = ""

    def line(self) -> str:
        """Return the run in one line."""
        left = f"{self.left} left" if self.left else ""
        score = f"return {self.last_return}" if self.last_return else ""
        parts = [self.phase, self.steps, self.rate, left, score, self.note]
        return f"{self.name} {self.state}: {' | '.join(filter(None, parts))}".removesuffix(": ")


def is_done(spec: RunSpec) -> bool:
    """Return whether a run and all commands that follow it are done."""
    status = read_status(Path(spec.path))
    trained = status is not None and status.trained
    return trained and all((Path(spec.path) / each.done).is_file() for each in spec.then)


def view(spec: RunSpec, outcome: Outcome | None, config: TrainConfig) -> RunView:
    """Describe a run.

    Args:
        spec: The run.
        outcome: What the engine has returned; None if the run has not ended.
        config: Settings of the training.
    """
    path = Path(spec.path)
    if outcome is not None:
        tail = read_tail(path)
        score = next((t["recent_return"] for t in reversed(tail) if "recent_return" in t), None)
        shown = "" if score is None else f"{score:.3g}"
        return RunView(spec.name, outcome.state, last_return=shown, note=outcome.message)
    status = read_status(path)
    if status is None or status.session != spec.session or status.state != "running":
        return RunView(spec.name, "waiting")
    note = status.host if status.attempt == 1 else f"{status.host}, attempt {status.attempt}"
    if status.step != "train":
        return RunView(spec.name, "running", status.step, note=note)
    return _training(spec.name, read_tail(path), config, note)


def _training(
    name: str, tail: Sequence[Mapping[str, object]], config: TrainConfig, note: str
) -> RunView:
    """Describe a run in training, from the last lines of its metrics."""
    lines = [line for line in tail if "phase" in line]
    if not lines:
        return RunView(name, "running", "begins", note=note)
    last = lines[-1]
    since = len(lines)
    while since > 0 and lines[since - 1]["phase"] == last["phase"]:
        since -= 1
    first = lines[since]
    done, total, unit = progress(config, last)
    gained = done - progress(config, first)[0]
    seconds = float(str(last["seconds"])) - float(str(first["seconds"]))
    rate = gained / seconds if gained > 0 and seconds > 0 else 0.0
    score = last.get("recent_return")
    return RunView(
        name,
        "running",
        phase=str(last["phase"]),
        steps=f"{done:,}/{total:,} {unit}",
        rate="" if not rate else f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s",
        left="" if not rate else clock((total - done) / rate),
        last_return="" if score is None else f"{float(str(score)):.3g}",
        note=note,
    )


def count_states(views: Sequence[RunView]) -> str:
    """Return how many runs are in each state, such as "2 running, 4 waiting"."""
    counts = {state: sum(one.state == state for one in views) for state in ORDER}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)
