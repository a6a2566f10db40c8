"""The state of a run, from its files alone.

Any node of a cluster can therefore read it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

STATUS = "sweep.json"
METRICS = "metrics.jsonl"
TAIL_BYTES = 2**16  # of the metrics: over a hundred lines
STATUS_BYTES = 2**16


@dataclass(frozen=True)
class Status:
    """Status of a run, as its last worker wrote it.

    Attributes:
        session: The start of the sweep that the worker belonged to.
        state: running, finished, stopped or failed.
        step: Command that the worker ran: train, eval, fidelity or export.
        attempt: Number of the attempt in the session, from 1.
        trained: Whether all training is done.
        message: Why the run failed.
        host: Name of the worker's machine.
        worker: Process ID of the worker.
        since: Time at which this was written, in seconds since 1970.
    """

    session: str = ""
    state: str = ""
    step: str = ""
    attempt: int = 1
    trained: bool = False
    message: str = ""
    host: str = ""
    worker: int = 0
    since: float = 0.0


def read_status(path: Path) -> Status | None:
    """Read the status of a run; None if it is missing or incomplete."""
    try:
        with (path / STATUS).open("rb") as file:
            plain = json.loads(file.read(STATUS_BYTES))
        return Status(**{each.name: plain[each.name] for each in fields(Status)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_status(path: Path, status: Status) -> None:
    """Write the status of a run, whole or not at all.

    Raises:
        OSError: The folder is gone, or cannot be written.
    """
    replace_file(path / STATUS, json.dumps(asdict(status)) + "\n")


def replace_file(path: Path, text: str) -> None:
    """Write a file, whole or not at all.

    Raises:
        OSError: The folder is gone, or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_tail(path: Path) -> list[dict[str, Any]]:
    """Read the last lines of a run's metrics, oldest first, without broken lines."""
    try:
        with (path / METRICS).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read(TAIL_BYTES).split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines[1 if size > TAIL_BYTES else 0 :]:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, Mapping):
                found.append(dict(entry))
    return found
