"""A tiny game to play in a session: random weights, and an agent that acts on what it sees."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from glam_env.checkpoint.folder import Checkpoint
from glam_env.evaluation.play.policies import NamedPolicy, agent_policy
from glam_env.games import find_game
from glam_env.play.session.session import Subject
from glam_env.protocols import PlaySettings


def make_policy(width: int) -> NamedPolicy:
    """Return a policy that draws among actions whose chances depend on the features."""
    weights = torch.randn(width, 6, generator=torch.Generator().manual_seed(1))

    def act(features: Tensor, generator: torch.Generator) -> Tensor:
        return (features @ weights).softmax(-1).multinomial(1, generator=generator)[:, 0]

    return agent_policy("the agent", act)


def make_subject(folder: Path) -> Subject:
    """Return the checkpoint of a folder, with sticky actions and no-ops in the real game."""
    checkpoint = Checkpoint.open(folder)
    config = checkpoint.config
    return Subject(
        find_game(config.game),
        checkpoint.world_model("cpu"),
        checkpoint.contexts(),
        make_policy(config.world_model.feature_dim),
        PlaySettings(repeat_action_probability=0.25, noop_max=30),
        config.reward_values,
    )
