"""Stopping a long command in good order: Ctrl-C and SIGTERM ask, a later second one kills."""

from __future__ import annotations

import signal
import time
from types import TracebackType
from typing import Any

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
