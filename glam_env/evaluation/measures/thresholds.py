"""What a dream must be good for, as numbers: each passes or fails on what was measured."""

from __future__ import annotations

import math
import operator
from dataclasses import asdict, dataclass
from typing import Any

from glam_env.errors import GlamError
from glam_env.evaluation.measures.behavior import BehaviorReport
from glam_env.evaluation.measures.open_loop import FidelityReport

RELATIONS = {"at least": operator.ge, "at most": operator.le, "below": operator.lt}


@dataclass(frozen=True)
class Thresholds:
    """The bounds.

    Attributes:
        reward_f1: Least F1 of the rewards, to step `reward_horizon`.
        first_foreground_error: Largest error on the foreground, one step ahead.
        foreground_horizon: At every horizon to this one the error on the foreground is less than
            those of both baselines.
        drawn: Least share of the real frames with an object whose dreamt frames have it too, at
            every horizon to `object_horizon`.
        reward_rate_error: Largest relative error of the policy's points in dreams, of the net and
            of those won and lost.
    """

    reward_f1: float = 0.8
    reward_horizon: int = 16
    first_foreground_error: float = 0.3
    foreground_horizon: int = 32
    drawn: float = 0.9
    object_horizon: int = 16
    reward_rate_error: float = 0.25

    @property
    def horizon(self) -> int:
        """Steps that dreams must last for all of them to be checked."""
        return max(self.reward_horizon, self.foreground_horizon, self.object_horizon)


@dataclass(frozen=True)
class Check:
    """A figure held to its bound.

    Attributes:
        name: What is checked.
        figure: What was measured; None if there was nothing to measure it on, which fails.
        relation: `at least`, `at most` or `below`: how it must stand to the bound.
        bound: What it is held to.
        passed: Whether it holds.
    """

    name: str
    figure: float | None
    relation: str
    bound: float
    passed: bool

    def as_json(self) -> dict[str, Any]:
        """Everything above, ready for `json.dumps`."""
        return asdict(self)

    def __str__(self) -> str:
        figure = "nothing to measure" if self.figure is None else f"{self.figure:.3f}"
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict}  {self.name}: {figure} ({self.relation} {self.bound:g})"


def check_fidelity(
    report: FidelityReport, behavior: BehaviorReport, thresholds: Thresholds | None = None
) -> tuple[Check, ...]:
    """Holds what was measured to the thresholds.

    Args:
        report: Of open loop, at least as long as the thresholds' horizons.
        behavior: Of the policy in dreams and in the game.
        thresholds: The bounds; the usual ones if None.

    Raises:
        GlamError: If the dreams were too short.
    """
    t = thresholds or Thresholds()
    if report.horizon < t.horizon:
        raise GlamError(f"the thresholds need dreams of {t.horizon} steps, not {report.horizon}")
    scores = [score for score in report.rewards if score.horizon == t.reward_horizon]
    dream = report.images["dream"].foreground_error[: t.foreground_horizon]
    checks = [
        _check(f"reward F1 to step {t.reward_horizon}", scores[0].f1, "at least", t.reward_f1),
        _check("foreground error, 1 step ahead", dream[0], "at most", t.first_foreground_error),
    ]
    for painter, title in (("repeat", "the last frame's"), ("average", "the average frame's")):
        baseline = report.images[painter].foreground_error[: t.foreground_horizon]
        ratios = [
            ours / theirs if theirs else math.inf
            for ours, theirs in zip(dream, baseline, strict=True)
            if ours is not None and theirs is not None
        ]
        name = f"foreground error over {title}, largest to step {t.foreground_horizon}"
        checks.append(_check(name, max(ratios, default=None), "below", 1.0))
    for name, curve in report.objects.get("dream", {}).items():
        drawn = [1.0 - missed for missed in curve.missed[: t.object_horizon] if missed is not None]
        title = f"{name} drawn where the game shows one, least share to step {t.object_horizon}"
        checks.append(_check(title, min(drawn, default=None), "at least", t.drawn))
    for name, error in (
        ("net", behavior.reward_rate_error),
        ("won and lost", behavior.points_error),
    ):
        title = f"policy's points in dreams and in the game, {name}, relative error"
        checks.append(_check(title, error, "at most", t.reward_rate_error))
    return tuple(checks)


def _check(name: str, figure: float | None, relation: str, bound: float) -> Check:
    passed = figure is not None and RELATIONS[relation](figure, bound)
    return Check(name, figure, relation, bound, passed)
