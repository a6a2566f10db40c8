"""Plays of policies from the same real moments, in the game and in dreams.

Moments come from play of the real game. From each moment each policy plays on in the game, which is
restored after each play, and in dreams. A play ends when a life is lost, as a dream does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from glam_env.envs.atari.rewind import RewindableGame, SavedGame
from glam_env.envs.dream.pool import draw_frames
from glam_env.envs.latent_filter import Act, FilteredPolicy, LatentFilter
from glam_env.errors import GlamError
from glam_env.evaluation.play.policies import FramePolicy, History, Policy, is_blind
from glam_env.evaluation.play.recording import HELD_OUT
from glam_env.evaluation.play.scores import seed_apart
from glam_env.fast.choose import make_stepper
from glam_env.games import Game
from glam_env.model.structures import DreamState, tree_map
from glam_env.model.world_model import WorldModel
from glam_env.protocols import PlaySettings


class RealMoment(NamedTuple):
    """A moment of real play.

    Attributes:
        game: The saved game, for :meth:`RewindableGame.restore`.
        state: The dream state after the moment's frame, one row.
        history: The steps before it, one row.
    """

    game: SavedGame
    state: DreamState
    history: History


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
    """Play a game and collect moments of it.

    A moment is at least ``stride`` steps after the one before and at least ``context`` steps after
    the start of its episode.

    Args:
        world_model: Filters the frames.
        act: Plays up to the moments.
        game: Played from its reset on.
        count: Number of moments.
        stride: Least number of steps from one moment to the next.
        context: Steps of an episode before a moment.
        seed: Seed of the episodes and the play.
        on_moment: Called with the number of moments found.

    Raises:
        GlamError: Episodes are too short for moments.
    """
    found: list[RealMoment] = []
    episode_seeds = np.random.default_rng(seed_apart(HELD_OUT, seed))
    policy = FilteredPolicy(world_model, act)
    policy.begin(1, seed)
    length, since, played = 0, 0, 0
    frames: deque[np.ndarray] = deque(maxlen=context)  # of the episode, before the current one
    actions: deque[int] = deque(maxlen=context)
    frame = game.reset(int(episode_seeds.integers(2**31)))
    while len(found) < count:
        features = policy.filter.see(frame[None], np.array([length == 0]))
        if length >= context and since >= stride:
            history = History(np.stack(frames)[None], np.array([actions]))
            found.append(RealMoment(game.save(), policy.filter.state, history))
            on_moment(len(found))
            since = 0
        action = act(features, policy.generator)
        policy.filter.act(action)
        frames.append(frame)
        actions.append(int(action))
        step = game.step(int(action))
        length, since, played = length + 1, since + 1, played + 1
        frame = game.frame()
        if step.terminated or step.truncated:
            frame, length = game.reset(int(episode_seeds.integers(2**31))), 0
            frames.clear()
            actions.clear()
        if played > 100 * (count + 1) * (stride + context):
            raise GlamError(f"episodes are too short for moments with {context} steps before them")
    return found


def play_on(
    world_model: WorldModel,
    policies: Sequence[Policy],
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
        moments: Moments of this game.
        horizon: Steps of a play.
        futures: Plays of each policy from each moment, each with its own sticky actions and draws.
        seed: Seed of the plays.
        on_moment: Called with the number of moments done.

    Returns:
        (M, P, futures, horizon) float32 points; 0 after a lost life.
    """
    points = np.zeros((len(moments), len(policies), futures, horizon), np.float32)
    blind = [place for place, policy in enumerate(policies) if is_blind(policy)]
    looking = [place for place, policy in enumerate(policies) if not is_blind(policy)]
    games = [RewindableGame(game, play) for _ in range(max(1, len(looking) * futures))]
    for one in games:
        one.reset(0)
    for number, moment in enumerate(moments):
        draws = torch.Generator(world_model.device).manual_seed(seed_apart(seed, number))
        # Sticky actions are the same for each policy.
        seeds = [seed_apart(seed, number * futures + future) for future in range(futures)]
        if looking:
            some = [policies[place] for place in looking]
            points[number, looking] = _look_and_play(
                world_model, some, games, moment, horizon, seeds, draws
            )
        for place in blind:
            points[number, place] = _play_blind(
                policies[place], games[0], moment, horizon, seeds, draws
            )
        on_moment(number + 1)
    return points


