"""Reports as plain text, for people at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from glam_env.evaluation.measures.action_effects import BranchReport
from glam_env.evaluation.measures.behavior import BehaviorReport
from glam_env.evaluation.measures.events import EventScore
from glam_env.evaluation.measures.open_loop import PAINTERS, FidelityReport

HORIZONS = (1, 2, 4, 8, 16, 32, 64)
IMAGE_FIGURES = {
    "foreground_error": "foreground error",
    "union_error": "union error",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
}


def fidelity_table(report: FidelityReport) -> str:
    """What open loop found: a column for each of some horizons, then events and sums."""
    horizons = [horizon for horizon in HORIZONS if horizon <= report.horizon]
    lines = [
        f"{report.game}: {report.windows} windows of held-out play, {report.context} real steps, "
        "then the real actions alone",
        "",
        *_rows(
            "steps ahead; a background only has an error of 1",
            horizons,
            {
                f"{title}, {painter}": getattr(report.images[painter], figure)
                for figure, title in IMAGE_FIGURES.items()
                for painter in PAINTERS
            },
        ),
    ]
    for name, dream in report.objects.get("dream", {}).items():
        rows: dict[str, Sequence[float | None]] = {"real frames with it": dream.real}
        for figure in ("distance", "missed", "spurious"):
            for painter in PAINTERS:
                rows[f"{figure}, {painter}"] = getattr(report.objects[painter][name], figure)
        lines += ["", *_rows(name, horizons, rows)]
    lines.append("")
    lines += [f"rewards to step {score.horizon}: {_events(score)}" for score in report.rewards]
    for player, score in report.player_rewards.items():
        lines.append(f"  played by {player}, to step {score.horizon}: {_events(score)}")
    lines += [f"endings to step {score.horizon}: {_events(score)}" for score in report.endings]
    for sums in report.reward_sums:
        lines.append(
            f"points to step {sums.horizon}: {sums.real:+.3f} a window, dreamt {sums.dreamt:+.3f}; "
            f"correlation {number(sums.correlation)}, slope {number(sums.slope)}; squared error "
            f"{sums.error:.3f} (never a point {sums.never_error:.3f}, always the average "
            f"{sums.average_error:.3f})"
        )
    kl = report.latent_kl
    lines.append(
        f"latent KL one step ahead: {kl.dream:.2f} nats "
        f"(last frame {kl.repeat:.2f}, average {kl.average:.2f})"
    )
    return "\n".join(lines)


def behavior_table(report: BehaviorReport) -> str:
    """One policy in the game and in dreams."""
    lines = [
        f"one policy from {report.moments} real moments on, {report.horizon} steps in the game, "
        f"and {report.dreams_per_moment} times in dreams",
        f"{'points in 1000 steps':24}{'game':>8}{'95 %':>16}{'dream':>8}{'95 %':>16}",
    ]
    for name in ("won", "lost", "net"):
        rate = getattr(report, name)
        lines.append(
            f"{name:24}{rate.game:8.2f}{_interval(rate.game_interval):>16}"
            f"{rate.dream:8.2f}{_interval(rate.dream_interval):>16}"
        )
    for part in report.early:
        for name in ("won", "lost"):
            game, dream = getattr(part, f"game_{name}"), getattr(part, f"dream_{name}")
            lines.append(f"{f'{name}, to step {part.horizon}':24}{game:8.2f}{'':16}{dream:8.2f}")
    for name, error, interval in (
        ("net", report.reward_rate_error, report.reward_rate_error_interval),
        ("won and lost", report.points_error, report.points_error_interval),
    ):
        spread = "" if interval is None else f" (95 %: {_interval(interval)})"
        lines.append(f"relative error of the rate, {name}: {number(error)}{spread}")
    for name, there in (("game", report.game), ("dream", report.dream)):
        lines.append(
            f"{name}: {there.points} points in {there.steps} steps, the first after "
            f"{there.first_point:.1f}, none in {100 * there.pointless:.0f} % of the plays, "
            f"{number(there.rally, 1)} steps from one to the next; "
            f"actions {' '.join(f'{share:.2f}' for share in there.actions)}"
        )
    lines.append(f"distance between the shares of actions: {report.action_distance:.3f}")
    return "\n".join(lines)


def branch_table(report: BranchReport) -> str:
    """Each action from one moment, in the game and in dreams."""
    lines = [
        f"each action held for {report.horizon} steps from {report.moments} real moments, and in "
        f"{report.futures} dreams; in the game it matters which at {report.decided} of them",
    ]
    for title, name, others in (
        ("better ones of two told by dreams", "right", "by chance 0.50"),
        ("variance of effects explained", "explained", "none supposed 0.00"),
        ("points missed by dreams' best, share", "regret", "by chance 1.00"),
    ):
        interval = getattr(report, f"{name}_interval")
        spread = "" if interval is None else f" (95 %: {_interval(interval)})"
        lines.append(f"{title:38}{number(getattr(report, name)):>6}{spread}, {others}")
    lines.append(
        "largest less least return of an action, where it matters: "
        f"{number(report.true_difference)} in the game, {number(report.dreamt_difference)} in "
        f"dreams; where it does not: {number(report.false_difference)} in dreams"
    )
    return "\n".join(lines)


def number(figure: float | None, digits: int = 2) -> str:
    """A figure, or a dash for one that there is none of."""
    if figure is None:
        return "-"
    return str(figure) if isinstance(figure, int) else f"{figure:.{digits}f}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.2f} … {interval[1]:.2f}"


def _events(score: EventScore) -> str:
    spread = "" if score.f1_interval is None else f" (95 %: {_interval(score.f1_interval)})"
    return (
        f"{score.found} of {score.real} found, {score.false_alarms} false in {score.steps} steps, "
        f"precision {number(score.precision)}, recall {number(score.recall)}, "
        f"F1 {number(score.f1)}{spread}, by chance {number(score.chance_f1)}"
    )


def _rows(
    title: str, horizons: Sequence[int], figures: dict[str, Sequence[float | None]]
) -> list[str]:
    width = max(len(title), *map(len, figures))
    return [
        f"{title:{width}}" + "".join(f"{horizon:8}" for horizon in horizons),
        *(
            f"{name:{width}}"
            + "".join(f"{number(curve[h - 1], 2 + name.startswith('SSIM')):>8}" for h in horizons)
            for name, curve in figures.items()
        ),
    ]
