"""Rare events in dreams compared with the real ones: rewards and ends of life.

Events are paired if they lie within `TOLERANCE` steps. Points are summed over windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from glam_env.evaluation.bootstrap import Interval, draw_counts, interval
from glam_env.evaluation.measures.base import Measure, Subject
from glam_env.evaluation.play.open_loop import BEYOND
from glam_env.evaluation.play.recording import reward_events
from glam_env.evaluation.rows import Row

TOLERANCE = BEYOND  # steps that an event may be off
EVENT_HORIZONS = (16, 32, 64)  # that figures are given for
BINS = 9  # of a window's points
RESAMPLES = 1000  # of the bootstrap


@dataclass(frozen=True)
class EventScore:
    """Events of the first `horizon` steps, dreamt and real.

    They are matched one to one within ± `TOLERANCE` steps.

    Attributes:
        horizon: In steps.
        steps: Steps compared, over all windows.
        real, dreamt: Events on either side.
        found: Real events that the dream predicted.
        false_alarms: Dreamt events that did not happen.
        precision, recall: None without dreamt events, and without real events, respectively.
        f1: None where there is no real event.
        f1_interval: 95 % bootstrap interval over the windows.
        chance_f1: F1 of the base rate: of the real events of other windows, drawn at random.
            (Predicting none, as a repeated frame does, has an F1 of 0.)
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
    f1_interval: Interval | None
    chance_f1: float | None


@dataclass(frozen=True)
class RewardBin:
    """Windows with similar dreamt points: their number and mean points."""

    windows: int
    dreamt: float
    real: float


@dataclass(frozen=True)
class RewardSum:
    """Points of a window's first `horizon` steps.

    Attributes:
        horizon: In steps.
        real, dreamt: Means over the windows; the dream's points are its expected rewards.
        correlation: Over the windows; None where either side never varies.
        slope, intercept: Of the least-squares line real = slope × dreamt + intercept: 1 and 0
            where the dream's points can be taken at face value. None as above.
        error: Mean squared error of the dreamt points.
        never_error, average_error: The same for no points at all, and for the mean real ones.
        bins: From few points to many, in `BINS` steps of one width; those without windows are
            left out.
    """

    horizon: int
    real: float
    dreamt: float
    correlation: float | None
    slope: float | None
    intercept: float | None
    error: float
    never_error: float
    average_error: float
    bins: tuple[RewardBin, ...]


@dataclass(frozen=True)
class EventReport(Measure):
    """Events and points of open loop.

    Attributes:
        rewards, endings: The dream's events, by growing horizon.
        player_rewards: The rewards by player, at the first of the horizons.
        reward_sums: By growing horizon.
    """

    flat: ClassVar[bool] = True

    rewards: tuple[EventScore, ...]
    endings: tuple[EventScore, ...]
    player_rewards: dict[str, EventScore]
    reward_sums: tuple[RewardSum, ...]

    @classmethod
    def measure(cls, subject: Subject) -> EventReport:
        """Compare rewards and endings of open loop."""
        dreams, players = subject.open_loop, subject.recorded_players
        horizons = [h for h in EVENT_HORIZONS if h <= dreams.horizon] or [dreams.horizon]
        alive = dreams.alive
        events = reward_events(dreams.reward), dreams.dreamt_event, alive
        endings = dreams.life_lost.astype(np.int8), dreams.dreamt_ending.astype(np.int8), alive
        played_by = np.array(players)[dreams.env] if players else np.empty(len(dreams.env))
        return cls(
            rewards=tuple(score_events(*events, h) for h in horizons),
            endings=tuple(score_events(*endings, h) for h in horizons),
            player_rewards={
                name: score_events(*(part[rows] for part in events), horizon=horizons[0])
                for name in dict.fromkeys(players)
                if (rows := played_by == name).any()
            },
            reward_sums=tuple(
                sum_rewards(dreams.reward, dreams.dreamt_reward, alive, h) for h in horizons
            ),
        )

    @property
    def about(self) -> str:
        """How to read the figures."""
        return (
            "Rewards and ends of life in the first steps of the dream, matched one to one with "
            f"the real ones within ± {TOLERANCE} steps; by chance is the F1 of the base rate. "
            "Points are summed over each window: at a slope of 1 the dreamt ones can be taken at "
            "face value, and a squared error is good if it is less than that of never a point "
            "and of always the average."
        )

    def rows(self) -> list[Row]:
        """Return the counts, the scores by horizon and by player, and the sums."""
        named = [("rewards", score) for score in self.rewards]
        named += [(f"rewards, played by {name}", s) for name, s in self.player_rewards.items()]
        named += [("ends of life", score) for score in self.endings]
        figures = {
            "real": "real events",
            "found": "events found",
            "false_alarms": "false alarms",
            "precision": "precision",
            "recall": "recall",
        }
        rows = [
            Row(f"{title}, {name}", getattr(score, figure), horizon=score.horizon)
            for name, scores in _grouped(named).items()
            for figure, title in figures.items()
            for score in scores
        ]
        rows += [
            Row(f"F1 to step {score.horizon}, {name}", score.f1, score.f1_interval, score.chance_f1)
            for name, score in named
        ]
        sums = {
            "real": "points of a window, real",
            "dreamt": "points of a window, dreamt",
            "correlation": "correlation of the points",
            "slope": "slope of the real points over the dreamt ones",
            "error": "squared error of the points, dream",
            "never_error": "squared error of the points, never a point",
            "average_error": "squared error of the points, always the average",
        }
        return rows + [
            Row(title, getattr(part, figure), horizon=part.horizon)
            for figure, title in sums.items()
            for part in self.reward_sums
        ]


