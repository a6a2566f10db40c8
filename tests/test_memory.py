"""Freed memory stays in the process where the C library allows it."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from glam_env.training import memory
from glam_env.training.memory import keep_freed_memory

# In a separate process: earlier work leaves memory on the heap.
HELD_AFTER_FREEING = """
import sys, torch
from pathlib import Path
from glam_env.training.memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    print("another C library")
    raise SystemExit

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

torch.ones(1)
before = resident()
torch.ones(1 << 24)  # 64 MiB, freed at once; by default malloc does not keep that much
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_memory_stays_in_the_process() -> None:
    kept, given_back = (
        subprocess.run(
            [sys.executable, "-c", HELD_AFTER_FREEING, word],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for word in ("keep", "leave")
    )
    if kept == "another C library":
        pytest.skip(kept)
    assert int(kept) > 60 << 20
    assert int(given_back) < 8 << 20


def test_other_systems_are_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not keep_freed_memory()
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()
