"""Ranking of policies by dreams, compared with their ranking by the game.

Training or choosing policies in dreams relies on it. Policies of different skill and behavior
play on from the same real moments, in the game, which is restored after each play, and in dreams.
Their mean returns are compared over policies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from glam_env.checkpoint.contexts import CONTEXT_LENGTH
from glam_env.envs.atari.rewind import RewindableGame
from glam_env.envs.latent_filter import Act
from glam_env.errors import GlamError
from glam_env.evaluation.bootstrap import Interval, draw_rows, interval
from glam_env.evaluation.measures.base import Measure, OnProgress, Subject
from glam_env.evaluation.measures.events import known
from glam_env.evaluation.play.moments import RealMoment, dream_on, find_moments, play_on
from glam_env.evaluation.play.policies import Policy, standard_policies
from glam_env.evaluation.play.recording import add_noise
from glam_env.evaluation.rows import Row
from glam_env.games import find_game
from glam_env.model.world_model import WorldModel
from glam_env.protocols import PlaySettings

HORIZONS = (16, 32, 64)
STRIDE = 48  # steps from one moment to the next
RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class PolicyReturn:
    """Mean return of a policy, by horizon.

    Attributes:
        name: The policy.
        game, dream: Points over the first steps of its plays, for each of the horizons.
    """

    name: str
    game: tuple[float, ...]
    dream: tuple[float, ...]


@dataclass(frozen=True)
class Agreement:
    """Agreement of dreams and game on the policies' returns.

    Attributes:
        horizon: In steps.
        pearson, spearman: Correlations over the policies; None if all returns are equal.
        violation: Mean maximum rank violation, in points: for each policy the largest difference
            in the game from a policy that dreams rank on the wrong side of it.
        range: Largest less least return in the game, in points.
        pearson_interval, spearman_interval, violation_interval: 95 % bootstrap intervals over
            moments.
    """

    horizon: int
    pearson: float | None
    spearman: float | None
    violation: float
    range: float
    pearson_interval: Interval | None
    spearman_interval: Interval | None
    violation_interval: Interval | None


@dataclass(frozen=True)
class Chance:
    """The part of a policy's return that is chance.

    Chance comes from sticky actions, the policy's draws and a dream's latents. Dreams with less
    chance than the game show returns as certain that depend on luck in the game.

    Attributes:
        horizon: In steps.
        game, dream: Standard deviation of a policy's return from one moment, in points, pooled over
            policies and moments.
    """

    horizon: int
    game: float
    dream: float


@dataclass(frozen=True)
class RankingReport(Measure):
    """Results of `compare_policies`.

    Attributes:
        moments: Real moments from which each policy played on.
        futures, dreams: Plays of each policy from a moment, in the game and in dreams.
        seed: Seed of the measurement.
        policies: The policies and their returns.
        agreements: By growing horizon.
        chances: By growing horizon; empty if a policy plays only once from a moment, and in
            results of older versions.
    """

    moments: int
    futures: int
    dreams: int
    seed: int
    policies: tuple[PolicyReturn, ...]
    agreements: tuple[Agreement, ...]
    chances: tuple[Chance, ...] = ()

    @classmethod
    def measure(cls, subject: Subject) -> RankingReport | None:
        """Let the policies play; None if the settings take no moments."""
        settings = subject.settings
        if not settings.ranking_moments:
            return None
        standard = standard_policies(subject.act, subject.world_model.config.num_actions)
        return compare_policies(
            subject.world_model,
            subject.act,
            [*standard, *subject.policies],
            subject.game,
            noise=tuple(subject.players.values()),
            moments=settings.ranking_moments,
            context=settings.context,
            seed=settings.seed + 3,  # other games than those of the other measures
            play=settings.play,
            on_progress=subject.on_progress,
        )

    @property
    def about(self) -> str:
        """What was compared."""
        return (
            f"{len(self.policies)} policies play on from {self.moments} moments of held-out play, "
            f"{self.futures} times in the game and {self.dreams} times in dreams. Mean maximum "
            "rank violation: for each policy the largest difference, in points of the game, from "
            "one that dreams rank on the wrong side of it."
        )

    def rows(self) -> list[Row]:
        """Return the agreements, then each policy's returns."""
        rows = [
            Row(f"correlation over policies, {name.title()}", figure, bounds, 0.0, part.horizon)
            for name in ("pearson", "spearman")
            for part in self.agreements
            for figure, bounds in [(getattr(part, name), getattr(part, f"{name}_interval"))]
        ]
        rows += [
            Row(
                "mean maximum rank violation",
                part.violation,
                part.violation_interval,
                horizon=part.horizon,
            )
            for part in self.agreements
        ]
        rows += [
            Row("range of the policies' returns, game", part.range, horizon=part.horizon)
            for part in self.agreements
        ]
        rows += [
            Row(
                f"standard deviation of a policy's return from one moment, {world}",
                getattr(part, world),
                horizon=part.horizon,
            )
            for world in ("game", "dream")
            for part in self.chances
        ]
        return rows + [
            Row(f"return, {policy.name}, {world}", value, horizon=part.horizon)
            for policy in self.policies
            for world in ("game", "dream")
            for part, value in zip(self.agreements, getattr(policy, world), strict=True)
        ]


