"""Are a dream's probabilities frequencies, and does its entropy predict its errors?

Reliability: of the steps at which a dream gives an event the probability p, the event should happen
at a share p. Entropy: an agent is misled where a dream is wrong; if the prior's entropy is high
there, `max_prior_entropy` can end dreams before it happens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glam_env.evaluation.bootstrap import Interval, draw_counts, draw_rows, interval
from glam_env.evaluation.measures.base import Measure, Subject
from glam_env.evaluation.measures.events import EVENT_HORIZONS, known, match_events
from glam_env.evaluation.measures.images import find_background, foreground_errors
from glam_env.evaluation.measures.ranking import spearman
from glam_env.evaluation.play.open_loop import OpenLoop
from glam_env.evaluation.play.recording import reward_events
from glam_env.evaluation.rows import HORIZONS, Row

BINS = 10  # of probability, of equal width
RESAMPLES = 1000  # of the bootstrap
CUTS = (
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    0.95,
    0.98,
    0.99,
    0.995,
)  # quantiles of the entropy, tried as limits
LEAST_KEPT = 0.5  # share of the steps that a limit must keep


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
    """Probabilities of an event in the first `horizon` steps of dreams, against its frequency.

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
        bins: Those that hold steps, by growing probability.
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
    """A value of `max_prior_entropy` against a shorter horizon that keeps as many steps.

    The limit is chosen on every second window; all figures are of the others.

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


@dataclass(frozen=True)
class CalibrationReport(Measure):
    """Calibration of open loop.

    Attributes:
        rewards, endings: By growing horizon.
        entropy: By growing horizon.
        limit: The best limit that was found; None if the entropy never varies.
        max_prior_entropy: The recommended value: that of `limit` if the interval of its gain lies
            above 0, else None.
    """

    rewards: tuple[Reliability, ...]
    endings: tuple[Reliability, ...]
    entropy: tuple[EntropyLink, ...]
    limit: EntropyLimit | None
    max_prior_entropy: float | None

    @classmethod
    def measure(cls, subject: Subject) -> CalibrationReport:
        """Compare the probabilities and entropies of open loop with what happened."""
        dreams, seed = subject.open_loop, subject.settings.seed
        horizons = [h for h in EVENT_HORIZONS if h <= dreams.horizon] or [dreams.horizon]
        real, dreamt = reward_events(dreams.reward), reward_events(dreams.dreamt_reward)
        won_and_lost = np.concatenate([real > 0, real < 0], 1)
        counted = np.concatenate([dreams.alive, dreams.alive], 1)
        lost_lives = dreams.ending_chance, dreams.life_lost, dreams.alive
        errors = _window_errors(dreams)
        counted_frames = (dreams.alive & ~dreams.ended)[:, : dreams.horizon]
        entropy = dreams.prior_entropy[:, : dreams.horizon]
        found, true = match_events(real, dreamt)
        wrong = ((real != 0) & ~found) | ((dreamt != 0) & ~true)
        limit = find_limit(entropy, errors, counted_frames, seed)
        gained = limit is not None and limit.gain_interval is not None
        return cls(
            rewards=tuple(
                reliability(
                    np.concatenate([part[:, :h] for part in dreams.reward_chances], 1),
                    *(_first(part, h) for part in (won_and_lost, counted)),
                    horizon=h,
                    seed=seed,
                )
                for h in horizons
            ),
            endings=tuple(
                reliability(*(part[:, :h] for part in lost_lives), horizon=h, seed=seed)
                for h in horizons
            ),
            entropy=tuple(
                link_entropy(entropy, errors, wrong & dreams.alive, counted_frames, h, seed)
                for h in HORIZONS
                if h <= dreams.horizon
            ),
            limit=limit,
            max_prior_entropy=limit.limit
            if limit is not None and gained and limit.gain_interval[0] > 0.0
            else None,
        )

    @property
    def about(self) -> str:
        """How to read the figures."""
        return (
            "Calibration of open loop. Expected calibration error: the mean difference between the "
            "probability of an event at a step and its frequency; by chance is a dream that never "
            "predicts one. Brier skill: 1 if events are predicted with certainty at the right "
            "step, 0 for their frequency at every step. Rank correlation over dreams of the mean "
            "prior entropy up to a step with errors up to there. A limit of the prior entropy is "
            "compared with a shorter horizon that keeps as many steps; it is chosen on other "
            "dreams, and recommended if the interval of the gain lies above 0."
        )

    def rows(self) -> list[Row]:
        """Return errors and skills, the reliability tables, and the figures of the entropy."""
        named = [("rewards", part) for part in self.rewards]
        named += [("ends of life", part) for part in self.endings]
        rows = [
            Row(f"{title} to step {part.horizon}, {name}", *figures)
            for name, part in named
            for title, *figures in (
                ("calibration error", part.error, part.error_interval, part.never_error),
                ("Brier skill", part.skill, part.skill_interval, 0.0),
            )
        ]
        firsts = ("rewards", self.rewards[0]), ("ends of life", self.endings[0])
        rows += [
            Row(
                f"frequency of {name} to step {part.horizon} predicted with "
                f"{bin.low:.1f} to {bin.high:.1f}",
                bin.happened,
                note=f"predicted {bin.predicted:.3f}, {bin.steps} times",
            )
            for name, part in firsts
            for bin in part.bins
        ]
        rows += [
            Row(
                f"rank correlation of the prior entropy, {name}",
                getattr(part, kind),
                getattr(part, f"{kind}_interval"),
                0.0,
                part.horizon,
            )
            for kind, name in (("image", "foreground error"), ("reward", "wrong rewards"))
            for part in self.entropy
        ]
        if self.limit is not None:
            limit = self.limit
            rows += [
                Row("limit of the prior entropy (nats)", limit.limit),
                Row("share of the steps kept", limit.kept),
                Row("foreground error, steps within the limit", limit.error),
                Row("foreground error, as many steps by a horizon", limit.horizon_error),
                Row("gain of the limit", limit.gain, limit.gain_interval, 0.0),
            ]
        return [*rows, Row("recommended max_prior_entropy (nats)", self.max_prior_entropy)]


def _first(part: np.ndarray, horizon: int) -> np.ndarray:
    """Return the first steps of both halves of (W, 2·L)."""
    return np.concatenate([half[:, :horizon] for half in np.split(part, 2, 1)], 1)


def reliability(
    predicted: np.ndarray, happened: np.ndarray, counted: np.ndarray, *, horizon: int, seed: int
) -> Reliability:
    """Compare probabilities with what happened.

    Args:
        predicted: (W, N) probabilities of W windows.
        happened: (W, N) bool.
        counted: (W, N) bool, the others are left out.
        horizon: For the report.
        seed: Of the bootstrap.
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
        seed: Of the bootstrap.
    """
    there = counted[:, horizon - 1]
    so_far = entropy[there, :horizon].mean(1)
    image = errors[there, horizon - 1]
    reward = wrong[there, :horizon].any(1).astype(np.float64)
    rows = draw_rows(np.random.default_rng(seed), int(there.sum()), RESAMPLES)

    def link(error: np.ndarray) -> tuple[float | None, Interval | None]:
        figure = known(spearman(so_far, error)) if len(error) > 1 else None
        if figure is None:
            return None, None
        return figure, interval(lambda rows: _spearman(so_far[rows], error[rows]), rows)

    (image_link, image_interval), (reward_link, reward_interval) = link(image), link(reward)
    return EntropyLink(horizon, image_link, reward_link, image_interval, reward_interval)


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return `spearman` of (R, N) resamples, one at a time: its comparisons take N² memory."""
    return np.array([spearman(one, other) for one, other in zip(x, y, strict=True)])


