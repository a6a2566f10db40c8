"""Forked children run one thread.

A fork copies the thread that calls it and no other, but not what OpenMP remembers: it still counts
on its sleeping threads, and the first operation of a child that wakes them would wait for ever.
"""

from __future__ import annotations

import os

import torch

_forked = False


def in_forked_child() -> bool:
    """Return whether this process, or one that it descends from, was forked with PyTorch loaded."""
    return _forked


def _take_one_thread() -> None:
    global _forked
    _forked = True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_take_one_thread)
