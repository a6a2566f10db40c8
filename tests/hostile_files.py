"""Checkpoints and recordings as an adversary writes them, for the tests that load them.

What is drawn is consistent where a file can be checked cheaply: sizes and SHA-256 of a checkpoint's
files, checksums of a zip. So the checks behind those are reached.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import lzma
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st

from glam_env.checkpoint.folder import AGENT, CONFIG, CONTEXTS, WORLD_MODEL

ANSI = "\x1b[31mred\x1b[0m"
SIZES = [0, 1, -1, 2, 3, 4, 5, 6, 16, 17, 20, 255, 256, 257, 2**15, 2**16, 10**6, 10**12]
SIZES += [2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30]
NUMBERS = [0.0, -0.0, 0.5, 1.0, 1e-6, 1e-300, 1e30, 1e308, -1e308]
TEXTS = ["", "Pong", "storm", "glam", "gru", ANSI, "\0", "../../etc/passwd", "x" * 10_000, "\ud800"]


def nested(depth: int, kind: str) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


sizes, numbers, texts = map(st.sampled_from, (SIZES, NUMBERS, TEXTS))
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 6, 16, 17, 20, 64]), max_size=4).map(tuple)
hostile_shapes = st.lists(sizes, max_size=4)
values = st.one_of(
    st.none(),
    st.booleans(),
    sizes,
    numbers,
    texts,
    st.builds(nested, st.sampled_from([1, 31, 33, 200]), st.sampled_from(["list", "dict"])),
    st.lists(st.integers(), max_size=3),
    st.just({}),
)

# --- checkpoints ---------------------------------------------------------------------------------

FILES = (WORLD_MODEL, AGENT, CONTEXTS)
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.int64]
DTYPES += [torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16, torch.int8]
TYPE_NAMES = ["F32", "BF16", "F64", "U8", "I64", "BOOL", "F8_E5M2", "F4", "F8_E8M0", "C64", "X", ""]


def paths_in(value: Any, path: tuple = ()) -> list[tuple]:
    """List the paths of all values within an object."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else ()
    for key, item in items:
        found += paths_in(item, (*path, key))
    return found


def change_config(draw: Any, plain: dict[str, Any], paths: list[tuple]) -> None:
    *parents, last = draw(st.sampled_from(paths))
    place = plain
    for key in parents:
        if not isinstance(place := place.get(key), dict):
            return
    change = draw(st.sampled_from(["set", "set", "set", "remove", "add"]))
    if change == "remove":
        place.pop(last, None)
    elif change == "add":
        place[draw(texts)] = copy.deepcopy(draw(values))  # drawn lists and dicts are shared
    else:
        alike = {int: sizes, float: numbers, str: texts}.get(type(place.get(last)), values)
        place[last] = copy.deepcopy(draw(alike if draw(st.integers(0, 3)) else values))


def draw_tensor(draw: Any, like: torch.Tensor) -> torch.Tensor:
    shape = draw(shapes) if draw(st.booleans()) else tuple(like.shape)
    tensor = torch.zeros(shape).fill_(draw(st.sampled_from([0.0, 1.0, 3.0, 200.0, 1e30, np.nan])))
    return tensor.nan_to_num(0.0).to(draw(st.sampled_from(DTYPES)))


def change_tensors(draw: Any, tensors: dict[str, torch.Tensor]) -> None:
    name = draw(st.sampled_from(sorted(tensors) or ["none"]))
    match draw(st.sampled_from(["replace", "value", "remove", "rename", "add"])):
        case "replace" if name in tensors:
            tensors[name] = draw_tensor(draw, tensors[name])
        case "value" if name in tensors and tensors[name].numel():
            tensor = tensors[name] = tensors[name].clone()
            value = draw(st.sampled_from([0.0, 7.0, 255.0, 1e30, np.inf, np.nan]))
            if tensor.is_floating_point() or 0 <= value < 256:
                tensor.flatten()[draw(st.integers(0, tensor.numel() - 1))] = value
        case "remove":
            tensors.pop(name, None)
        case "rename" if name in tensors:
            tensors[draw(st.sampled_from(TEXTS[:-1]))] = tensors.pop(name)
        case "add":
            tensors[draw(st.sampled_from(TEXTS[:-1]))] = torch.zeros(2)


