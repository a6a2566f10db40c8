"""A CUDA device made of the CPU, for ``pytest -m gpu`` where there is none.

``GLAM_CUDA_STAND_IN=1 pytest -m gpu tests`` installs it in a PyTorch that was built without CUDA.
Tensors are ``cuda``, autocast is CUDA's, a call with tensors of two devices is an error, graphs are
captured and replayed on their memory, ``torch.cuda.set_sync_debug_mode`` reports waits for the
device, and ``torch.cuda.memory_allocated`` counts. Kernels are the CPU's: tests show that code runs
and what it computes, but neither how fast it is nor how a GPU rounds.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SOURCE = Path(__file__).with_name("device.cpp")
OPTIONS = ("-std=c++20", "-O1", "-fPIC", "-shared")
NAME = "GLAM_CUDA_STAND_IN"
_installed = False


def compile_device() -> Path:
    """Return the path of the library; compile it on first use."""
    # PyTorch checks for CUDA once, when it is loaded, so the library must be loaded first.
    torch = Path(importlib.util.find_spec("torch").origin).parent
    version = (torch / "version.py").read_text()
    digest = hashlib.sha256("\0".join([SOURCE.read_text(), version, *OPTIONS]).encode()).hexdigest()
    library = SOURCE.parent / "__pycache__" / f"device-{digest[:24]}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        made = library.with_suffix(f".{os.getpid()}")
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        folders = [f"-I{torch}/include", f"-I{torch}/include/torch/csrc/api/include"]
        links = [f"-L{torch}/lib", f"-Wl,-rpath,{torch}/lib", "-lc10", "-ltorch_cpu"]
        command = [*compiler, *OPTIONS, *folders, str(SOURCE), "-o", str(made), *links]
        subprocess.run(command, check=True)
        made.replace(library)
    return library


def installed() -> bool:
    """Return whether ``cuda`` is the stand-in."""
    return _installed


def install() -> None:
    """Make ``cuda`` a device of this process; call it before PyTorch is loaded.

    Raises:
        RuntimeError: PyTorch is loaded already, or it was built with CUDA.
    """
    global _installed
    if "torch" in sys.modules:
        raise RuntimeError("PyTorch is loaded already: install the stand-in before importing it")
    library = ctypes.CDLL(str(compile_device()))
    library.stand_in_bytes.restype = library.stand_in_peak.restype = ctypes.c_int64
    library.stand_in_capture.restype = ctypes.c_void_p

    import torch

    if torch.backends.cuda.is_built():
        raise RuntimeError("this PyTorch was built with CUDA: run the tests on a CUDA device")
    torch.backends.cuda.is_built = lambda: True
    for name, value in functions(torch, library).items():
        setattr(torch.cuda, name, value)
    torch._C._cuda_getDevice = lambda: 0
    torch._C._cuda_getDeviceCount = lambda: 1
    torch._C._cuda_getCurrentRawStream = lambda device: 0

    def as_bytes(storage: Any) -> Any:
        return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)

    # C++ cannot clone a storage on a device that PyTorch was built without.
    torch.UntypedStorage.clone = lambda self: as_bytes(self).clone().untyped_storage()

    def restore(storage: Any, location: str) -> Any:
        """Move a storage that ``torch.load`` reads."""
        return as_bytes(storage).to("cuda").untyped_storage() if "cuda" in location else None

    torch.serialization.register_package(0, lambda storage: None, restore)

    weight = torch.ones(1, device="cuda", requires_grad=True)
    weight.sum().backward()  # starts autograd's threads, which the interpreter must not outrun

    @atexit.register
    def finish_backward() -> None:
        """Wait until autograd's thread of the device holds no Python object of an earlier pass.

        It releases them after the pass has returned. If Python is being finalized by then, taking
        the interpreter's lock ends the thread, and with it the process (SIGABRT).
        """
        weight.sum().backward()

    _installed = True


def functions(torch: Any, library: ctypes.CDLL) -> dict[str, Any]:
    """Return the functions of ``torch.cuda`` that are written in Python."""
    device = torch.device("cuda", 0)

    class Stream:
        """The only stream; all work is done when it is launched."""

        def __init__(self, device: Any = None, **_: Any) -> None:
            self.device = device

        def wait_stream(self, stream: Stream) -> None:
            pass

        def synchronize(self) -> None:
            pass

    class CUDAGraph:
        def __init__(self) -> None:
            self._graph: int | None = None

        def replay(self) -> None:
            message = ctypes.create_string_buffer(4096)
            graph = ctypes.c_void_p(self._graph)
            if library.stand_in_replay(graph, message, ctypes.c_size_t(len(message))):
                raise RuntimeError(message.value.decode())

        def __del__(self) -> None:
            if self._graph is not None:
                library.stand_in_forget(ctypes.c_void_p(self._graph))

    @contextmanager
    def graph(captured: CUDAGraph, **_: Any) -> Iterator[None]:
        captured._graph = library.stand_in_capture()
        try:
            yield
        finally:
            library.stand_in_captured()

    def set_sync_debug_mode(mode: int | str) -> None:
        library.stand_in_waits(int(mode in (2, "error")))

    def nothing(*_: Any, **__: Any) -> None:
        return None

    def allocated(*_: Any) -> int:
        return library.stand_in_bytes()

    return {
        "_initialized": True,
        "_lazy_init": nothing,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "_exchange_device": lambda device: 0,
        "_maybe_exchange_device": lambda device: 0,
        "get_device_name": lambda *_: "a CPU that stands in for CUDA",
        "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *_: SimpleNamespace(name="stand-in", total_memory=1 << 34),
        "is_bf16_supported": lambda *_, **__: True,
        "default_generators": (torch.Generator(device),),
        "synchronize": nothing,
        "empty_cache": nothing,
        "memory_allocated": allocated,
        "max_memory_allocated": lambda *_: library.stand_in_peak(),
        "reset_peak_memory_stats": lambda *_: library.stand_in_reset_peak(),
        "mem_get_info": lambda *_: ((1 << 34) - library.stand_in_bytes(), 1 << 34),
        "Stream": Stream,
        "stream": lambda *_: nullcontext(),
        "current_stream": lambda *_: Stream(),
        "CUDAGraph": CUDAGraph,
        "graph": graph,
        "is_current_stream_capturing": lambda: bool(library.stand_in_capturing()),
        "set_sync_debug_mode": set_sync_debug_mode,
    }
