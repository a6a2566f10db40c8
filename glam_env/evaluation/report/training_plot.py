"""Training curves of a sweep with spread over seeds, and losses over updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glam_env.evaluation.report.fluctuation import Fluctuation
from glam_env.evaluation.report.history import History, moving_average
from glam_env.evaluation.report.plots import COLUMNS, pyplot, save_figure
from glam_env.games import find_game, human_normalized_score

EPISODES = 20  # training episodes that a point of a curve averages
POINTS = 200  # of a curve


@dataclass(frozen=True)
class Band:
    """Curves of several seeds on common steps.

    Attributes:
        steps: (P,) environment steps that all seeds have.
        mean: (P,) over the seeds.
        low, high: (P,) the lowest and the highest seed.
        seeds: How many.
    """

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def band(histories: Sequence[History]) -> Band | None:
    """Average the returns of training episodes over seeds.

    Each seed's curve is the mean of its last :data:`EPISODES` episodes, between its first and its
    last one.

    Returns:
        None if a seed has no episode yet, or if the seeds have no steps in common.
    """
    curves = [moving_average(each.returns, EPISODES) for each in histories]
    if not curves or not all(curve.steps for curve in curves):
        return None
    first, last = max(c.steps[0] for c in curves), min(c.steps[-1] for c in curves)
    if last < first:
        return None
    steps = np.linspace(first, last, POINTS)
    values = np.stack([np.interp(steps, c.steps, c.values) for c in curves])
    return Band(steps, values.mean(0), values.min(0), values.max(0), len(curves))


def save_training_plot(
    path: Path,
    histories: Mapping[str, Mapping[str, Sequence[History]]],
    fluctuations: Mapping[str, Mapping[str, Fluctuation]] | None = None,
) -> Path:
    """Draw the training returns of each game, and its losses if they are given.

    Returns and losses have a panel each for each game. A curve of returns is the mean over the
    seeds of a variant; its band reaches from the lowest to the highest. With several games, a
    further panel has the mean over them, human-normalised.

    Args:
        path: A PNG file.
        histories: Histories of the seeds, by game and variant.
        fluctuations: One seed's, by game and variant.

    Raises:
        GlamError: matplotlib is missing, or the file cannot be written.
    """
    variants = list(dict.fromkeys(name for games in histories.values() for name in games))
    colors = {name: f"C{place}" for place, name in enumerate(variants)}
    bands = {
        game: {name: one for name, own in by.items() if (one := band(own)) is not None}
        for game, by in histories.items()
    }
    losses = {game: by for game, by in (fluctuations or {}).items() if by}
    panels = len(bands) + (len(bands) > 1) + len(losses)
    columns = min(COLUMNS, panels)
    lines = math.ceil(panels / columns)
    figure, axes = pyplot().subplots(
        lines, columns, figsize=(5.5 * columns, 3.8 * lines), squeeze=False, layout="constrained"
    )
    places = iter(axes.flat)
    for game, own in bands.items():
        axis = next(places)
        for name, one in own.items():
            _draw_band(axis, one, name, colors[name])
        _finish(axis, f"{game}: return of training episodes", "environment steps")
        _draw_random_play(axis, game)
    if len(bands) > 1:
        axis = next(places)
        for name in variants:
            if all(name in own for own in bands.values()):
                _draw_band(axis, _normalized(name, bands), name, colors[name])
        _finish(axis, f"mean over {len(bands)} games, human-normalised", "environment steps")
    for game, by in losses.items():
        axis = next(places)
        for name, one in by.items():
            axis.plot(one.loss.steps, one.loss.values, color=colors[name], linewidth=0.5, alpha=0.8)
            deviation = one.deviations["loss"]
            axis.plot([], [], color=colors[name], label=f"{name}, fluctuation {deviation:.3g}")
        _finish(axis, f"{game}: loss of the world model, one seed", "model updates")
    for axis in places:
        axis.set_axis_off()
    return save_figure(figure, path)


def _normalized(name: str, bands: Mapping[str, Mapping[str, Band]]) -> Band:
    """Average a variant over all games, in human-normalised scores.

    The games are averaged on their common steps.
    """
    own = [(find_game(game), by[name]) for game, by in bands.items()]
    first = max(one.steps[0] for _, one in own)
    last = max(first, min(one.steps[-1] for _, one in own))
    steps = np.linspace(first, last, POINTS)
    mean, low, high = (
        np.mean(
            [
                human_normalized_score(game, np.interp(steps, one.steps, getattr(one, part)))  # type: ignore[arg-type]
                for game, one in own
            ],
            axis=0,
        )
        for part in ("mean", "low", "high")
    )
    return Band(steps, mean, low, high, min(one.seeds for _, one in own))


def _draw_band(axis: Any, one: Band, name: str, color: str) -> None:
    seeds = f"{one.seeds} seed{'s' if one.seeds > 1 else ''}"
    axis.plot(one.steps, one.mean, color=color, label=f"{name} ({seeds})")
    if one.seeds > 1:
        axis.fill_between(one.steps, one.low, one.high, color=color, alpha=0.2, linewidth=0)


def _draw_random_play(axis: Any, game: str) -> None:
    """Mark the score of random play."""
    axis.axhline(find_game(game).random, color="gray", linewidth=0.9, linestyle=":")


def _finish(axis: Any, title: str, steps: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(steps)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7)
