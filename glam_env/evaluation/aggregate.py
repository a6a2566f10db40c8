"""Figures over the runs of many games, with stratified bootstrap intervals.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice". A
stratum is a game: a resample draws as many runs of each game as there are, with replacement. Games
may have different numbers of runs. All scores are normalised, human play is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from glam_env.evaluation.bootstrap import Interval, draw_rows, ends

Strata = Sequence[np.ndarray]
"""The scores of each game's runs, (…, runs) float each; leading axes are resamples."""

RESAMPLES = 50_000
PROFILE_RESAMPLES = 2_000  # a profile has many points
CHUNK = 2_000  # resamples in memory at once
TRIM = 0.25  # share of the runs cut off at either end for the interquartile mean


def mean(scores: Strata) -> np.ndarray:
    """Return the mean over games of the mean over runs."""
    return _game_means(scores).mean(-1)


def median(scores: Strata) -> np.ndarray:
    """Return the median over games of the mean over runs."""
    return np.median(_game_means(scores), axis=-1)


def interquartile_mean(scores: Strata) -> np.ndarray:
    """Return the mean of the middle half of all runs of all games."""
    pooled = np.concatenate(scores, axis=-1)
    count = pooled.shape[-1]
    cut = int(TRIM * count)
    kept = np.partition(pooled, (cut, count - cut - 1), axis=-1)[..., cut : count - cut]
    return kept.mean(-1)


def optimality_gap(scores: Strata) -> np.ndarray:
    """Return the mean distance of runs below human play.

    A run above human play counts as human play.
    """
    return 1.0 - np.minimum(np.concatenate(scores, axis=-1), 1.0).mean(-1)


AGGREGATES: Mapping[str, Callable[[Strata], np.ndarray]] = {
    "mean": mean,
    "median": median,
    "iqm": interquartile_mean,
    "optimality_gap": optimality_gap,
}
"""Figures by name."""


def _game_means(scores: Strata) -> np.ndarray:
    return np.stack([runs.mean(-1) for runs in scores], axis=-1)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, which needs at least two runs of every game."""

    value: float
    interval: Interval | None


def draw_strata(
    generator: np.random.Generator, scores: Strata, resamples: int
) -> Iterator[list[np.ndarray]]:
    """Yield resampled scores, in chunks of (resamples, runs) for each game."""
    for begin in range(0, resamples, CHUNK):
        count = min(CHUNK, resamples - begin)
        yield [runs[draw_rows(generator, len(runs), count)] for runs in scores]


def has_interval(scores: Strata) -> bool:
    """Return whether every game has at least two runs."""
    return all(runs.shape[-1] > 1 for runs in scores)


def aggregate(scores: Strata, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Estimate]:
    """Compute all figures of `AGGREGATES`, with intervals.

    Args:
        scores: Normalised scores of each game's runs, (runs,) float each.
        resamples: Number of resamples of the bootstrap.
        seed: Seed of the resamples: the same scores give the same intervals.
    """
    points = {name: float(figure(scores)) for name, figure in AGGREGATES.items()}
    if not has_interval(scores):
        return {name: Estimate(value, None) for name, value in points.items()}
    found: dict[str, list[np.ndarray]] = {name: [] for name in AGGREGATES}
    for drawn in draw_strata(np.random.default_rng(seed), scores, resamples):
        for name, figure in AGGREGATES.items():
            found[name].append(figure(drawn))
    return {
        name: Estimate(value, ends(np.concatenate(found[name]))) for name, value in points.items()
    }


@dataclass(frozen=True)
class Profile:
    """A performance profile: the share of runs above each score.

    Attributes:
        scores: (T,) normalised scores, ascending.
        share: (T,) share of all runs of all games that are above.
        low, high: (T,) ends of 95 % intervals, or None.
    """

    scores: np.ndarray
    share: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


def share_above(scores: Strata, levels: np.ndarray) -> np.ndarray:
    """Return the share of runs above each level: (…, T) for `levels` (T,)."""
    pooled = np.concatenate(scores, axis=-1)
    return np.stack([(pooled > level).mean(-1) for level in levels], axis=-1)


def profile(
    scores: Strata, levels: np.ndarray, resamples: int = PROFILE_RESAMPLES, seed: int = 0
) -> Profile:
    """Compute a performance profile with pointwise intervals; see `aggregate`."""
    share = share_above(scores, levels)
    if not has_interval(scores):
        return Profile(levels, share, None, None)
    generator = np.random.default_rng(seed)
    drawn = [share_above(part, levels) for part in draw_strata(generator, scores, resamples)]
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5], axis=0)
    return Profile(levels, share, low, high)


def improvement(scores: Strata, others: Strata) -> np.ndarray:
    """Return the probability that a run beats a run of others, averaged over games.

    A tie counts half.

    Args:
        scores: Scores of each game's runs, (…, runs).
        others: Scores of the others in the same games, (…, their runs).
    """
    games = [
        ((x[..., :, None] > y[..., None, :]) + 0.5 * (x[..., :, None] == y[..., None, :])).mean(
            (-2, -1)
        )
        for x, y in zip(scores, others, strict=True)
    ]
    return np.stack(games, axis=-1).mean(-1)


def improvement_over(
    scores: Strata, others: Strata, resamples: int = PROFILE_RESAMPLES, seed: int = 0
) -> Estimate:
    """Estimate the probability of improvement, both sides resampled independently.

    A published mean is one run of each game: the interval is then that of `scores` alone.
    """
    value = float(improvement(scores, others))
    if not has_interval(scores):
        return Estimate(value, None)
    ours, theirs = (np.random.default_rng([seed, side]) for side in (0, 1))
    pairs = zip(
        draw_strata(ours, scores, resamples), draw_strata(theirs, others, resamples), strict=True
    )
    return Estimate(value, ends(np.concatenate([improvement(x, y) for x, y in pairs])))
