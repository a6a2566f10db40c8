"""Keep freed memory in the process: returning it to the system costs time."""

from __future__ import annotations

import ctypes
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # numbers of glibc's malloc.h
KEPT = 2**31 - 1  # bytes; both settings are ints


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep all freed memory for later allocations.

    By default, malloc maps every tensor of 32 MiB or more separately and unmaps it when it is
    freed. Each page then costs a fault when it is first written; at the sizes of an image model
    that takes as long as a normalization. The process keeps the most memory it has ever needed.

    Returns:
        Whether the C library took the settings. Only glibc has them.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl does not
    if mallopt is None:
        return False
    return bool(mallopt(MMAP_THRESHOLD, KEPT)) and bool(mallopt(TRIM_THRESHOLD, KEPT))
