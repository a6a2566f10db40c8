"""Forked child processes use one CPU thread.

A fork copies only the thread that calls it, but OpenMP's state in the child still lists the other
threads. The child's first operation that wakes them would wait forever.
"""

from __future__ import annotations

import os

import torch

_forked = False


def in_forked_child() -> bool:
    """Return whether this process or an ancestor was forked with PyTorch loaded."""
    return _forked


def _take_one_thread() -> None:
    global _forked
    _forked = True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_take_one_thread)