def compare_policies(
    world_model: WorldModel,
    act: Act,
    policies: Sequence[Policy],
    game: str,
    *,
    noise: Sequence[float] = (0.0,),
    moments: int = 48,
    stride: int = STRIDE,
    horizons: Sequence[int] = HORIZONS,
    futures: int = 2,
    dreams: int = 16,
    context: int = CONTEXT_LENGTH,
    seed: int = 0,
    play: PlaySettings | None = None,
    on_progress: OnProgress | None = None,
) -> RankingReport:
    """Let policies play on from real moments, in the game and in dreams.

    Args:
        world_model: In evaluation mode.
        act: The agent that plays up to the moments.
        policies: Two or more, with different names.
        game: Name of the game.
        noise: Chances that one of the agent's actions is random, one for each game played.
        moments: Number of moments, shared by the games.
        stride: Steps from one moment to the next.
        horizons: Ascending, in steps.
        futures: Plays of a policy from a moment in the game.
        dreams: Plays of a policy from a moment in dreams.
        context: Steps of an episode before a moment.
        seed: Seed of all random draws.
        play: Settings of the real game.
        on_progress: See `OnProgress`.

    Raises:
        GlamError: An impossible value, or episodes too short for moments.
    """
    if min(moments, stride, futures, dreams, context, *horizons) < 1 or len(policies) < 2:
        raise GlamError(
            "moments, stride, futures, dreams, context and horizons must be at least 1, and "
            "policies at least two"
        )
    if len({policy.name for policy in policies}) < len(policies):
        raise GlamError("two policies have the same name; give each its own")
    show = on_progress or (lambda work, done, total: None)
    real, found = find_game(game), list[RealMoment]()
    share = -(-moments // len(noise))
    for number, chance in enumerate(noise):
        found += find_moments(
            world_model,
            add_noise(act, world_model.config.num_actions, (chance,)),
            RewindableGame(real, play),
            count=share,
            stride=stride,
            context=context,
            seed=seed + number,
            on_moment=lambda done, before=number * share: show(
                "moments for the ranking of policies", before + done, share * len(noise)
            ),
        )
    plays = play_on(
        world_model,
        policies,
        real,
        play,
        found,
        horizon=horizons[-1],
        futures=futures,
        seed=seed,
        on_moment=lambda done: show("policies in the game (moments)", done, len(found)),
    )
    dreamt = dream_on(
        world_model,
        policies,
        found,
        horizon=horizons[-1],
        futures=dreams,
        seed=seed,
        on_policy=lambda done: show("policies in dreams", done, len(policies)),
    )
    ours, theirs = (
        np.stack([part[..., :h].sum(-1).mean(2) for h in horizons]) for part in (dreamt, plays)
    )  # (horizons, M, P)
    resamples = draw_rows(np.random.default_rng(seed), len(found), RESAMPLES)
    return RankingReport(
        moments=len(found),
        futures=futures,
        dreams=dreams,
        seed=seed,
        policies=tuple(
            PolicyReturn(
                policy.name,
                tuple(theirs[:, :, place].mean(1).tolist()),
                tuple(ours[:, :, place].mean(1).tolist()),
            )
            for place, policy in enumerate(policies)
        ),
        agreements=tuple(
            find_agreement(h, theirs[place], ours[place], resamples)
            for place, h in enumerate(horizons)
        ),
        chances=tuple(
            Chance(h, deviation(plays[..., :h].sum(-1)), deviation(dreamt[..., :h].sum(-1)))
            for h in horizons
            if min(futures, dreams) > 1
        ),
    )


def deviation(returns: np.ndarray) -> float:
    """Return the standard deviation of (M, P, F) returns over the F futures, pooled."""
    return float(np.sqrt(returns.var(2, ddof=1, dtype=np.float64).mean()))


def find_agreement(
    horizon: int, game: np.ndarray, dream: np.ndarray, resamples: np.ndarray
) -> Agreement:
    """Compare (M, P) returns of P policies from M moments.

    Args:
        horizon: For the report.
        game: Returns in the game.
        dream: Returns in dreams.
        resamples: Resamples of the moments, see `draw_rows`.
    """

    def over(figure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Interval | None:
        return interval(lambda rows: figure(game[rows].mean(1), dream[rows].mean(1)), resamples)

    real, dreamt = game.mean(0), dream.mean(0)
    return Agreement(
        horizon=horizon,
        pearson=known(pearson(real, dreamt)),
        spearman=known(spearman(real, dreamt)),
        violation=float(rank_violation(real, dreamt)),
        range=float(np.ptp(real)),
        pearson_interval=over(pearson),
        spearman_interval=over(spearman),
        violation_interval=over(rank_violation),
    )


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the (...) linear correlation of (..., P) values.

    It is NaN where `x` or `y` does not vary.
    """
    x, y = (part - part.mean(-1, keepdims=True) for part in (x, y))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the (...) correlation of the ranks of (..., P) values."""
    return pearson(ranks(x), ranks(y))


def ranks(x: np.ndarray) -> np.ndarray:
    """Return the ranks of (..., P) values from 0; equal values share their mean rank."""
    below = (x[..., None] > x[..., None, :]).sum(-1)
    equal = (x[..., None] == x[..., None, :]).sum(-1)
    return below + (equal - 1) / 2


def rank_violation(real: np.ndarray, dreamt: np.ndarray) -> np.ndarray:
    """Return the (...) mean maximum rank violation of (..., P) returns.

    Li et al. 2024, "Evaluating Real-World Robot Manipulation Policies in Simulation", section 3.
    """
    real_gap = real[..., :, None] - real[..., None, :]
    dreamt_gap = dreamt[..., :, None] - dreamt[..., None, :]
    wrong = (real_gap < 0) != (dreamt_gap < 0)
    return (np.abs(real_gap) * wrong).max(-1).mean(-1)
