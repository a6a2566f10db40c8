"""Compiles the C++ of this folder for this machine's CPU, once.

The library is kept in a cache folder (``$XDG_CACHE_HOME/glam_env``, else ``~/.cache/glam_env``).
Its name has a digest of everything that it depends on: sources, compiler, options and CPU.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from glam_env.errors import GlamError

FOLDER = Path(__file__).parent
UNITS = ("step.cpp", "render.cpp", "scan.cpp", "gates.cpp", "latents.cpp", "interface.cpp")
HEADERS = ("interface.h", "parts.h", "products.h", "threads.h", "vectors.h")
OPTIONS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
)
SECONDS = 300  # a compiler that takes longer is stopped


class BuildError(GlamError):
    """The library cannot be compiled or loaded; the message says why."""


def find_compiler() -> list[str]:
    """Return the command of the C++ compiler: ``$CXX``, c++, g++ or clang++.

    Raises:
        BuildError: There is no compiler.
    """
    named = os.environ.get("CXX")
    if named:
        return shlex.split(named)
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    raise BuildError("no C++ compiler found: install c++, g++ or clang++, or set CXX")


def cache_folder() -> Path:
    """Return the folder that keeps compiled libraries."""
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
    """Describe what ``-march=native`` depends on: machines may share a home folder."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    kinds = ("model name", "flags", "Features", "CPU part")
    described = sorted({line for line in lines if line.startswith(kinds)})
    return "\n".join([platform.machine(), platform.processor(), *described])


def compile_library() -> Path:
    """Return the path of the library for this CPU; compile it if necessary.

    Raises:
        BuildError: There is no compiler, it failed, or the cache folder cannot be written.
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
            made.replace(library)  # atomic: another process may compile it at the same time
    except OSError as error:
        raise BuildError(f"cannot write {library.parent}: {error}") from error
    return library
