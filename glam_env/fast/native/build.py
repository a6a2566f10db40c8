"""Compiles the C++ of this folder for the CPU at hand, once, and loads it.

The library lies in a cache folder (``$XDG_CACHE_HOME/glam_env``, else ``~/.cache/glam_env``),
named by a digest of all that it comes of: sources, compiler, options and CPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from glam_env.errors import GlamError

FOLDER = Path(__file__).parent
UNITS = ("step.cpp", "render.cpp")
HEADERS = ("products.h", "threads.h", "vectors.h")
OPTIONS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
)
SECONDS = 300  # longer than any compiler takes


class BuildError(GlamError):
    """There is no compiler, or it does not do what it should; the message says which."""


def find_compiler() -> list[str]:
    """The C++ compiler's command: ``$CXX``, else the first of c++, g++ and clang++.

    Raises:
        BuildError: there is none.
    """
    named = os.environ.get("CXX")
    if named:
        return shlex.split(named)
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    raise BuildError("no C++ compiler found (c++, g++ or clang++; or set CXX)")


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "glam_env"


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{shlex.join(command)} did not run: {error}") from error
    if done.returncode:
        raise BuildError(f"{shlex.join(command)} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _cpu() -> str:
    """What ``-march=native`` hangs on: a home folder may be shared between machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    kinds = ("model name", "flags", "Features", "CPU part")
    told = sorted({line for line in lines if line.startswith(kinds)})
    return "\n".join([platform.machine(), platform.processor(), *told])


def compile_library() -> Path:
    """The library for this CPU, compiled if it isn't there yet.

    Raises:
        BuildError: no compiler, or it failed, or the cache folder can't be written.
    """
    compiler = find_compiler()
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    options = [*OPTIONS, native]
    parts = [
        *((FOLDER / name).read_text() for name in (*UNITS, *HEADERS)),
        *(shlex.join(compiler), _run([*compiler, "--version"]), *options, _cpu()),
    ]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    library = cache_folder() / f"dreams-{digest}.so"
    if library.exists():
        return library
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            units = [str(FOLDER / name) for name in UNITS]
            _run([*compiler, *options, "-o", str(made), *units])
            made.replace(library)  # at once: another process may be at it too
    except OSError as error:
        raise BuildError(f"cannot write {library.parent}: {error}") from error
    return library


@cache
def load_library() -> ctypes.CDLL:
    """The library of this CPU.

    Raises:
        BuildError: it can't be had.
    """
    path = compile_library()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"cannot load {path} (remove it to have it made anew): {error}") from error
    library.glam_share_threads(_openmp_parallel())
    return library


def _openmp_parallel() -> ctypes.c_void_p:
    """``GOMP_parallel`` of the OpenMP library that PyTorch has loaded (GNU's, Intel's and LLVM's
    have it); null if there is none to be seen."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    for path in sorted({line.split(maxsplit=5)[-1] for line in lines if "/" in line}):
        if re.match(r"lib(gomp|iomp5|omp)\b", Path(path).name):
            function = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
            if function is not None:
                return ctypes.cast(function, ctypes.c_void_p)
    return ctypes.c_void_p(None)
