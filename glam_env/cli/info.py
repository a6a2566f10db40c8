"""`glam info`: the installation, or one checkpoint or run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from glam_env.cli.options import folder
from glam_env.errors import GlamError, printable

LISTED, SHOWN = 8, 200  # items of a list that are shown, and characters of one


@dataclass
class Info:
    """Options of `glam info`.

    Attributes:
        what: A game's name, or the path of a checkpoint or of a run. Empty shows the installation.
        plot: PNG file for its learning curves.
        json: Print as JSON.
    """

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="GAME|PATH")] = ""
    plot: Annotated[Path | None, folder("none is drawn")] = None
    json: bool = False

    def execute(self) -> int:
        """Print the facts."""
        from glam_env.training.run_folder import run_kind

        path = Path(self.what)
        if not self.what:
            if self.plot is not None:
                raise GlamError("--plot needs a run, or a checkpoint: glam info RUN --plot FILE")
            self._print(_installation(), "")
        elif run_kind(path) == "sb3":
            if self.plot is not None:
                raise GlamError(f"{path} is a run of `glam sb3`, which has no curves to plot")
            facts, text = _sb3_run(path)
            self._print(facts, text)
        else:
            self._trained(path)
        return 0

    def _trained(self, path: Path) -> None:
        """Print a training run or a checkpoint, and plot its curves."""
        from glam_env.evaluation.report.history import METRICS, read_history, save_curves
        from glam_env.files import reading
        from glam_env.games import find_game
        from glam_env.training.run_folder import run_kind

        if run_kind(path) == "train":
            game, facts = _training_run(path)
        else:
            path, game, facts = _checkpoint(self.what)
        metrics = path / METRICS
        has_metrics = os.path.isfile(metrics) and metrics.stat().st_size > 0
        history = read_history(path) if has_metrics else None
        if self.json:
            self._print(facts | {"history": history and history.as_json()}, "")
        else:
            results = facts.pop("results", {})
            table = "no metrics yet" if history is None else history.table()
            with reading(f"{path}: results", "measure them again with `glam card`"):
                measured = _measured(results)
            self._print(facts, "\n".join([*measured, "", table]))
        if self.plot is not None:
            if history is None:
                raise GlamError(f"{path} has no {METRICS} to plot")
            save_curves(self.plot, {path.name: history}, find_game(game))
            print(f"learning curves: {self.plot}", file=sys.stderr)

    def _print(self, facts: Mapping[str, Any], text: str) -> None:
        """Print facts as JSON, or as an outline with some text below."""
        if self.json:
            print(json.dumps(facts, indent=2))
        else:
            print("\n".join([_outline(facts), *([text] if text else [])]))


def _installation() -> dict[str, Any]:
    """Describe versions, device, kernels and checkpoints."""
    import torch

    import glam_env
    from glam_env.checkpoint.folder import shipped_checkpoints
    from glam_env.device import find_device
    from glam_env.fast.choose import describe_core
    from glam_env.fast.scan import convolution_missing, scan_missing
    from glam_env.model.config import WorldModelConfig
    from glam_env.model.cores.base import CORES

    return {
        "glam-env": glam_env.__version__,
        "torch": torch.__version__,
        "device": str(find_device("auto")),
        "cpu threads": torch.get_num_threads(),
        "mamba scan": f"PyTorch ({why})" if (why := scan_missing()) else "mamba-ssm",
        "mamba convolution": (
            f"PyTorch ({why})" if (why := convolution_missing()) else "causal-conv1d"
        ),
        "dreams on a CPU": {
            name: describe_core(WorldModelConfig(1, core=kind.config()))  # type: ignore[call-arg]
            for name, kind in CORES.items()
        },
        "checkpoints": {game: str(path) for game, path in shipped_checkpoints().items()},
    }


def _training_run(path: Path) -> tuple[str, dict[str, Any]]:
    """Describe a run of `glam train`: its game, and facts."""
    from glam_env.fast.choose import describe_core
    from glam_env.training.export import read_settings
    from glam_env.training.kept import list_kept
    from glam_env.training.run_folder import RunFolder

    run = RunFolder(path)
    _, _, config = read_settings(run.settings, str(path / "config.json"))
    facts: dict[str, Any] = {
        "settings": run.settings,
        "dreams on a CPU": describe_core(config.model),
        "checkpoints": [str(p) for p in run.checkpoints()],
        "kept weights": [str(p) for p in list_kept(run).values()],
    }
    return str(run.settings.get("game", "")), facts


def _checkpoint(name: str) -> tuple[Path, str, dict[str, Any]]:
    """Describe a checkpoint: its folder, its game, and facts."""
    from glam_env.checkpoint.config import to_json
    from glam_env.checkpoint.folder import Checkpoint
    from glam_env.fast.choose import describe_core

    checkpoint = Checkpoint.open(name)
    checkpoint.verify()  # opening reads the config only
    engine = describe_core(checkpoint.config.world_model)
    facts = {
        "folder": str(checkpoint.path),
        "dreams on a CPU": engine,
        **to_json(checkpoint.config),
    }
    return checkpoint.path, checkpoint.config.game, facts


def _sb3_run(path: Path) -> tuple[dict[str, Any], str]:
    """Describe a run of `glam sb3`: facts, and its report as text."""
    from glam_agents.sb3.run import REPORT
    from glam_agents.sb3.score import show_report

    from glam_env.evaluation.report.history import METRICS_BYTES
    from glam_env.files import parse_json, read_bounded, read_json, reading
    from glam_env.training.run_folder import RunFolder

    run = RunFolder(path, kind="sb3")
    steps, cure = 0, "start another run"
    if os.path.isfile(run.metrics):
        data = read_bounded(run.metrics, METRICS_BYTES, cure)
        with reading(run.metrics, cure):
            if lines := data.decode("utf-8").splitlines():
                steps = int(parse_json(lines[-1], finite=False)["steps"])
    facts: dict[str, Any] = {"settings": run.settings, "steps": steps, "report": None}
    report = path / REPORT
    if not os.path.isfile(report):
        return facts, f"a run of `glam sb3`, {steps:,} dream steps so far, no report yet"
    facts["report"] = read_json(report, cure, finite=False)
    with reading(report, cure):
        return facts, show_report(facts["report"])


def _measured(results: Mapping[str, Any]) -> list[str]:
    """Describe a checkpoint's results in short."""
    from glam_env.evaluation.measures.thresholds import Check
    from glam_env.evaluation.play.scores import play_of, stored_scores

    lines = [
        f"score: {score['mean']:.2f}, mean of {score['episodes']} whole real games, "
        f"{play_of(score)}; human-normalised {100 * score['human_normalized']:.1f} %"
        for score in stored_scores(results)
    ]
    checks = results.get("fidelity", {}).get("checks", [])
    return lines + [str(Check(**check)) for check in checks]


def _outline(value: Any, depth: int = 0) -> str:
    """Format nested facts as indented lines; long lists are cut."""
    if isinstance(value, list):
        shown = [printable(item, SHOWN) for item in value[:LISTED]]
        return ", ".join(shown) + (f", … ({len(value)})" if len(value) > LISTED else "")
    if not isinstance(value, dict):
        return printable(value)
    lines = []
    for name, item in value.items():
        text = _outline(item, depth + 1)
        gap = "\n" if isinstance(item, dict) and item else " "
        lines.append(f"{'  ' * depth}{printable(name, SHOWN)}:{gap}{text}")
    return "\n".join(lines)
