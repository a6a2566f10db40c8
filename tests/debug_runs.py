"""Short training runs with the bundled agent."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from glam_agents.storm import AGENT_PRESETS, ActorCritic, StormConfig

from glam_env.training.config import TrainConfig
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer


def make_trainer(
    path: Path,
    config: TrainConfig,
    game: str = "Pong",
    agent: StormConfig = AGENT_PRESETS["debug"],
) -> Trainer:
    """Make the trainer of a run in a folder, new or to be resumed."""
    exists = (path / "config.json").exists()
    run = RunFolder(path, None if exists else {"train": asdict(config)})
    return Trainer(game, config, run, lambda width, actions: ActorCritic(agent, width, actions))
