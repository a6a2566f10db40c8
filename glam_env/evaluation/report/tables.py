"""Rows laid out as tables: plain text for a terminal, Markdown for a card."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from glam_env.evaluation.bootstrap import Interval
from glam_env.evaluation.measures.base import Measure
from glam_env.evaluation.rows import Row

NONE = "–"  # where there is no figure
WIDTH = 100  # of a paragraph in plain text


@dataclass(frozen=True)
class Grid:
    """A table: the column heads and the lines, all of one length."""

    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def layout(rows: Iterable[Row]) -> Iterator[Grid]:
    """Lay out rows as tables.

    Consecutive rows of curves share a table with a column for each horizon. A row belongs to a
    curve if it has a horizon but no interval, chance, ceiling or note. The other rows have a line
    each; empty columns are left out.
    """
    for curves, group in groupby(rows, _is_of_curve):
        yield (_curve_grid if curves else _line_grid)(list(group))


def _is_of_curve(row: Row) -> bool:
    plain = row.chance is None and row.ceiling is None and not (row.interval or row.note)
    return row.horizon is not None and plain


def _curve_grid(rows: Sequence[Row]) -> Grid:
    horizons = sorted({row.horizon for row in rows if row.horizon is not None})
    values = {(row.title, row.horizon): row.value for row in rows}
    return Grid(
        ("steps", *map(str, horizons)),
        tuple(
            (
                title,
                *(
                    number(values[title, horizon]) if (title, horizon) in values else ""
                    for horizon in horizons
                ),
            )
            for title in dict.fromkeys(row.title for row in rows)
        ),
    )


def _line_grid(rows: Sequence[Row]) -> Grid:
    columns = {
        "step": ["" if row.horizon is None else str(row.horizon) for row in rows],
        "value": [number(row.value) for row in rows],
        "95 %": [spread(row.interval) if row.interval else "" for row in rows],
        "by chance": ["" if row.chance is None else number(row.chance) for row in rows],
        "noise ceiling": ["" if row.ceiling is None else number(row.ceiling) for row in rows],
        " ": [row.note for row in rows],
    }
    columns = {head: cells for head, cells in columns.items() if any(cells)}
    titles = [row.title for row in rows]
    return Grid(("", *columns), tuple(zip(titles, *columns.values(), strict=True)))


def text_table(reports: Iterable[Measure]) -> str:
    """Lay out reports as plain text: what each is about, then its figures."""
    parts = []
    for report in reports:
        if rows := report.rows():
            parts.append(textwrap.fill(report.about, WIDTH))
            parts += map(as_text, layout(rows))
    return "\n\n".join(parts)


def markdown_tables(reports: Iterable[Measure]) -> list[str]:
    """Lay out reports as the lines of a Markdown text."""
    lines = []
    for report in reports:
        if rows := report.rows():
            lines += [report.about, ""]
            for grid in layout(rows):
                lines += [*markdown(grid.head, grid.lines), ""]
    return lines


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Write a table as the lines of a Markdown text."""
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]


def as_text(grid: Grid) -> str:
    """Lay out a table as plain text."""
    lines = [grid.head, *grid.lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def number(figure: float | None) -> str:
    """Write a figure with three significant digits, but at most three decimals.

    An `int` is written in full.
    """
    if figure is None:
        return NONE
    if isinstance(figure, int):
        return str(figure)
    size = math.floor(math.log10(abs(figure))) if figure else -1
    return f"{figure:.{min(max(2 - size, 0), 3)}f}"


def spread(interval: Interval | None) -> str:
    """Write an interval."""
    return NONE if interval is None else f"{number(interval[0])} to {number(interval[1])}"
