"""`glam export`: from a training run to a checkpoint."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

from glam_env.cli import trained
from glam_env.cli.options import Device, Game, RunPath, folder
from glam_env.errors import GlamError


@dataclass
class Export:
    """Options of `glam export`.

    Attributes:
        game: The game whose run is exported.
        run: The run's folder.
        kept: Which weights: the step of kept ones, or best for the best of `glam eval RUN --kept`
            under the protocol of the training. By default the last ones.
        to: The checkpoint's folder.
        episodes: Real games to play for the score of each protocol.
        fidelity_steps: As `steps` of `glam fidelity`.
        behavior_steps: As `behavior_steps` of `glam fidelity`.
        branch_steps: As `branch_steps` of `glam fidelity`.
        ranking_moments: As `ranking_moments` of `glam fidelity`.
        ceiling_moments: As `ceiling_moments` of `glam fidelity`.
        contexts: Start contexts to store.
        max_episode_steps: The dream's horizon, in steps.
        dtype: Type of the stored weights: int8 (large weights in 8 bits or 6 with a scale for each
            row, and compressed files), bfloat16 or float32.
        note: What the card says about the course of the run, beside its figures.
        device: Where the models run.
        onnx: Folder for the ONNX files of the checkpoint GAME (a game's name, a path or an
            address). Nothing else is done then, and of the other options only `starts` is read.
        starts: Start states among the ONNX files.
    """

    game: Game
    run: RunPath = None
    kept: Annotated[str | None, folder("the last weights")] = None
    to: Annotated[Path | None, folder("checkpoints/GAME")] = None
    episodes: int = trained.SCORE_EPISODES
    fidelity_steps: int = trained.FIDELITY_STEPS
    behavior_steps: int = trained.BEHAVIOR_STEPS
    branch_steps: int = trained.BRANCH_STEPS
    ranking_moments: int = trained.RANKING_MOMENTS
    ceiling_moments: int = trained.CEILING_MOMENTS
    contexts: int = 1024
    max_episode_steps: int = trained.HORIZON
    dtype: str = "int8"
    note: str = ""
    device: Device = "auto"
    onnx: Annotated[Path | None, folder("a checkpoint is exported, not ONNX files")] = None
    starts: int = 8

    def execute(self) -> int:
        """Measure what was trained, and write the checkpoint; or write ONNX files of one."""
        if self.onnx is not None:
            return self._write_onnx(self.onnx)
        from glam_env.checkpoint.config import CheckpointConfig, ContextsConfig, check_values
        from glam_env.checkpoint.folder import save_checkpoint
        from glam_env.checkpoint.packing import DTYPES, as_stored
        from glam_env.checkpoint.replace import require_replaceable
        from glam_env.checks import require_choice, require_count
        from glam_env.device import find_device
        from glam_env.evaluation.report.card import write_card
        from glam_env.evaluation.report.history import METRICS, METRICS_BYTES
        from glam_env.evaluation.report.real_scores import SCORES
        from glam_env.files import JSON_BYTES, read_bounded
        from glam_env.games import find_game
        from glam_env.training.export import draw_contexts
        from glam_env.training.run_folder import run_kind

        game = find_game(self.game).name
        path = self.run or trained.RUNS / game
        require_choice("dtype", self.dtype, DTYPES)
        for name in ("episodes", "contexts", "max_episode_steps"):
            require_count(name, getattr(self, name))
        for name in ("fidelity_steps", "behavior_steps"):
            require_count(name, getattr(self, name))
        trained.require_emulator()
        to = require_replaceable(self.to or Path("checkpoints") / game)
        if run_kind(path) is None:
            raise GlamError(f"there is no run in {path}; give its --run, or `glam train {game}`")
        step = None if self.kept is None else self._step(path)
        loaded, run = trained.load_run(path, find_device(self.device), step)
        if loaded.game != game:
            raise GlamError(f"{path} holds a run of {loaded.game}, not {game}; choose its --run")
        cure = f"{METRICS} is part of a checkpoint; take it from a copy of the run"
        curves = {METRICS: read_bounded(path / METRICS, METRICS_BYTES, cure)}
        if (path / SCORES).exists():
            curves[SCORES] = read_bounded(path / SCORES, JSON_BYTES, "score the kept weights again")
        length = run.config.context
        note = " ".join(filter(None, (run.provenance.note, self.note)))
        config = CheckpointConfig(
            game=game,
            world_model=loaded.world_model.config,
            agent=loaded.agent_config,
            contexts=ContextsConfig(self.contexts, length),
            max_episode_steps=self.max_episode_steps,
            protocol=loaded.play,
            provenance=replace(run.provenance, note=note),
            reward_values=loaded.reward_values,
        )
        check_values(config, str(to))
        # From here on the weights are as they will be stored: what is measured is what is shipped.
        world_model, agent = loaded.world_model, loaded.agent
        world_model.load_exported(as_stored(world_model.export_state(), self.dtype))
        agent.load_exported(as_stored(agent.export_state(), self.dtype))
        contexts = draw_contexts(world_model, run.replay, self.contexts, length, seed=0)
        results = trained.measure_all(
            replace(loaded, horizon=self.max_episode_steps),
            episodes=self.episodes,
            steps=self.fidelity_steps,
            behavior_steps=self.behavior_steps,
            branch_steps=self.branch_steps,
            ranking_moments=self.ranking_moments,
            ceiling_moments=self.ceiling_moments,
        )
        config = replace(config, results=results)
        written = save_checkpoint(
            to,
            config=config,
            world_model_state=world_model.export_state(),
            agent_state=agent.export_state(),
            contexts=contexts,
            card=write_card(config),
            dtype=self.dtype,
            others=curves,
        )
        print(f"exported to {written}")
        return 0

    def _write_onnx(self, to: Path) -> int:
        """Write the ONNX files of a checkpoint."""
        from glam_env.checks import require_count
        from glam_env.onnx.convert import require_onnx
        from glam_env.onnx.export import MANIFEST, describe, export_game, write_files
        from glam_env.onnx.starts import context_states

        for each in fields(self):
            if each.name in ("game", "onnx", "starts") or getattr(self, each.name) == each.default:
                continue
            option = "--" + each.name.replace("_", "-")
            raise GlamError(f"--onnx writes the files of a checkpoint as it is: leave out {option}")
        count = require_count("starts", self.starts)
        require_onnx()
        trained.require_new_folder("--onnx", to)
        checkpoint = trained.open_checkpoint(self.game)
        loaded = trained.load_trained(checkpoint, "cpu")
        exported = export_game(
            loaded.game,
            loaded.world_model,
            loaded.agent,
            context_states(loaded.world_model, checkpoint.contexts(), count),
            reward_values=loaded.reward_values,
            horizon=loaded.horizon,
            weights=loaded.weights,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        files = {**exported.files, MANIFEST: describe(exported)}
        write_files(to, files)
        print(f"{to}: {len(files)} files, {sum(map(len, files.values())) / 1e6:.2f} MB")
        return 0

    def _step(self, path: Path) -> int:
        """Return the step of the kept weights that were asked for."""
        from glam_env.evaluation.report.real_scores import curve_under, read_curves
        from glam_env.training.export import read_settings
        from glam_env.training.run_folder import RunFolder

        if self.kept is not None and self.kept.isdecimal():
            return int(self.kept)
        if self.kept != "best":
            raise GlamError(f"kept must be best, or the step of kept weights; got {self.kept!r}")
        *_, config = read_settings(RunFolder(path).settings, str(path / "config.json"))
        curve = curve_under(read_curves(path), config.play)
        if curve is None:
            raise GlamError(
                f"no kept weights of {path} have a score; run `glam eval {path} --kept`"
            )
        return curve.best
