"""Calibration of a dream's probabilities, and its entropy as predictor of errors.

Reliability: of the steps at which a dream gives an event the probability p, the event should happen
at a share p. Entropy: a wrong dream misleads an agent. If the prior's entropy is high where a dream
is wrong, `max_prior_entropy` can end the dream before that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glam_env.evaluation.measures.base import Measure, Subject
from glam_env.evaluation.measures.entropy import (
    EntropyLimit,
    EntropyLink,
    find_limit,
    link_entropy,
)
from glam_env.evaluation.measures.events import EVENT_HORIZONS, match_events
from glam_env.evaluation.measures.images import find_background, foreground_errors
from glam_env.evaluation.measures.reliability import Reliability, reliability
from glam_env.evaluation.play.open_loop import OpenLoop
from glam_env.evaluation.play.recording import reward_events
from glam_env.evaluation.rows import HORIZONS, Row


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
        real, dreamt = reward_events(dreams.reward), dreams.dreamt_event
        points: tuple[Sequence[np.ndarray], ...] = (
            tuple(dreams.reward_chances),
            (real > 0, real < 0),
            (dreams.alive, dreams.alive),
        )
        lost_lives = dreams.ending_chance, dreams.life_lost, dreams.alive
        errors = _window_errors(dreams)
        counted_frames = (dreams.alive & ~dreams.ended)[:, : dreams.horizon]
        entropy = dreams.prior_entropy[:, : dreams.horizon]
        found, true = match_events(real, dreamt)
        wrong = ((real != 0) & ~found) | ((dreamt != 0) & ~true)
        limit = find_limit(entropy, errors, counted_frames, seed)
        gained = limit is not None and limit.gain_interval and limit.gain_interval[0] > 0.0
        return cls(
            rewards=tuple(
                reliability(*(_first(part, h) for part in points), horizon=h, seed=seed)
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
            max_prior_entropy=limit.limit if limit is not None and gained else None,
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
        """Return errors, skills, reliability tables, and the figures of the entropy."""
        named = [("rewards", part) for part in self.rewards]
        named += [("ends of life", part) for part in self.endings]
        rows = [
            row
            for name, part in named
            for whose in [f"to step {part.horizon}, {name}"]
            for row in (
                Row(
                    f"calibration error {whose}", part.error, part.error_interval, part.never_error
                ),
                Row(f"Brier skill {whose}", part.skill, part.skill_interval, 0.0),
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


def _first(won_and_lost: Sequence[np.ndarray], horizon: int) -> np.ndarray:
    """Join the first `horizon` steps of points won and of points lost.

    The two parts are (W, L) each; the result is (W, 2·horizon).
    """
    return np.concatenate([part[:, :horizon] for part in won_and_lost], 1)


def _window_errors(dreams: OpenLoop) -> np.ndarray:
    """Return the foreground error of each dreamt frame.

    Returns:
        (W, H) float64; 0 where no frame is compared.
    """
    background = find_background(dreams.recording.frames)
    errors = np.zeros((len(dreams.env), dreams.horizon))
    for frames in dreams.frames():
        found = foreground_errors(frames.real, frames.dream, background)
        errors[frames.windows, frames.k] = found
    return errors
