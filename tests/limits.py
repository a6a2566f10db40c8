"""Limits of time and memory for work on hostile files."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY, SECONDS = 2**30, 60


@contextmanager
def limits(memory: int = MEMORY, seconds: float = SECONDS) -> Iterator[None]:
    """Let the block take this much more memory and this long; beyond, it raises.

    An allocation beyond raises MemoryError, or RuntimeError in PyTorch; the time TimeoutError. On
    systems without `/proc` memory is not limited.
    """

    def stop(_number: int, _frame: object) -> None:
        raise TimeoutError(f"longer than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with _address_space(memory):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _address_space(memory: int) -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
