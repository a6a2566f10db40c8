"""The GPU tests on a CUDA device made of the CPU, and what that device refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cuda_stand_in
import pytest
import torch

from glam_env.checkpoint.folder import Checkpoint, shipped_checkpoints

TESTS = Path(__file__).parent

pytestmark = [
    pytest.mark.skipif(torch.backends.cuda.is_built(), reason="PyTorch has CUDA of its own"),
    pytest.mark.skipif(
        shutil.which(os.environ.get("CXX", "c++").split()[0]) is None, reason="no C++ compiler"
    ),
]


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=TESTS.parent,
        env=os.environ | {cuda_stand_in.NAME: "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return done.stdout


def alike() -> list[str]:
    """Name the shipped games whose world model is another's but for the number of actions."""
    shipped, seen, found = shipped_checkpoints(), set(), []
    for game in sorted(shipped, key=lambda game: game != "Pong"):  # other tests are of Pong
        sizes = repr(replace(Checkpoint.open(shipped[game]).config.world_model, num_actions=1))
        if sizes in seen:
            found.append(game)
        seen.add(sizes)
    return found


@pytest.mark.emulator
def test_gpu_tests_pass_on_it() -> None:
    files = sorted(map(str, TESTS.glob("test_gpu*.py")))
    few = "not double and not global and not no-graphs"  # made of the parts of others
    few += " and not speed and not grayscale and not updates_do_not_wait[False]"
    few = " and ".join([few, *(f"not {game}" for game in alike())])
    output = run("-m", "pytest", "-m", "gpu", "-k", few, "-q", "-p", "no:cacheprovider", *files)
    last = output.strip().splitlines()[-1]
    assert "skipped" not in last
    assert int(last.split(" passed")[0].split()[-1]) >= 40


def test_graphs_replay_on_their_memory() -> None:
    """A capture refuses to read numbers and to draw from another generator."""
    run("-c", REPLAY)


REPLAY = """
import sys
sys.path.insert(0, "tests")
import cuda_stand_in
cuda_stand_in.install()
import torch

held, factor = torch.ones(3, device="cuda"), 2.0
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    parts = (held * factor).split([1, 2])
    doubled = torch.stack([parts[1][0], held.sum()])
factor = 100.0  # the graph keeps the value that Python had
held.copy_(torch.tensor([1.0, 5.0, 7.0]))
before = doubled.tolist()
graph.replay()
assert before == [2.0, 3.0], before
assert doubled.tolist() == [10.0, 13.0], doubled
assert held.is_cuda and torch.cuda.memory_allocated() > 0

generator = torch.Generator("cuda")
for refused in (
    lambda: held.sum().item(),
    lambda: held[held > 0],
    lambda: held.cpu(),
    lambda: torch.rand(3, device="cuda", generator=generator),
):
    try:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            refused()
    except RuntimeError:
        continue
    raise AssertionError("the capture should have been refused")
"""
