"""The tables of a benchmark: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from glam_env.evaluation.aggregate import Estimate
from glam_env.evaluation.report.benchmark import GameScores, ProtocolReport
from glam_env.games import find_game
from glam_env.protocols import find_protocol

TITLES = {
    "mean": "mean",
    "median": "median",
    "iqm": "interquartile mean",
    "optimality_gap": "optimality gap",
}
"""Figures over all games, human-normalised, with their titles."""


def number(value: float) -> str:
    """Format a score with about four digits.

    >>> number(12649.6), number(-20.71), number(0.1)
    ('12,650', '−20.7', '0.1')
    """
    digits = 0 if abs(value) >= 1000 else 1
    return f"{value:,.{digits}f}".replace("-", "−")


def spread(each: GameScores) -> str:
    """Format the mean of a game's runs with its standard error."""
    error = each.standard_error
    return number(each.mean) + ("" if error is None else f" ± {number(error)}")


def percent(estimate: Estimate) -> str:
    """Format a figure of 1 as 100 %, with its interval."""
    text = f"{100 * estimate.value:.1f} %".replace("-", "−")
    if estimate.interval is None:
        return text
    low, high = (f"{100 * end:.1f}".replace("-", "−") for end in estimate.interval)
    return f"{text} ({low} to {high})"


def _rows(report: ProtocolReport) -> list[list[str]]:
    """Return the rows of the table of games.

    They are the head, a row for each game, and the figures over all games.
    """
    variants, methods = report.variants, report.methods
    rows = [["game", "random", "human", *(v.name for v in variants), *(m.name for m in methods)]]
    own = {v.name: {each.game: each for each in v.games} for v in variants}
    for name in report.games:
        game = find_game(name)
        rows.append(
            [
                name,
                number(game.random),
                number(game.human),
                *(spread(own[v.name][name]) if name in own[v.name] else "" for v in variants),
                *(number(m.scores[name]) if name in m.scores else "" for m in methods),
            ]
        )
    for figure, title in TITLES.items():
        known = {"mean": "mean", "median": "median"}.get(figure)
        rows.append(
            [
                title,
                {"optimality_gap": "100.0 %"}.get(figure, "0.0 %"),
                {"optimality_gap": "0.0 %"}.get(figure, "100.0 %"),
                *(percent(v.aggregates[figure]) for v in variants),
                *("" if known is None else f"{100 * getattr(m, known):.1f} %" for m in methods),
            ]
        )
    return rows


def _notes(report: ProtocolReport) -> list[str]:
    """Return the notes on the table."""
    runs = [len(each.scores) for v in report.variants for each in v.games]
    seeds = f"{min(runs)}" if min(runs) == max(runs) else f"{min(runs)} to {max(runs)}"
    played = {m.name: m.protocol or "not known" for m in report.methods}
    others = ", ".join(f"{name}: {protocol}" for name, protocol in played.items())
    notes = [
        f"{len(report.games)} of 26 games, {seeds} runs each; means ± standard errors over runs. "
        f"Protocol: {find_protocol(report.protocol)}.",
        "The figures over games are human-normalised, with 95 % intervals of a bootstrap "
        "stratified by game. Published methods have one mean for each game, so they have no "
        "interquartile mean and no optimality gap.",
        f"A published column is comparable under its own protocol only ({others}).",
    ]
    if missing := [
        f"{m.name} {game}" for m in report.methods for game in report.games if game not in m.scores
    ]:
        notes.append(f"Not published: {', '.join(missing)}.")
    if max(runs) > 1 and min(runs) < 2:
        notes.append("A game with a single run leaves no interval.")
    return notes


def markdown(title: str, reports: Sequence[ProtocolReport]) -> str:
    """Return the whole report as Markdown."""
    lines = [f"# {title}"]
    for report in reports:
        lines += ["", f"## Protocol {report.protocol}", ""]
        head, *rows = _rows(report)
        lines += [_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, rows), ""]
        for note in _notes(report):
            lines += [note, ""]
        lines += ["### Probability of improvement", ""]
        lines += [_line(["variant", "over", "probability", "games", "its protocol"])]
        lines += [_line(["---", "---", "---:", "---:", "---"])]
        for variant in report.variants:
            for one in variant.improvements:
                cells = [variant.name, one.over, percent(one.estimate), str(one.games)]
                lines.append(_line([*cells, one.protocol or "not known"]))
        lines += [
            "",
            "The chance that a run scores more than the published mean of the same game, averaged "
            "over games; a tie counts half. The interval is that of the runs here.",
        ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def csv_text(reports: Sequence[ProtocolReport]) -> str:
    """Return one line for each protocol, variant and game."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    methods = list(dict.fromkeys(m.name for report in reports for m in report.methods))
    head = ["protocol", "variant", "game", "runs", "mean", "standard_error", "human_normalized"]
    writer.writerow([*head, "random", "human", *methods])
    for report in reports:
        scores = {m.name: m.scores for m in report.methods}
        for variant in report.variants:
            for each in variant.games:
                game, error = find_game(each.game), each.standard_error
                own = [report.protocol, variant.name, each.game, len(each.scores), each.mean]
                own += ["" if error is None else error, float(each.normalized.mean())]
                published = [scores.get(name, {}).get(each.game, "") for name in methods]
                writer.writerow([*own, game.random, game.human, *published])
    return file.getvalue()


def latex(reports: Sequence[ProtocolReport]) -> str:
    """Return a table for each protocol, for the package booktabs."""
    parts = []
    for report in reports:
        head, *rows = _rows(report)
        games, totals = rows[: len(report.games)], rows[len(report.games) :]
        parts += [
            f"% protocol {report.protocol}; \\usepackage{{booktabs}}",
            f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            "\\toprule",
            _latex_line(head),
            "\\midrule",
            *map(_latex_line, games),
            "\\midrule",
            *map(_latex_line, totals),
            "\\bottomrule",
            "\\end{tabular}",
            "",
        ]
    return "\n".join(parts)


def _latex_line(cells: Sequence[str]) -> str:
    signs = {"±": "$\\pm$", "−": "$-$", "%": "\\%", "_": "\\_", "&": "\\&", "#": "\\#"}
    plain = []
    for cell in cells:
        for sign, written in signs.items():
            cell = cell.replace(sign, written)
        plain.append(cell)
    return " & ".join(plain) + " \\\\"
