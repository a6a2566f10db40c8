"""`glam fidelity`: how well dreams match the game."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from glam_env.cli import trained
from glam_env.cli.options import Device, Game, folder
from glam_env.errors import GlamError


@dataclass
class Fidelity:
    """Options of `glam fidelity`.

    Attributes:
        game: A game's name, or the path of a checkpoint or of a run.
        steps: Real steps to dream along. The agent plays them, with ever more random actions, and
            random play.
        behavior_steps: Real steps that the agent plays by itself, for comparison with its dreams.
        branch_steps: Real steps from whose moments each action is tried, in the game and in
            dreams. 0 tries none.
        ranking_moments: Real moments from which policies are ranked. 0 ranks none.
        ceiling_moments: Real moments from which the game is played again, for the noise ceiling:
            what a perfect dream would reach. 0 leaves it out.
        ranking_agents: Further agents to rank, as KIND:PATH: `sb3:RUN` of `glam sb3`, `storm:PATH`
            of a checkpoint or a run, `kept:RUN` for all weights that a run kept.
        recording: File of `glam play` whose real steps are dreamt along, instead of --steps.
        horizon: Steps of an open-loop dream.
        seed: Seed of the games and the dreams.
        out: Folder for the report as JSON, plots, strips and a film.
        pictures: Folder for strips of the game and the dream, with boxes where the real frames
            change most. Nothing is measured then.
        check: Exit with code 1 if a figure misses its threshold. Those of measures that are left
            out are not checked.
        device: Where the models run.
        json: Print the report as JSON.
    """

    game: Game
    steps: int = trained.FIDELITY_STEPS
    behavior_steps: int = trained.BEHAVIOR_STEPS
    branch_steps: int = trained.BRANCH_STEPS
    ranking_moments: int = trained.RANKING_MOMENTS
    ceiling_moments: int = trained.CEILING_MOMENTS
    ranking_agents: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND:PATH")] = ()
    recording: Annotated[Path | None, folder("none is read")] = None
    horizon: int = trained.FIDELITY_HORIZON
    seed: int = trained.FIDELITY_SEED
    out: Annotated[Path | None, folder("none is written")] = None
    pictures: Annotated[Path | None, folder("none are drawn")] = None
    check: bool = False
    device: Device = "auto"
    json: bool = False

    def execute(self) -> int:
        """Measure, and print the figures."""
        from glam_env.checks import require_count
        from glam_env.cli.ranking import load_policies
        from glam_env.envs.recordings.recording import load_recording
        from glam_env.evaluation.examine import save_examination
        from glam_env.evaluation.measures.thresholds import Thresholds
        from glam_env.games import find_game

        for name in ("steps", "behavior_steps", "horizon"):
            require_count(name, getattr(self, name))
        trained.require_emulator()
        if self.out is not None:
            trained.require_file("--out", self.out, "PIL", "matplotlib", "imageio_ffmpeg")
        if self.pictures is not None:
            others = (self.out, self.check, self.json, self.ranking_agents, self.recording)
            if any(others):
                raise GlamError(
                    "--pictures measures nothing: leave out --out, --check, --json, --recording "
                    "and --ranking-agents"
                )
            return self._draw(self.pictures)
        if self.check and self.horizon < (least := Thresholds().horizon):
            raise GlamError(f"--check needs a horizon of at least {least}, not {self.horizon}")
        if self.ranking_agents and not self.ranking_moments:
            raise GlamError("--ranking-agents are ranked from moments: set --ranking-moments")
        loaded = trained.load_trained(self.game, self.device)
        recorded = None
        if self.recording is not None:
            recorded = load_recording(self.recording, find_game(loaded.game))
        policies = load_policies(self.ranking_agents, loaded, self.device)
        report, recording = trained.measure_dreams(
            loaded,
            steps=self.steps,
            behavior_steps=self.behavior_steps,
            branch_steps=self.branch_steps,
            ranking_moments=self.ranking_moments,
            ceiling_moments=self.ceiling_moments,
            horizon=self.horizon,
            seed=self.seed,
            policies=policies,
            recording=recorded,
        )
        print(json.dumps(report.as_json(), indent=2) if self.json else report.table())
        if self.out is not None:
            save_examination(self.out, report, loaded.world_model, recording)
            print(f"written to {self.out}", file=sys.stderr)
        missed = [check for check in report.checks if not check.passed]
        if self.check and missed:
            print(f"{len(missed)} of {len(report.checks)} thresholds missed", file=sys.stderr)
        return int(self.check and bool(missed))

    def _draw(self, to: Path) -> int:
        """Play the game, dream along a few stretches, and draw both."""
        from glam_env.console import Progress
        from glam_env.evaluation.measures.base import Settings, Subject
        from glam_env.evaluation.play.windows import dream_windows
        from glam_env.evaluation.report.boxes import boxed_strip
        from glam_env.evaluation.report.strips import save_strips

        trained.require_file("--pictures", to, "PIL")
        loaded = trained.load_trained(self.game, self.device)
        settings = Settings(
            steps=self.steps, horizon=self.horizon, seed=self.seed, play=loaded.play
        )
        with Progress() as progress:
            subject = Subject(
                loaded.world_model, loaded.act(), loaded.game, settings, on_progress=progress
            )
            windows = dream_windows(
                loaded.world_model,
                subject.recording,
                context=settings.context,
                horizon=self.horizon,
                seed=self.seed,
            )
        try:
            paths = save_strips(to, windows, boxed_strip)
        except OSError as error:
            raise GlamError(f"cannot write {to} ({error}); choose a writable --pictures") from error
        print("\n".join(map(str, paths)))
        return 0
