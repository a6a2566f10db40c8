"""The scripts of `benchmarks/` that use parts of training work with the current ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.emulator
def test_an_iteration_of_this_code_is_measured_in_both_phases():
    of = {"preset": "debug", "agent": {}, "model_only": False}
    asked = [{"do": "turn", "phase": phase, **of} for phase in ("images", "latents")]
    asked.append({"do": "profile", "phase": "latents", "turns": 1, "rows": 3, **of})
    done = subprocess.run(
        [sys.executable, "benchmarks/training_iteration.py"],
        cwd=ROOT,
        input="".join(json.dumps(line) + "\n" for line in asked),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *turns, profile = map(json.loads, done.stdout.splitlines())
    for turn in turns:
        assert set(turn) == {"model", "imagine", "agent"}
        assert min(turn.values()) > 0
    assert len(profile["operators"]) == 3
