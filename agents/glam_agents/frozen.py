"""Agents that learn in the dreams of a checkpoint, whose world model is frozen.

In `glam train` the bundled agent learns together with its world model. Here any agent of
:data:`glam_agents.AGENTS` learns from scratch in dreams that do not change. This is useful to
compare agents, to find out when more training in dreams stops helping in the game, or to train an
agent to play badly on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from glam_agents import find_agent
from glam_env.checkpoint.config import CheckpointConfig, Provenance
from glam_env.checkpoint.contexts import Contexts
from glam_env.checkpoint.folder import Checkpoint, save_checkpoint
from glam_env.errors import GlamError
from glam_env.model.structures import DreamState, tree_map
from glam_env.model.world_model import WorldModel
from glam_env.training.imagination import Agent, RewardScaled, Rollout, imagine

WARM_UP = 256  # contexts at a time


class FrozenDreams:
    """Dreams of a world model that is not trained further, for an agent's updates.

    Args:
        world_model: In evaluation mode.
        contexts: Real moments from which the dreams start.
        dreams: Number N of parallel dreams.
        horizon: Number H of steps of a dream.
        seed: Seed of the starts, latents and actions.
        reward_scale: Factor of the rewards; −1 trains an agent to lose.
        usual_reward: Mean size of the game's rewards other than 0, see :func:`usual_reward`; for
            :meth:`train`.

    Attributes:
        steps: Dream steps taken so far.

    Raises:
        GlamError: ``dreams`` or ``horizon`` is less than 1.
    """

    def __init__(
        self,
        world_model: WorldModel,
        contexts: Contexts,
        *,
        dreams: int = 128,
        horizon: int = 24,
        seed: int = 0,
        reward_scale: float = 1.0,
        usual_reward: float = 1.0,
    ) -> None:
        if min(dreams, horizon) < 1:
            raise GlamError(f"dreams and horizon must be at least 1, not {dreams} and {horizon}")
        self.world_model, self.dreams, self.horizon = world_model, dreams, horizon
        self.reward_scale, self.usual_reward, self.steps = reward_scale, usual_reward, 0
        device = world_model.device
        self._generator = torch.Generator(device).manual_seed(seed)
        self._starts = warm_up(world_model, contexts)

    def rollout(self, agent: Agent) -> Rollout:
        """Let an agent play N dreams of H steps, from contexts drawn at random."""
        rows = torch.randint(
            len(self._starts.code),
            (self.dreams,),
            generator=self._generator,
            device=self._generator.device,
        )
        start = self._starts.rows(rows)
        rollout = imagine(self.world_model, agent, start, self.horizon, self._generator)
        self.steps += self.dreams * self.horizon
        return rollout._replace(rewards=self.reward_scale * rollout.rewards)

    def train(self, agent: Agent, updates: int, on_update: Callable[[Rollout], None]) -> None:
        """Update an agent, each time on a new rollout.

        Args:
            agent: It learns in place.
            updates: Number of updates.
            on_update: Called with the rollout of each update.
        """
        if isinstance(agent, RewardScaled):
            agent.set_usual_reward(abs(self.reward_scale) * self.usual_reward)
        for _ in range(updates):
            rollout = self.rollout(agent)
            agent.update(rollout)
            on_update(rollout)


def usual_reward(config: CheckpointConfig) -> float:
    """Return the mean size of the rewards other than 0 that a game has shown.

    It is 1 if they are unknown. Each value counts once, since a checkpoint does not store how often
    the game paid it.
    """
    sizes = [abs(value) for value in config.reward_values if value]
    return sum(sizes) / len(sizes) if sizes else 1.0


@torch.no_grad()
def warm_up(world_model: WorldModel, contexts: Contexts) -> DreamState:
    """Return the states at the ends of all contexts, on the model's device."""
    device = world_model.device
    parts = [
        world_model.warm_up(codes.long().to(device), actions.long().to(device))
        for codes, actions in zip(
            contexts.codes.split(WARM_UP), contexts.actions.split(WARM_UP), strict=True
        )
    ]
    return tree_map(lambda *tensors: torch.cat(tensors), *parts)


def new_agent(
    name: str, world_model: WorldModel, preset: str = "small", seed: int = 0
) -> tuple[Agent, dict[str, Any]]:
    """Make an untrained agent.

    Args:
        name: Name in :data:`glam_agents.AGENTS`.
        world_model: Gives the sizes and the device.
        preset: Training preset that gives the hyperparameters.
        seed: Seed of the weights.

    Returns:
        The agent, and its config as a checkpoint stores it.

    Raises:
        GlamError: There is no such agent.
    """
    kind, sizes = find_agent(name), world_model.config
    config = kind.preset(preset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        agent = kind.make(config, sizes.feature_dim, sizes.num_actions)
    if isinstance(agent, torch.nn.Module):
        agent = agent.to(world_model.device)
    return agent, kind.as_json(config)


def save_with_agent(
    checkpoint: Checkpoint, agent: Agent, stored: dict[str, Any], folder: Path, note: str
) -> Path:
    """Write a copy of a checkpoint with another agent.

    The results are left out, since they are those of the agent that is replaced.

    Args:
        checkpoint: Gives the world model and the contexts.
        agent: The agent.
        stored: Its config, of :func:`new_agent`.
        folder: The destination.
        note: How the agent was trained, for the card.

    Returns:
        The folder.

    Raises:
        GlamError: The folder holds something else, or cannot be written.
    """
    from glam_env.evaluation.report.card import write_card

    old = checkpoint.config
    origin: Provenance = replace(old.provenance, note=note)
    config = replace(old, agent=stored, provenance=origin, results={})
    return save_checkpoint(
        folder,
        config=config,
        world_model_state=checkpoint.world_model().export_state(),
        agent_state=agent.export_state(),
        contexts=checkpoint.contexts(),
        card=write_card(config),
    )
