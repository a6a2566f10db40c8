"""Which number format is faster on which hardware."""

from __future__ import annotations

from functools import cache

import torch


@cache
def bfloat16_pays(device_type: str) -> bool:
    """Return whether matrix products on a device type are faster in bfloat16.

    They are on CUDA devices, and on CPUs with matrix units for the format (AMX). Other CPUs are
    slower with it: a little with AVX512-BF16, a hundred times without.
    """
    return device_type == "cuda" or (device_type == "cpu" and torch.cpu._is_amx_tile_supported())


def autocast(device: torch.device, wanted: bool) -> torch.autocast:
    """Return an autocast to bfloat16, enabled if it is wanted and faster there."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=wanted and bfloat16_pays(device.type)
    )


@cache
def int8_pays(device_type: str) -> bool:
    """Return whether convolutions on a device type are exact and faster in int8.

    They are on CPUs with VNNI, through oneDNN. PyTorch's functions for them are not documented, so
    they are used only if their arguments are those known here.
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
