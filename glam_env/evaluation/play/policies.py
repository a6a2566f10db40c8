"""Policies of all skills and habits, and their plays from the same moments in game and dreams.

A moment is reached by play of the real game. From it each policy plays on in the game, which goes
back after each, and in dreams. A play ends where a life is lost, as a dream does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from glam_env.envs.atari.rewind import RewindableGame, SavedGame
from glam_env.envs.latent_filter import Act, FilteredPolicy, LatentFilter
from glam_env.errors import GlamError
from glam_env.evaluation.play.recording import HELD_OUT, add_noise
from glam_env.evaluation.play.scores import seed_apart
from glam_env.fast.choose import make_stepper
from glam_env.games import Game
from glam_env.model.structures import DreamState, tree_map
from glam_env.model.world_model import WorldModel
from glam_env.protocols import PlaySettings

HOLD = 8  # mean number of steps for which a held random action lasts

Choose = Callable[[Tensor], Tensor]
"""Maps (N, F) features of the next step of N plays to (N) int64 actions."""


@dataclass(frozen=True)
class NamedPolicy:
    """A policy that plays from moments.

    Attributes:
        name: Its name in reports.
        begin: Takes the number of plays and a generator on the model's device; returns what
            chooses the actions of these plays, from their first step on.
    """

    name: str
    begin: Callable[[int, torch.Generator], Choose]


def agent_policy(name: str, act: Act) -> NamedPolicy:
    """Make a policy of an agent that acts on features alone."""
    return NamedPolicy(name, lambda count, generator: lambda features: act(features, generator))


def constant_policy(name: str, action: int) -> NamedPolicy:
    """Make the policy that always takes one action."""

    def choose(features: Tensor) -> Tensor:
        return torch.full((len(features),), action, device=features.device)

    return NamedPolicy(name, lambda count, generator: choose)


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

    return NamedPolicy(name, begin)


def standard_policies(act: Act, num_actions: int) -> list[NamedPolicy]:
    """List the policies that every trained game has: the agent, noisier agents, chance, habits.

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


class RealMoment(NamedTuple):
    """A moment of real play.

    Attributes:
        game: The game, for :meth:`RewindableGame.restore`.
        state: The dream state on seeing its frame, one row.
    """

    game: SavedGame
    state: DreamState


def find_moments(
    world_model: WorldModel,
    act: Act,
    game: RewindableGame,
    *,
    count: int,
    stride: int,
    context: int,
    seed: int,
    on_moment: Callable[[int], None],
) -> list[RealMoment]:
    """Play a game and stop every ``stride`` steps, at least ``context`` after an episode's start.

    Args:
        world_model: Filters the frames.
        act: Plays up to the moments.
        game: Played from its reset on.
        count: Number of moments.
        stride: Steps from one moment to the next.
        context: Steps of an episode before a moment.
        seed: Of the episodes and the play.
        on_moment: Called with the number of moments found.

    Raises:
        GlamError: Episodes are too short for moments.
    """
    found: list[RealMoment] = []
    episode_seeds = np.random.default_rng(seed_apart(HELD_OUT, seed))
    policy = FilteredPolicy(world_model, act)
    policy.begin(1, seed)
    length, since, played = 0, 0, 0
    frame = game.reset(int(episode_seeds.integers(2**31)))
    while len(found) < count:
        features = policy.filter.see(frame[None], np.array([length == 0]))
        if length >= context and since >= stride:
            found.append(RealMoment(game.save(), policy.filter.state))
            on_moment(len(found))
            since = 0
        action = act(features, policy.generator)
        policy.filter.act(action)
        step = game.step(int(action))
        length, since, played = length + 1, since + 1, played + 1
        frame = step.frame
        if step.terminated or step.truncated:
            frame, length = game.reset(int(episode_seeds.integers(2**31))), 0
        if played > 100 * (count + 1) * (stride + context):
            raise GlamError(f"episodes are too short for moments with {context} steps before them")
    return found


