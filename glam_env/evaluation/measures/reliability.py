"""Reliability: whether the probabilities of an event are its frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glam_env.evaluation.bootstrap import Interval, draw_counts, interval
from glam_env.evaluation.measures.events import known

BINS = 10  # of probability, of equal width
RESAMPLES = 1000  # of the bootstrap


@dataclass(frozen=True)
class ReliabilityBin:
    """Steps at which an event has a probability in some range.

    Attributes:
        low, high: The range.
        steps: Their number; points won and points lost count one each.
        predicted: Mean probability.
        happened: Share of the steps at which the event happened.
    """

    low: float
    high: float
    steps: int
    predicted: float
    happened: float


@dataclass(frozen=True)
class Reliability:
    """Probabilities of an event in dreams, compared with its frequency.

    The first `horizon` steps of the dreams count.

    Attributes:
        horizon: In steps.
        steps: Predictions compared; points won and points lost are one each.
        events: Those at which the event happened.
        error: Expected calibration error over `BINS` bins (Guo et al. 2017): the mean difference
            between probability and frequency, weighted by the steps.
        never_error: The same for a dream that never predicts the event: its frequency.
        skill: Brier skill score (Murphy 1973): 1 for certain and right predictions, 0 for the
            event's frequency at every step; None without events.
        error_interval, skill_interval: 95 % bootstrap intervals over windows.
        bins: Bins that hold steps, by growing probability.
    """

    horizon: int
    steps: int
    events: int
    error: float
    never_error: float
    skill: float | None
    error_interval: Interval | None
    skill_interval: Interval | None
    bins: tuple[ReliabilityBin, ...]


def reliability(
    predicted: np.ndarray, happened: np.ndarray, counted: np.ndarray, *, horizon: int, seed: int
) -> Reliability:
    """Compare probabilities with what happened.

    Args:
        predicted: (W, N) probabilities of W windows.
        happened: (W, N) bool.
        counted: (W, N) bool; other steps are left out.
        horizon: For the report.
        seed: Seed of the bootstrap.
    """
    edges = np.linspace(0.0, 1.0, BINS + 1)
    place = np.clip(np.digitize(predicted, edges[1:-1]), 0, BINS - 1)
    inside = (place[..., None] == np.arange(BINS)) & counted[..., None]  # (W, N, BINS)
    steps, chances, events = (
        (inside * part[..., None]).sum(1, dtype=np.float64)
        for part in (np.ones_like(predicted), predicted, happened)
    )  # (W, BINS)
    misses = (counted * np.square(predicted - happened)).sum(1, dtype=np.float64)[:, None]  # (W, 1)
    sums = np.concatenate([steps, chances, events, misses], 1)

    def error(sums: np.ndarray) -> np.ndarray:
        steps, chances, events = np.split(sums[..., :-1], 3, -1)
        return np.abs(chances - events).sum(-1) / steps.sum(-1)

    def skill(sums: np.ndarray) -> np.ndarray:
        steps, _, events = np.split(sums[..., :-1], 3, -1)
        share = events.sum(-1) / steps.sum(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1.0 - sums[..., -1] / steps.sum(-1) / (share * (1.0 - share))

    draws = draw_counts(np.random.default_rng(seed), len(predicted), RESAMPLES)
    total = sums.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found_error = error(total)
    return Reliability(
        horizon=horizon,
        steps=int(total[:BINS].sum()),
        events=int(total[2 * BINS : 3 * BINS].sum()),
        error=float(found_error),
        never_error=float(total[2 * BINS : 3 * BINS].sum() / total[:BINS].sum()),
        skill=known(skill(total)),
        error_interval=interval(lambda draws: error(draws @ sums), draws),
        skill_interval=interval(lambda draws: skill(draws @ sums), draws),
        bins=tuple(
            ReliabilityBin(
                float(edges[i]),
                float(edges[i + 1]),
                int(total[i]),
                float(total[BINS + i] / total[i]),
                float(total[2 * BINS + i] / total[i]),
            )
            for i in range(BINS)
            if total[i]
        ),
    )
