"""The terminal of a long command: lines of progress, and stopping in good order."""

from __future__ import annotations

import signal
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        return Text("" if not task.speed else f"{task.speed:,.0f}/s")


class ProgressLines:
    """A line for each part of a long work; on anything but a terminal there are none.

    >>> with ProgressLines() as progress:
    ...     progress("real play", 10, 100)
    """

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressLines:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, work: str, done: int, total: int) -> None:
        """Shows that `done` of `total` units of some work are done."""
        if work not in self._tasks:
            self._tasks[work] = self._progress.add_task(work, total=total)
        self._progress.update(self._tasks[work], completed=done, total=total)


SECOND_THOUGHT = 1.0  # seconds


class StopRequest:
    """Takes SIGINT and SIGTERM while it is entered as a context, and remembers them."""

    def __init__(self) -> None:
        self._asked: list[float] = []  # when
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        """Whether to stop."""
        return bool(self._asked)

    def _ask(self, number: int, _frame: object) -> None:
        self._asked.append(time.monotonic())
        # `timeout` and its like send everything twice; one that comes later means it: it kills.
        if self._asked[-1] - self._asked[0] > SECOND_THOUGHT:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
