"""Disk space for memory-mapped files, allocated before it is written.

A file that is mapped and has holes takes disk space where a page is first written. On a full disk
that write ends the process by SIGBUS, without a message. So the space is allocated before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from glam_env.errors import GlamError


def allocate(path: Path, parts: Iterable[tuple[int, int]]) -> None:
    """Allocate the disk space of parts of a file; its content stays.

    Args:
        path: The file.
        parts: Offset and length of each, in bytes, within the file.

    Raises:
        GlamError: The disk is full, or the file cannot be written.
    """
    try:
        with path.open("r+b", buffering=0) as file:
            for offset, length in parts:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), offset, length)
                else:  # what has been written has its space
                    file.seek(offset)
                    content = file.read(length)
                    file.seek(offset)
                    file.write(content)
    except OSError as error:
        raise GlamError(
            f"no disk space for {path} ({error.strerror}); free some, then --resume"
        ) from error


def flush(path: Path, array: np.memmap) -> None:
    """Write the pages of a mapped file to the disk.

    Raises:
        GlamError: The disk fails.
    """
    try:
        array.flush()
    except OSError as error:
        raise GlamError(
            f"cannot write {path} ({error.strerror}); check the disk, then --resume"
        ) from error
