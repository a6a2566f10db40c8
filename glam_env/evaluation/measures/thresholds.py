"""Thresholds: bounds that a good dream keeps.

Each bound is passed or failed by a measured figure.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from glam_env.errors import GlamError
from glam_env.evaluation.measures.action_effects import BranchReport
from glam_env.evaluation.measures.base import Measure, Subject, find_report
from glam_env.evaluation.measures.behavior import BehaviorReport
from glam_env.evaluation.measures.ceiling import CeilingReport
from glam_env.evaluation.measures.events import EventReport
from glam_env.evaluation.measures.images import ImageReport
from glam_env.evaluation.measures.objects import ObjectReport
from glam_env.evaluation.measures.ranking import RankingReport
from glam_env.evaluation.rows import Row

RELATIONS = {"at least": operator.ge, "at most": operator.le, "below": operator.lt}


@dataclass(frozen=True)
class Thresholds:
    """The bounds.

    The first bounds concern play of the game's own agent and of noisy versions of it. Those from
    `effects_explained` on concern actions and policies that are not the agent's.

    Attributes:
        reward_f1: Least F1 of the rewards, to step `reward_horizon`.
        reward_horizon: See `reward_f1`.
        first_foreground_error: Largest error on the foreground, one step ahead.
        foreground_horizon: Up to this step the error on the foreground is below those of both
            baselines.
        drawn: Least share of the real frames with an object whose dreamt frames have it too, at
            every step up to `object_horizon`.
        object_horizon: See `drawn`.
        reward_rate_error: Largest relative error of the policy's points in dreams, of the net and
            of those won and lost.
        effects_explained: Least share of the variance of held actions' effects that dreams explain.
        pairs_right: Least share of the pairs of held actions that dreams order as the game does.
        regret: Largest share of the points at stake that is lost by the dreams' best action.
        policy_correlation: Least correlation of the policies' returns in dreams with those in the
            game, to step `policy_horizon`; of Pearson and of Spearman.
        policy_horizon: See `policy_correlation`.
    """

    reward_f1: float = 0.8
    reward_horizon: int = 16
    first_foreground_error: float = 0.3
    foreground_horizon: int = 32
    drawn: float = 0.9
    object_horizon: int = 16
    reward_rate_error: float = 0.25
    effects_explained: float = 0.5
    pairs_right: float = 0.95
    regret: float = 0.1
    policy_correlation: float = 0.95
    policy_horizon: int = 32

    @property
    def horizon(self) -> int:
        """Least steps of open loop with which all bounds can be checked."""
        return max(self.reward_horizon, self.foreground_horizon, self.object_horizon)


@dataclass(frozen=True)
class Check:
    """A figure and its bound.

    Attributes:
        name: What is checked.
        figure: What was measured; None if there was nothing to measure, which fails.
        relation: `at least`, `at most` or `below`.
        bound: The bound.
        passed: Whether the figure keeps it.
        ceiling: The figure of what is usual in the game played again, see `CeilingReport`; None
            where it was not measured.
    """

    name: str
    figure: float | None
    relation: str
    bound: float
    passed: bool
    ceiling: float | None = None

    @property
    def within_reach(self) -> bool:
        """Whether the noise ceiling keeps the bound; true where it was not measured."""
        return self.ceiling is None or RELATIONS[self.relation](self.ceiling, self.bound)

    def __str__(self) -> str:
        figure = "nothing to measure" if self.figure is None else f"{self.figure:.3f}"
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict}  {self.name}: {figure} ({self.relation} {self.bound:g})"


@dataclass(frozen=True)
class CheckReport(Measure):
    """The figures of other measures, checked against the bounds.

    Attributes:
        checks: Empty if the dreams are too short for them.
    """

    flat: ClassVar[bool] = True

    checks: tuple[Check, ...]

    @classmethod
    def measure(cls, subject: Subject) -> CheckReport:
        """Check what the other measures found against the usual bounds.

        The bounds of actions and policies are left out if their measures are.
        """
        if subject.settings.horizon < Thresholds().horizon:
            return cls(())
        return cls.of(subject.reports.values())

    @classmethod
    def of(cls, reports: Iterable[Measure | None]) -> CheckReport:
        """Check reports against the usual bounds.

        Raises:
            GlamError: A report of images, objects, events or behavior is missing, or its dreams
                were too short.
        """
        reports = list(reports)
        return cls(
            check_fidelity(
                find_report(reports, ImageReport),
                find_report(reports, ObjectReport),
                find_report(reports, EventReport),
                find_report(reports, BehaviorReport),
                branches=find_report(reports, BranchReport, optional=True),
                ranking=find_report(reports, RankingReport, optional=True),
                ceiling=find_report(reports, CeilingReport, optional=True),
            )
        )

    @property
    def passed(self) -> bool:
        """Whether all figures keep their bounds."""
        return all(check.passed for check in self.checks)

    @property
    def about(self) -> str:
        """What the rows are."""
        return "Thresholds: what a good dream keeps."

    def rows(self) -> list[Row]:
        """Return each figure with its bound and verdict."""
        return [
            Row(
                f"{check.name} ({check.relation} {check.bound:g})",
                check.figure,
                note="pass" if check.passed else "fail",
                ceiling=check.ceiling,
            )
            for check in self.checks
        ]


def check_fidelity(
    images: ImageReport,
    objects: ObjectReport,
    events: EventReport,
    behavior: BehaviorReport,
    thresholds: Thresholds | None = None,
    *,
    branches: BranchReport | None = None,
    ranking: RankingReport | None = None,
    ceiling: CeilingReport | None = None,
) -> tuple[Check, ...]:
    """Check figures against thresholds.

    Args:
        images, objects, events: Reports of open loop, at least as long as the thresholds' horizons.
        behavior: Report of the policy in dreams and in the game.
        thresholds: The bounds; the usual ones if None.
        branches: Report of held actions; their bounds are left out if None.
        ranking: Report of policies; their bounds are left out if None.
        ceiling: Report of the game played again; without it the checks have no noise ceiling.

    Raises:
        GlamError: If the dreams were too short, or rewards were not counted to `reward_horizon`.
    """
    t = thresholds or Thresholds()
    horizon = len(images.images["dream"].foreground_error)
    if horizon < t.horizon:
        raise GlamError(f"the thresholds need dreams of {t.horizon} steps, not {horizon}")
    scores = {score.horizon: score for score in events.rewards}
    if t.reward_horizon not in scores:
        counted = ", ".join(map(str, scores))
        raise GlamError(f"reward_horizon must be one of {counted}, not {t.reward_horizon}")
    dream = images.images["dream"].foreground_error[: t.foreground_horizon]
    checks = [
        _check(
            f"reward F1 to step {t.reward_horizon}",
            scores[t.reward_horizon].f1,
            "at least",
            t.reward_f1,
            ceiling and ceiling.usual_reward_f1(t.reward_horizon),
        ),
        _check(
            "foreground error, 1 step ahead",
            dream[0],
            "at most",
            t.first_foreground_error,
            ceiling and ceiling.error_usual[0],
        ),
    ]
    for drawn, title in (("repeat", "the last frame's"), ("average", "the average frame's")):
        baseline = images.images[drawn].foreground_error[: t.foreground_horizon]
        ratios = [
            ours / theirs if theirs else math.inf
            for ours, theirs in zip(dream, baseline, strict=True)
            if ours is not None and theirs is not None
        ]
        name = f"foreground error over {title}, largest to step {t.foreground_horizon}"
        checks.append(_check(name, max(ratios, default=None), "below", 1.0))
    for name, curve in objects.objects.get("dream", {}).items():
        drawn = [1.0 - missed for missed in curve.missed[: t.object_horizon] if missed is not None]
        title = f"{name} drawn where the game shows one, least share to step {t.object_horizon}"
        checks.append(_check(title, min(drawn, default=None), "at least", t.drawn))
    for name, error in (
        ("net", behavior.reward_rate_error),
        ("won and lost", behavior.points_error),
    ):
        title = f"policy's points in dreams and in the game, {name}, relative error"
        checks.append(_check(title, error, "at most", t.reward_rate_error))
    if branches is not None:
        checks += [
            _check(
                f"held actions, {title}",
                getattr(branches, figure),
                relation,
                bound,
                ceiling and getattr(ceiling, figure),
            )
            for figure, title, relation, bound in (
                ("explained", "variance explained", "at least", t.effects_explained),
                ("right", "pairs ordered right", "at least", t.pairs_right),
                ("regret", "points at stake lost", "at most", t.regret),
            )
        ]
    if ranking is not None:
        parts = [part for part in ranking.agreements if part.horizon == t.policy_horizon]
        for name in ("Pearson", "Spearman"):
            figure = getattr(parts[0], name.lower()) if parts else None
            title = f"policies' returns to step {t.policy_horizon}, {name} correlation"
            checks.append(_check(title, figure, "at least", t.policy_correlation))
    return tuple(checks)


def _check(
    name: str, figure: float | None, relation: str, bound: float, ceiling: float | None = None
) -> Check:
    passed = figure is not None and RELATIONS[relation](figure, bound)
    return Check(name, figure, relation, bound, passed, ceiling)