def change_header(draw: Any, data: bytes) -> bytes:
    """Change what a safetensors file says of its tensors."""
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    name = draw(st.sampled_from(sorted(header) or [""]))
    entry = header.setdefault(name, {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
    match draw(st.sampled_from(["dtype", "shape", "offsets", "value", "text", "length"])):
        case "dtype":
            entry["dtype"] = draw(st.sampled_from(TYPE_NAMES))
        case "shape":
            entry["shape"] = draw(hostile_shapes)
        case "offsets":
            entry["data_offsets"] = draw(st.lists(st.sampled_from(SIZES), min_size=2, max_size=2))
        case "value":
            header[name] = copy.deepcopy(draw(values))
        case "text":
            return struct.pack("<Q", 10**5) + b"[" * 10**5 + rest
        case "length":
            size = draw(st.sampled_from([size for size in SIZES if 0 <= size < 2**64]))
            return struct.pack("<Q", size) + data[8:]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def change_bytes(draw: Any, data: bytes) -> bytes:
    if not data:
        return data
    place = draw(st.integers(0, len(data) - 1))
    match draw(st.sampled_from(["flip", "cut", "grow", "fill"])):
        case "flip":
            flipped = data[place] ^ draw(st.integers(1, 255))
            return data[:place] + bytes([flipped]) + data[place + 1 :]
        case "cut":
            return data[:place]
        case "grow":
            return data + bytes(draw(st.sampled_from([1, 8, 5000])))
        case _:
            return data[:place] + b"\xff" * 8 + data[place + 8 :]


RAW = ["NaN", "Infinity", "1e999", "-1e999", "1" * 5000, "[" * 10**5, '"\\ud800"', "nul", "\ufeff1"]


class HostileCheckpoints:
    """Draws mutations of a checkpoint.

    Args:
        folder: of the checkpoint; it is only read.
    """

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / CONFIG).read_text())
        self.paths = paths_in(self.config)
        self.tensors = {name: safetensors.torch.load_file(folder / name) for name in FILES}
        self.data = {name: (folder / name).read_bytes() for name in FILES}

    def draw(self, draw: Any) -> dict[str, bytes]:
        """Draw the content of the files, with sizes and digests that fit; some are compressed."""
        plain, files = copy.deepcopy(self.config), dict(self.data)
        kinds = ["config", "config", "tensors", "header", "bytes"]
        chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3))
        name = draw(st.sampled_from(FILES))
        if "tensors" in chosen:
            tensors = dict(self.tensors[name])
            change_tensors(draw, tensors)
            files[name] = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()})
        if "header" in chosen:
            files[name] = change_header(draw, files[name])
        if "bytes" in chosen:
            files[name] = change_bytes(draw, files[name])
        for each, data in list(files.items()):
            record = {"compression": ""}
            if draw(st.integers(0, 7)) == 0:
                record, data = {"compression": "xz"}, lzma.compress(data, preset=0)
                data = change_bytes(draw, data) if draw(st.integers(0, 3)) == 0 else data
                files[f"{each}.xz"] = data
            record |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            plain["files"][each] = record
        for _ in range(chosen.count("config")):
            change_config(draw, plain, self.paths)
        text = json.dumps(plain)
        if draw(st.integers(0, 19)) == 0:
            text = text.replace(draw(st.sampled_from(["12", "16", "0.01", "20"])), "HERE", 1)
            text = text.replace("HERE", draw(st.sampled_from(RAW)))
        data = text.encode(errors="surrogatepass")
        if draw(st.integers(0, 19)) == 0:
            data = change_bytes(draw, data)
        return {**files, CONFIG: data}


# --- recordings ----------------------------------------------------------------------------------

DESCRIPTIONS = ["|u1", "<i8", ">i8", "<f4", "<f2", "|b1", "<u8", "<u2", "|O", "<U4", "<M8[s]"]
DESCRIPTIONS += ["<c16", "|V8", "|V0", "|S0", [("a", "<i4")], "u1,u1", "nonsense", "", 5, None]
HEADERS = ["", "{", "{}", "(" * 5000, "[" * 200, "{'descr': '|u1'}", "1 +", "__import__('os')"]
HEADERS += ["{'descr': '|u1', 'fortran_order': False, 'shape': (1L,), }", "\0", "\xff", "lambda: 0"]


