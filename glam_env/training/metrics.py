"""The metrics of a training run: means between two lines, episode returns, training time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from glam_env.training.run_folder import RunFolder

RECENT = 20  # episodes in `recent_return`


class Averages:
    """Means of scalars since the last read; reading waits for the device, adding does not."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, scalars: Mapping[str, Tensor]) -> None:
        """Add detached scalars; their memory may be overwritten afterwards."""
        for name, value in scalars.items():
            value = value.float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Return the means and start again from nothing."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


class Metrics:
    """Collects a run's metrics and writes them to its folder, line by line.

    Args:
        run: The run's folder.
        log: Called with each line, a flat dict.
    """

    def __init__(self, run: RunFolder, log: Callable[[dict[str, Any]], None] | None = None) -> None:
        self._run, self._log = run, log
        self.averages = Averages()
        self.recent_returns: list[float] = []
        self._seconds = 0.0  # of training, over all processes of the run
        self._size = 0  # bytes of metrics.jsonl that belong to the present state
        self._clock = time.perf_counter()

    def begin(self) -> None:
        """Start the clock, and drop the lines that a loaded state does not count on."""
        self._run.truncate_metrics(self._size)
        self._clock = time.perf_counter()

    def add_return(self, episode_return: float) -> None:
        """Add the return of a finished episode."""
        self.recent_returns = [*self.recent_returns, episode_return][-RECENT:]

    def read(self) -> dict[str, float]:
        """Return the means since the last read, and the mean return of recent episodes."""
        figures = self.averages.read()
        if self.recent_returns:
            figures["recent_return"] = float(np.mean(self.recent_returns))
        return figures

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line, with the seconds trained so far as its last entry."""
        line = {**line, "seconds": round(self.elapsed(), 3)}
        self._size = self._run.append_metrics(line)
        if self._log is not None:
            self._log(line)

    def elapsed(self) -> float:
        """Return the seconds of training so far, over all processes of the run."""
        now = time.perf_counter()
        self._seconds += now - self._clock
        self._clock = now
        return self._seconds

    def state(self) -> dict[str, Any]:
        """Return what a run's checkpoint stores."""
        return {
            "seconds": self.elapsed(),
            "metrics_size": self._size,
            "averages": {"sums": self.averages.sums, "counts": self.averages.counts},
            "recent_returns": self.recent_returns,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load a :meth:`state`."""
        self._seconds, self._size = state["seconds"], state["metrics_size"]
        self.averages.sums = dict(state["averages"]["sums"])
        self.averages.counts = dict(state["averages"]["counts"])
        self.recent_returns = list(state["recent_returns"])
