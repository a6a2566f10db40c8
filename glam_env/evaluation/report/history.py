"""A run's history from its metrics: phases, scores over the steps, and curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from glam_env.errors import GlamError, printable
from glam_env.evaluation.report.real_scores import ScoreCurve, read_curves
from glam_env.files import parse_json, read_bounded, reading
from glam_env.games import Game

METRICS = "metrics.jsonl"
METRICS_BYTES = 2**26  # a line has some 500
COUNTS = ("env_steps", "image_updates", "model_updates", "agent_updates")
PROGRESS = ("seconds", "phase", "phase_updates", "polished", "settled")
EARLIER_NAMES = {"image polish": "image fine-tuning", "settling": "adaptation"}
"""Names of phases in the metrics of version 0.1, with today's."""
BEFORE = "play before learning"  # the phase that no line names
NAME = 40  # characters shown of a name
SCORE_ROWS = 12
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 40
CURVES = {
    "foreground_error": "error on the foreground",
    "reconstruction": "reconstruction loss",
    "dynamics_kl": "dynamics KL (nats)",
    "new_play_kl": "dynamics KL on new play (nats)",
    "variation_kl": "variation KL (nats)",
    "reward": "reward loss",
    "rewards_found": "share of rewards found",
    "new_play_rewards_found": "share of rewards found on new play",
    "termination": "termination loss",
    "dream_reward": "reward of a dreamt step",
    "dream_return": "λ-return in dreams",
    "value_loss": "value loss",
    "entropy": "policy's entropy (nats)",
    "learning_rate": "learning rate",
}
"""Figures that a run logs, in the order in which they are shown, with their titles."""
LOGARITHMIC = (
    "foreground_error",
    "reconstruction",
    "dynamics_kl",
    "new_play_kl",
    "reward",
    "termination",
)


@dataclass(frozen=True)
class Phase:
    """A stretch of a run.

    Attributes:
        name: The work of the phase.
        env_steps, image_updates, model_updates, agent_updates: Counts of the phase alone.
        until: Environment steps at its end.
        seconds: Duration.
    """

    name: str
    env_steps: int
    image_updates: int
    model_updates: int
    agent_updates: int
    until: int
    seconds: float


@dataclass(frozen=True)
class ScoreBin:
    """Whole training episodes that ended in one stretch of a run.

    They ended after environment step `since` and up to `until`.
    """

    since: int
    until: int
    episodes: int
    mean: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Curve:
    """A figure over environment steps."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class History:
    """Everything that a run logged.

    Attributes:
        lines: Number of lines.
        env_steps: Environment steps at the last one.
        seconds: Training time at the last one.
        phases: In order.
        returns: Returns of whole training episodes, over the steps at which they ended.
        figures: By name, those of `CURVES` first.
        real_scores: Scores of the weights that the run kept, a curve for each protocol.
    """

    lines: int
    env_steps: int
    seconds: float
    phases: tuple[Phase, ...]
    returns: Curve
    figures: dict[str, Curve]
    real_scores: list[ScoreCurve] = field(default_factory=list)

    def scores(self, rows: int = SCORE_ROWS) -> tuple[ScoreBin, ...]:
        """Bin the episodes into `rows` equal stretches of the run.

        Empty stretches are left out.
        """
        edges = np.linspace(0, self.env_steps, rows + 1).round().astype(int)
        steps, values = np.array(self.returns.steps), np.array(self.returns.values)
        bins = []
        for since, until in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            part = values[(steps > since) & (steps <= until)]
            if len(part):
                figures = part.mean(), part.min(), part.max()
                bins.append(ScoreBin(since, until, len(part), *map(float, figures)))
        return tuple(bins)

    def as_json(self) -> dict[str, Any]:
        """Return the history, ready for `json.dumps`.

        Each figure has its first, last, lowest and highest value.
        """
        return {
            "env_steps": self.env_steps,
            "seconds": self.seconds,
            "phases": [asdict(phase) for phase in self.phases],
            "scores": [asdict(row) for row in self.scores()],
            "figures": {
                name: {
                    "first": curve.values[0],
                    "last": curve.values[-1],
                    "lowest": min(curve.values),
                    "highest": max(curve.values),
                }
                for name, curve in self.figures.items()
            },
            "real_scores": [curve.as_json() for curve in self.real_scores],
        }

    def table(self) -> str:
        """Return the history as plain text."""
        head = f"{'phase':22}{'to step':>10}{'steps':>10}{'images':>9}{'model':>9}{'agent':>9}"
        lines = [head + f"{'hours':>8}   (updates of each)"]
        lines += [
            f"{printable(phase.name, NAME):22}{phase.until:10,}{phase.env_steps:10,}"
            f"{phase.image_updates:9,}{phase.model_updates:9,}{phase.agent_updates:9,}"
            f"{phase.seconds / 3600:8.2f}"
            for phase in self.phases
        ]
        if rows := self.scores():
            lines += ["", f"{'to step':>10}{'episodes':>10}{'mean return':>13}   lowest … highest"]
            lowest = min(row.mean for row in rows)
            span = max(max(row.mean for row in rows) - lowest, 1.0)
            lines += [
                f"{row.until:10,}{row.episodes:10}{row.mean:13.2f}   "
                f"{f'{row.lowest:g} … {row.highest:g}':18}"
                + "█"
                * (1 + round(23 * (row.mean - lowest) / span))
                for row in rows
            ]
        if self.figures:
            lines += [
                "",
                f"{'figure':20}{'first':>11}{'last':>11}   from the first step to the last",
            ]
            lines += [
                f"{printable(name, NAME):20}{curve.values[0]:11.4g}{curve.values[-1]:11.4g}   "
                + sparkline(curve)
                for name, curve in self.figures.items()
            ]
        for curve in self.real_scores:
            lines += ["", curve.table()]
        return "\n".join(lines)


def read_history(path: Path) -> History:
    """Read a metrics file; a last line that is still being written is left out.

    The real scores of a run's kept weights come from the `scores.json` beside it.

    Args:
        path: The file, or the folder of a run or a checkpoint with a `metrics.jsonl`.

    Raises:
        GlamError: If it is missing, empty, or no metrics file.
    """
    file = path / METRICS if path.is_dir() else path
    lines = read_lines(path)
    with reading(file, "give the metrics.jsonl of a run"):
        history = summarize(lines, str(file))
    return replace(history, real_scores=read_curves(file.parent) if file.name == METRICS else [])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a metrics file; see :func:`read_history`."""
    file = path / METRICS if path.is_dir() else path
    data = read_bounded(file, METRICS_BYTES, "give a metrics.jsonl or the folder of a run")
    with reading(file, "give the metrics.jsonl of a run"):
        return list(_parse(data.decode("utf-8"), file))


