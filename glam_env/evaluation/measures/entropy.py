"""The prior's entropy as a predictor of dream errors, and the gain of limiting it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glam_env.evaluation.bootstrap import Interval, draw_counts, draw_rows, interval
from glam_env.evaluation.measures.events import known
from glam_env.evaluation.measures.ranking import pearson

RESAMPLES = 1000  # of the bootstrap
CUTS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)  # quantiles tried as limits
LEAST_KEPT = 0.5  # share of the steps that a limit must keep


@dataclass(frozen=True)
class EntropyLink:
    """Rank correlation over dreams of the mean prior entropy up to a step with errors.

    Attributes:
        horizon: The step.
        image: With the foreground error at the step.
        reward: With whether a reward up to the step was missed or made up.
        image_interval, reward_interval: 95 % bootstrap intervals over windows.
    """

    horizon: int
    image: float | None
    reward: float | None
    image_interval: Interval | None
    reward_interval: Interval | None


@dataclass(frozen=True)
class EntropyLimit:
    """A value of `max_prior_entropy`, compared with a shorter horizon.

    The shorter horizon keeps as many steps. The limit is chosen on every second window; all
    figures are of the others.

    Attributes:
        limit: In nats.
        kept: Share of the steps that it keeps.
        error: Mean foreground error of the steps that it keeps.
        horizon_error: The same for dreams of a fixed horizon that keep as many steps.
        gain: 1 − error / horizon_error.
        gain_interval: 95 % bootstrap interval over windows.
    """

    limit: float
    kept: float
    error: float
    horizon_error: float
    gain: float
    gain_interval: Interval | None


def link_entropy(
    entropy: np.ndarray,
    errors: np.ndarray,
    wrong: np.ndarray,
    counted: np.ndarray,
    horizon: int,
    seed: int,
) -> EntropyLink:
    """Correlate the mean entropy of the first `horizon` steps with errors.

    Args:
        entropy: (W, H) nats.
        errors: (W, H) foreground errors.
        wrong: (W, at least H) bool, a reward was missed or made up.
        counted: (W, H) bool, the real episode went on; other windows are left out.
        horizon: In steps.
        seed: Seed of the bootstrap.
    """
    there = counted[:, horizon - 1]
    so_far: np.ndarray = entropy[there, :horizon].mean(1)
    image: np.ndarray = errors[there, horizon - 1]
    reward = np.asarray(wrong[there, :horizon].any(1), np.float64)  # (N)
    rows = draw_rows(np.random.default_rng(seed), int(there.sum()), RESAMPLES)

    def link(error: np.ndarray) -> tuple[float | None, Interval | None]:
        figure = known(_spearman(so_far[None], error[None]).squeeze()) if len(error) > 1 else None
        if figure is None:
            return None, None
        return figure, interval(lambda rows: _spearman(so_far[rows], error[rows]), rows)

    (image_link, image_interval), (reward_link, reward_interval) = link(image), link(reward)
    return EntropyLink(horizon, image_link, reward_link, image_interval, reward_interval)


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute `spearman` of (R, N) resamples by sorting, since N is large here."""
    return pearson(*(np.stack([_ranks(row) for row in part]) for part in (x, y)))


def _ranks(x: np.ndarray) -> np.ndarray:
    """Return `ranks` of (N) values."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (counts.cumsum() - counts + (counts - 1) / 2)[place]


def find_limit(
    entropy: np.ndarray, errors: np.ndarray, counted: np.ndarray, seed: int
) -> EntropyLimit | None:
    """Find the limit of the entropy that beats a shorter horizon by the most.

    As in an env, the step whose entropy exceeds the limit is a dream's last one.

    Args:
        entropy: (W, H) nats.
        errors: (W, H) foreground errors.
        counted: (W, H) bool, steps that are compared.
        seed: Seed of the bootstrap.

    Returns:
        The limit; None if no limit ends a dream early, or there are no errors or too few windows.
    """
    chosen, judged = slice(0, None, 2), slice(1, None, 2)
    if len(entropy) < 4 or not np.ptp(entropy[counted]):
        return None
    gains: dict[float, float] = {}
    for limit in np.quantile(entropy[chosen][counted[chosen]], CUTS).tolist():
        found = _compare(limit, entropy[chosen], errors[chosen], counted[chosen])
        if found is not None:
            gains[limit] = float(1.0 - _ratio(found))
    if not gains:
        return None
    limit = max(gains, key=lambda limit: gains[limit])
    sums = _compare(limit, entropy[judged], errors[judged], counted[judged])
    if sums is None:
        return None
    draws = draw_counts(np.random.default_rng(seed), len(sums), RESAMPLES)
    error, kept, fixed_error, fixed = sums.sum(0).tolist()
    return EntropyLimit(
        limit=limit,
        kept=kept / float(counted[judged].sum()),
        error=error / kept,
        horizon_error=fixed_error / fixed,
        gain=float(1.0 - _ratio(sums)),
        gain_interval=interval(lambda draws: 1.0 - _ratio(draws @ sums, axis=None), draws),
    )


def _compare(
    limit: float, entropy: np.ndarray, errors: np.ndarray, counted: np.ndarray
) -> np.ndarray | None:
    """Sum errors and steps of each window, within a limit and within a horizon.

    The horizon ends within a step, so that it keeps as many steps as the limit.

    Returns:
        (W, 4); None if the limit keeps all steps or less than `LEAST_KEPT` of them, or if there
        are no errors.
    """
    over = entropy > limit
    within = counted & (over.cumsum(1) - over == 0)
    share = within.sum() / counted.sum()
    if not LEAST_KEPT <= share < 1.0:
        return None
    steps = counted.sum(0)  # (H)
    before = steps.cumsum() - steps
    weight = np.clip((within.sum() - before) / np.maximum(steps, 1), 0.0, 1.0)  # (H)
    errors = np.where(counted, errors, 0.0)
    if not (errors * weight).any():
        return None
    return np.stack(
        [
            (errors * within).sum(1),
            within.sum(1),
            (errors * weight).sum(1),
            (counted * weight).sum(1),
        ],
        1,
    )


def _ratio(sums: np.ndarray, axis: int | None = 0) -> np.ndarray:
    """Divide the mean error within the limit by that within the horizon."""
    error, kept, fixed_error, fixed = np.moveaxis(sums if axis is None else sums.sum(axis), -1, 0)
    return (error / kept) / (fixed_error / fixed)
