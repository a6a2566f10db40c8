"""The three forms of a dream's rewards, compared with the game's rewards.

All are summed up on the same play.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glam_env.evaluation.measures.base import Measure, Subject
from glam_env.evaluation.measures.events import EVENT_HORIZONS, EventScore, score_events
from glam_env.evaluation.play.recording import reward_events
from glam_env.evaluation.rows import Row
from glam_env.model.reward_values import seen_values


@dataclass(frozen=True)
class RewardTotal:
    """Rewards of a window's first `horizon` steps, summed up; means over the windows.

    Attributes:
        horizon: In steps.
        points: Sum of the rewards.
        signs: Sum of their signs, which the sign clipping of Atari agents learns from.
        error: Mean squared error of the points of a window; 0 for the game itself.
    """

    horizon: int
    points: float
    signs: float
    error: float


@dataclass(frozen=True)
class RewardFormReport(Measure):
    """Figures of each form of the option `reward` of dreams.

    Attributes:
        values: The values that the forms choose from; empty if they are not known.
        seen: The values that the recorded play has shown.
        real: Sums of the game, by growing horizon.
        forms: Sums of the dreams, by the form's name.
        scores: Scores of their rewards as events at the first horizon, by the form's name.
    """

    values: tuple[float, ...]
    seen: tuple[float, ...]
    real: tuple[RewardTotal, ...]
    forms: dict[str, tuple[RewardTotal, ...]]
    scores: dict[str, EventScore]

    @classmethod
    def measure(cls, subject: Subject) -> RewardFormReport:
        """Sum up the rewards of open loop."""
        dreams = subject.open_loop
        horizons = [h for h in EVENT_HORIZONS if h <= dreams.horizon] or [dreams.horizon]

        def totals(rewards: np.ndarray) -> tuple[RewardTotal, ...]:
            return tuple(_sum(rewards, dreams.reward, dreams.alive, h) for h in horizons)

        return cls(
            values=subject.reward_values,
            seen=seen_values(dreams.recording.rewards),
            real=totals(dreams.reward),
            forms={name: totals(rewards) for name, rewards in dreams.reward_forms.items()},
            scores={
                name: score_events(
                    reward_events(dreams.reward), reward_events(rewards), dreams.alive, horizons[0]
                )
                for name, rewards in dreams.reward_forms.items()
            },
        )

    @property
    def about(self) -> str:
        """How to read the figures."""
        return (
            "The rewards of each window in the forms of the option `reward`: the most likely of "
            "the game's values (game), a draw of them (sample), and the expected value (mean). "
            "Clipped to their signs, as agents for Atari do, rewards should sum up as in the game."
        )

    def rows(self) -> list[Row]:
        """Return the sums, the errors and the scores of the forms."""
        named = {"game": self.real, **{f"dreams ({n})": t for n, t in self.forms.items()}}
        rows = [
            Row(f"{title}, {name}", getattr(total, figure), horizon=total.horizon)
            for figure, title in (("points", "sum of rewards"), ("signs", "sum of their signs"))
            for name, totals in named.items()
            for total in totals
        ]
        rows += [
            Row(f"squared error of the sum, dreams ({name})", total.error, horizon=total.horizon)
            for name, totals in self.forms.items()
            for total in totals
        ]
        return rows + [
            Row(
                f"F1 of rewards to step {s.horizon}, dreams ({name})",
                s.f1,
                s.f1_interval,
                s.chance_f1,
            )
            for name, s in self.scores.items()
        ]


def _sum(rewards: np.ndarray, real: np.ndarray, alive: np.ndarray, horizon: int) -> RewardTotal:
    """Sum up (W, L) rewards; steps that are not alive, (W, L) bool, are left out."""
    ours, theirs = ((part * alive)[:, :horizon].astype(np.float64) for part in (rewards, real))
    return RewardTotal(
        horizon=horizon,
        points=float(ours.sum(1).mean()),
        signs=float(np.sign(ours).sum(1).mean()),
        error=float(np.square(ours.sum(1) - theirs.sum(1)).mean()),
    )