def _grouped(named: list[tuple[str, EventScore]]) -> dict[str, list[EventScore]]:
    groups: dict[str, list[EventScore]] = {}
    for name, score in named:
        groups.setdefault(name, []).append(score)
    return groups


def match_events(real: np.ndarray, dreamt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair events of the same kind that lie within `TOLERANCE` steps.

    As many events as possible are paired.

    Args:
        real, dreamt: (W, L) int8, the kind of event at each step of each window, 0 for none.

    Returns:
        (W, L) bool each, the real events and the dreamt ones that have a partner.
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
    """Score the events of the first `horizon` steps.

    Events of later steps may be partners but do not count, and neither do events that are dreamt
    after the real episode's end. Real events after it must be 0.

    Args:
        real, dreamt: (W, L) int8 as for `match_events`, `TOLERANCE` steps longer than `horizon`.
        alive: (W, L) bool, the real episode was going on when the step began.
        horizon: In steps.
    """
    counts = _count_events(real, dreamt, alive, horizon)
    generator = np.random.default_rng(0)  # the same windows give the same figures
    others = generator.permutation(len(real))
    chance = _count_events(real, real[others], alive, horizon)
    draws = draw_counts(generator, len(real), RESAMPLES)
    real_count, dreamt_count, found_count, true_count = counts.sum(0).tolist()
    return EventScore(
        horizon=horizon,
        steps=int(alive[:, :horizon].sum()),
        real=real_count,
        dreamt=dreamt_count,
        found=found_count,
        false_alarms=dreamt_count - true_count,
        precision=true_count / dreamt_count if dreamt_count else None,
        recall=found_count / real_count if real_count else None,
        f1=known(_f1(counts.sum(0))),
        f1_interval=interval(lambda draws: _f1(draws @ counts), draws),
        chance_f1=known(_f1(chance.sum(0))),
    )


def _count_events(
    real: np.ndarray, dreamt: np.ndarray, alive: np.ndarray, horizon: int
) -> np.ndarray:
    """Count real, dreamt, found and true events of each window: (W, 4) int64.

    Only the first `horizon` steps count.
    """
    alive = alive[:, :horizon]
    return np.stack(
        [
            (events[:, :horizon].astype(bool) & alive).sum(1)
            for events in (real, dreamt, *match_events(real, dreamt))
        ],
        axis=1,
    )


def _f1(counts: np.ndarray) -> np.ndarray:
    """Compute (...) F1 from (..., 4) counts as above; NaN without real events."""
    real, dreamt, found, true = np.moveaxis(counts.astype(np.float64), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = true / dreamt, found / real
        f1 = 2 * precision * recall / (precision + recall)
    return np.where(real > 0, np.where((found > 0) & (true > 0), f1, 0.0), np.nan)


def known(figure: np.ndarray) -> float | None:
    """Return a figure, or None if it is NaN or infinite for lack of data."""
    return float(figure) if np.isfinite(figure) else None


def sum_rewards(real: np.ndarray, dreamt: np.ndarray, alive: np.ndarray, horizon: int) -> RewardSum:
    """Compare the points of each window's first `horizon` steps.

    Args:
        real, dreamt: (W, L) float32.
        alive: (W, L) bool as for `score_events`; other steps are left out on both sides.
        horizon: In steps.
    """
    real, dreamt = (
        (points * alive)[:, :horizon].sum(1, dtype=np.float64) for points in (real, dreamt)
    )
    correlation = slope = intercept = None
    if np.ptp(real) > 0 and np.ptp(dreamt) > 0:
        correlation = float(np.corrcoef(real, dreamt)[0, 1])
        slope = correlation * float(real.std() / dreamt.std())
        intercept = float(real.mean() - slope * dreamt.mean())
    return RewardSum(
        horizon=horizon,
        real=float(real.mean()),
        dreamt=float(dreamt.mean()),
        correlation=correlation,
        slope=slope,
        intercept=intercept,
        error=float(np.square(dreamt - real).mean()),
        never_error=float(np.square(real).mean()),
        average_error=float(real.var()),
        bins=_bin_rewards(real, dreamt),
    )


def _bin_rewards(real: np.ndarray, dreamt: np.ndarray) -> tuple[RewardBin, ...]:
    edges = np.linspace(dreamt.min(), dreamt.max(), BINS + 1)
    place = np.digitize(dreamt, edges[1:-1])
    groups = [(dreamt[place == i], real[place == i]) for i in range(BINS)]
    return tuple(
        RewardBin(len(ours), float(ours.mean()), float(theirs.mean()))
        for ours, theirs in groups
        if len(ours)
    )
