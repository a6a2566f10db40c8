"""A few sentences on what a dream gets right and wrong, for the head of a card."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from glam_env.evaluation.measures.base import Measure, find_report
from glam_env.evaluation.measures.behavior import BehaviorReport
from glam_env.evaluation.measures.events import EventReport, EventScore
from glam_env.evaluation.measures.images import ImageReport
from glam_env.evaluation.measures.thresholds import CheckReport
from glam_env.evaluation.report.tables import number


def summarize(reports: Collection[Measure]) -> list[str]:
    """Return sentences about the reports of an examination, failures first.

    Args:
        reports: The reports; the sentences of a missing one are left out.
    """
    return [
        *_thresholds(find_report(reports, CheckReport, optional=True)),
        *_events(find_report(reports, EventReport, optional=True)),
        *_images(find_report(reports, ImageReport, optional=True)),
        *_behavior(find_report(reports, BehaviorReport, optional=True)),
    ]


def _thresholds(report: CheckReport | None) -> Iterator[str]:
    if report is None or not report.checks:
        return
    missed = [check for check in report.checks if not check.passed]
    if not missed:
        yield f"The dream passes all {len(report.checks)} thresholds."
        return
    names = "; ".join(
        f"{check.name} {number(check.figure)} ({check.relation} {check.bound:g})"
        for check in missed
    )
    yield f"**The dream misses {len(missed)} of {len(report.checks)} thresholds: {names}.**"
    if beyond := [check for check in missed if not check.within_reach]:
        names = "; ".join(f"{check.name} {number(check.ceiling)}" for check in beyond)
        yield (
            f"The game itself, played again with other sticky actions, misses {len(beyond)} of "
            f"these: {names}."
        )


def _events(report: EventReport | None) -> Iterator[str]:
    if report is None:
        return
    for name, scores in (("rewards", report.rewards), ("ends of life", report.endings)):
        yield _found(name, scores[0])


def _found(name: str, score: EventScore) -> str:
    """Say how many events of the first steps the dream predicts."""
    if not score.real:
        return f"No {name} occurred within {score.horizon} steps, so their prediction is unknown."
    return (
        f"Of {score.real} {name} within {score.horizon} steps it predicts {score.found} within 2 "
        f"steps of their time, and {score.false_alarms} that did not happen."
    )


def _images(report: ImageReport | None) -> Iterator[str]:
    """Say from which step on a baseline draws the foreground as well."""
    if report is None:
        return
    curves = [report.images[name].foreground_error for name in ("dream", "repeat", "average")]
    lost = None  # the first step at which a baseline is as good
    compared = 0
    for step, (dream, *baselines) in enumerate(zip(*curves, strict=True), start=1):
        known = [error for error in baselines if error is not None]
        if dream is None or not known:
            continue
        compared = step
        if lost is None and dream >= min(known):
            lost = step
    if not compared:
        return
    if lost is None:
        yield (
            "What moves is drawn better than by the last real frame, and by the average frame, at "
            f"every step to {compared}."
        )
    else:
        yield (
            f"**From step {lost} on it has lost what moves: the last real frame or the average "
            "frame shows it as well.**"
        )


def _behavior(report: BehaviorReport | None) -> Iterator[str]:
    """Say whether the agent's points in dreams are those of the game."""
    if report is None or report.reward_rate_error is None:
        return
    share = f"{100 * report.reward_rate_error:.0f} %"
    yield f"The agent's net points per step in dreams differ from those in the game by {share}."
