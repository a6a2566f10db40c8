"""Keeping freed memory in the process, since giving it back costs more than it is worth."""

from __future__ import annotations

import ctypes
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # numbers of glibc's malloc.h
KEPT = 2**31 - 1  # bytes; both settings are ints


def keep_freed_memory() -> bool:
    """Has glibc's malloc keep what is freed, however large, for what is allocated next.

    Otherwise every tensor of 32 MiB or more is mapped anew and given back when it is freed, and
    each of its pages costs a fault when it is first written: at an image model's sizes as much as
    the arithmetic of a normalisation. The process then holds the most it has ever needed.

    Returns:
        Whether this C library took the settings; others are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl does not
    if mallopt is None:
        return False
    return bool(mallopt(MMAP_THRESHOLD, KEPT)) and bool(mallopt(TRIM_THRESHOLD, KEPT))
