"""`glam bench`: the speed of dreams, of the emulator and of training."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from glam_env.bench.settings import BenchSettings
from glam_env.cli.options import FLAT, Game, folder
from glam_env.errors import GlamError


@dataclass
class Bench:
    """Options of `glam bench`.

    Attributes:
        game: A game's name.
        settings: What is measured.
        json: Print the figures as JSON.
        to: A JSON file for the figures, or a folder, where the hardware names the file. For a
            plot, the PNG file.
        plot: Measure nothing; draw the dream steps/s of these files.
    """

    game: Game = "Pong"
    settings: Annotated[BenchSettings, FLAT] = field(default_factory=BenchSettings)
    json: bool = False
    to: Annotated[Path | None, folder("none is written")] = None
    plot: tuple[Path, ...] = ()

    def execute(self) -> int:
        """Measure, and print the figures; or plot figures."""
        from glam_agents import AGENTS, DEFAULT_AGENT

        from glam_env.bench import report
        from glam_env.bench.run import Benchmark
        from glam_env.console import Progress
        from glam_env.training.learner import AgentFactory

        if self.plot:
            if self.to is None:
                raise GlamError("--plot needs a picture to draw: glam bench --plot FILE --to PNG")
            report.save_speed_plot(self.to, [report.read_report(path) for path in self.plot])
            print(f"speeds of {', '.join(map(str, self.plot))}: {self.to}")
            return 0

        def agent_of(preset: str) -> AgentFactory:
            kind = AGENTS[DEFAULT_AGENT]
            return lambda width, actions: kind.make(kind.preset(preset), width, actions)

        benchmark = Benchmark(self.game, self.settings, agent_of)
        path = None
        if self.to is not None:  # a mistake shows now, not after minutes
            path = report.report_path(self.to, benchmark.head)
            report.require_writable(path)
        with Progress() as progress:
            figures = benchmark.measure(progress)
        print(
            json.dumps(figures, indent=2, allow_nan=False)
            if self.json
            else report.speed_table(figures)
        )
        if path is not None:
            report.write_report(path, figures)
            print(f"written to {path}", file=sys.stderr)
        return 0
