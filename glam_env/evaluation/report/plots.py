"""Plots of reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from glam_env.errors import GlamError
from glam_env.evaluation.measures.base import Measure
from glam_env.evaluation.measures.calibration import CalibrationReport
from glam_env.evaluation.measures.events import EventReport
from glam_env.evaluation.measures.ranking import RankingReport
from glam_env.evaluation.rows import HORIZONS, Row

COLUMNS = 3  # panels side by side
MARKERS = "o^sDvP*X"  # of policies, one for each round of ten colors


def pyplot() -> ModuleType:
    """Return matplotlib's pyplot, set to draw into files only.

    Raises:
        GlamError: If matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise GlamError('plots need matplotlib: pip install "glam-env[video]"') from error
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def save_figure(figure: Any, path: Path) -> Path:
    """Write a figure, make its folder if there is none, and close it.

    Raises:
        GlamError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:  # ValueError: no such kind of picture
        raise GlamError(f"cannot write {path} ({error}); choose a writable .png") from error
    finally:
        pyplot().close(figure)
    return path


def save_plots(folder: Path, reports: Mapping[str, Measure]) -> list[Path]:
    """Draw each report into a PNG file.

    A report in which no figure has more than one value gets no such file. Points of windows,
    reliability and policies each get a further file.

    Args:
        folder: Made if missing.
        reports: By the name of the measure, which becomes the file's.

    Returns:
        The files.
    """
    paths = []
    for name, report in reports.items():
        if panels := _panels(report.rows()):
            paths.append(_save_panels(folder / f"{name}.png", name, panels))
        if isinstance(report, EventReport):
            paths.append(_save_points(folder / "points.png", report))
        if isinstance(report, CalibrationReport):
            paths.append(_save_reliability(folder / "reliability.png", report))
        if isinstance(report, RankingReport):
            paths.append(_save_policies(folder / "policies.png", report))
    return paths


def _panels(rows: Sequence[Row]) -> dict[str, list[tuple[str, Row]]]:
    """Group rows by figure; figures of one value and verdicts are left out."""
    panels: dict[str, list[tuple[str, Row]]] = {}
    for row in rows:
        if row.value is not None and not row.note:
            figure, _, whose = row.title.partition(", ")
            panels.setdefault(figure, []).append((whose, row))
    return {figure: part for figure, part in panels.items() if len(part) > 1}


def _save_panels(path: Path, name: str, panels: Mapping[str, list[tuple[str, Row]]]) -> Path:
    """Draw a panel for each figure.

    A panel has the figure's curves over the horizon, or its values in a column.
    """
    columns = min(COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure, axes = pyplot().subplots(
        lines, columns, figsize=(5 * columns, 3.5 * lines), squeeze=False, layout="constrained"
    )
    for axis, (title, part) in zip(axes.flat, panels.items(), strict=False):
        axis.set_title(title, fontsize=10, wrap=True)
        curves = all(row.horizon is not None for _, row in part)
        (_draw_curves if curves else _draw_values)(axis, part)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(name.replace("_", " "))
    return save_figure(figure, path)


def _draw_curves(axis: Any, part: Sequence[tuple[str, Row]]) -> None:
    for whose in dict.fromkeys(whose for whose, _ in part):
        rows = [row for other, row in part if other == whose]
        axis.plot(
            [row.horizon for row in rows], [row.value for row in rows], marker=".", label=whose
        )
    ticks = [h for h in HORIZONS if any(row.horizon == h for _, row in part)]
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, map(str, ticks))
    axis.set_xlabel("steps")
    if any(whose for whose, _ in part):
        axis.legend(fontsize=7)


def _draw_values(axis: Any, part: Sequence[tuple[str, Row]]) -> None:
    axis.axvline(0, color="black", linewidth=0.8, linestyle=":")
    for place, (_, row) in enumerate(part):
        axis.plot([row.value], [place], "o", color="tab:blue")
        if row.interval is not None:
            axis.plot(row.interval, [place, place], color="tab:blue")
        if row.chance is not None:
            axis.plot([row.chance], [place], "k|", markersize=14, label="by chance")
    if any(row.chance is not None for _, row in part):
        handles, labels = axis.get_legend_handles_labels()
        axis.legend(handles[:1], labels[:1], fontsize=7)
    axis.set_yticks(range(len(part)), [whose for whose, _ in part], fontsize=7)
    axis.set_ylim(len(part) - 0.5, -0.5)


def _save_points(path: Path, report: EventReport) -> Path:
    """Draw the real points of windows over the dreamt ones, in bins."""
    figure, axis = pyplot().subplots(figsize=(5, 4.5), layout="constrained")
    for sums in report.reward_sums:
        windows = sum(part.windows for part in sums.bins)
        axis.scatter(
            [part.dreamt for part in sums.bins],
            [part.real for part in sums.bins],
            [10 + 150 * part.windows / windows for part in sums.bins],
            alpha=0.7,
            label=f"to step {sums.horizon}",
        )
    axis.axline((0, 0), slope=1, color="black", linewidth=0.8, linestyle=":")
    axis.set(
        title="points of a window (size: windows)",
        xlabel="dreamt (expected)",
        ylabel="real (mean)",
    )
    axis.legend()
    return save_figure(figure, path)


def _save_policies(path: Path, report: RankingReport) -> Path:
    """Draw each policy's return in dreams over its return in the game.

    There is a panel for each horizon.
    """
    count = len(report.agreements)
    figure, axes = pyplot().subplots(
        1, count, figsize=(4.5 * count, 4.5), squeeze=False, layout="constrained"
    )
    for place, (axis, part) in enumerate(zip(axes.flat, report.agreements, strict=True)):
        for number, policy in enumerate(report.policies):
            look = {"color": f"C{number % 10}", "marker": MARKERS[number // 10 % len(MARKERS)]}
            axis.scatter([policy.game[place]], [policy.dream[place]], label=policy.name, **look)
        axis.axline((0, 0), slope=1, color="black", linewidth=0.8, linestyle=":")
        spearman = "none" if part.spearman is None else f"{part.spearman:.2f}"
        axis.set(
            title=f"{part.horizon} steps, rank correlation {spearman}",
            xlabel="points in the game",
            ylabel="points in dreams",
        )
    axes.flat[0].legend(fontsize=6)
    return save_figure(figure, path)


def _save_reliability(path: Path, report: CalibrationReport) -> Path:
    """Draw the frequency of rewards and of ends of life over their probability."""
    figure, axes = pyplot().subplots(1, 2, figsize=(9, 4.5), layout="constrained")
    named = ("rewards", report.rewards), ("ends of life", report.endings)
    for axis, (name, parts) in zip(axes, named, strict=True):
        for part in parts:
            axis.scatter(
                [bin.predicted for bin in part.bins],
                [bin.happened for bin in part.bins],
                [10 + 20 * math.log10(bin.steps) for bin in part.bins],
                alpha=0.7,
                label=f"to step {part.horizon}",
            )
        axis.axline((0, 0), slope=1, color="black", linewidth=0.8, linestyle=":")
        axis.set(
            title=f"{name} (size: steps, logarithmic)",
            xlabel="probability in the dream",
            ylabel="frequency in the game",
            xlim=(-0.05, 1.05),
            ylim=(-0.05, 1.05),
        )
        axis.legend()
    return save_figure(figure, path)
