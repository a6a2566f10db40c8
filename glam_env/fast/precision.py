"""Which number format is faster on which hardware."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import time
from functools import cache

import torch
from torch import nn

from glam_env.fast.native.build import BuildError, describe_cpu, open_cache, refuse_others

PAYS = 0.95
"""Share of float32's time below which bfloat16 is used."""
TURNS = 7  # of each format; the fastest counts


@cache
def bfloat16_pays(device_type: str) -> bool:
    """Return whether networks on a device type are faster in bfloat16.

    They are on CUDA devices. Of the CPUs, those that multiply the format are measured once, and the
    result is kept in the cache folder, so that resumed runs compute as they began. Others may take
    a hundred times as long. Where nothing can be kept, only CPUs with matrix units (AMX) use it.
    """
    if device_type != "cpu":
        return device_type == "cuda"
    matrix_units = torch.cpu._is_amx_tile_supported()
    if not (matrix_units or torch.cpu._is_avx512_bf16_supported()):
        return False
    try:
        return _kept_ratio() < PAYS
    except (BuildError, OSError):
        return matrix_units


def _kept_ratio() -> float:
    """Return the ratio of :func:`measure_bfloat16` that is kept for this CPU, or measure it.

    Raises:
        BuildError: There is no cache folder, or others may write it.
        OSError: It cannot be read or written.
    """
    folder = open_cache()
    key = hashlib.sha256(f"{torch.__version__}\0{describe_cpu()}".encode()).hexdigest()[:24]
    path = folder / f"bfloat16-{key}.txt"
    if path.is_file():
        refuse_others(path, path.lstat())
        try:
            return float(path.read_text(encoding="ascii"))
        except ValueError:  # cut short
            path.unlink()
    ratio = measure_bfloat16()
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="ascii") as file:
        file.write(f"{ratio:.3f}")
    os.replace(file.name, path)
    return ratio


def measure_bfloat16() -> float:
    """Measure a small network's update: its time in bfloat16 over that in float32.

    Both take turns, in processor time, so that other work on the machine counts little.
    """
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(
            nn.Linear(1024, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 1024)
        )
        x = torch.randn(512, 1024)
    seconds = {True: math.inf, False: math.inf}
    for _ in range(TURNS):
        for half in seconds:
            begin = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                y = network(x)
            y.float().square().mean().backward()
            seconds[half] = min(seconds[half], time.process_time() - begin)
    return seconds[True] / seconds[False]


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
