"""The folder of a run: its settings, checkpoints, metrics and replay.

``config.json``: the kind of the run and its settings. ``checkpoints/``: the last two checkpoints.
``metrics.jsonl``: one line of metrics per log interval; ``tensorboard/``: the same. ``replay/``:
the experience. ``kept/``: weights at fixed shares of the run, where they are asked for, and
``scores.json``: their scores. ``lock``: locked while a process trains the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from glam_env.errors import GlamError, line_of
from glam_env.files import read_json, sync

CHECKPOINTS_KEPT = 2
CONFIG = "config.json"
CURE = "start a new run in another folder"
_NAME = re.compile(r"step_(\d+)\.pt")

Kind = Literal["train", "sb3"]
"""``train``: a run of ``glam train``. ``sb3``: a run of ``glam sb3``."""


def write_whole(path: Path, write: Any) -> None:
    """Write a file whole or not at all.

    Args:
        path: The file; an old one stays until the new one is complete.
        write: Called with a temporary file, open for bytes, which is then renamed.

    Raises:
        GlamError: The folder is not writable or the disk is full; the old file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        with contextlib.suppress(OSError):  # as where the disk is read-only
            temporary.unlink()
        raise GlamError(
            f"cannot write {path} ({error}); make the folder writable or free disk space"
        ) from error


def run_kind(path: Path) -> Kind | None:
    """Return the kind of the run in a folder; None if the folder holds no run."""
    if not os.path.isfile(path / CONFIG):
        return None
    try:
        settings = read_json(path / CONFIG, CURE)
    except GlamError:
        return None
    return _kind_of(settings)


def _kind_of(settings: Any) -> Kind | None:
    """Read the kind from a run's settings; old runs have none, but their keys differ."""
    if not isinstance(settings, Mapping):
        return None
    kind = settings.get("kind")
    if kind == "train" or (kind is None and "train" in settings):
        return "train"
    if kind == "sb3" or (kind is None and "algo" in settings):
        return "sb3"
    return None


class RunFolder:
    """A run's files.

    Args:
        path: The folder.
        settings: Settings of a new run, for ``config.json``; None opens a run that exists.
        kind: Kind of the run.

    Attributes:
        path: The folder.
        settings: What ``config.json`` holds.

    Raises:
        GlamError: The folder of a new run already holds one, or cannot be written; or the folder
            to open holds no run, or a run of the other kind.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any] | None = None, kind: Kind = "train"
    ) -> None:
        self.path = path
        config = path / CONFIG
        if settings is None:
            self.settings = _read_settings(config, kind)
            return
        if os.path.lexists(config):
            raise GlamError(f"{path} already holds a run; --resume it or choose another --run")
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GlamError(
                f"cannot make the run folder {path} ({error}); choose a writable --run"
            ) from error
        self.replace_settings({"kind": kind, **settings})

    def replace_settings(self, settings: Mapping[str, Any]) -> None:
        """Write ``config.json``.

        Raises:
            GlamError: The file cannot be written; an old one is unchanged.
        """
        text = json.dumps(settings, indent=2) + "\n"
        write_whole(self.path / CONFIG, lambda file: file.write(text.encode()))
        self.settings = dict(settings)

    def lock(self) -> None:
        """Lock the run for this process, until :meth:`unlock` or the end of the process.

        Raises:
            GlamError: Another process trains the run, or the lock file cannot be written.
        """
        self._lock = FileLock(self.path / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise GlamError(
                f"{self.path} is being trained by another process; stop that one first"
            ) from error
        except OSError as error:
            raise GlamError(
                f"cannot lock {self.path} ({error}); make the folder writable"
            ) from error

    def unlock(self) -> None:
        """Unlock the run."""
        self._lock.release()

    @property
    def replay(self) -> Path:
        """The folder of the replay."""
        return self.path / "replay"

    @property
    def metrics(self) -> Path:
        """The metrics, one JSON object per line."""
        return self.path / "metrics.jsonl"

    def checkpoints(self) -> list[Path]:
        """List the complete checkpoints, oldest first."""
        files = (self.path / "checkpoints").glob("*.pt")
        found = [p for p in files if _NAME.fullmatch(p.name) and p.is_file()]
        return sorted(found, key=lambda p: int(_NAME.fullmatch(p.name)[1]))  # type: ignore[index]

    def save_checkpoint(self, count: int, state: dict[str, Any]) -> None:
        """Write checkpoint number ``count`` and remove all but the last two."""
        path = self.path / "checkpoints" / f"step_{count:010d}.pt"
        write_whole(path, lambda file: torch.save(state, file))
        for old in self.checkpoints()[:-CHECKPOINTS_KEPT]:
            old.unlink()

    def load_checkpoint(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """Read the newest checkpoint that is readable; None if there is no checkpoint.

        Raises:
            GlamError: There are checkpoints, but none is readable.
        """
        paths = self.checkpoints()
        problems = []
        for path in reversed(paths):
            try:
                return torch.load(path, map_location=device, weights_only=True)
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                problems.append(f"{path.name}: {line_of(error)}")
        if problems:
            raise GlamError(
                f"no checkpoint in {self.path} can be read ({'; '.join(problems)}); "
                "start a new run in another folder"
            )
        return None

    def truncate_metrics(self, size: int) -> None:
        """Cut the metrics to ``size`` bytes, their size when a checkpoint was saved."""
        if self.metrics.exists():
            try:
                os.truncate(self.metrics, min(size, self.metrics.stat().st_size))
            except OSError as error:
                raise GlamError(
                    f"cannot write {self.metrics} ({error}); make the folder writable"
                ) from error

    def append_metrics(self, line: Mapping[str, Any]) -> int:
        """Add a line; return the size of the file after it, in bytes."""
        try:
            with self.metrics.open("a") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                return file.tell()
        except OSError as error:
            raise GlamError(
                f"cannot write {self.metrics} ({error}); free disk space and --resume"
            ) from error


def _read_settings(config: Path, kind: Kind) -> dict[str, Any]:
    if not os.path.lexists(config):
        raise GlamError(f"no run to resume in {config.parent}; start it without --resume")
    settings = read_json(config, CURE)
    found = _kind_of(settings)
    if found is None:
        raise GlamError(f"{config} holds no settings of a run; give the folder of `glam {kind}`")
    if found != kind:
        raise GlamError(f"{config.parent} holds a run of `glam {found}`, not of `glam {kind}`")
    return settings
