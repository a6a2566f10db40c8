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


@cache
def int8_pays(device_type: str) -> bool:
    """Whether 8-bit integer convolutions are exact and faster than float32 on a kind of device.

    They are on CPUs with VNNI, through oneDNN. PyTorch's way to them is not among its documented
    functions, so it is taken only in the form known here.
    """
    if device_type != "cpu" or not torch.cpu._is_vnni_supported():
        return False
    packet = getattr(torch.ops.onednn, "qconv2d_pointwise", None)
    if packet is None or "binary" not in packet.overloads():
        return False
    names = " ".join(argument.name for argument in packet.binary._schema.arguments)
    return names == (
        "qx x_scale x_zero_point qw w_scale w_zero_point qaccum bias stride padding dilation "
        "groups output_scale output_zero_point output_dtype accum_scale accum_zero_point "
        "binary_attr alpha unary_attr unary_scalars unary_algorithm"
    )
