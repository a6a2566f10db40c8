"""Arrays from untrusted ``.npz`` and ``.safetensors`` files.

An ``.npz`` file is a zip of ``.npy`` files. Each entry is checked before it is unpacked: it must
not be encrypted, its size must be bounded, and the shape in its header must agree with its size.
Nothing is unpickled.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glam_env.checkpoint.packing import XZ, unpack
from glam_env.errors import GlamError
from glam_env.files import open_regular, read_bounded

FILE_BYTES = 2**29
"""Maximum bytes of the arrays in a file: 43 690 frames, about 48 minutes of play."""

_READ = 2**20  # maximum bytes of one read; zipfile reads the list of entries in one
_HEADER = 10_000  # maximum bytes of an array's header, as in numpy
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # numpy's; lzma's memory is unbounded


def read_arrays(path: Path, names: Iterable[str], what: str = "contexts") -> dict[str, Any]:
    """Read the named arrays of a file, as far as it has them.

    Args:
        path: ``.npz``, ``.safetensors`` or ``.safetensors.xz``.
        names: names of the arrays; a ``.safetensors`` file is read whole.
        what: name of the file's purpose in messages.

    Returns:
        numpy arrays or torch tensors by name.

    Raises:
        GlamError: the file cannot be read, or is not what its name says.
    """
    compressed = path.name.endswith(f".safetensors.{XZ}")
    if path.suffix == ".safetensors" or compressed:
        most = FILE_BYTES // 2  # half of it, since the tensors are copies
        data = read_bounded(path, most, "give the file of a recording")
        try:
            return unpack(data, XZ if compressed else "", most)
        except ValueError as error:
            raise GlamError(f"{what}: {path} {error}") from error
    if path.suffix != ".npz":
        raise GlamError(f"{what}: {path} is not a folder, a .npz or a .safetensors file")
    try:
        with _Small(open_regular(path).detach()) as file:
            if (size := os.fstat(file.fileno()).st_size) > FILE_BYTES:
                raise ValueError(f"it has {size:,} bytes; {FILE_BYTES:,} at most are read")
            with zipfile.ZipFile(file) as archive:
                return _unpack(archive, names)
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for damaged files
        raise _unreadable(path, error, what) from error


def _unreadable(path: Path, error: Exception, what: str) -> GlamError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return GlamError(f"{what}: {path} cannot be read ({reason})")


class _Small(io.BufferedReader):
    """A file that refuses single reads of more than 1 MiB, whatever a zip claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _READ:
            raise ValueError("its list of entries is too long")
        return super().read(size)


def _unpack(archive: zipfile.ZipFile, names: Iterable[str]) -> dict[str, Any]:
    entries, room = {entry.filename: entry for entry in archive.infolist()}, FILE_BYTES
    arrays = {}
    for name in names:
        entry = entries.get(f"{name}.npy", entries.get(name))
        if entry is None:
            continue
        if entry.flag_bits & 1:
            raise ValueError(f"{name} is encrypted")
        if entry.compress_type not in _METHODS:
            raise ValueError(f"{name} is neither stored nor deflated")
        if (room := room - entry.file_size) < 0:
            raise ValueError(f"its arrays take more than {FILE_BYTES:,} bytes")
        with archive.open(entry) as packed:
            arrays[name] = _read_array(packed, entry.file_size, name)
    return arrays


def _read_array(packed: Any, size: int, name: str) -> np.ndarray:
    """Read an ``.npy`` file whose header agrees with its ``size`` in bytes."""
    version = np.lib.format.read_magic(packed)
    if version not in _HEADERS:
        raise ValueError(f"{name} has an unknown format")
    shape, fortran, dtype = _HEADERS[version](packed, max_header_size=_HEADER)
    if dtype.hasobject:
        raise ValueError(f"{name} is not an array of numbers")
    if packed.tell() + math.prod(shape) * dtype.itemsize != size or min(shape, default=0) < 0:
        raise ValueError(f"{name} has not the bytes of its shape {shape}")
    array = np.empty(math.prod(shape), dtype)
    left = array.view(np.uint8).data if array.nbytes else memoryview(b"")
    while left:
        if not (part := packed.read(min(len(left), _READ))):
            raise ValueError(f"{name} is cut short")
        left[: len(part)] = part
        left = left[len(part) :]
    packed.read(1)  # at the end the checksum is compared
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Return an array as a contiguous tensor, in the machine's byte order.

    Raises:
        TypeError: it is not an array of numbers.
    """
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.ascontiguousarray(native))
