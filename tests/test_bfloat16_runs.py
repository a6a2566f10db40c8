"""Whole runs in bfloat16, on any CPU: hardware that is faster with it computes so."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from debug_runs import make_trainer
from glam_agents.storm import AGENT_PRESETS
from same_runs import assert_same_runs, metrics

from glam_env.fast import precision
from glam_env.model.cores.transformer import TransformerConfig
from glam_env.training.presets import PRESETS, with_core
from glam_env.training.trainer import Trainer

pytestmark = pytest.mark.emulator

SHORT = replace(
    PRESETS["debug"], total_steps=280, random_steps=100, replay_capacity=200, autocast=True
)


@pytest.fixture(autouse=True)
def in_bfloat16(monkeypatch):
    monkeypatch.setattr(precision, "bfloat16_pays", lambda device_type: True)


def train(path: Path, config, *, stop_at: int = 10**9) -> Trainer:
    agent = replace(AGENT_PRESETS["debug"], autocast=True)
    trainer = make_trainer(path, config, "Alien", agent)  # it pays 10 points every few steps
    trainer.train(stop=lambda: trainer.env_steps >= stop_at)
    trainer.close()
    return trainer


def test_a_run_with_a_transformer_in_windows_reaches_its_end_in_bfloat16(tmp_path):
    config = replace(with_core(SHORT, TransformerConfig(depth=1)), dream_context="window")
    trainer = train(tmp_path / "run", config)
    assert trainer.finished
    assert trainer.agent_updates > 0
    with trainer.learner.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    figures = {name for line in metrics(tmp_path / "run") for name in line}
    assert "new_play_rewards_found" in figures


def test_a_run_with_fresh_starts_resumes_exactly_in_bfloat16(tmp_path):
    config = replace(SHORT, dream_starts="fresh")
    whole = train(tmp_path / "whole", config)
    assert whole.agent_updates > 0
    assert whole.collector.filter.state.h.dtype == torch.bfloat16
    train(tmp_path / "parts", config, stop_at=150)
    train(tmp_path / "parts", config)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")
