"""CUDA: training with graphs equals training without them.

Run them with ``pytest -m gpu``. Without such a device they are skipped.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import cuda_stand_in
import pytest
import torch
from glam_agents.storm import AGENT_PRESETS, ActorCritic

from glam_env.training.config import HorizonConfig, TrainConfig
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.emulator,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

DEBUG = PRESETS["debug"]


def make(folder: Path, config: TrainConfig) -> Trainer:
    exists = (folder / "config.json").exists()
    run = RunFolder(folder, None if exists else {"train": asdict(config)})

    def agent(width: int, actions: int) -> ActorCritic:
        return ActorCritic(AGENT_PRESETS["debug"], width, actions)

    return Trainer("Pong", config, run, agent, "cuda")


def train(folder: Path, config: TrainConfig, stop_at: int = 0) -> list[dict]:
    """Train a run, stopped and resumed once if asked, and return its metrics."""
    if stop_at:
        first = make(folder, config)
        first.train(lambda: first.env_steps >= stop_at)
        first.close()
    trainer = make(folder, config)
    assert trainer.train()
    trainer.close()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_graphs_change_no_update(tmp_path: Path) -> None:
    """Include all phases, rate decay, growing horizons, and a stop with a resume."""
    config = replace(
        DEBUG,
        total_steps=200,
        random_steps=80,
        log_every=4,
        decay_from=0.3,
        image_warmup=8,
        model_warmup=8,
        freeze=replace(DEBUG.freeze, finetune=6, adapt=6),
        horizon=HorizonConfig(initial=2, increase=1, every=50, maximum=4),
    )
    assert len(config.freeze.at) == 2
    graphed = replace(config, graphs=True)
    one, other, resumed = (
        train(tmp_path / "one", config),
        train(tmp_path / "other", graphed),
        train(tmp_path / "resumed", graphed, stop_at=config.total_steps // 2),
    )
    assert sum("phase" in line for line in other) >= 8
    for line in [*one, *other, *resumed]:
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float))
    if cuda_stand_in.installed():  # on a GPU, random numbers depend on the replays
        for lines in zip(one, other, resumed, strict=True):
            for name, value in lines[0].items():
                expected = value if isinstance(value, str) else pytest.approx(value, 1e-4, 1e-6)
                assert [line[name] for line in lines[1:]] == [expected] * 2, name
