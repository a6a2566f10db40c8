"""A bar of progress: how far, how fast, how long."""

from __future__ import annotations

import time
from typing import TextIO

from glam_env.training.logs import clock

_WIDTH = 24


class ProgressBar:
    """Shows how far something has come; drawn over on a terminal, line after line elsewhere.

    Args:
        stream: where to.
        total: of the work.
        unit: what it is counted in, such as ``"steps"``.
        done: of the work, before.
    """

    def __init__(self, stream: TextIO, total: int, unit: str, done: int = 0) -> None:
        self._stream, self._total, self._unit, self._first = stream, total, unit, done
        self._every = 1.0 if stream.isatty() else 15.0  # seconds from one line to the next
        self._begun_at = self._shown_at = time.perf_counter()

    def rate(self, done: int) -> float:
        """Work a second since the bar was made."""
        return (done - self._first) / max(time.perf_counter() - self._begun_at, 1e-9)

    def show(self, done: int, more: str = "") -> None:
        """Shows the state, unless that was done a moment ago.

        Args:
            done: of the work.
            more: what else there is to say.
        """
        if time.perf_counter() - self._shown_at >= self._every:
            self._draw(done, more)

    def finish(self, done: int, more: str = "") -> None:
        """Shows the last state and leaves the line."""
        self._draw(done, more)
        if self._stream.isatty():
            self._stream.write("\n")
            self._stream.flush()

    def _draw(self, done: int, more: str) -> None:
        self._shown_at = time.perf_counter()
        rate = self.rate(done)
        figure = f"{rate:,.0f}" if rate >= 10.0 else f"{rate:.2f}"
        bar = f"[{'=' * round(_WIDTH * min(done / self._total, 1.0)):{_WIDTH}}]"
        text = f"{bar} {done:,}/{self._total:,} {self._unit} | {figure} {self._unit}/s"
        if rate > 0.0:
            text += f", {clock(max(self._total - done, 0) / rate)} left"
        text += f" | {more}" if more else ""
        self._stream.write(f"\r\x1b[2K{text}" if self._stream.isatty() else f"{text}\n")
        self._stream.flush()
