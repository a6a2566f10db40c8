"""Device lookup, asynchronous copies to a device, and CPU threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch

from glam_env.errors import GlamError, line_of

FEW = 16  # up to this many rows a second thread gains little, even on an idle machine


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Set the number of PyTorch's CPU threads, and restore it afterwards.

    Args:
        count: number of threads, at least 1; None leaves it unchanged.
    """
    before = torch.get_num_threads()
    if count in (None, before):
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for(rows: int) -> AbstractContextManager[None]:
    """Use one CPU thread for a small batch.

    OpenMP's threads wait for each other in a loop. If another process occupies one of the cores, a
    step of few rows takes up to fifty times as long with two threads as with one.

    Args:
        rows: rows of the batch; above :data:`FEW` the number of threads is unchanged.
    """
    return use_threads(1 if rows <= FEW else None)


def upload(array: np.ndarray | torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy an array to a device; from the CPU to CUDA without waiting for the device.

    A copy from ordinary memory waits until the device has done all earlier work. A copy from
    pinned memory does not, and PyTorch keeps that memory until it has been read.

    Args:
        array: any shape and dtype that PyTorch knows; on the CPU its memory is shared.
        device: the destination.
    """
    tensor = torch.as_tensor(array)
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def find_device(name: str | torch.device) -> torch.device:
    """Return the device with a given name.

    ``"auto"`` is the first CUDA device, or the CPU if there is none.

    Raises:
        GlamError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise GlamError(
            f"device {str(name)!r} cannot be used here ({line_of(error)}); try 'cpu'"
        ) from error
    return device
