"""`glam curves`: the learning curves of several runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from glam_env.errors import GlamError


@dataclass
class Curves:
    """Options of `glam curves`.

    Attributes:
        runs: metrics.jsonl files, under any name, or folders of runs or checkpoints.
        to: PNG file of the picture.
        game: A game, whose random, human and published scores are drawn beside the returns.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    to: Path = Path("curves.png")
    game: str | None = None

    def execute(self) -> int:
        """Draw the picture."""
        from glam_env.evaluation.report.history import METRICS, read_history, save_curves
        from glam_env.games import find_game

        if not self.runs:
            raise GlamError("give at least one run: glam curves RUN… --to PNG")
        game = None if self.game is None else find_game(self.game)
        histories = {}
        for path in self.runs:
            name = path.resolve().parent.name if path.name == METRICS else path.stem
            histories[str(path) if name in histories else name] = read_history(path)
        save_curves(self.to, histories, game)
        print(f"learning curves of {', '.join(histories)}: {self.to}")
        return 0
