"""Reading of untrusted files: each file is checked before it is read.

Only regular files are opened, not devices or pipes. A file that is larger than the caller expects
is not read. All errors are one line.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glam_env.errors import GlamError, printable

JSON_BYTES = 2**22
"""Maximum size of a file of settings or results; that of a real checkpoint is a hundredth."""
JSON_DEPTH = 32
"""Maximum depth of nested objects and lists."""
SHOWN = 60
"""Maximum number of characters that a message shows of a value from a file."""


def shown(value: object) -> str:
    """Format a value from a file for a message: quoted, in one line, shortened."""
    return printable(repr(value), SHOWN)


def expand(path: str | Path) -> Path:
    """Return a path with ``~`` and ``~user`` replaced by home folders.

    Raises:
        GlamError: there is no such user, or the path holds a null character.
    """
    if "\0" in str(path):
        raise GlamError(f"{path} is not a path: it holds a null character")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise GlamError(f"{path}: there is no such home folder; write the whole path") from error


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk.

    On Windows a folder is left out, since it cannot be opened.

    Raises:
        OSError: it cannot be opened or written.
    """
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading.

    A pipe or a device is refused without waiting for it.

    Raises:
        OSError: there is no such file, it cannot be opened, or it is of another kind.
    """
    _require_regular(os.stat(path).st_mode)  # opening a device can have effects
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        _require_regular(os.fstat(descriptor).st_mode)  # it may have been replaced
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _require_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(0, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(0, "it is a device, a pipe or a socket, not a regular file")


def file_size(path: Path, cure: str) -> int:
    """Return the size of a regular file, in bytes.

    Args:
        path: the file.
        cure: the remedy, for messages.

    Raises:
        GlamError: the file is missing, or of another kind.
    """
    try:
        info = os.stat(path)
        _require_regular(info.st_mode)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise _unreadable(path, error, cure) from error
    return info.st_size


def read_bounded(path: Path, most: int, cure: str) -> bytes:
    """Read a regular file of a bounded size.

    Args:
        path: the file.
        most: maximum size in bytes; a larger file is not read.
        cure: the remedy, for messages.

    Raises:
        GlamError: the file is missing, larger, of another kind, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= most:
                return file.read(size)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise _unreadable(path, error, cure) from error
    raise GlamError(f"{path} has {size:,} bytes, {most:,} at most are read; {cure}")


def _unreadable(path: Path, error: OSError | ValueError, cure: str) -> GlamError:
    return GlamError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); {cure}")


def read_json(path: Path, cure: str, *, finite: bool = True) -> Any:
    """Read a JSON file of bounded size and depth.

    Args:
        path: the file.
        cure: the remedy, for messages.
        finite: refuse numbers that are not finite.

    Raises:
        GlamError: the file cannot be read, or does not hold such JSON.
    """
    data = read_bounded(path, JSON_BYTES, cure)
    try:
        return parse_json(data.decode("utf-8"), finite=finite)
    except ValueError as error:
        raise GlamError(f"{path} is not JSON ({error}); {cure}") from error


@contextmanager
def reading(where: object, cure: str) -> Iterator[None]:
    """Convert the exceptions that a malformed file causes to one-line errors.

    Args:
        where: the file, or the part of it that is used.
        cure: the remedy.

    Raises:
        GlamError: the block raised for a missing key, or a value of another type or range.
    """
    try:
        yield
    except GlamError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise GlamError(f"{where} is malformed ({reason}); {cure}") from error


def parse_json(text: str, *, finite: bool = True) -> Any:
    """Parse JSON of bounded depth whose whole numbers have at most 64 bits.

    Args:
        text: the JSON.
        finite: refuse numbers that are not finite.

    Raises:
        ValueError: the text is not such JSON.
    """
    strict = {"parse_constant": _refuse, "parse_float": _finite} if finite else {}
    try:
        value = json.loads(text, parse_int=_whole, **strict)
    except RecursionError as error:
        raise ValueError(f"more than {JSON_DEPTH} levels within each other") from error
    level: list[Any] = [value]
    for _ in range(JSON_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise ValueError(f"more than {JSON_DEPTH} levels within each other")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{printable(text, SHOWN)} is too large a number")
    return value


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**63:
        raise ValueError(f"{printable(text, SHOWN)} is too large a number")
    return value