def recording(steps: int = 20) -> dict[str, np.ndarray]:
    frames = np.zeros((steps, 64, 64, 3), np.uint8)
    frames[:, ::8] = np.arange(steps)[:, None, None, None]
    return {
        "frames": frames,
        "actions": np.arange(steps) % 6,
        "ended": np.arange(steps) == steps - 1,
    }


def draw_array(draw: Any, array: np.ndarray) -> np.ndarray:
    """Draw another array that numpy could have written."""
    shape = draw(shapes) if draw(st.booleans()) else array.shape
    dtype = draw(st.sampled_from(["u1", "i8", "f4", "b1", "u2", "u4", "u8", "c16", "U2", "i1"]))
    value = draw(st.sampled_from([0, 1, 5, 6, 200]))
    return np.full(shape, value).astype(dtype)


def packed(draw: Any, array: np.ndarray, *, hostile: bool) -> bytes:
    """Return an ``.npy`` file, with a header that may lie."""
    file = io.BytesIO()
    np.save(file, array)
    data = file.getvalue()
    if not hostile:
        return data
    length = int.from_bytes(data[8:10], "little")
    content = data[10 + length :]
    if draw(st.booleans()):
        text = draw(st.sampled_from(HEADERS))
    else:
        descr = draw(st.sampled_from(DESCRIPTIONS))
        shape = tuple(draw(hostile_shapes))
        fields = {"descr": descr, "fortran_order": draw(st.booleans()), "shape": shape}
        text = repr(fields)
    header = text.encode("latin1", errors="replace").ljust(54) + b"\n"
    version = draw(st.sampled_from([b"\1\0", b"\2\0", b"\3\0", b"\7\7"]))
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(header))
    return b"\x93NUMPY" + version + size + header + content


def draw_npz(draw: Any) -> bytes:
    """Draw an ``.npz`` file of a recording, with checksums that fit unless bytes are changed."""
    arrays, file = recording(draw(st.sampled_from([1, 17, 20]))), io.BytesIO()
    chosen = draw(st.sets(st.sampled_from([*arrays, "codes"]), max_size=2))
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(file, "w", method, compresslevel=1) as archive:
        for name in draw(st.sets(st.sampled_from([*arrays, "codes"]), min_size=2)):
            array = arrays.get(name, np.zeros((3, 17, 4), np.uint8))
            if name in chosen and draw(st.booleans()):
                array = draw_array(draw, array)
            data = packed(draw, array, hostile=name in chosen and draw(st.booleans()))
            archive.writestr(f"{name}.npy", data)
    data = file.getvalue()
    match draw(
        st.sampled_from(["none", "none", "none", "none", "bytes", "directory", "flags", "method"])
    ):
        case "bytes":
            return change_bytes(draw, data)
        case "directory":  # sizes and offsets that the list of entries claims
            place = data.index(b"PK\1\2") + draw(st.sampled_from([16, 20, 24, 28, 30, 42]))
            size = draw(st.sampled_from([0, 1, 2**20, 2**31, 2**32 - 1]))
            return data[:place] + struct.pack("<I", size) + data[place + 4 :]
        case "flags":  # encrypted, patched data, strong encryption
            return set_fields(data, 6, draw(st.sampled_from([1, 0x20, 0x41, 0x800, 0xFFFF])))
        case "method":  # stored, deflated, bzip2, lzma, zstandard, none
            return set_fields(data, 8, draw(st.sampled_from([0, 8, 12, 14, 93, 99])))
    return data


def set_fields(data: bytes, offset: int, value: int) -> bytes:
    """Set a field of a zip's first entry, before the entry and in the list."""
    for mark, more in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
        place = data.index(mark) + offset + more
        data = data[:place] + struct.pack("<H", value) + data[place + 2 :]
    return data


def draw_safetensors(draw: Any) -> bytes:
    """Draw a ``.safetensors`` file of a recording."""
    tensors = {name: torch.from_numpy(array) for name, array in recording().items()}
    for _ in range(draw(st.integers(0, 2))):
        change_tensors(draw, tensors)
    data = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()})
    match draw(st.sampled_from(["none", "header", "bytes"])):
        case "header":
            return change_header(draw, data)
        case "bytes":
            return change_bytes(draw, data)
    return data


@st.composite
def recordings(draw: Any) -> tuple[str, bytes]:
    """Draw the ending and the content of a file."""
    if draw(st.integers(0, 2)):
        return ".npz", draw_npz(draw)
    return ".safetensors", draw_safetensors(draw)
