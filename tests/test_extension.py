"""A run that is resumed can have more steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import mistake
from same_runs import assert_same_runs, metrics

from glam_env.cli.main import main
from glam_env.errors import GlamError
from glam_env.training.export import load_run
from glam_env.training.extension import EXTENDED, describe_extensions, extend
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder

TINY = [
    *("--preset", "debug", "--random-steps", "20", "--update-every", "5", "--num-envs", "1"),
    *("--image-warmup", "1", "--model-warmup", "1", "--freeze.at", "0.8", "--freeze.finetune", "1"),
    *("--freeze.adapt", "1", "--freeze.end-to-end", "1", "--freeze.latent-length", "20"),
    *("--log-every", "1"),
]


def stored(path: Path) -> dict:
    return json.loads((path / "config.json").read_text())


@pytest.mark.emulator
def test_an_extended_run_equals_one_that_was_planned_so(tmp_path, capsys):
    """As long as no share of the run has been reached, it makes no difference."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", "Pong", "--run", str(whole), *TINY, "--total-steps", "40"]) == 0
    first = ["train", "Pong", "--run", str(parts), *TINY, "--total-steps", "30"]
    assert main([*first, "--minutes", "0.0001"]) == 0
    reached = RunFolder(parts).load_checkpoint()["counts"]["env_steps"]
    assert 0 < reached < 20
    again = ["train", "Pong", "--run", str(parts), "--resume"]
    assert main([*again, "--total-steps", "40"]) == 0
    assert_same_runs(parts, whole)
    assert stored(parts) == {**stored(whole), EXTENDED: [{"total_steps": 30, "at": reached}]}

    # A finished run goes on.
    assert main([*again, "--total-steps", "60"]) == 0
    assert "finished at step 60" in capsys.readouterr().out
    assert metrics(parts)[: len(metrics(whole))] == metrics(whole)
    counts = RunFolder(parts).load_checkpoint()["counts"]
    before = RunFolder(whole).load_checkpoint()["counts"]
    assert counts["agent_updates"] == before["agent_updates"] + 4
    assert counts["image_updates"] == before["image_updates"]  # no second fine-tuning
    note = load_run(RunFolder(parts), torch.device("cpu")).provenance.note
    assert f"extended to 40 at step {reached}, then to 60 at step 40" in note

    # Without the option, it keeps its new number of steps; fewer are refused, and change nothing.
    assert main(again) == 0
    before_refusals = stored(parts)
    line = mistake(capsys, *again, "--total-steps", "40")
    assert "can have more steps, not fewer: it has --total-steps 60, not 40" in line
    line = mistake(capsys, *again, "--total-steps", "80", "--batch", "4")
    assert "a resumed run keeps its own settings" in line
    assert "leave out --batch" in line
    assert stored(parts) == before_refusals


def test_an_extended_run_keeps_its_phases():
    config = replace(PRESETS["small"], total_steps=100_000)
    assert extend(config, 400_000) == replace(config, total_steps=400_000)
    # The second freeze came right after the random steps; now there would be play before it.
    config = replace(config, total_steps=60_000)
    with pytest.raises(GlamError, match="other phases"):
        extend(config, 400_000)
    with pytest.raises(GlamError, match="more steps, not fewer"):
        extend(config, 60_000)


def test_a_run_that_was_not_extended_says_nothing():
    assert describe_extensions({"train": {"total_steps": 40}}) == ""
