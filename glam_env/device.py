"""Finding a device, and copying arrays to it without waiting."""

from __future__ import annotations

import numpy as np
import torch

from glam_env.errors import GlamError


def upload(array: np.ndarray | torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """An array on a device; from the CPU to CUDA by a copy that goes on by itself.

    A copy from ordinary memory makes the host wait until the device has done all before it; from
    pinned memory, which PyTorch keeps until it has been read, it does not.

    Args:
        array: any shape and dtype that PyTorch knows; on the CPU its memory is shared.
        device: where to.
    """
    tensor = torch.as_tensor(array)
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def find_device(name: str | torch.device) -> torch.device:
    """The device of a name; ``"auto"`` is the first CUDA device, or the CPU without one.

    Raises:
        GlamError: no such device here.
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