def find_limit(
    entropy: np.ndarray, errors: np.ndarray, counted: np.ndarray, seed: int
) -> EntropyLimit | None:
    """Find the limit of the entropy that beats a shorter horizon by most.

    As in an env, the step whose entropy exceeds the limit is a dream's last one.

    Args:
        entropy: (W, H) nats.
        errors: (W, H) foreground errors.
        counted: (W, H) bool, steps that are compared.
        seed: Of the bootstrap.

    Returns:
        None if no limit ends a dream, or there are too few windows.
    """
    chosen, judged = slice(0, None, 2), slice(1, None, 2)
    if len(entropy) < 4 or not np.ptp(entropy[counted]):
        return None
    best: tuple[float, float] | None = None
    for limit in np.quantile(entropy[chosen][counted[chosen]], CUTS).tolist():
        found = _compare(limit, entropy[chosen], errors[chosen], counted[chosen])
        if found is None:
            continue
        gain = 1.0 - _ratio(found)
        if best is None or gain > best[0]:
            best = gain, limit
    if best is None:
        return None
    limit = best[1]
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
    """Sum errors and steps of each window, within a limit and within a horizon: (W, 4).

    The horizon ends within a step, so that it keeps as many steps as the limit. None if the limit
    keeps all steps or less than `LEAST_KEPT` of them.
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


def _window_errors(dreams: OpenLoop) -> np.ndarray:
    """Return the foreground error of each dreamt frame, (W, H); 0 where none is compared."""
    background = find_background(dreams.recording.frames)
    errors = np.zeros((len(dreams.env), dreams.horizon))
    for frames in dreams.frames():
        found = foreground_errors(frames.real, frames.dream, background)
        errors[frames.windows, frames.k] = found
    return errors
