"""Replacement of a checkpoint's folder, complete or not at all.

At every moment there is the old folder or the new one. Where the system cannot exchange two folders
in one step, a killed save may leave the old one beside its place; :func:`standing` finds it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from glam_env.checkpoint.config import CONFIG, CURE, WORLD_MODEL
from glam_env.errors import GlamError
from glam_env.files import expand, read_json, sync

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


def require_replaceable(folder: str | Path) -> Path:
    """Check that a checkpoint can be written to a folder; nothing is changed.

    Commands call this before the work whose result they write.

    Args:
        folder: missing, empty, or with a checkpoint.

    Returns:
        The folder's real path.

    Raises:
        GlamError: the folder holds something else, or cannot be written.
    """
    folder = Path(os.path.realpath(expand(folder)))
    if os.path.ismount(folder):
        raise GlamError(f"{folder} is a root of a file system; choose a folder in it")
    if os.path.lexists(folder):
        if not folder.is_dir():
            raise _unwritable(folder, "it is a file")
        try:
            is_empty = not any(folder.iterdir())
        except OSError as error:
            raise _unwritable(folder, error.strerror) from error
        if not (is_empty or _holds_checkpoint(folder)):
            raise GlamError(f"{folder} is not empty and holds no checkpoint; choose another folder")
    parent = folder.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise _unwritable(folder, f"{parent} is not a writable folder")
    return folder


def _holds_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint, possibly with a damaged config."""
    if not os.path.isfile(folder / CONFIG):
        return False
    try:
        plain = read_json(folder / CONFIG, CURE)
    except GlamError:
        return os.path.isfile(folder / WORLD_MODEL)
    return isinstance(plain, dict) and "format_version" in plain


def _unwritable(folder: Path, reason: object) -> GlamError:
    return GlamError(
        f"cannot write {folder} ({reason}); make its parent folder writable, or free disk space"
    )


def standing(folder: Path) -> Path:
    """Return where the checkpoint of a folder is.

    That is the folder itself, or the old one beside it if a save was killed between two renames.
    """
    if folder.name and not os.path.lexists(folder):
        old = _beside(folder, "old")
        if os.path.isfile(old / CONFIG):
            return old
    return folder


@contextmanager
def replaced_folder(folder: Path, own: Collection[str]) -> Iterator[Path]:
    """Yield a sibling to write to, which replaces the folder if the block succeeds.

    The sibling holds copies of the folder's other files. Everything is on the disk before the
    exchange.

    Args:
        folder: result of :func:`require_replaceable`.
        own: names of files that are not copied.

    Raises:
        GlamError: the folder cannot be written; the old one is kept.
    """
    staging, old = _beside(folder, "new"), _beside(folder, "old")
    try:
        if old.exists():  # an earlier save was killed between the renames, or after them
            shutil.rmtree(old) if folder.exists() else old.rename(folder)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        if folder.exists():
            ignore = shutil.ignore_patterns(*own)
            shutil.copytree(folder, staging, symlinks=True, ignore=ignore, dirs_exist_ok=True)
        yield staging
        for path in staging.rglob("*"):
            if not path.is_symlink():
                sync(path)
        sync(staging)
        if not folder.exists():
            staging.rename(folder)
        elif not _exchange(staging, folder):
            _rename_twice(staging, folder, old)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _unwritable(folder, error.strerror or error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f".{folder.name}.{ending}")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; return False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # no Linux, or an old C library
        return False
    paths = _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other)
    if rename(*paths, _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):  # not on this file system
        return False
    raise OSError(number, os.strerror(number))


def _rename_twice(staging: Path, folder: Path, old: Path) -> None:
    """Replace a folder by two renames, for systems that cannot exchange two.

    Between the renames, :func:`standing` finds the old folder.
    """
    folder.rename(old)
    try:
        staging.rename(folder)
    except OSError:
        old.rename(folder)
        raise
