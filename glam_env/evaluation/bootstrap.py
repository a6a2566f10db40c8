"""Percentile bootstrap intervals, one rule for all measures.

Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3. A measure draws its
resamples with `draw_rows` or `draw_counts` and passes them to `interval` with a function that
computes its figure for each resample. The measure owns the generator, so that the same data give
the same interval.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Interval = tuple[float, float]
"""The lower and the upper end."""

LEVEL = 95  # per cent


def draw_rows(generator: np.random.Generator, items: int, resamples: int) -> np.ndarray:
    """Draw resamples as row numbers: (resamples, items) int64."""
    return generator.integers(items, size=(resamples, items))


def count_rows(rows: np.ndarray) -> np.ndarray:
    """Count how often each resample of `draw_rows` holds each item.

    Returns:
        (resamples, items) int64.
    """
    return np.stack([np.bincount(row, minlength=rows.shape[1]) for row in rows])


def draw_counts(generator: np.random.Generator, items: int, resamples: int) -> np.ndarray:
    """Draw resamples as the number of times that each holds each item.

    The distribution is that of `count_rows(draw_rows(...))`, without the rows in memory.

    Returns:
        (resamples, items) int64.
    """
    return generator.multinomial(items, np.full(items, 1 / items), resamples)


def interval(
    figure: Callable[[np.ndarray], np.ndarray], resamples: np.ndarray, level: float = LEVEL
) -> Interval | None:
    """Compute the percentile interval of a figure.

    There is no interval for fewer than two items, or if the figure of any resample is undefined
    (NaN or infinite). Leaving undefined resamples out would give the interval of another quantity:
    of the figure given that it is defined.

    Args:
        figure: Takes the resamples and returns the figure of each, (resamples,) float.
        resamples: (resamples, items) int64, of `draw_rows` or `draw_counts`.
        level: Share of the resamples between the ends, in per cent.

    Returns:
        The ends, or None if there is no interval.
    """
    if resamples.shape[1] < 2:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return ends(figure(resamples), level)


def ends(figures: np.ndarray, level: float = LEVEL) -> Interval | None:
    """Return the percentile interval of the figures of resamples.

    It is None if a figure is NaN or infinite.
    """
    if not np.isfinite(figures).all():
        return None
    low, high = np.percentile(figures, [50 - level / 2, 50 + level / 2])
    return float(low), float(high)
