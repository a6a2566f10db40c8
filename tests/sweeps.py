"""What the tests of sweeps share: debug runs, references that nothing disturbed, processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

EVERY = ["log-every=1", "checkpoint-every=20"]  # metrics of each update
# About half of a debug run. A copy of it takes the whole capacity of its replay.
SHORT = ["total-steps=300", "random-steps=100", "replay-capacity=1000"]


def glam(*words: object, **options: Any) -> subprocess.Popen[str]:
    """Start `glam` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "glam_env.cli", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"},
        **options,
    )


def metrics(path: Path) -> list[dict[str, Any]]:
    """Read a run's metrics without the time that each line took."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def wait_for(holds: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Wait until something holds, and return it."""
    until = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)
    return value


def processes(word: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the processes that have a word in their command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # it has ended
            if any(word in each for each in words):
                yield int(entry.name), words


def trainings(folder: Path) -> dict[str, set[int]]:
    """List the processes that train runs below a folder, by the run's path.

    Each begins a session. What it forks itself, to ask for the machine's name say, has its session.
    """
    found: dict[str, set[int]] = {}
    for pid, words in processes(f"--run={folder}"):
        if "glam_env.sweep.child" in words:
            try:
                session = os.getsid(pid)
            except ProcessLookupError:
                continue
            run = next(word for word in words if word.startswith("--run="))
            found.setdefault(run.removeprefix("--run="), set()).add(session)
    return found
