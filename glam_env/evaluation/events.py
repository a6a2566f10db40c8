"""Rare events in a dream beside the real ones: rewards and endings, found or not, and when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOLERANCE = 2  # steps that an event may be off
EVENT_HORIZONS = (16, 32, 64)  # that figures are given for
REWARD_EVENT = 0.5  # least points, in absolute value, that make an event


@dataclass(frozen=True)
class EventScore:
    """Events of the first `horizon` steps, matched one to one within ± `TOLERANCE` steps.

    Attributes:
        horizon: In steps.
        steps: Steps compared, over all windows.
        real, dreamt: Events on either side.
        found: Real events that the dream foretold.
        false_alarms: Dreamt events that did not happen.
        precision, recall: None where there is no dreamt, no real event.
        f1: None where there is no real event.
    """

    horizon: int
    steps: int
    real: int
    dreamt: int
    found: int
    false_alarms: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class RewardSum:
    """Points of a window's first `horizon` steps.

    Attributes:
        horizon: In steps.
        real, dreamt: Means over the windows; the dream's points are its expected rewards.
        correlation: Over the windows; None where either side never varies.
    """

    horizon: int
    real: float
    dreamt: float
    correlation: float | None


def reward_events(rewards: np.ndarray) -> np.ndarray:
    """Rewards (any shape) as events: 1 for points won, −1 for points lost, 0 for too few."""
    return np.where(np.abs(rewards) >= REWARD_EVENT, np.sign(rewards), 0).astype(np.int8)


def match_events(real: np.ndarray, dreamt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs events of the same kind that lie within `TOLERANCE` steps, as many as possible.

    Args:
        real, dreamt: (W, L) int8, the kind of event at each step of each window, 0 for none.

    Returns:
        (W, L) bool each: the real events and the dreamt ones that have a partner.
    """
    found, true = np.zeros(real.shape, bool), np.zeros(dreamt.shape, bool)
    for window in np.flatnonzero(real.any(1) & dreamt.any(1)):
        for kind in np.unique(real[window][real[window] != 0]):
            ours = np.flatnonzero(real[window] == kind).tolist()
            theirs = np.flatnonzero(dreamt[window] == kind).tolist()
            while ours and theirs:  # the earliest of both, if they are near enough
                if abs(ours[0] - theirs[0]) <= TOLERANCE:
                    found[window, ours.pop(0)] = true[window, theirs.pop(0)] = True
                else:
                    (ours if ours[0] < theirs[0] else theirs).pop(0)
    return found, true


def score_events(
    real: np.ndarray, dreamt: np.ndarray, alive: np.ndarray, horizon: int
) -> EventScore:
    """Scores the events of the first `horizon` steps.

    Those of later steps may be partners, but do not count themselves; the same goes for what is
    dreamt after the real episode's end. Real events there must not be given.

    Args:
        real, dreamt: (W, L) int8 as for `match_events`, `TOLERANCE` steps longer than `horizon`.
        alive: (W, L) bool, the real episode was going on when the step began.
        horizon: In steps.
    """
    found, true = match_events(real, dreamt)
    alive = alive[:, :horizon]
    counts = [
        int((events[:, :horizon].astype(bool) & alive).sum())
        for events in (real, dreamt, found, true)
    ]
    real_count, dreamt_count, found_count, true_count = counts
    precision = true_count / dreamt_count if dreamt_count else None
    recall = found_count / real_count if real_count else None
    f1 = None
    if recall is not None:
        f1 = 2 * precision * recall / (precision + recall) if precision and recall else 0.0
    return EventScore(
        horizon=horizon,
        steps=int(alive.sum()),
        real=real_count,
        dreamt=dreamt_count,
        found=found_count,
        false_alarms=dreamt_count - true_count,
        precision=precision,
        recall=recall,
        f1=f1,
    )


def sum_rewards(real: np.ndarray, dreamt: np.ndarray, alive: np.ndarray, horizon: int) -> RewardSum:
    """Compares the points of each window's first `horizon` steps.

    Args:
        real, dreamt: (W, L) float32.
        alive: (W, L) bool as for `score_events`; other steps are left out on both sides.
        horizon: In steps.
    """
    real, dreamt = (
        (points * alive)[:, :horizon].sum(1, dtype=np.float64) for points in (real, dreamt)
    )
    varies = np.ptp(real) > 0 and np.ptp(dreamt) > 0
    return RewardSum(
        horizon=horizon,
        real=float(real.mean()),
        dreamt=float(dreamt.mean()),
        correlation=float(np.corrcoef(real, dreamt)[0, 1]) if varies else None,
    )
