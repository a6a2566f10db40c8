"""Tables of sequence cores × games, compared with the paper's table 2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from glam_env.evaluation.report.fluctuation import Fluctuation

TABLE_2: dict[str, dict[str, float]] = {
    row: dict(zip(("Pong", "Boxing", "KungFuMaster", "BattleZone"), scores, strict=True))
    for row, scores in {
        "Dbl. Transformer": (4.0, 68.0, 24030.0, 7600.0),
        "Dbl. Mamba": (3.0, 49.0, 23790.0, 6150.0),
        "Ours w/o G&L": (8.0, 63.0, 26984.0, 8320.0),
        "Ours w/o G": (14.0, 71.0, 29475.0, 9570.0),
        "Ours w/o L_var": (11.0, 75.0, 26210.0, 8600.0),
        "Ours": (18.0, 76.0, 32680.0, 13190.0),
    }.items()
}
"""Table 2 of the paper: mean scores of the final weights by row and game."""

_ROWS = {
    "glam": "Ours",
    "local": "Ours w/o G",
    "transformer": "Ours w/o G&L",
    "double_mamba": "Dbl. Mamba",
    "double_transformer": "Dbl. Transformer",
}

AHEAD = 8  # steps at which the error on the foreground is read


def row_of(core: str, variation: float) -> str:
    """Return the row of table 2 of a run's settings; empty if it has none.

    Args:
        core: Name of the sequence core.
        variation: Weight of the variation loss.
    """
    if core == "glam" and variation == 0.0:
        return "Ours w/o L_var"
    return _ROWS.get(core, "")


@dataclass(frozen=True)
class RunFigures:
    """Figures of one run of a sweep.

    Attributes:
        game: Name of the game.
        variant: Name of the variant.
        seed: Seed of the run.
        row: Its row of table 2; empty if it has none.
        scores: Mean of whole games, by protocol.
        fidelity: Figures of `glam fidelity`, by their titles.
        fluctuation: Fluctuation of its losses.
    """

    game: str
    variant: str
    seed: int
    row: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    fidelity: Mapping[str, float] = field(default_factory=dict)
    fluctuation: Fluctuation | None = None


def fidelity_figures(plain: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures that the tables show from the JSON of `glam fidelity`."""
    found: dict[str, float | None] = {}
    if rewards := plain.get("rewards"):
        found[f"F1 of rewards, {rewards[0]['horizon']} steps"] = rewards[0]["f1"]
    errors = plain.get("images", {}).get("dream", {}).get("foreground_error", [])
    if len(errors) >= AHEAD:
        found[f"foreground error, {AHEAD} steps"] = errors[AHEAD - 1]
    if branches := plain.get("branches"):
        steps = branches["horizon"]
        found[f"held actions ranked right, {steps} steps"] = branches["right"]
        found[f"variance of held actions explained, {steps} steps"] = branches["explained"]
    return {name: float(value) for name, value in found.items() if value is not None}


def number(value: float) -> str:
    """Format a figure with about three digits.

    >>> number(12649.6), number(-20.71), number(0.1234)
    ('12,650', '−20.7', '0.123')
    """
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}".replace("-", "−")


def spread(values: Sequence[float]) -> str:
    """Format the mean over seeds with its standard error, if there are two or more."""
    if not values:
        return ""
    mean = number(float(np.mean(values)))
    if len(values) < 2:
        return mean
    return f"{mean} ± {number(float(np.std(values, ddof=1)) / math.sqrt(len(values)))}"


def ablation_markdown(runs: Sequence[RunFigures]) -> str:
    """Return the tables as Markdown; empty if no run is of a row of table 2.

    There is one table of scores for each protocol, with the published scores, and then one table
    for each game with the figures of dreams and the fluctuation of losses.
    """
    if not any(run.row for run in runs):
        return ""
    names = list(dict.fromkeys(run.variant for run in runs))
    games = list(dict.fromkeys(run.game for run in runs))
    rows = {run.variant: run.row for run in runs}
    lines = ["", "## Sequence cores and the paper's table 2", ""]
    for protocol in sorted({name for run in runs for name in run.scores}):
        head = ["variant", "row", *(cell for game in games for cell in (game, "published"))]
        lines += [f"Scores, protocol {protocol}: mean over seeds ± standard error.", ""]
        lines += [_line(head), _line(["---", "---"] + ["---:"] * (2 * len(games)))]
        for name in names:
            cells = []
            for game in games:
                own = [
                    run.scores[protocol] for run in _of(runs, name, game) if protocol in run.scores
                ]
                published = TABLE_2.get(rows[name], {}).get(game)
                cells += [spread(own), "" if published is None else number(published)]
            lines.append(_line([name, rows[name], *cells]))
        lines.append("")
    lines += [
        "The published rows are of the protocol `published`, the paper's sizes and 100,000 steps: "
        "runs of other sizes or budgets compare with each other, not with them. "
        "Table 1's column of STORM differs from the row w/o G&L.",
        "",
    ]
    for game in games:
        lines += _game_table(game, [run for run in runs if run.game == game], names)
    return "\n".join(lines) + "\n"


def _game_table(game: str, runs: Sequence[RunFigures], names: Sequence[str]) -> list[str]:
    """Return the lines of the table of a game's fidelity and fluctuation.

    There are none if the game has no such figures.
    """
    titles = list(dict.fromkeys(title for run in runs for title in run.fidelity))
    every = sorted({run.fluctuation.every for run in runs if run.fluctuation})
    if not titles and not every:
        return []
    losses = ["loss", "dynamics_kl"] if every else []
    head = ["variant", "seeds", *titles, *(f"fluctuation of {name}" for name in losses)]
    lines = [f"### {game}", "", _line(head), _line(["---"] + ["---:"] * (len(head) - 1))]
    for name in names:
        own = _of(runs, name, game)
        cells = [
            spread([r.fidelity[title] for r in own if title in r.fidelity]) for title in titles
        ]
        for loss in losses:
            found = [
                r.fluctuation for r in own if r.fluctuation and loss in r.fluctuation.deviations
            ]
            shares = [share for one in found if (share := one.share(loss)) is not None]
            text = spread([one.deviations[loss] for one in found])
            cells.append(f"{text} ({100 * float(np.mean(shares)):.1f} %)" if shares else text)
        if own:
            lines.append(_line([name, str(len(own)), *cells]))
    if every:
        lines += ["", _fluctuation_note(every)]
    return [*lines, ""]


def _fluctuation_note(every: Sequence[int]) -> str:
    text = (
        "Fluctuation: the standard deviation of the differences between consecutive logged values "
        "in joint training, and its share of the mean value."
    )
    if list(every) == [1]:
        return text
    counts = ", ".join(map(str, every))
    return f"{text} A logged value is a mean over {counts} updates; `--log-every 1` logs each."


def _of(runs: Sequence[RunFigures], variant: str, game: str) -> list[RunFigures]:
    return [run for run in runs if (run.variant, run.game) == (variant, game)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def ablation_json(runs: Sequence[RunFigures]) -> list[dict[str, Any]]:
    """Return the figures of all runs, ready for `json.dumps`."""
    return [
        {
            "game": run.game,
            "variant": run.variant,
            "seed": run.seed,
            "row": run.row,
            "published": TABLE_2.get(run.row, {}).get(run.game),
            "scores": dict(run.scores),
            "fidelity": dict(run.fidelity),
            "fluctuation": None
            if run.fluctuation is None
            else {
                "every": run.fluctuation.every,
                "deviations": dict(run.fluctuation.deviations),
                "means": dict(run.fluctuation.means),
            },
        }
        for run in runs
    ]
