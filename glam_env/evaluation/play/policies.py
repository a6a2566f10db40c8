"""Policies of different skill and behavior, for plays from real moments.

A policy acts on features or on frames: real frames in the game and drawn ones in dreams.
`evaluation/play/moments.py` runs the plays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from glam_env.envs.latent_filter import Act, LatentFilter
from glam_env.evaluation.play.recording import add_noise
from glam_env.model.world_model import WorldModel

HOLD = 8  # mean number of steps for which a held random action lasts

Choose = Callable[[Tensor], Tensor]
"""Maps (N, F) features of the next step of N plays to (N) int64 actions.

F is 0 in real plays of a blind policy.
"""

ChooseOnFrames = Callable[[np.ndarray], Tensor]
"""Maps (N, 64, 64, 3) uint8 frames of the next step of N plays to (N) int64 actions."""


class History(NamedTuple):
    """Frames and actions of N plays before the moment from which they start.

    Attributes:
        frames: (N, C, 64, 64, 3) uint8, the frames before the current one, the oldest first.
        actions: (N, C) int64, taken on them.
    """

    frames: np.ndarray
    actions: np.ndarray

    def repeat(self, count: int) -> History:
        """Return each play's history ``count`` times, one after another."""
        return History(*(np.repeat(part, count, 0) for part in self))


@dataclass(frozen=True)
class NamedPolicy:
    """A policy that plays from moments on features.

    Attributes:
        name: Its name in reports.
        begin: Takes the number of plays and a generator on the model's device; returns a function
            that chooses the actions of these plays, from their first step on.
        blind: Whether its actions depend on no observation, so that frames need not be encoded.
    """

    name: str
    begin: Callable[[int, torch.Generator], Choose]
    blind: bool = False


@dataclass(frozen=True)
class FramePolicy:
    """A policy that plays from moments on frames alone.

    An agent of another world model is one.

    Attributes:
        name: Its name in reports.
        begin: Takes the histories of the plays and a generator on the model's device; returns a
            function that chooses the actions of these plays, from their first step on.
    """

    name: str
    begin: Callable[[History, torch.Generator], ChooseOnFrames]


Policy = NamedPolicy | FramePolicy
"""A policy that can be ranked."""


def is_blind(policy: Policy) -> bool:
    """Return whether a policy's actions depend on no observation."""
    return isinstance(policy, NamedPolicy) and policy.blind


def agent_policy(name: str, act: Act) -> NamedPolicy:
    """Make a policy of an agent that acts on features alone."""
    return NamedPolicy(name, lambda count, generator: lambda features: act(features, generator))


def filtered_policy(name: str, world_model: WorldModel, act: Act) -> FramePolicy:
    """Make a policy of an agent that acts on the features of its own world model.

    Its world model filters the history and then each frame, real or drawn.

    Args:
        name: See :class:`FramePolicy`.
        world_model: The agent's, in evaluation mode.
        act: The agent.
    """

    def begin(history: History, generator: torch.Generator) -> ChooseOnFrames:
        count, steps = history.actions.shape
        latents = LatentFilter(world_model, count, generator)
        first, later = np.ones(count, bool), np.zeros(count, bool)
        for t in range(steps):
            latents.see(history.frames[:, t], later if t else first)
            latents.act(torch.from_numpy(history.actions[:, t]).to(generator.device))
        begun = later if steps else first

        def choose(frames: np.ndarray) -> Tensor:
            nonlocal begun
            action = act(latents.see(frames, begun), generator)
            latents.act(action)
            begun = later
            return action

        return choose

    return FramePolicy(name, begin)


def constant_policy(name: str, action: int) -> NamedPolicy:
    """Make the policy that always takes one action."""

    def choose(features: Tensor) -> Tensor:
        return torch.full((len(features),), action, device=features.device)

    return NamedPolicy(name, lambda count, generator: choose, blind=True)


def held_random_policy(name: str, num_actions: int, hold: float) -> NamedPolicy:
    """Make the policy that takes random actions, each for a geometric number of steps.

    Args:
        name: See :class:`NamedPolicy`.
        num_actions: Number of actions.
        hold: Mean number of steps, at least 1.
    """

    def begin(count: int, generator: torch.Generator) -> Choose:
        settings = {"generator": generator, "device": generator.device}
        held = torch.randint(num_actions, (count,), **settings)

        def choose(features: Tensor) -> Tensor:
            action = held.clone()
            others = torch.randint(num_actions, (count,), **settings)
            ends = torch.rand(count, **settings) < 1.0 / hold
            held.copy_(torch.where(ends, others, held))
            return action

        return choose

    return NamedPolicy(name, begin, blind=True)


def standard_policies(act: Act, num_actions: int) -> list[NamedPolicy]:
    """List the policies that every trained game has.

    They are the agent, noisier agents, random policies, and one policy for each constant action.

    Args:
        act: The agent.
        num_actions: Number of actions.
    """
    noisy = [
        agent_policy(f"agent, {chance:.0%} random", add_noise(act, num_actions, (chance,)))
        for chance in (0.1, 0.3, 0.6)
    ]
    return [
        agent_policy("agent", act),
        *noisy,
        held_random_policy("random", num_actions, 1.0),
        held_random_policy("random, held", num_actions, HOLD),
        *(constant_policy(f"action {action}", action) for action in range(num_actions)),
    ]
