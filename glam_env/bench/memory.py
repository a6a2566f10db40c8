"""Memory of the process, or of PyTorch's tensors on a CUDA device: now, free, and at its peak."""

from __future__ import annotations

import ctypes
import gc
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_STATUS, _CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Memory:
    """Memory before some work and at its peak, in bytes; None where the system reports none."""

    before: int | None
    peak: int | None

    @property
    def growth(self) -> int | None:
        """Return the bytes that the work took."""
        return None if self.before is None or self.peak is None else self.peak - self.before

    def as_json(self) -> dict[str, Any]:
        """Return the figures in bytes, for `json.dumps`."""
        return {"before": self.before, "peak": self.peak, "growth": self.growth}


class PeakMemory:
    """Watch the memory within a `with` block.

    >>> with PeakMemory(torch.device("cpu")) as watch:
    ...     zeros = torch.zeros(1 << 20)
    >>> watch.memory.growth is None or watch.memory.growth > 0
    True
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.memory = Memory(None, None)

    def __enter__(self) -> PeakMemory:
        release_memory(self._device)
        self._before = memory_now(self._device)
        self._reset_peak()
        return self

    def forget_peak(self) -> None:
        """Leave the peak so far out of the result."""
        release_memory(self._device)
        self._reset_peak()

    def _reset_peak(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif os.access(_CLEAR_PEAK, os.W_OK):
            _CLEAR_PEAK.write_text("5")  # resets VmHWM, see proc(5)

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            peak: int | None = torch.cuda.max_memory_allocated(self._device)
        else:
            peak = _status("VmHWM") if os.access(_CLEAR_PEAK, os.W_OK) else None
        self.memory = Memory(self._before, peak)


def memory_now(device: torch.device) -> int | None:
    """Return the bytes in use; None where the system reports none."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS")


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free; None where the system reports none."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    return _kibibytes(meminfo, "MemAvailable") if meminfo.exists() else None


def release_memory(device: torch.device) -> None:
    """Give back what is no longer used, so that the next measurement starts with it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif os.name == "posix" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _status(name: str) -> int | None:
    return _kibibytes(_STATUS, name) if _STATUS.exists() else None


def _kibibytes(path: Path, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else None
