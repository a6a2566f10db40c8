"""Freed memory stays in the process where the C library can be told so."""

from __future__ import annotations

import ctypes
import resource

import pytest
import torch

from glam_env.training import memory
from glam_env.training.memory import keep_freed_memory


def test_a_large_tensor_takes_the_memory_of_one_that_was_freed() -> None:
    if not keep_freed_memory():
        pytest.skip("another C library")
    size = 1 << 24  # 64 MiB, beyond what is kept by default
    torch.ones(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(size)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < size * 4 // 4096


def test_elsewhere_nothing_is_done(monkeypatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not keep_freed_memory()
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()
