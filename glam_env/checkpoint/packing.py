"""Storage of tensors in a checkpoint: number formats and bytes of the files.

``float32`` and ``bfloat16`` are plain safetensors. With ``int8`` each large weight is a tensor of
8-bit integers with a float32 scale for each of its rows, ``<name>.scale``; other floating-point
tensors are bfloat16; and the file is compressed by xz. The integers of a weight with more
than 2^20 numbers use 6 of their 8 bits, and the compression removes the rest. Reading gives
floating-point numbers in every case.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

DTYPES = ("int8", "bfloat16", "float32")
XZ = "xz"
SCALE = ".scale"
LEVELS, FEW_LEVELS = 127, 31  # of 8 and of 6 bits, to either side of 0
LEAST = 4096  # numbers in a weight that is stored in 8 bits
MOST = 2**20  # numbers in a weight with all levels; in larger ones more rounding errors average out

# The bytes of quantised weights have no repetitions and no structure. Only the range coder
# compresses them, and it does best without context bits. For the codes of start contexts the
# standard settings are best.
_WEIGHTS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0}]


def compression_of(dtype: str) -> str:
    """Return the compression of the files that ``pack`` makes; empty for none."""
    return XZ if dtype == "int8" else ""


def pack(tensors: Mapping[str, Tensor], dtype: str) -> bytes:
    """Return the bytes of a file.

    Args:
        tensors: tensors by name; only floating-point ones change their dtype.
        dtype: one of :data:`DTYPES`.
    """
    stored: dict[str, Tensor] = {}
    other = torch.float32 if dtype == "float32" else torch.bfloat16
    quantised = False
    for name, tensor in tensors.items():
        value = tensor.detach().cpu()
        if dtype == "int8" and _is_large_weight(name, value):
            stored[name], stored[name + SCALE] = _quantise(value)
            quantised = True
        else:
            stored[name] = value.to(other) if value.is_floating_point() else value
    data = safetensors.torch.save({name: value.contiguous() for name, value in stored.items()})
    if not compression_of(dtype):
        return data
    return lzma.compress(data, filters=_WEIGHTS) if quantised else lzma.compress(data)


def unpack(data: bytes, compression: str = "", most: int = 2**30) -> dict[str, Tensor]:
    """Read the tensors of a file that :func:`pack` made.

    8-bit weights become float32. All other tensors keep the dtype in which they are stored.

    Args:
        data: bytes of the file.
        compression: compression of the file; empty for none.
        most: maximum number of decompressed bytes.

    Raises:
        ValueError: the data are not such a file; the message says why.
    """
    try:
        stored = safetensors.torch.load(_expand(data, most) if compression else data)
    except (SafetensorError, lzma.LZMAError, KeyError) as error:  # KeyError: an unknown dtype
        raise ValueError(f"is not a safetensors file ({error})") from error
    return {
        name: _restore(name, value, stored) if _is_quantised(name, stored) else value
        for name, value in stored.items()
        if not (name.endswith(SCALE) and _is_quantised(name.removesuffix(SCALE), stored))
    }


def as_stored(tensors: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Round tensors as a file stores them.

    This allows measuring the weights of a checkpoint before it is written.
    """
    restored = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            restored[name] = tensor
        elif dtype == "int8" and _is_large_weight(name, tensor):
            restored[name] = _multiply(*_quantise(tensor.detach())).to(tensor.dtype)
        else:
            other = torch.float32 if dtype == "float32" else torch.bfloat16
            restored[name] = tensor.to(other).to(tensor.dtype)
    return restored


def _is_large_weight(name: str, tensor: Tensor) -> bool:
    large = tensor.ndim >= 2 and tensor.numel() >= LEAST
    return large and tensor.is_floating_point() and name.endswith("weight")


def _quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 numbers in the shape of a weight, and the (rows,) float32 scales."""
    rows = weight.float().flatten(1)
    scale = rows.abs().amax(1) / (LEVELS if weight.numel() <= MOST else FEW_LEVELS)
    numbers = (rows / torch.where(scale > 0, scale, 1.0)[:, None]).round()
    return numbers.to(torch.int8).view(weight.shape), scale


def _multiply(numbers: Tensor, scale: Tensor) -> Tensor:
    return (numbers.float().flatten(1) * scale[:, None]).view(numbers.shape)


def _is_quantised(name: str, stored: Mapping[str, Tensor]) -> bool:
    return name + SCALE in stored and name in stored and stored[name].dtype == torch.int8


def _restore(name: str, numbers: Tensor, stored: Mapping[str, Tensor]) -> Tensor:
    scale = stored[name + SCALE]
    if numbers.ndim < 2 or scale.shape != numbers.shape[:1] or scale.dtype != torch.float32:
        raise ValueError(f"has no float32 scale for each row of the 8-bit tensor {name!r}")
    return _multiply(numbers, scale)


def _expand(data: bytes, most: int) -> bytes:
    # The memory limit applies to the dictionary that a file may ask for.
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2**27)
    expanded = reader.decompress(data, most)
    if not reader.eof:
        raise lzma.LZMAError("the compressed data are cut off or too long")
    return expanded
