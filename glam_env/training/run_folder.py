"""The folder of a training run: its settings, checkpoints, metrics and replay.

``config.json`` the settings, ``checkpoints/`` the last two checkpoints, ``metrics.jsonl`` one line
of figures a log interval, ``tensorboard/`` the same, ``replay/`` the experience.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from glam_env.errors import GlamError

CHECKPOINTS_KEPT = 2
_NAME = re.compile(r"step_(\d+)\.pt")


def write_whole(path: Path, write: Any) -> None:
    """Writes a file whole or not at all: temporary file, fsync, rename, fsync of the folder.

    Args:
        path: the file; an old one stays as it is until the new one is complete.
        write: called with the open binary file.

    Raises:
        GlamError: the folder is not writable or the disk is full; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise GlamError(
            f"cannot write {path} ({error}); make the folder writable or free disk space"
        ) from error


class RunFolder:
    """A run's files.

    Args:
        path: the folder.
        settings: what config.json is to hold; None to take up a run that exists.

    Raises:
        GlamError: a new run where one already lies, no run where one is to be taken up, or a
            folder that cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._config = path / "config.json"
        if settings is None:
            if not self._config.is_file():
                raise GlamError(f"no run to resume in {path}; start it without --resume")
            try:
                self.settings = json.loads(self._config.read_text())
            except (OSError, ValueError) as error:
                raise GlamError(
                    f"{self._config} cannot be read ({error}); start a new run"
                ) from error
            return
        if self._config.exists():
            raise GlamError(f"{path} already holds a run; --resume it or choose another --run")
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GlamError(
                f"cannot make the run folder {path} ({error}); choose a writable --run"
            ) from error
        self.settings = dict(settings)
        text = json.dumps(self.settings, indent=2) + "\n"
        write_whole(self._config, lambda file: file.write(text.encode()))

    def lock(self) -> None:
        """Takes the run for this process, until :meth:`unlock` or its end.

        Raises:
            GlamError: another process is training it.
        """
        self._lock = (self.path / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise GlamError(
                f"{self.path} is being trained by another process; stop that one first"
            ) from error

    def unlock(self) -> None:
        """Gives the run back."""
        self._lock.close()

    @property
    def replay(self) -> Path:
        """Where the replay's files lie."""
        return self.path / "replay"

    @property
    def metrics(self) -> Path:
        """The metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = [p for p in (self.path / "checkpoints").glob("*.pt") if _NAME.fullmatch(p.name)]
        return sorted(found, key=lambda p: int(_NAME.fullmatch(p.name)[1]))  # type: ignore[index]

    def save_checkpoint(self, count: int, state: dict[str, Any]) -> None:
        """Writes checkpoint number ``count`` and removes all but the last two."""
        path = self.path / "checkpoints" / f"step_{count:010d}.pt"
        write_whole(path, lambda file: torch.save(state, file))
        for old in self.checkpoints()[:-CHECKPOINTS_KEPT]:
            old.unlink()

    def load_checkpoint(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The newest checkpoint that can be read; None if there is none at all.

        Raises:
            GlamError: there are checkpoints, and none can be read.
        """
        paths = self.checkpoints()
        problems = []
        for path in reversed(paths):
            try:
                return torch.load(path, map_location=device, weights_only=True)
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                problems.append(f"{path.name}: {(str(error) or repr(error)).splitlines()[0]}")
        if problems:
            raise GlamError(
                f"no checkpoint in {self.path} can be read ({'; '.join(problems)}); "
                "start a new run in another folder"
            )
        return None

    def truncate_metrics(self, size: int) -> None:
        """Cuts the metrics back to ``size`` bytes, where a checkpoint left them."""
        if self.metrics.exists():
            os.truncate(self.metrics, min(size, self.metrics.stat().st_size))

    def append_metrics(self, line: Mapping[str, Any]) -> int:
        """Adds a line; returns the file's size after it, in bytes."""
        try:
            with self.metrics.open("a") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                return file.tell()
        except OSError as error:
            raise GlamError(
                f"cannot write {self.metrics} ({error}); free disk space and --resume"
            ) from error
