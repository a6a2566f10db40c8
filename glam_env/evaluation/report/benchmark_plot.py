"""The picture of a benchmark: figures over all games, profiles, and each game."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glam_env.evaluation.report.benchmark import ProtocolReport
from glam_env.evaluation.report.benchmark_tables import TITLES
from glam_env.evaluation.report.plots import pyplot, save_figure
from glam_env.games import find_game, human_normalized_score

BESIDE = "GLAM"  # the published method that is drawn for each game


def save_benchmark_plot(path: Path, reports: Sequence[ProtocolReport]) -> Path:
    """Draw a row of three panels for each protocol.

    Raises:
        GlamError: matplotlib is missing, or the file cannot be written.
    """
    most = max(len(report.games) for report in reports)
    height = max(4.0, 1.5 + 0.22 * most)
    figure, axes = pyplot().subplots(
        len(reports),
        3,
        figsize=(16, height * len(reports)),
        squeeze=False,
        layout="constrained",
    )
    for row, report in zip(axes, reports, strict=True):
        _draw_aggregates(row[0], report)
        _draw_profiles(row[1], report)
        _draw_games(row[2], report)
    return save_figure(figure, path)


def _draw_aggregates(axis: Any, report: ProtocolReport) -> None:
    ticks = []
    for number, (name, title) in enumerate(TITLES.items()):
        ticks.append(title)
        for place, variant in enumerate(report.variants):
            one, color = variant.aggregates[name], f"C{place}"
            height = number + 0.12 * (place - (len(report.variants) - 1) / 2)
            if one.interval is not None:
                axis.plot(one.interval, [height] * 2, color=color, linewidth=4, alpha=0.5)
            label = variant.name if number == 0 else None
            axis.plot([one.value], [height], "o", color=color, markersize=5, label=label)
        if name in ("mean", "median"):
            for method in report.methods:
                value = getattr(method, name)
                axis.plot([value], [number], "k|", markersize=14)
                axis.text(value, number - 0.22, method.name, fontsize=6, rotation=60)
    axis.set_yticks(range(len(ticks)), ticks)
    axis.set_ylim(len(ticks) - 0.5, -0.8)
    axis.set(title=f"{report.protocol}: over {len(report.games)} games", xlabel="human-normalised")
    axis.legend(fontsize=8, loc="lower right")


def _draw_profiles(axis: Any, report: ProtocolReport) -> None:
    for place, variant in enumerate(report.variants):
        profile, color = variant.profile, f"C{place}"
        axis.plot(profile.scores, profile.share, color=color, label=variant.name)
        if profile.low is not None and profile.high is not None:
            axis.fill_between(profile.scores, profile.low, profile.high, color=color, alpha=0.2)
    axis.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axis.set(
        title="performance profile",
        xlabel="human-normalised score",
        ylabel="share of runs above it",
        ylim=(0, 1),
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _draw_games(axis: Any, report: ProtocolReport) -> None:
    places = {game: place for place, game in enumerate(report.games)}
    for color, variant in enumerate(report.variants):
        for each in variant.games:
            own = each.normalized
            place = places[each.game] + 0.15 * (color - (len(report.variants) - 1) / 2)
            axis.plot(own, [place] * len(own), ".", color=f"C{color}", alpha=0.4)
            axis.plot([float(np.mean(own))], [place], "o", color=f"C{color}", markersize=5)
    for method in (method for method in report.methods if method.name == BESIDE):
        marks = [human_normalized_score(find_game(g), s) for g, s in method.scores.items()]
        heights = [places[game] for game in method.scores]
        axis.plot(marks, heights, "k|", markersize=10, label=f"{BESIDE} (published)")
        axis.legend(fontsize=8)
    axis.axvline(0.0, color="black", linewidth=0.8, linestyle=":")
    axis.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axis.set_xscale("symlog", linthresh=1.0)
    axis.set_yticks(range(len(places)), list(places), fontsize=7)
    axis.set_ylim(len(places) - 0.5, -0.5)
    axis.set(title="each game: runs and their mean", xlabel="human-normalised (log above 1)")
