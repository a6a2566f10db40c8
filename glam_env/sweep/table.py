"""The display of a sweep: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from glam_env.console import LINE_SECONDS
from glam_env.sweep.views import ORDER, RunView, count_states

HEAD = 6  # lines of a table beside its rows
RUNNING_LINES = 8  # running runs in a plain report
STYLES = {"running": "cyan", "failed": "bold red", "finished": "green", "stopped": "yellow"}
COLUMNS = {
    "run": "name",
    "state": "state",
    "phase": "phase",
    "steps": "steps",
    "rate": "rate",
    "time left": "left",
    "last return": "last_return",
    "": "note",
}
"""Titles of the columns, and the fields that they show."""


def build_table(title: str, views: Sequence[RunView], rows: int) -> Table:
    """Build a table of runs, with at most ``rows`` rows.

    Running runs come first, then failed ones. The last row counts the runs that are left out.
    """
    table = Table(title=title, caption=count_states(views), title_justify="left")
    for name in COLUMNS:
        side = "right" if name in ("steps", "rate", "time left", "last return") else "left"
        table.add_column(name, justify=side, no_wrap=bool(name))
    ordered = sorted(views, key=lambda one: ORDER.index(one.state))
    shown = ordered if len(ordered) <= rows else ordered[: max(1, rows - 1)]
    for one in shown:
        cells = [Text(getattr(one, field)) for field in COLUMNS.values()]
        table.add_row(*cells, style=STYLES.get(one.state))
    if left_out := len(ordered) - len(shown):
        table.add_row(f"… {left_out} more")
    return table


class Display:
    """Display of a sweep while it runs.

    Args:
        title: Title of the table.
        stream: Where to write; standard error if None.
        seconds: A monotonic clock.
    """

    def __init__(
        self,
        title: str,
        stream: TextIO | None = None,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._stream, self._seconds = title, stream or sys.stderr, seconds
        self._console = Console(file=self._stream, force_terminal=self._stream.isatty())
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)
        self._states: dict[str, str] = {}
        self._shown_at = -LINE_SECONDS

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, views: Sequence[RunView]) -> None:
        """Show the present state of all runs."""
        if self._live is not None:
            rows = max(3, self._console.size.height - HEAD)
            self._live.update(build_table(self._title, views, rows), refresh=True)
            return
        for one in views:  # a change of state is printed at once
            if self._states.get(one.name, "waiting") != one.state:
                self._print(one.line() if one.state != "running" else f"{one.name} running")
        self._states = {one.name: one.state for one in views}
        if self._seconds() - self._shown_at >= LINE_SECONDS:
            self._shown_at = self._seconds()
            self._print(f"{self._title}: {count_states(views)}")
            for one in [one for one in views if one.state == "running"][:RUNNING_LINES]:
                self._print(f"  {one.line()}")

    def say(self, line: str) -> None:
        """Print a line beside the table."""
        if self._live is not None:
            self._console.print(Text(line))
        else:
            self._print(line)

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)
