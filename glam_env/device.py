"""Find a device, and copy arrays to it without waiting."""

from __future__ import annotations

import numpy as np
import torch

from glam_env.errors import GlamError


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
    """Return the device of a name; ``"auto"`` is the first CUDA device, or the CPU without one.

    Raises:
        GlamError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise GlamError(
            f"device {str(name)!r} cannot be used here ({reason}); try 'cpu'"
        ) from error
    return device
