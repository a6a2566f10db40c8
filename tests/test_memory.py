"""Freed memory stays in the process where the C library can be told so."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from glam_env.training import memory
from glam_env.training.memory import keep_freed_memory

# In a process of its own: what earlier work left on the heap would count.
COUNT_FAULTS = """
import resource, sys, torch
from glam_env.training.memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    print("another C library")
    raise SystemExit
size = 1 << 24  # 64 MiB, beyond what is kept by default
torch.ones(size)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(size)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_large_tensor_takes_the_memory_of_one_that_was_freed() -> None:
    kept, given_back = (
        subprocess.run(
            [sys.executable, "-c", COUNT_FAULTS, word], check=True, capture_output=True, text=True
        ).stdout.strip()
        for word in ("keep", "leave")
    )
    if kept == "another C library":
        pytest.skip(kept)
    assert int(kept) < int(given_back) / 2


def test_elsewhere_nothing_is_done(monkeypatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not keep_freed_memory()
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()