def play_on(
    world_model: WorldModel,
    policies: Sequence[NamedPolicy],
    game: Game,
    play: PlaySettings | None,
    moments: Sequence[RealMoment],
    *,
    horizon: int,
    futures: int,
    seed: int,
    on_moment: Callable[[int], None],
) -> np.ndarray:
    """Let each policy play on from each moment in the game.

    Args:
        world_model: Filters the frames.
        policies: The policies.
        game: The game.
        play: Its settings.
        moments: Of one game.
        horizon: Steps of a play.
        futures: Plays of each policy from each moment, with other sticky actions and draws.
        seed: Of the plays.
        on_moment: Called with the number of moments done.

    Returns:
        (M, P, futures, horizon) float32 points; 0 after a lost life.
    """
    device = world_model.prior.weight.device
    rows = len(policies) * futures
    games = [RewindableGame(game, play) for _ in range(rows)]
    for one in games:
        one.reset(0)
    points = np.zeros((len(moments), rows, horizon), np.float32)
    no_first, same = np.zeros(rows, bool), torch.zeros(rows, dtype=torch.int64, device=device)
    for number, moment in enumerate(moments):
        draws = torch.Generator(device).manual_seed(seed_apart(seed, number))
        latents = LatentFilter(world_model, rows, draws)
        latents.resume(moment.state.rows(same))
        features = world_model.features(latents.state)
        choosers = [policy.begin(futures, draws) for policy in policies]
        for row, one in enumerate(games):  # sticky actions are the same for each policy
            one.restore(moment.game, seed=seed_apart(seed, number * futures + row % futures))
        frames = np.stack([one.frame() for one in games])
        alive = np.ones(rows, bool)
        for t in range(horizon):
            parts = zip(choosers, features.split(futures), strict=True)
            action = torch.cat([choose(part) for choose, part in parts])
            latents.act(action)
            for row in np.flatnonzero(alive).tolist():
                step = games[row].step(int(action[row]))
                points[number, row, t] = step.reward
                frames[row] = step.frame
                alive[row] = not (step.life_lost or step.truncated)
            if not alive.any():
                break
            features = latents.see(frames, no_first)
        on_moment(number + 1)
    return points.reshape(len(moments), len(policies), futures, horizon)


@torch.no_grad()
def dream_on(
    world_model: WorldModel,
    policies: Sequence[NamedPolicy],
    moments: Sequence[RealMoment],
    *,
    horizon: int,
    futures: int,
    seed: int,
    on_policy: Callable[[int], None],
) -> np.ndarray:
    """Let each policy play on from each moment in dreams.

    Rewards are the means of the head's distribution. The futures of a moment use the same random
    draws of latents for each policy.

    Returns:
        (M, P, futures, horizon) float32 expected points; 0 after an end that is likelier than not.
    """
    device = world_model.prior.weight.device
    stepper = make_stepper(world_model)
    each = torch.arange(len(moments), device=device).repeat_interleave(futures)
    together = tree_map(lambda *parts: torch.cat(parts), *(moment.state for moment in moments))
    states = together.rows(each)
    count = len(moments) * futures
    points = np.zeros((len(policies), count, horizon), np.float32)
    for place, policy in enumerate(policies):
        own = torch.Generator(device).manual_seed(seed_apart(seed, place))
        common = torch.Generator(device).manual_seed(seed)
        choose, state = policy.begin(count, own), states
        alive = torch.ones(count, dtype=torch.bool, device=device)
        for t in range(horizon):
            shape = (count, world_model.config.categoricals)
            draw = torch.rand(shape, generator=common, device=device)
            step = stepper.step(state, choose(world_model.features(state)), draw)
            points[place, :, t] = torch.where(alive, step.reward, 0.0).cpu().numpy()
            alive &= step.termination_logit <= 0.0
            state = step.state
        on_policy(place + 1)
    return points.reshape(len(policies), len(moments), futures, horizon).swapaxes(0, 1)
