"""`glam list`: all games, and the checkpoints that there are."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from glam_env.cli.options import folder
from glam_env.errors import GlamError, printable

if TYPE_CHECKING:
    from glam_env.evaluation.report.zoo import ZooEntry


@dataclass
class List:
    """Options of `glam list`.

    Attributes:
        to: Markdown file for the table, such as docs/zoo.md.
        json: Print as JSON.
    """

    to: Annotated[Path | None, folder("none is written")] = None
    json: bool = False

    def execute(self) -> int:
        """Read the checkpoints' results and print them."""
        from glam_env.evaluation.report.zoo import as_json, page, read_zoo

        entries = read_zoo()
        if self.to is not None:
            try:
                self.to.write_text(page(entries), encoding="utf-8")
            except OSError as error:
                raise GlamError(f"cannot write {self.to} ({error}); choose another --to") from error
        if self.json:
            print(json.dumps(as_json(entries), indent=2, allow_nan=False))
        else:
            print("\n".join(_as_text(entries)))
        for entry in entries:
            if entry.problem:
                print(f"glam: {entry.game}: {printable(entry.problem)}", file=sys.stderr)
        if self.to is not None:
            print(f"written to {self.to}", file=sys.stderr)
        return 0


def _as_text(entries: list[ZooEntry]) -> list[str]:
    """Lay out the table, and the figures over all games, for a terminal."""
    from glam_env.evaluation.report.tables import Grid, as_text
    from glam_env.evaluation.report.zoo import HEAD, count_games, lines, over_all_games
    from glam_env.protocols import PROTOCOLS

    text = [as_text(Grid(HEAD, tuple(map(tuple, lines(entries)))))]
    if scored := sum(bool(entry.scores) for entry in entries):
        head = (f"human-normalised, {count_games(scored)}", *PROTOCOLS)
        text += ["", as_text(Grid(head, tuple(map(tuple, over_all_games(entries)))))]
    trained = sum(entry.trained for entry in entries)
    return [*text, "", f"{trained} of {count_games(len(entries))} have a checkpoint"]
