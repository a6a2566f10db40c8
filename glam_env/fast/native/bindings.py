"""The C++ library as Python sees it: structures, function types, and loading it.

The structures mirror those of ``interface.h``, field by field, under the same names. The library
reports the offset and size of each field, and :func:`load_library` refuses one that differs.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable
from ctypes import POINTER, c_char_p, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from glam_env.fast.native.build import BuildError, compile_library
from glam_env.forks import in_forked_child


def _fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class Dense(ctypes.Structure):
    """A linear layer."""

    _fields_ = [
        *_fields(c_void_p, "weight bias"),
        *_fields(c_int64, "inputs outputs half"),
    ]


class Scan(ctypes.Structure):
    """A Mamba between its projections."""

    _fields_ = [
        *_fields(c_void_p, "taps bias decay half_decay skip"),
        *_fields(Dense, "select read dt"),
    ]


class Model(ctypes.Structure):
    """All weights and sizes of a dream step."""

    _fields_ = [
        *_fields(c_int64, "categoricals classes actions width inner size taps window rank bins"),
        *_fields(c_int64, "lanes_of_categoricals embed_width prior_width expand"),
        *_fields(c_float, "unimix temperature"),
        *_fields(c_void_p, "table embed_scale embed_shift"),
        *_fields(Dense, "embed"),
        *_fields(Dense * 2, "into"),
        *_fields(Scan * 2, "scan"),
        *_fields(Dense * 2, "out"),
        *_fields(c_void_p, "variation_scale variation_shift"),
        *_fields(Dense, "prior_hidden"),
        *_fields(c_void_p, "prior_scale prior_shift"),
        *_fields(Dense, "prior heads"),
        *_fields(c_void_p, "first_scale first_shift second_scale second_shift"),
        *_fields(Dense * 2, "middle"),
        *_fields(Dense, "reward"),
        *_fields(c_void_p, "bin_values termination"),
    ]


class Rows(ctypes.Structure):
    """Inputs and outputs of a step, a row for each dream."""

    _fields_ = [
        *_fields(c_void_p, "code action window conv ssm local draw h"),
        *_fields(c_void_p, "new_code new_window new_conv new_ssm new_local new_h"),
        *_fields(c_void_p, "reward reward_logits termination_logit entropy features"),
    ]


class Part(ctypes.Structure):
    """Rows to copy from, and rows to copy to."""

    _fields_ = [
        *_fields(c_void_p, "source into"),
        *_fields(c_int64, "source_rows into_rows bytes"),
    ]


class Layer(ctypes.Structure):
    """A convolution in 8-bit integers."""

    _fields_ = [
        *_fields(c_void_p, "weight scale bias"),
        *_fields(c_int64, "inputs outputs"),
    ]


class Decoder(ctypes.Structure):
    """A decoder in 8-bit integers."""

    _fields_ = [
        *_fields(c_int64, "categoricals classes"),
        *_fields(c_void_p, "table table_scale table_bias"),
        *_fields(Layer * 3, "hidden"),
        *_fields(Layer, "last"),
        *_fields(c_void_p, "background"),
    ]


STRUCTURES = (Dense, Scan, Model, Rows, Part, Layer, Decoder)

_COUNT = POINTER(c_int64)
_POINTERS, _COUNTS = [c_void_p] * 12, [c_int64] * 11
FUNCTIONS: dict[str, tuple[type | None, list[type]]] = {
    "glam_structures": (c_char_p, []),
    "glam_vector_sizes": (None, [_COUNT, _COUNT, _COUNT]),
    "glam_share_threads": (None, [c_void_p]),
    "glam_step": (c_int64, [POINTER(Model), POINTER(Rows), c_int64, c_int64]),
    "glam_outcome": (c_int64, [POINTER(Model), POINTER(Rows), c_int64, c_int64]),
    "glam_features": (c_int64, [POINTER(Model), POINTER(Rows), c_int64, c_int64]),
    "glam_put": (c_int64, [POINTER(Part), c_int64, c_void_p, c_void_p, c_int64]),
    "glam_can_draw": (c_int64, []),
    "glam_draw": (c_int64, [POINTER(Decoder), c_void_p, c_void_p, c_int64, c_int64]),
    "glam_scan": (None, [*_POINTERS[:7], *_COUNTS[:6]]),
    "glam_scan_back": (None, [*_POINTERS[:12], *_COUNTS[:6]]),
    "glam_windows": (None, [*_POINTERS[:6], *_COUNTS[:7]]),
    "glam_windows_back": (None, [*_POINTERS[:11], *_COUNTS[:7]]),
    "glam_convolve": (None, [*_POINTERS[:4], *_COUNTS]),
    "glam_convolve_back": (None, [*_POINTERS[:6], *_COUNTS]),
    "glam_softplus": (None, [*_POINTERS[:2], *_COUNTS[:2]]),
    "glam_softplus_back": (None, [*_POINTERS[:3], *_COUNTS[:2]]),
    "glam_gate": (None, [*_POINTERS[:5], *_COUNTS[:6]]),
    "glam_gate_back": (None, [*_POINTERS[:9], *_COUNTS[:6]]),
    "glam_kl": (None, [*_POINTERS[:5], *_COUNTS[:6], c_float, c_float, c_int64]),
    "glam_entropy": (None, [*_POINTERS[:2], *_COUNTS[:3]]),
    "glam_draw_classes": (None, [*_POINTERS[:3], *_COUNTS[:2], c_float, c_int64]),
    "glam_one_hot": (c_int64, [*_POINTERS[:3], *_COUNTS[:7]]),
    "glam_one_hot_back": (c_int64, [*_POINTERS[:3], *_COUNTS[:7]]),
}
"""Result and argument types of all functions of the library."""


@cache
def load_library() -> ctypes.CDLL:
    """Return the library for this CPU; compile it if that has not been done yet.

    Raises:
        BuildError: The library cannot be compiled or loaded, or its structures differ from those
            of this module.
    """
    path = compile_library()
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise BuildError(f"cannot load {path} (remove it to compile it again): {error}") from error
    check_structures(library.glam_structures().decode(), STRUCTURES)
    library.glam_share_threads(None if in_forked_child() else openmp_parallel())
    return library


@cache
def missing() -> str:
    """Return why this machine cannot run the C++ library; empty if it can."""
    try:
        load_library()
    except BuildError as error:
        return str(error)
    return ""


def _use_own_threads() -> None:
    """Start threads of the library's own, if any: those of the parent's OpenMP are not here."""
    if load_library.cache_info().currsize:
        load_library().glam_share_threads(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_own_threads)


def check_structures(reported: str, structures: Iterable[type[ctypes.Structure]]) -> None:
    """Compare structures with those of the library.

    Args:
        reported: Lines of a structure or of a field, its offset and its size in bytes, as
            ``glam_structures`` returns them: ``Dense 0 40``, ``Dense.weight 0 8``.
        structures: What to compare with.

    Raises:
        BuildError: They differ; the message names the first difference.
    """
    theirs = {}
    for line in reported.splitlines():
        name, offset, size = line.split()
        theirs[name] = f"offset {offset}, size {size}"
    ours = {}
    for structure in structures:
        kind = structure.__name__
        ours[kind] = f"offset 0, size {ctypes.sizeof(structure)}"
        for name, *_ in structure._fields_:
            field = getattr(structure, name)
            ours[f"{kind}.{name}"] = f"offset {field.offset}, size {field.size}"
    for name in [*ours, *theirs]:
        here, there = ours.get(name, "missing"), theirs.get(name, "missing")
        if here != there:
            raise BuildError(f"{name} is {here} in bindings.py, but {there} in interface.h")


class VectorSizes(NamedTuple):
    """Sizes of the library's vectors, which the layout of weights depends on.

    Attributes:
        lanes: float32 numbers in a vector.
        halves: float16 numbers in a vector; 0 if this CPU cannot multiply them.
        vectors: Vectors of weights in a panel.
    """

    lanes: int
    halves: int
    vectors: int


def vector_sizes() -> VectorSizes:
    """Return the vector sizes of the library for this CPU."""
    found = [c_int64() for _ in VectorSizes._fields]
    load_library().glam_vector_sizes(*map(ctypes.byref, found))
    return VectorSizes(*(number.value for number in found))


class Memory:
    """Keeps the numbers that a structure points to alive."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def keep(self, x: Tensor, dtype: torch.dtype = torch.float32) -> int:
        """Return the address of a tensor's numbers, converted to a type."""
        self._kept.append(x.detach().to(dtype).contiguous())
        return self._kept[-1].data_ptr()


def openmp_parallel() -> c_void_p:
    """Return ``GOMP_parallel`` of the OpenMP library that PyTorch uses, or null.

    The libraries of GNU, Intel and LLVM all have it.
    """
    maps = Path("/proc/self/maps")
    lines = maps.read_text(errors="replace").splitlines() if maps.exists() else []
    for path in sorted({line.split(maxsplit=5)[-1] for line in lines if "/" in line}):
        if re.match(r"lib(gomp|iomp5|omp)\b", Path(path).name):
            try:
                function = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
            except OSError:  # replaced since it was loaded: an update of PyTorch
                continue
            if function is not None:
                return ctypes.cast(function, c_void_p)
    return c_void_p(None)
