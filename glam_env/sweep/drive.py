"""The driver of a sweep.

It submits the runs to an engine, shows them, and collects how they ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from glam_env.errors import GlamError
from glam_env.sweep.engine import Engine
from glam_env.sweep.matrix import RunSpec
from glam_env.sweep.table import Display
from glam_env.sweep.views import RunView, is_done, view
from glam_env.sweep.worker import Outcome
from glam_env.training.config import TrainConfig

POLL_SECONDS = 1.0  # between two looks at the runs


@contextmanager
def one_driver(folder: Path) -> Iterator[None]:
    """Make the folder of a sweep, and lock it for this driver.

    Raises:
        GlamError: Another process drives the sweep, or the folder cannot be written.
    """
    lock = FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise GlamError(f"another process drives the sweep in {folder}; stop it first") from error
    except OSError as error:
        raise GlamError(f"cannot write {folder} ({error}); choose a writable --folder") from error
    try:
        yield
    finally:
        lock.release()


def drive(
    engine: Engine,
    runs: Sequence[RunSpec],
    configs: Mapping[str, TrainConfig],
    display: Display,
    stop: Callable[[], bool],
) -> dict[str, Outcome]:
    """Execute all runs until they have ended.

    Args:
        engine: Executes the runs.
        runs: All runs of the sweep; those that are done are left out.
        configs: Settings of the training, by variant.
        display: Shows the runs.
        stop: Returns whether all runs should save and stop.

    Returns:
        How each run ended, by name.
    """
    outcomes = {run.name: Outcome("finished") for run in runs if is_done(run)}
    engine.start([run for run in runs if run.name not in outcomes])
    ended: dict[str, RunView] = {}  # these views do not change any more

    def show() -> None:
        views = []
        for run in runs:
            outcome = outcomes.get(run.name)
            one = ended.get(run.name) or view(run, outcome, configs[run.variant])
            if outcome is not None:
                ended[run.name] = one
            views.append(one)
        display(views)

    stopping = False
    show()
    while len(outcomes) < len(runs):
        outcomes |= engine.poll(POLL_SECONDS)
        if stop() and not stopping:
            stopping = True
            display.say("stopping: each run saves first")
            engine.stop()
        show()
    return outcomes