def _parse(text: str, file: Path) -> Iterator[dict[str, Any]]:
    *whole, torn = text.split("\n")
    for number, line in enumerate(whole + [torn] * bool(torn.strip()), 1):
        try:
            figures = parse_json(line, finite=False)
            if not isinstance(figures, dict) or not {*COUNTS, "seconds"} <= figures.keys():
                raise ValueError("not a line of metrics")
        except ValueError as error:
            if number > len(whole):
                return
            raise GlamError(
                f"{file}, line {number}: {error}; give the metrics.jsonl of a run"
            ) from error
        yield figures


def summarize(lines: Sequence[Mapping[str, Any]], where: str) -> History:
    """Summarize the lines of a metrics file.

    Args:
        lines: As the trainer logs them.
        where: Named in errors.

    Raises:
        GlamError: If there are none.
    """
    if not lines:
        raise GlamError(f"{where} has no lines yet; let the run train for a while")
    episodes = [line for line in lines if "episode_return" in line]
    logged = [line for line in lines if "phase" in line]
    names = dict.fromkeys(name for line in logged for name in line)
    known = [name for name in CURVES if name in names]
    others = [name for name in names if name not in {*CURVES, *COUNTS, *PROGRESS}]
    return History(
        lines=len(lines),
        env_steps=lines[-1]["env_steps"],
        seconds=lines[-1]["seconds"],
        phases=tuple(_phases(lines)),
        returns=_curve(episodes, "episode_return"),
        figures={name: curve for name in known + others if (curve := _curve(logged, name)).values},
    )


def _phases(lines: Sequence[Mapping[str, Any]]) -> Iterator[Phase]:
    """Join consecutive lines of one name.

    A line has the name of the work that follows it, so a phase ends at the first line of the next
    one.
    """
    name = BEFORE
    start: Mapping[str, Any] = dict.fromkeys((*COUNTS, "seconds"), 0)
    for before, line in zip((start, *lines), lines, strict=False):
        if _phase_name(line, name) == name:
            continue
        end = line
        if name == BEFORE:  # the first line of learning already counts updates
            end = dict(before) | {"env_steps": line["env_steps"]}
        yield _phase(name, start, end)
        name, start = _phase_name(line, name), end
    if any(lines[-1][count] > start[count] for count in COUNTS):
        yield _phase(name, start, lines[-1])


