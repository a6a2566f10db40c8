"""The first lines of a card: what fails comes first, and where the dream loses what moves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from glam_env.checkpoint.folder import Checkpoint
from glam_env.evaluation.examine import Examination
from glam_env.evaluation.report.summary import summarize

PONG = Path(__file__).parents[1] / "checkpoints" / "Pong"


def lines(plain: dict[str, Any]) -> list[str]:
    return summarize(list(Examination.from_json(plain).found.values()))


def measured() -> dict[str, Any]:
    return copy.deepcopy(dict(Checkpoint.open(PONG).config.results["fidelity"]))


def test_what_fails_comes_first_with_its_figures() -> None:
    plain = measured()
    missed = [check for check in plain["checks"] if not check["passed"]]
    first, *others = lines(plain)
    assert first.startswith(f"**The dream misses {len(missed)} of {len(plain['checks'])} thresh")
    assert all(check["name"] in first for check in missed)
    score = plain["rewards"][0]
    assert f"Of {score['real']} rewards within 16 steps it predicts {score['found']} " in others[0]
    for check in plain["checks"]:
        check["passed"] = True
    assert lines(plain)[0] == f"The dream passes all {len(plain['checks'])} thresholds."


def test_the_step_from_which_what_moves_is_lost_is_named() -> None:
    plain = measured()
    images = plain["images"]
    horizon = len(images["dream"]["foreground_error"])
    assert any(line.endswith(f"at every step to {horizon}.") for line in lines(plain))
    images["dream"]["foreground_error"][19] = images["repeat"]["foreground_error"][19]
    assert any(line.startswith("**From step 20 on it has lost") for line in lines(plain))
    images["repeat"]["foreground_error"] = [None] * horizon
    assert not any("has lost" in line for line in lines(plain))  # the average frame is still worse


def test_events_that_never_happened_are_not_predicted_right_or_wrong() -> None:
    plain = measured()
    plain["endings"][0] |= {"real": 0, "found": 0, "f1": None}
    assert "No ends of life occurred within 16 steps, so their prediction is unknown." in lines(
        plain
    )
