"""Play of one policy in dreams and in the game, from the same moments.

The policy plays the real game. From a moment at every `horizon` steps of that play, the policy also
plays dreams, in the env's own engine and with rewards drawn as in the env. The dreams are compared
with the real steps from the same moments, so both have the same starts and the same length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from glam_env.checkpoint.contexts import CONTEXT_LENGTH
from glam_env.envs.latent_filter import Act, FilteredPolicy
from glam_env.evaluation.bootstrap import Interval, count_rows, draw_rows, interval
from glam_env.evaluation.measures.base import Measure, Subject
from glam_env.evaluation.measures.events import EVENT_HORIZONS, known
from glam_env.evaluation.play.plays import Plays, cut_plays, play_dreams_from, take_contexts
from glam_env.evaluation.play.recording import record_play, reward_events, window_starts
from glam_env.evaluation.rows import Row
from glam_env.model.world_model import WorldModel
from glam_env.protocols import PlaySettings

NUM_ENVS = 4  # real games side by side
RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Rate:
    """Points in 1000 steps, in the game and in dreams.

    Attributes:
        game, dream: Means over all steps.
        game_interval, dream_interval: 95 % bootstrap intervals over the moments.
    """

    game: float
    dream: float
    game_interval: Interval | None
    dream_interval: Interval | None


@dataclass(frozen=True)
class EarlyRate:
    """Points in 1000 steps over the first `horizon` steps of the plays alone."""

    horizon: int
    game_won: float
    dream_won: float
    game_lost: float
    dream_lost: float


@dataclass(frozen=True)
class Behavior:
    """Play of the policy in one of the two worlds, from the moments on.

    Attributes:
        steps: Steps played.
        points: Rewards of at least half a point, won or lost.
        first_point: Mean number of steps to the first of them; a play without one counts as
            `horizon`.
        pointless: Share of the plays without one.
        rally: Mean number of steps from one of them to the next within a play; None without any.
        actions: Share of each action.
    """

    steps: int
    points: int
    first_point: float
    pointless: float
    rally: float | None
    actions: tuple[float, ...]


@dataclass(frozen=True)
class BehaviorReport(Measure):
    """Results of `compare_behavior`.

    Attributes:
        moments: Number of real moments.
        horizon, context, seed, dreams_per_moment: Settings of the measurement.
        won, lost: Points won, and points lost as a positive figure.
        net: Won less lost.
        early: Points won and lost over the first steps of the plays, by growing horizon.
        reward_rate_error: |net in dreams − net in the game| / |net in the game|; None if the
            latter is 0.
        points_error: (|won in dreams − won in the game| + the same for lost) / (won + lost in the
            game); None without points. Unlike the error of the net, it is meaningful for a policy
            that wins as often as it loses, and errors of both kinds cannot cancel out.
        reward_rate_error_interval, points_error_interval: 95 % bootstrap intervals.
        action_distance: Total variation distance between the two shares of actions, 0 to 1.
        game, dream: Play of the policy in each world.
    """

    moments: int
    horizon: int
    context: int
    seed: int
    dreams_per_moment: int
    won: Rate
    lost: Rate
    net: Rate
    early: tuple[EarlyRate, ...]
    reward_rate_error: float | None
    points_error: float | None
    reward_rate_error_interval: Interval | None
    points_error_interval: Interval | None
    action_distance: float
    game: Behavior
    dream: Behavior

    @classmethod
    def measure(cls, subject: Subject) -> BehaviorReport:
        """Let the policy play in both worlds."""
        settings = subject.settings
        return compare_behavior(
            subject.world_model,
            subject.act,
            subject.game,
            steps=settings.behavior_steps,
            num_envs=NUM_ENVS,
            horizon=settings.dream_horizon,
            context=settings.context,
            seed=settings.seed + 1,  # other games than those of open loop
            play=settings.play,
            reward_values=subject.reward_values,
            on_step=subject.step_counter(
                "the agent's own real play (steps)", settings.behavior_steps, NUM_ENVS
            ),
        )

    @property
    def about(self) -> str:
        """What was compared."""
        return (
            f"The agent from {self.moments} moments of its own held-out play: {self.horizon} steps "
            f"in the game, and {self.dreams_per_moment} times in dreams."
        )

    def rows(self) -> list[Row]:
        """Return the rates, their errors, and the policy's play in each world."""
        worlds = {"game": self.game, "dream": self.dream}
        points = "points in 1000 steps"
        rows = [
            Row(
                f"{points}, {name}, {world}",
                getattr(rate, world),
                getattr(rate, f"{world}_interval"),
            )
            for name, rate in (("won", self.won), ("lost", self.lost), ("net", self.net))
            for world in worlds
        ]
        rows += [
            Row(
                "relative error of the rate, net",
                self.reward_rate_error,
                self.reward_rate_error_interval,
            ),
            Row(
                "relative error of the rate, won and lost",
                self.points_error,
                self.points_error_interval,
            ),
        ]
        rows += [
            Row(
                f"early {points}, {name}, {world}",
                getattr(part, f"{world}_{name}"),
                horizon=part.horizon,
            )
            for name in ("won", "lost")
            for world in worlds
            for part in self.early
        ]
        figures = {
            "steps": "steps played",
            "points": "points won and lost",
            "first_point": "steps to the first point",
            "pointless": "share of plays without a point",
            "rally": "steps from one point to the next",
        }
        rows += [
            Row(f"{title}, {world}", getattr(there, figure))
            for figure, title in figures.items()
            for world, there in worlds.items()
        ]
        rows += [
            Row(f"share of each action, {action}, {world}", share)
            for action in range(len(self.game.actions))
            for world, there in worlds.items()
            for share in [there.actions[action]]
        ]
        return [*rows, Row("distance between the shares of actions", self.action_distance)]


