"""`glam list`: all games, and the shipped, downloaded and given checkpoints."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from glam_env.cli.options import folder
from glam_env.errors import GlamError, printable

if TYPE_CHECKING:
    from glam_env.evaluation.report.zoo import ZooEntry


@dataclass
class List:
    """Options of `glam list`.

    Attributes:
        checkpoints: Further checkpoints to list: folders, or addresses on the Hub. Those in the
            Hub's cache are listed anyway.
        to: Markdown file for the table, such as docs/zoo.md.
        json: Print as JSON.
    """

    checkpoints: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[CHECKPOINT ...]")
    ] = ()
    to: Annotated[Path | None, folder("none is written")] = None
    json: bool = False

    def execute(self) -> int:
        """Read the checkpoints' results and print them."""
        from glam_env.checkpoint.hub import cached_checkpoints
        from glam_env.evaluation.report.zoo import as_json, page, read_others, read_zoo

        entries = read_zoo()
        others = read_others({**cached_checkpoints(), **{name: name for name in self.checkpoints}})
        if self.to is not None:
            try:
                self.to.write_text(page(entries), encoding="utf-8")
            except OSError as error:
                raise GlamError(f"cannot write {self.to} ({error}); choose another --to") from error
        if self.json:
            plain = as_json(entries) | {"others": {k: asdict(v) for k, v in others.items()}}
            print(json.dumps(plain, indent=2, allow_nan=False))
        else:
            print("\n".join(_as_text(entries, others)))
        for name, entry in [*((entry.game, entry) for entry in entries), *others.items()]:
            if entry.problem:
                print(f"glam: {name}: {printable(entry.problem)}", file=sys.stderr)
        if self.to is not None:
            print(f"written to {self.to}", file=sys.stderr)
        return 0


def _as_text(entries: list[ZooEntry], others: dict[str, ZooEntry]) -> list[str]:
    """Lay out the tables, and the figures over all games, for a terminal."""
    from glam_env.evaluation.report.tables import Grid, as_text
    from glam_env.evaluation.report.zoo import HEAD, count_games, lines, over_all_games
    from glam_env.protocols import PROTOCOLS

    text = [as_text(Grid(HEAD, tuple(map(tuple, lines(entries)))))]
    if scored := sum(bool(entry.scores) for entry in entries):
        head = (f"human-normalised, {count_games(scored)}", *PROTOCOLS)
        text += ["", as_text(Grid(head, tuple(map(tuple, over_all_games(entries)))))]
    if found := {name: entry for name, entry in others.items() if entry.trained}:
        rows = ((name, *line) for name, line in zip(found, lines(found.values()), strict=True))
        text += ["", as_text(Grid(("checkpoint", *HEAD), tuple(rows)))]
    trained = sum(entry.trained for entry in entries)
    return [*text, "", f"{trained} of {count_games(len(entries))} have a checkpoint"]
