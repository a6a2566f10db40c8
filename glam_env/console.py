"""Progress display and stop signals of long commands."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

LINE_SECONDS = 15.0  # between two plain lines
DRAW_SECONDS = 0.2  # between two drawings of the bars
FINISHED, STOPPED = "finished", "stopped"  # how the last line of `glam train` begins


def clock(seconds: float) -> str:
    """Format seconds as h:mm:ss.

    >>> clock(3725.2)
    '1:02:05'
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


@dataclass
class _Work:
    """One part of a long task, as last reported."""

    bar: TaskID
    done: int
    gained: int = 0  # units since the first report
    seconds: float = 0.0  # spent on these units
    complete: bool = False


class Progress:
    """Show the progress, the rate and the remaining time of a long task.

    On a terminal each part of the task has a live bar. Elsewhere a plain line is printed about
    every 15 seconds, and one when a part is complete. The rate of a part counts from its first
    report, so that a resumed run shows its own speed.

    Args:
        stream: Where to write; standard error if None.
        seconds: A monotonic clock, in seconds.

    >>> with Progress() as progress:
    ...     progress("real play", 10, 100, "steps", note="return 3.0")
    """

    def __init__(
        self, stream: TextIO | None = None, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._seconds = stream or sys.stderr, seconds
        console = Console(file=self._stream, force_terminal=self._stream.isatty())
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=False)),
            console=console,
            auto_refresh=False,  # no thread draws while something else is being timed
            redirect_stdout=False,  # what is printed there is a result, not progress
            disable=not self._live,
        )
        self._works: dict[str, _Work] = {}
        self._reported_at = self._shown_at = seconds()

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, work: str, done: int, total: int, unit: str = "", note: str = "") -> None:
        """Report that `done` of `total` units of a part of the task are done.

        Args:
            work: Name of the part, such as "real play".
            done: Units done so far.
            total: Units in all.
            unit: What is counted, such as "steps".
            note: Further figures, shown at the end of the line.
        """
        now = self._seconds()
        own = self._works.get(work)
        if own is None:
            bar = self._bars.add_task(work, total=total, text="")
            own = self._works[work] = _Work(bar, done)
        elif done < own.done:  # it begins again
            own = self._works[work] = _Work(own.bar, done)
        else:
            own.gained += done - own.done
            own.seconds += now - self._reported_at  # since the last report of any part
        self._reported_at = now
        text = _describe(done, total, unit, note, own.gained, own.seconds)
        self._bars.update(own.bar, completed=done, total=total, text=text)
        ends = done >= total and not own.complete
        own.done, own.complete = done, done >= total
        if ends or now - self._shown_at >= (DRAW_SECONDS if self._live else LINE_SECONDS):
            self._shown_at = now
            if self._live:
                self._bars.refresh()
            else:
                print(f"{work}: {text}", file=self._stream, flush=True)


def _describe(done: int, total: int, unit: str, note: str, gained: int, seconds: float) -> str:
    """Format the units done, the rate, the time left and a note."""
    unit = f" {unit}" if unit else ""
    parts = [f"{done:,}/{total:,}{unit}"]
    if gained > 0 and seconds > 0:
        rate = gained / seconds
        figure = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        speed = f"{figure}{unit}/s"
        parts.append(speed if done >= total else f"{speed}, {clock((total - done) / rate)} left")
    return " | ".join([*parts, note] if note else parts)


REPEAT_SECONDS = 1.0  # a second signal within this time counts as a copy of the first


class StopRequest:
    """Record SIGINT and SIGTERM while entered as a context.

    A second signal, more than a second after the first, ends the process at once.
    """

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
        """Whether a signal has asked to stop."""
        return bool(self._asked)

    def _ask(self, number: int, _frame: object) -> None:
        self._asked.append(time.monotonic())
        # `timeout` and similar tools send each signal twice.
        if self._asked[-1] - self._asked[0] > REPEAT_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
