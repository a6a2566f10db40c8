"""Which number format pays on which hardware."""

from __future__ import annotations

from functools import cache

import torch


@cache
def bfloat16_pays(device_type: str) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on a kind of device.

    They are on CUDA devices, and on CPUs with matrix units for them (AMX). Elsewhere a CPU
    emulates the format: from a little slower with AVX512-BF16 to a hundred times without.
    """
    return device_type == "cuda" or (device_type == "cpu" and torch.cpu._is_amx_tile_supported())


def autocast(device: torch.device, wanted: bool) -> torch.autocast:
    """bfloat16 autocast if it is wanted and pays on the device; else float32, as if by itself."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=wanted and bfloat16_pays(device.type)
    )
