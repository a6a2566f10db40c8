"""A full disk: one line instead of a signal, and a resumed run that is exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glam_env.cli.main import main
from glam_env.errors import GlamError
from glam_env.training import disk_space
from glam_env.training import replay as replays
from glam_env.training.replay import Replay
from glam_env.training.run_folder import RunFolder

SIZE = 2**25  # of the small disk, in bytes


def step(streams: int, value: int = 1) -> tuple[np.ndarray, ...]:
    flags = np.zeros(streams, bool)
    images = np.full((streams, 64, 64, 3), value, np.uint8)
    return images, np.full(streams, value), np.full(streams, value), flags, flags, flags


# --- the space of the replay ---------------------------------------------------------------------


def test_space_is_allocated_block_by_block_before_it_is_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(replays, "BLOCK", 16)
    replay, images = Replay(tmp_path, 2, 40, spare=10), tmp_path / "images.npy"

    def allocated() -> int:
        return images.stat().st_blocks * 512

    slack = 2**16  # the header, the last page, whole blocks of the file system
    assert allocated() < slack
    for count in range(1, 120):
        replay.add(*step(2, count % 250))
        slots = min(50, -(-count // 16) * 16)  # whole blocks, to the end of the ring
        blocks = slots * 2 * 64 * 64 * 3
        assert blocks <= allocated() + 2**13  # the ends of blocks share pages
        assert allocated() < blocks + slack


def fail_after(monkeypatch, calls: int) -> None:
    """Let the disk be full after some allocations."""
    count, real = 0, os.posix_fallocate

    def allocate(descriptor: int, offset: int, length: int) -> None:
        nonlocal count
        count += 1
        if count > calls:
            raise OSError(28, "No space left on device")
        real(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", allocate)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
@pytest.mark.parametrize("calls", [0, 1, 5, 11])
def test_a_step_without_space_is_not_added(tmp_path, monkeypatch, calls) -> None:
    replay = Replay(tmp_path, 2, 40)
    with monkeypatch.context() as patch:
        fail_after(patch, calls)
        with pytest.raises(GlamError, match=r"no disk space for .*No space left.*--resume"):
            replay.add(*step(2, 7))
    assert replay.added == 0
    assert not np.load(tmp_path / "images.npy").any()
    replay.add(*step(2, 7))  # there is space again
    assert replay.added == 1
    assert (np.load(tmp_path / "images.npy")[:, 0] == 7).all()


def test_without_fallocate_the_same_space_is_taken(tmp_path, monkeypatch) -> None:
    """As on macOS: the content is written again, which takes the space of the holes."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    path, content = tmp_path / "file", b"content".ljust(2**20, b"\0")
    with path.open("wb") as file:
        file.truncate(2**21)
        file.seek(100)
        file.write(b"content")
    assert path.stat().st_blocks * 512 < 2**20
    disk_space.allocate(path, [(100, 2**20)])
    assert path.stat().st_blocks * 512 >= 2**20
    assert path.read_bytes() == bytes(100) + content + bytes(2**20 - 100)
    with pytest.raises(GlamError, match="no disk space for"):
        disk_space.allocate(tmp_path / "none", [(0, 1)])


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_file_that_cannot_be_made_leaves_no_half(tmp_path) -> None:
    """Where files are limited to 1 MB, the file of images cannot be made."""
    code = """
import resource, sys
from pathlib import Path
from glam_env.errors import GlamError
from glam_env.training.replay import Replay

hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
try:
    Replay(Path(sys.argv[1]), 2, 100)
except GlamError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(sorted(path.name for path in Path(sys.argv[1]).iterdir()))
Replay(Path(sys.argv[1]), 2, 100)
"""
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    message, names = done.stdout.splitlines()
    assert "images.npy cannot be opened" in message
    assert "File too large" in message
    assert names == "[]"


# --- a whole run on a small disk -----------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of a few MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"a small disk needs mount ({error})")
    if done.returncode:
        pytest.skip(f"a small disk must be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, left: int) -> None:
    """Fill the disk so that some bytes are left."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    state = os.statvfs(disk)
    if (size := state.f_bavail * state.f_frsize - left) > 0:
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def content(run: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    state = RunFolder(run).load_checkpoint()
    assert state is not None
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines], state


SETTINGS = ["--preset", "debug", "--replay-capacity", "700"]


@pytest.mark.emulator
def test_a_run_stopped_by_a_full_disk_again_and_again_ends_exact(small_disk, tmp_path) -> None:
    whole, run = tmp_path / "whole", small_disk / "run"
    assert main(["train", "Pong", "--run", str(whole), *SETTINGS]) == 0
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "glam_env.cli", "train", "Pong", "--run", str(run)]
    more, steps = SETTINGS, []
    for left in (2**16, 10 * 2**20, SIZE):
        fill(small_disk, left)
        done = subprocess.run([*words, *more], capture_output=True, text=True, env=environment)
        if left < SIZE:
            assert done.returncode == 2, (left, done)  # not by SIGBUS
            last = done.stderr.splitlines()[-1]
            assert last.startswith("glam: ")
            assert "Traceback" not in done.stderr
            assert str(small_disk) in last
        if (run / "config.json").exists():
            more = ["--resume"]
            if (state := RunFolder(run).load_checkpoint()) is not None:
                steps.append(state["counts"]["env_steps"])
    assert done.returncode == 0, done.stderr
    assert 0 < steps[0] < steps[-1] == 600  # a full disk stopped it in the middle
    (lines, state), (lines_whole, state_whole) = content(run), content(whole)
    assert lines == lines_whole
    for part in ("world_model", "counts"):
        assert state[part].keys() == state_whole[part].keys()
        for name, value in state[part].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(state_whole[part][name]))
