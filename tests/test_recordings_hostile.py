"""Recordings that are no recordings: each is refused before it takes time or memory."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hostile_files import recording, set_fields
from limits import limits

from glam_env.checkpoint.folder import Checkpoint
from glam_env.envs.recordings import archives
from glam_env.envs.recordings.contexts import read_contexts
from glam_env.errors import GlamError
from glam_env.model.world_model import WorldModel


@pytest.fixture(scope="module")
def world_model(saved_checkpoint: Path) -> WorldModel:
    return Checkpoint.open(saved_checkpoint).world_model()


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    with limits(memory=2**29):
        yield


def refused(path: Path | str, world_model: WorldModel) -> str:
    with pytest.raises(GlamError) as caught:
        read_contexts(path, world_model, 16)
    return str(caught.value)


def npy(shape: tuple[int, ...], dtype: str, data: bytes) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + data


def zipped(frames: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, compresslevel=1) as archive:
        archive.writestr("frames.npy", frames)
        archive.writestr("actions.npy", npy((20,), "<i8", bytes(160)))
    return file.getvalue()


FRAMES = npy((20, 64, 64, 3), "|u1", bytes(20 * 64 * 64 * 3))


def claims(size: int) -> bytes:
    """Return a zip whose list says that its first entry has this size."""
    data = zipped(FRAMES)
    place = data.index(b"PK\1\2") + 24
    return data[:place] + struct.pack("<I", size) + data[place + 4 :]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: zipped(npy((2**40,), "|u1", bytes(99))), "has not the bytes of its shape"),
        (lambda: zipped(npy((2**20, 64, 64, 3), "|u1", bytes(99))), "has not the bytes of its"),
        (lambda: claims(2**32 - 2), "its arrays take more than 536,870,912 bytes"),
        (lambda: claims(2**29), "has not the bytes of its shape"),
        (lambda: set_fields(zipped(FRAMES), 6, 1), "frames is encrypted"),
        (lambda: set_fields(zipped(FRAMES), 8, zipfile.ZIP_LZMA), "neither stored nor deflated"),
        (lambda: zipped(FRAMES, zipfile.ZIP_BZIP2), "neither stored nor deflated"),
        (lambda: zipped(npy((20,), "|O", bytes(160))), "frames is not an array of numbers"),
        (lambda: zipped(FRAMES[:-1]), "has not the bytes of its shape"),
        (lambda: zipped(b""), "cannot be read"),
    ],
)
def test_what_a_zip_claims_is_checked_before_it_is_unpacked(
    tmp_path: Path, world_model: WorldModel, make: Callable[[], bytes], says: str
) -> None:
    path = tmp_path / "recording.npz"
    path.write_bytes(make())
    line = refused(path, world_model)
    assert says in line
    assert "recording.npz" in line


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, world_model: WorldModel, monkeypatch) -> None:
    """The bomb's sizes are all consistent; only its bound is lowered here, to make it quickly."""
    monkeypatch.setattr(archives, "FILE_BYTES", 2**24)
    steps = 2**24 // (64 * 64 * 3) + 1
    (tmp_path / "bomb.npz").write_bytes(
        zipped(npy((steps, 64, 64, 3), "|u1", bytes(steps * 64 * 64 * 3)))
    )
    monkeypatch.setattr(
        archives, "_read_array", lambda *_: pytest.fail("it was unpacked")
    )  # of the first entry
    assert "its arrays take more than" in refused(tmp_path / "bomb.npz", world_model)


def test_a_list_of_entries_without_end_is_not_read(tmp_path: Path, world_model) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(20_000):
            archive.writestr(f"{i:080}", b"")
    (tmp_path / "many.npz").write_bytes(file.getvalue())
    assert "its list of entries is too long" in refused(tmp_path / "many.npz", world_model)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_no_pipe_device_or_folder_is_read(tmp_path: Path, world_model, ending: str) -> None:
    pipe, device, folder = (tmp_path / f"{name}{ending}" for name in ("pipe", "device", "folder"))
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        assert "a device, a pipe or a socket" in refused(path, world_model)
    folder.mkdir()
    (folder / "x.npz").mkdir()
    assert "it is a folder" in refused(folder, world_model)
    sparse = tmp_path / f"sparse{ending}"
    with sparse.open("wb") as file:
        file.truncate(2**34)
    assert "at most are read" in refused(sparse, world_model)


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x.npz", "a\0b.npz", "x" * 5000 + ".npz"])
def test_an_impossible_path_gets_one_line(world_model: WorldModel, path: str) -> None:
    line = refused(path, world_model)
    assert line.isprintable()
    assert len(line) <= 1000


def test_a_recording_in_other_layouts_is_the_same(tmp_path: Path, world_model) -> None:
    """Fortran's order, big-endian numbers, and a header of format 2."""
    plain = recording()
    np.savez(tmp_path / "plain.npz", **plain)
    with zipfile.ZipFile(tmp_path / "other.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in plain.items():
            file = io.BytesIO()
            array = np.asfortranarray(array) if name == "frames" else array
            array = array.astype(">i8") if name == "actions" else array
            np.lib.format.write_array(file, array, version=(2, 0))
            archive.writestr(f"{name}.npy", file.getvalue())
    contexts = [
        read_contexts(tmp_path / f"{name}.npz", world_model, 16) for name in ("plain", "other")
    ]
    assert bool((contexts[0].codes == contexts[1].codes).all())
    assert bool((contexts[0].actions == contexts[1].actions).all())