def _phase_name(line: Mapping[str, Any], default: str) -> str:
    name: str = line.get("phase", default)
    return EARLIER_NAMES.get(name, name)


def _phase(name: str, start: Mapping[str, Any], end: Mapping[str, Any]) -> Phase:
    return Phase(
        name=name,
        **{count: end[count] - start[count] for count in COUNTS},
        until=end["env_steps"],
        seconds=end["seconds"] - start["seconds"],
    )


def _curve(lines: Iterable[Mapping[str, Any]], name: str) -> Curve:
    pairs = [
        (line["env_steps"], float(line[name]))
        for line in lines
        if isinstance(line.get(name), int | float) and math.isfinite(line[name])
    ]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return Curve(steps, values)


def sparkline(curve: Curve, width: int = SPARK_WIDTH) -> str:
    """Draw a curve's values, in the order logged, as a row of blocks."""
    parts = np.array_split(np.array(curve.values), min(width, len(curve.values)))
    means = np.array([part.mean() for part in parts])
    span = np.ptp(means)
    heights = (means - means.min()) / span if span > 0 else np.zeros(len(means))
    return "".join(SPARKS[round(height * (len(SPARKS) - 1))] for height in heights.tolist())


def moving_average(curve: Curve, window: int) -> Curve:
    """Average the last `window` values, fewer at the beginning."""
    sums = np.concatenate([[0.0], np.cumsum(curve.values)])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    means = (sums[ends] - sums[starts]) / (ends - starts)
    return Curve(curve.steps, tuple(means.tolist()))


def save_curves(path: Path, histories: Mapping[str, History], game: Game | None = None) -> None:
    """Draw the learning curves of some runs into one PNG file.

    The returns are those of training episodes, a dot each, with the mean of the last 20. Markers
    with standard errors are whole real games of the weights that a run kept.

    Args:
        path: Its folder is made if missing.
        histories: By the name to show.
        game: The game whose random, human and published scores are drawn beside the returns.

    Raises:
        GlamError: If matplotlib is not installed, or the file cannot be written.
    """
    from glam_env.evaluation.report.plots import pyplot, save_figure

    plt = pyplot()
    from matplotlib.ticker import EngFormatter

    names = [name for name in CURVES if any(name in h.figures for h in histories.values())]
    columns = 3
    rows = math.ceil(len(names) / columns)
    figure = plt.figure(figsize=(13, 4.5 + 2.4 * rows), layout="constrained")
    grid = figure.add_gridspec(rows + 2, columns)
    score = figure.add_subplot(grid[:2, : columns - 1])
    axes = [figure.add_subplot(grid[2 + i // columns, i % columns]) for i in range(len(names))]
    pairs = plt.get_cmap("tab20").colors  # dark and light ones alternate
    colors = [*pairs[::2], *pairs[1::2]]
    for i, (label, history) in enumerate(histories.items()):
        color = colors[i % len(colors)]
        style = ("-", "--", ":", "-.")[i // len(colors) % 4]  # another one when the colors repeat
        returns = history.returns
        score.plot(returns.steps, returns.values, ".", color=color, alpha=0.25, markersize=4)
        mean = moving_average(returns, 20)
        score.plot(mean.steps, mean.values, style, color=color, label=label)
        for curve, marker in zip(history.real_scores, "os^Dv", strict=False):
            score.errorbar(
                list(curve.points),
                [point["mean"] for point in curve.points.values()],
                [point["standard_error"] or 0.0 for point in curve.points.values()],
                color=color,
                marker=marker,
                linestyle="--",
                markeredgecolor="black",
                capsize=2,
                label=f"{label}, whole games, {curve.play.protocol or curve.play}",
            )
        for axis, name in zip(axes, names, strict=True):
            if name in history.figures:
                curve = history.figures[name]
                axis.plot(curve.steps, curve.values, style, color=color, linewidth=1)
    for axis, name in zip(axes, names, strict=True):
        axis.set_title(CURVES[name], fontsize=10)
        if name in LOGARITHMIC:
            axis.set_yscale("log")
    if game is not None:
        for name, value, style in (
            ("random play", game.random, ":"),
            ("human", game.human, "--"),
            ("GLAM, published", game.published["GLAM"], "-."),
        ):
            score.axhline(value, color="gray", linewidth=0.9, linestyle=style, label=name)
    score.set(title="return of training episodes", xlabel="environment steps")
    beside = figure.add_subplot(grid[:2, columns - 1], frameon=False, xticks=[], yticks=[])
    beside.legend(*score.get_legend_handles_labels(), loc="upper left", borderaxespad=0.0)
    for axis in (score, *axes):
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    save_figure(figure, path)
