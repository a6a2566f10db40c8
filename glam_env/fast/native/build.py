"""Compiles the C++ of this folder for this machine's CPU, once.

The library is kept in a cache folder (``$XDG_CACHE_HOME/glam_env/native``, else
``~/.cache/glam_env/native``). Its name has two digests: of everything that it depends on (sources,
compiler, options and CPU), and of its content. What is loaded is code that runs with all rights of
the user, so a folder or a file that another user owns, or may write, is refused; a file whose
content has another digest is compiled again.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from glam_env.errors import GlamError
from glam_env.files import sync

FOLDER = Path(__file__).parent
UNITS = ("step.cpp", "render.cpp", "scan.cpp", "gates.cpp", "latents.cpp", "interface.cpp")
HEADERS = ("interface.h", "parts.h", "products.h", "rows.h", "threads.h", "vectors.h")
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
        BuildError: There is no compiler, or ``CXX`` is not a command.
    """
    if named := os.environ.get("CXX"):
        try:
            command = shlex.split(named)
        except ValueError as error:
            raise BuildError(f"CXX={named!r} is not a command: {error}") from error
        if not command:
            raise BuildError(f"CXX={named!r} is not a command: name a C++ compiler, or unset it")
        return command
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    raise BuildError("no C++ compiler found: install c++, g++ or clang++, or set CXX")


def cache_folder() -> Path:
    """Return the folder that keeps compiled libraries and measurements of this machine.

    Raises:
        BuildError: There is no home folder, or the folder would depend on the current one.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(base) if base else Path.home() / ".cache"
    except RuntimeError as error:  # no HOME, and a user that the system does not know
        raise BuildError(
            "there is no home folder to keep the compiled library: set HOME or XDG_CACHE_HOME"
        ) from error
    if not folder.is_absolute():
        name = "XDG_CACHE_HOME" if base else "HOME"
        raise BuildError(f"{name} must be an absolute path, got {base or os.environ.get(name)!r}")
    return folder / "glam_env" / "native"


def open_cache() -> Path:
    """Return the cache folder, made if it is missing.

    Raises:
        BuildError: There is none, or others may write it.
        OSError: It cannot be made.
    """
    cache = cache_folder()
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_others(cache, cache.stat())
    return cache


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{shlex.join(command)} did not run: {error}") from error
    if done.returncode:
        reason = " ".join(done.stderr.split())[-2000:]
        raise BuildError(f"{shlex.join(command)} failed: {reason}")
    return done.stdout


def describe_cpu() -> str:
    """Describe what ``-march=native`` depends on: machines may share a home folder."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    kinds = ("model name", "flags", "Features", "CPU part")
    described = sorted({line for line in lines if line.startswith(kinds)})
    return "\n".join([platform.machine(), platform.processor(), *described])


def refuse_others(path: Path, found: os.stat_result) -> None:
    """Check that nobody but this user, and root, can have written a file or a folder.

    Raises:
        BuildError: Somebody else can.
    """
    if not hasattr(os, "geteuid"):  # no owners and modes, as POSIX has them
        return
    if found.st_uid not in (os.geteuid(), 0):
        raise BuildError(f"{path} belongs to another user: set XDG_CACHE_HOME to a folder of yours")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BuildError(f"others may write {path}: remove it, or set XDG_CACHE_HOME")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]


def _find(folder: Path, key: str) -> Path | None:
    """Return the whole library of a key; remove files of it whose content is another one.

    Raises:
        BuildError: Others may have written it.
        OSError: It cannot be read or removed.
    """
    for path in sorted(folder.glob(f"dreams-{key}-*.so")):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode):
            refuse_others(path, found)
            if path.stem.endswith(f"-{_digest(path.read_bytes())}"):
                return path
        path.unlink()
    return None


def compile_library() -> Path:
    """Return the path of the library for this CPU; compile it if necessary.

    Raises:
        BuildError: There is no compiler, it failed, or the cache folder cannot be written, or
            others may write it.
    """
    compiler, cache = find_compiler(), cache_folder()
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    options = [*OPTIONS, native]
    version = _run([*compiler, "--version"])
    try:
        sources = [(FOLDER / name).read_text(encoding="utf-8") for name in (*UNITS, *HEADERS)]
        key = _digest(
            "\0".join([*sources, shlex.join(compiler), version, *options, describe_cpu()]).encode()
        )
        open_cache()
        if library := _find(cache, key):
            return library
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / "made.so"
            units = [str(FOLDER / name) for name in UNITS]
            if sys.stderr is not None:
                print("glam_env: compiling the dreams' C++ for this CPU, once", file=sys.stderr)
            _run([*compiler, *options, "-o", str(made), *units])
            made.chmod(0o700)  # whatever the umask
            sync(made)
            library = cache / f"dreams-{key}-{_digest(made.read_bytes())}.so"
            made.replace(library)  # atomic: another process may compile it at the same time
        sync(cache)
    except OSError as error:
        raise BuildError(f"cannot use {cache}: {error}") from error
    return library