def compare_behavior(
    world_model: WorldModel,
    act: Act,
    game: str,
    *,
    steps: int = 8192,
    num_envs: int = 8,
    horizon: int = 64,
    context: int = CONTEXT_LENGTH,
    dreams_per_moment: int = 8,
    seed: int = 0,
    play: PlaySettings | None = None,
    reward_values: Sequence[float] = (),
    on_step: Callable[[int], None] | None = None,
) -> BehaviorReport:
    """Let a policy play the real game, and dreams from moments of that play.

    Args:
        world_model: In evaluation mode.
        act: The policy, in both worlds.
        game: Name of the game.
        steps: Real steps, over all envs.
        num_envs: Real games side by side.
        horizon: Steps of a dream; dreams of the env have `max_episode_steps`.
        context: Real steps that warm a dream up.
        dreams_per_moment: Dreams from each moment.
        seed: Seed of all random draws.
        play: Settings of the real game; those of Atari 100k if None.
        reward_values: The values that the game pays.
        on_step: Called with the number of steps that each real game has played.

    Raises:
        GlamError: For an impossible value, or if the play is too short for one moment.
    """
    recording = record_play(
        FilteredPolicy(world_model, act),
        game,
        steps=steps,
        num_envs=num_envs,
        seed=seed,
        play=play,
        on_step=on_step,
    )
    starts = window_starts(recording, context, horizon, stride=horizon)
    real = cut_plays(recording, starts[:, 0], starts[:, 1] + context, horizon)
    contexts = take_contexts(world_model, recording, starts, context, seed)
    dreamt = play_dreams_from(
        world_model, act, contexts, dreams_per_moment, horizon, seed, reward_values
    )
    return report_behavior(
        real,
        dreamt,
        num_actions=world_model.config.num_actions,
        context=context,
        seed=seed,
    )


