"""`glam sb3`: an agent of Stable-Baselines3, trained in dreams."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from glam_env.cli.options import FLAT

if TYPE_CHECKING:
    from glam_agents.sb3.settings import Sb3Settings
else:  # its module imports torch: `defaults` imports the class when it is needed
    Sb3Settings = Any


@dataclass
class Sb3:
    """Options of `glam sb3`.

    Attributes:
        settings: Settings of the run.
        json: Print the report as JSON.
    """

    settings: Annotated[Sb3Settings, FLAT]
    json: bool = False

    @classmethod
    def defaults(cls, _words: list[str]) -> Sb3:
        """Return the defaults of a command line."""
        from glam_agents.sb3.settings import Sb3Settings

        return cls(Sb3Settings(game=tyro.MISSING))

    def execute(self) -> int:
        """Train, measure, and print the report."""
        from glam_agents.sb3.run import Sb3Run
        from glam_agents.sb3.score import show_report

        from glam_env.cli import trained
        from glam_env.console import Progress

        trained.require_emulator()  # the run ends with real games

        with closing(Sb3Run(self.settings)) as run, Progress() as progress:
            if not run.learn(progress):
                print(
                    f"stopped at step {run.steps_done:,}, saved in {run.path}; "
                    "next: the same command with --resume",
                    file=sys.stderr if self.json else sys.stdout,
                )
                return 0
            report = run.report(progress)
        print(json.dumps(report, indent=2) if self.json else show_report(report))
        return 0
