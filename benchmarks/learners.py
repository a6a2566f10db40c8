"""Agents that learn in the frozen dreams of a checkpoint, or on the real game.

Shared by `exploitability.py` and `lift.py`. All of them act on the world model's features.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import torch
from glam_agents import AGENTS
from glam_agents.frozen import FrozenDreams, new_agent, usual_reward
from glam_agents.sb3.algorithms import find_algorithm, find_settings, is_off_policy
from glam_agents.sb3.env import ClippedRewards, SB3VecEnv
from glam_agents.sb3.policies import feature_act
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor

from glam_env.checkpoint.folder import Checkpoint
from glam_env.envs.atari.env import RealVectorEnv
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.envs.latent_filter import Act
from glam_env.model.world_model import WorldModel
from glam_env.training.imagination import Agent, RewardScaled, Rollout

OnPoint = Callable[[int, Act], None]
"""Called with the steps learned from and the agent as it is."""
OnSteps = Callable[[int], None]


def learn(
    algo: str,
    checkpoint: Checkpoint,
    world_model: WorldModel,
    *,
    world: str,
    steps: int,
    every: int,
    num_envs: int,
    horizon: int,
    seed: int,
    on_point: OnPoint,
    on_steps: OnSteps,
) -> None:
    """Train an agent from nothing.

    Args:
        algo: A name in `glam_agents.AGENTS`, or an algorithm of `glam sb3`.
        checkpoint: Its world model makes the features, and the dreams.
        world_model: Of the checkpoint.
        world: "dream" or "real".
        steps: Steps to learn from.
        every: Steps from one point to the next; there is one before the first step and one after
            the last.
        num_envs: Dreams or games side by side.
        horizon: Steps of a dream, and of a rollout of an agent that learns in imagination.
        seed: Of everything.
        on_point: See `OnPoint`.
        on_steps: Called with the steps learned from.
    """
    points = _Points(every, steps, on_point)
    options = {"num_envs": num_envs, "horizon": horizon, "seed": seed}
    train = _learn_by_rollouts if algo in AGENTS else _learn_by_sb3
    train(algo, checkpoint, world_model, world, steps, points, on_steps, **options)


class _Points:
    """Calls `on_point` at each multiple of `every` steps, and at the end."""

    def __init__(self, every: int, total: int, on_point: OnPoint) -> None:
        self.every, self.total, self.on_point = every, total, on_point
        self.due, self.ended = 0, False

    def reach(self, steps: int, act: Act) -> None:
        """Call `on_point` if it is due."""
        if steps >= self.due or (steps >= self.total and not self.ended):
            self.on_point(steps, act)
            self.due = steps - steps % self.every + self.every
            self.ended = steps >= self.total


def _learn_by_rollouts(
    algo: str,
    checkpoint: Checkpoint,
    world_model: WorldModel,
    world: str,
    steps: int,
    points: _Points,
    on_steps: OnSteps,
    *,
    num_envs: int,
    horizon: int,
    seed: int,
) -> None:
    agent, _ = new_agent(algo, world_model, seed=seed)
    if isinstance(agent, RewardScaled):
        agent.set_usual_reward(usual_reward(checkpoint.config))

    def act(features: Tensor, generator: torch.Generator) -> Tensor:
        return agent.act(features, generator=generator)

    with ExitStack() as stack:
        if world == "dream":
            contexts, sizes = checkpoint.contexts(), {"dreams": num_envs, "horizon": horizon}
            rollouts = FrozenDreams(world_model, contexts, seed=seed, **sizes)
        else:
            rollouts = RealRollouts(checkpoint, num_envs, horizon, seed)
            stack.callback(rollouts.close)
        points.reach(0, act)
        while rollouts.steps < steps:
            agent.update(rollouts.rollout(agent))
            on_steps(rollouts.steps)
            points.reach(rollouts.steps, act)


class RealRollouts:
    """Rollouts of the real game, for an agent that learns in imagination.

    A rollout continues where the last one stopped. As in a dream, its steps after the end of a
    life count for nothing.

    Args:
        checkpoint: Its world model makes the features.
        num_envs: N games side by side.
        horizon: H steps of a rollout.
        seed: Of the games and the actions.

    Attributes:
        steps: Real steps taken so far.
    """

    def __init__(self, checkpoint: Checkpoint, num_envs: int, horizon: int, seed: int) -> None:
        self.envs = make_envs(checkpoint, "real", num_envs)
        self.horizon, self.steps = horizon, 0
        self._features = self.envs.reset(seed=seed)[0]
        self._generator = torch.Generator(self._features.device).manual_seed(seed)

    def rollout(self, agent: Agent) -> Rollout:
        """Play H steps in each game."""
        features, actions, rewards, ends = [self._features], [], [], []
        for _ in range(self.horizon):
            actions.append(agent.act(features[-1], generator=self._generator))
            seen, reward, terminated, truncated, _ = self.envs.step(actions[-1])
            features.append(seen)
            rewards.append(reward.float())
            ends.append(terminated | truncated)
        self._features = features[-1]
        self.steps += self.horizon * len(self._features)
        return Rollout(*map(torch.stack, (features, actions, rewards, ends)))

    def close(self) -> None:
        """Close the games."""
        self.envs.close()


def _learn_by_sb3(
    algo: str,
    checkpoint: Checkpoint,
    _world_model: WorldModel,
    world: str,
    steps: int,
    points: _Points,
    on_steps: OnSteps,
    *,
    num_envs: int,
    horizon: int,
    seed: int,
) -> None:
    bridge = SB3VecEnv(make_envs(checkpoint, world, num_envs, horizon))
    envs = ClippedRewards(VecMonitor(bridge))
    with closing(envs):
        space: Any = envs.observation_space
        settings = find_settings(algo, space, num_envs)
        model = find_algorithm(algo)(env=envs, seed=seed, device="cpu", **settings)
        act = feature_act(model, is_off_policy(algo))
        points.reach(0, act)

        def watch(_locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
            on_steps(model.num_timesteps)
            points.reach(model.num_timesteps, act)
            return True

        model.learn(steps, watch, log_interval=None)  # pyright: ignore[reportArgumentType]


def make_envs(
    checkpoint: Checkpoint, world: str, num_envs: int, horizon: int | None = None
) -> VectorEnv:
    """Make dreams of a checkpoint, or real games with its features and its protocol.

    Args:
        checkpoint: The checkpoint.
        world: "dream" or "real".
        num_envs: How many, side by side.
        horizon: Steps of a dream; real games are played to their end.
    """
    options: dict[str, Any] = {"array_type": "torch", "obs_type": "latent", "device": "cpu"}
    options["checkpoint"] = checkpoint
    if world == "dream":
        options["max_episode_steps"] = horizon
        return DreamVectorEnv(checkpoint.config.game, num_envs, **options)
    play = checkpoint.config.protocol
    options["repeat_action_probability"] = play.repeat_action_probability
    options["noop_max"] = play.noop_max
    return RealVectorEnv(checkpoint.config.game, num_envs, **options)