def report_behavior(
    real: Plays, dreamt: Plays, *, num_actions: int, context: int, seed: int
) -> BehaviorReport:
    """Compare N real plays with N × D dreamt ones, D from the moment of each real one.

    Args:
        real, dreamt: The plays, all of one length; those of one moment lie next to each other.
        num_actions: Number of actions.
        context, seed: Settings of the plays, for the report.
    """
    moments, horizon = real.rewards.shape
    game, dream = _tally(real, moments, horizon), _tally(dreamt, moments, horizon)
    counts = count_rows(draw_rows(np.random.default_rng(seed), moments, RESAMPLES))
    (game_rate, dream_rate) = (_rates(tally.sum(0)) for tally in (game, dream))  # won and lost

    def rate(weights: np.ndarray) -> Rate:
        return Rate(
            game=float(game_rate @ weights),
            dream=float(dream_rate @ weights),
            game_interval=interval(lambda counts: _rates(counts @ game) @ weights, counts),
            dream_interval=interval(lambda counts: _rates(counts @ dream) @ weights, counts),
        )

    def error_interval(error: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Interval | None:
        return interval(lambda counts: error(_rates(counts @ game), _rates(counts @ dream)), counts)

    shares = [
        np.bincount(plays.actions[plays.alive], minlength=num_actions) / plays.alive.sum()
        for plays in (real, dreamt)
    ]
    return BehaviorReport(
        moments=moments,
        horizon=horizon,
        context=context,
        seed=seed,
        dreams_per_moment=len(dreamt.rewards) // moments,
        won=rate(np.array([1.0, 0.0])),
        lost=rate(np.array([0.0, 1.0])),
        net=rate(np.array([1.0, -1.0])),
        early=tuple(_early_rate(real, dreamt, h) for h in EVENT_HORIZONS if h < horizon),
        reward_rate_error=known(_net_error(game_rate, dream_rate)),
        points_error=known(_points_error(game_rate, dream_rate)),
        reward_rate_error_interval=error_interval(_net_error),
        points_error_interval=error_interval(_points_error),
        action_distance=float(np.abs(shares[0] - shares[1]).sum() / 2),
        game=_describe(real, shares[0]),
        dream=_describe(dreamt, shares[1]),
    )


def _tally(plays: Plays, moments: int, horizon: int) -> np.ndarray:
    """Sum points won, points lost and steps of each moment: (moments, 3).

    Only the first `horizon` steps of a play count.
    """
    alive = plays.alive[:, :horizon]
    rewards = np.where(alive, plays.rewards[:, :horizon], 0.0).astype(np.float64)
    columns = rewards.clip(0).sum(1), -rewards.clip(None, 0).sum(1), alive.sum(1)
    return np.stack(columns, 1).reshape(moments, -1, 3).sum(1)


def _rates(tallies: np.ndarray) -> np.ndarray:
    """Turn (..., 3) tallies into (..., 2) points won and lost in 1000 steps."""
    return 1000.0 * tallies[..., :2] / tallies[..., 2:]


def _early_rate(real: Plays, dreamt: Plays, horizon: int) -> EarlyRate:
    (game_won, game_lost), (dream_won, dream_lost) = (
        _rates(_tally(plays, 1, horizon)[0]).tolist() for plays in (real, dreamt)
    )
    return EarlyRate(horizon, game_won, dream_won, game_lost, dream_lost)


def _net_error(game: np.ndarray, dream: np.ndarray) -> np.ndarray:
    """Compute the (...) relative error of the net from (..., 2) rates won and lost."""
    net, dreamt = game[..., 0] - game[..., 1], dream[..., 0] - dream[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(dreamt - net) / np.abs(net)


def _points_error(game: np.ndarray, dream: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(dream - game).sum(-1) / game.sum(-1)


def _describe(plays: Plays, shares: np.ndarray) -> Behavior:
    events = (reward_events(plays.rewards) != 0) & plays.alive
    horizon = events.shape[1]
    any_point = events.any(1)
    first = np.where(any_point, events.argmax(1) + 1, horizon)
    play, step = np.nonzero(events)
    gaps = np.diff(step)[np.diff(play) == 0]
    return Behavior(
        steps=int(plays.alive.sum()),
        points=int(events.sum()),
        first_point=float(first.mean()),
        pointless=float((~any_point).mean()),
        rally=float(gaps.mean()) if len(gaps) else None,
        actions=tuple(shares.tolist()),
    )
