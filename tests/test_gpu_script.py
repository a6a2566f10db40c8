"""benchmarks/gpu.sh, tried on the stand-in with everything small."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from glam_env.checkpoint.folder import Checkpoint

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
GAME = "Breakout"  # a whole game of an agent that has learnt nothing is short

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.skipif(torch.backends.cuda.is_built(), reason="PyTorch has CUDA of its own"),
    pytest.mark.skipif(
        shutil.which(os.environ.get("CXX", "c++").split()[0]) is None, reason="no C++ compiler"
    ),
]


def run(part: str, out: Path, *games: str, site: str = "tests/cuda_stand_in/site") -> int:
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT / site),
        "GLAM_TINY": "1",
        "GLAM_RUNS": str(out.parent / "runs"),
        "OMP_NUM_THREADS": "1",
    }
    words = ["bash", str(SCRIPT), part, str(out), *games]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    return done.returncode


@pytest.mark.slow
def test_a_game_is_trained_exported_and_profiled(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("zoo", out, GAME) == 0
    assert run("exports", out, GAME, "Boxing") == 1  # there is no run of Boxing
    with tarfile.open(out / f"{GAME}.tar") as packed:
        packed.extractall(tmp_path / "exports", filter="data")
    config = Checkpoint.open(tmp_path / "exports" / GAME).config
    assert config.provenance.environment_steps == 300
    assert [score["protocol"] for score in config.results["scores"]] == ["atari100k", "published"]
    assert (tmp_path / "exports" / GAME / "metrics.jsonl").stat().st_size > 0
    assert run("profile", out) == 0
    rows = json.loads((out / "profile.json").read_text())["rows"]
    assert [row["phase"] for row in rows] == ["images", "latents"]
    assert all(len(row["profile"]["operators"]) == 12 for row in rows)
    assert json.loads((out / "scans.json").read_text())["rows"][0]["ours"]["median"] > 0
    steps = (out / "steps.txt").read_text()
    assert steps.count(": done") == 4
    assert "export-Boxing: failed (2)" in steps


def test_without_a_device_or_games_it_says_so_at_once(tmp_path: Path) -> None:
    assert run("speed", tmp_path / "out", site="tests") == 2
    assert run("zoo", tmp_path / "out") == 2
    assert run("nonsense", tmp_path / "out") == 2