def _look_and_play(
    world_model: WorldModel,
    policies: Sequence[Policy],
    games: Sequence[RewindableGame],
    moment: RealMoment,
    horizon: int,
    seeds: Sequence[int],
    draws: torch.Generator,
) -> np.ndarray:
    """Let policies that are not blind play on from a moment, each in its own games.

    Returns:
        (P, futures, horizon) float32 points; 0 after a lost life.
    """
    device, futures, rows = world_model.device, len(seeds), len(games)
    latents = LatentFilter(world_model, rows, draws)
    latents.resume(moment.state.rows(torch.zeros(rows, dtype=torch.int64, device=device)))
    features = world_model.features(latents.state)
    history = moment.history.repeat(futures)
    choosers = [_begin(policy, futures, history, draws) for policy in policies]
    for row, one in enumerate(games):
        one.restore(moment.game, seed=seeds[row % futures])
    frames = np.stack([one.frame() for one in games])
    points = np.zeros((rows, horizon), np.float32)
    no_first, alive = np.zeros(rows, bool), np.ones(rows, bool)
    for t in range(horizon):
        parts = zip(choosers, features.split(futures), np.split(frames, len(policies)), strict=True)
        action = torch.cat([choose(seen, shown) for choose, seen, shown in parts])
        latents.act(action)
        for row in np.flatnonzero(alive).tolist():
            step = games[row].step(int(action[row]))
            points[row, t] = step.reward
            frames[row] = games[row].frame()
            alive[row] = not (step.life_lost or step.truncated)
        if not alive.any():
            break
        features = latents.see(frames, no_first)
    return points.reshape(len(policies), futures, horizon)


def _play_blind(
    policy: Policy,
    game: RewindableGame,
    moment: RealMoment,
    horizon: int,
    seeds: Sequence[int],
    draws: torch.Generator,
) -> np.ndarray:
    """Let a blind policy play on from a moment.

    Its plays run one after another.

    Returns:
        (futures, horizon) float32 points; 0 after a lost life.
    """
    nothing = torch.zeros(len(seeds), 0, device=draws.device)
    choose = _begin(policy, len(seeds), moment.history, draws)
    actions = torch.stack([choose(nothing, None) for _ in range(horizon)], 1).tolist()
    points = np.zeros((len(seeds), horizon), np.float32)
    for future, seed in enumerate(seeds):
        game.restore(moment.game, seed=seed)
        for t, action in enumerate(actions[future]):
            step = game.step(action)
            points[future, t] = step.reward
            if step.life_lost or step.truncated:
                break
    return points


@torch.no_grad()
def dream_on(
    world_model: WorldModel,
    policies: Sequence[Policy],
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
    device = world_model.device
    stepper = make_stepper(world_model)
    each = torch.arange(len(moments), device=device).repeat_interleave(futures)
    together = tree_map(lambda *parts: torch.cat(parts), *(moment.state for moment in moments))
    states = together.rows(each)
    count = len(moments) * futures
    on_frames = [isinstance(policy, FramePolicy) for policy in policies]
    parts = zip(*(moment.history for moment in moments), strict=True)
    history = History(*map(np.concatenate, parts))
    if any(on_frames):
        history = history.repeat(futures)
    points = np.zeros((len(policies), count, horizon), np.float32)
    for place, policy in enumerate(policies):
        own = torch.Generator(device).manual_seed(seed_apart(seed, place))
        common = torch.Generator(device).manual_seed(seed)
        choose, state = _begin(policy, count, history, own), states
        alive = torch.ones(count, dtype=torch.bool, device=device)
        for t in range(horizon):
            shape = (count, world_model.config.categoricals)
            draw = torch.rand(shape, generator=common, device=device)
            frames = None
            if on_frames[place]:
                frames = draw_frames(world_model, state.code).cpu().numpy()
            step = stepper.step(state, choose(world_model.features(state), frames), draw)
            points[place, :, t] = torch.where(alive, step.reward, 0.0).cpu().numpy()
            alive &= step.termination_logit <= 0.0
            state = step.state
        on_policy(place + 1)
    return points.reshape(len(policies), len(moments), futures, horizon).swapaxes(0, 1)


def _begin(
    policy: Policy, count: int, history: History, generator: torch.Generator
) -> Callable[[Tensor, np.ndarray | None], Tensor]:
    """Begin a policy's plays.

    Returns:
        A function that chooses actions from the features and the frames of the plays.
    """
    if isinstance(policy, FramePolicy):
        on_frames = policy.begin(history, generator)

        def choose(_features: Tensor, frames: np.ndarray | None) -> Tensor:
            assert frames is not None
            return on_frames(frames)

        return choose
    on_features = policy.begin(count, generator)
    return lambda features, _frames: on_features(features)
