"""Rows: the form in which every measure returns its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glam_env.evaluation.bootstrap import Interval

HORIZONS = (1, 2, 4, 8, 16, 32, 64)
"""Horizons, in steps, at which a curve becomes rows."""


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        title: What it is, as `figure` or `figure, of what`. Rows of one figure are drawn together.
        value: The figure; None where there was nothing to measure.
        interval: Its 95 % interval, if there is one.
        chance: The value that a dream which knows nothing reaches, if there is one.
        horizon: The step to which the figure belongs, if it is one of a curve.
        note: A short note, such as a verdict.
        ceiling: The value that a dream which knows the game perfectly reaches, if it was measured.
    """

    title: str
    value: float | None
    interval: Interval | None = None
    chance: float | None = None
    horizon: int | None = None
    note: str = ""
    ceiling: float | None = None


def curve_rows(title: str, curve: Sequence[float | None]) -> list[Row]:
    """Make rows of a curve, one at each of `HORIZONS` that it reaches.

    Args:
        title: See `Row`.
        curve: The figure at 1, 2, 3, … steps.
    """
    return [Row(title, curve[h - 1], horizon=h) for h in HORIZONS if h <= len(curve)]
