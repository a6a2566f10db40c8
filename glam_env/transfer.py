"""From the host's arrays to a device, without waiting for it."""

from __future__ import annotations

import numpy as np
import torch


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
