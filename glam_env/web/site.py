"""The files of a site: the page, onnxruntime-web, and a folder for each game."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glam_env.onnx.export import Exported, records
from glam_env.web.recordings import Recording, describe, sheet
from glam_env.web.runtime import HERE, read_runtime

GAMES_FILE, GAME_FILE, PACKED = "games.json", "game.json", ".packed"


def page_files() -> dict[str, bytes]:
    """Return the files that every site has: the page and onnxruntime-web."""
    page = {path.name: path.read_bytes() for path in sorted((HERE / "page").iterdir())}
    return {**page, **read_runtime()}


def pack(data: bytes, width: int) -> bytes:
    """Compress numbers of ``width`` bytes, as the page's ``packing.js`` reads them.

    Byte 0 of every number comes first, then byte 1 and so on, as in HDF5's shuffle filter, since
    the bytes of exponents are alike. The bytes of an incomplete last number follow. All of it is
    compressed by gzip.
    """
    whole = len(data) // width * width
    planes = np.frombuffer(data[:whole], np.uint8).reshape(-1, width).T.tobytes()
    return gzip.compress(planes + data[whole:], 9, mtime=0)


def game_files(exported: Exported, recordings: Sequence[Recording]) -> dict[str, bytes]:
    """Return the files of a game's folder.

    Args:
        exported: The exported game. Its first start states are those of the recordings.
        recordings: Real play from those states.
    """
    files, packing = {}, {}
    for name, data in exported.files.items():
        width = 2 if name.endswith(".onnx") else 4  # most weights have 16 bits, states 32
        packing[name] = {"file": name + PACKED, "width": width, "bytes": len(data)}
        files[name + PACKED] = pack(data, width)
    shown: list[dict[str, Any]] = []
    for number, recording in enumerate(recordings):
        name = f"recording-{number}.png"
        files[name] = sheet(recording.frames)
        shown.append(describe(recording, name))
    manifest = {
        **exported.manifest,
        "packed": packing,
        "recordings": shown,
        "files": records(files),
    }
    files[GAME_FILE] = (json.dumps(manifest, allow_nan=False) + "\n").encode()
    return files


def site_files(games: Mapping[str, Mapping[str, bytes]]) -> dict[str, bytes]:
    """Return all files of a site.

    Args:
        games: Results of :func:`game_files` by the games' names.
    """
    files = page_files()
    for game, own in games.items():
        files |= {str(Path("games") / game / name): data for name, data in own.items()}
    files[GAMES_FILE] = (json.dumps(list(games)) + "\n").encode()
    return files
