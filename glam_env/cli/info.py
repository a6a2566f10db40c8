"""The commands ``glam info`` and ``glam curves``: what is here, and how a run went."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glam_env.checkpoint.config import to_json
from glam_env.checkpoint.folder import Checkpoint, shipped_checkpoints
from glam_env.cli.options import Curves, Info
from glam_env.device import find_device
from glam_env.errors import GlamError
from glam_env.games import find_game


def is_run(path: Path) -> bool:
    """Whether a folder is that of a training run."""
    return (path / "checkpoints").is_dir() and (path / "config.json").is_file()


def info(args: Info) -> int:
    """Runs ``glam info``."""
    import torch

    from glam_env.evaluation.report.history import METRICS, read_history, save_curves
    from glam_env.fast.choose import describe
    from glam_env.fast.scan import convolution_missing, scan_missing
    from glam_env.training.run_folder import RunFolder

    if not args.what:
        if args.plot is not None:
            raise GlamError("--plot needs a run, or a checkpoint: glam info RUN --plot FILE")
        facts: dict[str, Any] = {
            "glam-env": importlib.metadata.version("glam-env"),
            "torch": torch.__version__,
            "device": str(find_device("auto")),
            "cpu threads": torch.get_num_threads(),
            "mamba scan": f"PyTorch ({why})" if (why := scan_missing()) else "mamba-ssm",
            "mamba convolution": (
                f"PyTorch ({why})" if (why := convolution_missing()) else "causal-conv1d"
            ),
            "dreams on a CPU": describe(),
            "checkpoints": {game: str(p) for game, p in shipped_checkpoints().items()},
        }
        print(json.dumps(facts, indent=2) if args.json else _outline(facts))
        return 0

    path = Path(args.what)
    if is_run(path):
        run = RunFolder(path)
        game = find_game(run.settings.get("game", ""))
        facts = {"settings": run.settings, "checkpoints": [str(p) for p in run.checkpoints()]}
    else:
        checkpoint = Checkpoint.open(args.what)
        path, config = checkpoint.path, checkpoint.config
        game, facts = find_game(config.game), {"folder": str(path), **to_json(config)}
    metrics = path / METRICS
    history = read_history(path) if metrics.is_file() and metrics.stat().st_size else None
    if args.json:
        facts["history"] = None if history is None else history.as_json()
        print(json.dumps(facts, indent=2))
    else:
        results = facts.pop("results", {})
        print(_outline(facts))
        print("\n".join(_measured(results)))
        print(f"\n{history.table()}" if history is not None else "\nno metrics yet")
    if args.plot is not None:
        if history is None:
            raise GlamError(f"{path} has no {METRICS} to plot")
        save_curves(args.plot, {path.name: history}, game)
        print(f"learning curves: {args.plot}", file=sys.stderr)
    return 0


def curves(args: Curves) -> int:
    """Runs ``glam curves``."""
    from glam_env.evaluation.report.history import METRICS, read_history, save_curves

    if not args.runs:
        raise GlamError("give at least one run: glam curves FILES… --to PNG")
    game = None if args.game is None else find_game(args.game)
    histories = {}
    for path in args.runs:
        name = path.resolve().parent.name if path.name == METRICS else path.stem
        histories[str(path) if name in histories else name] = read_history(path)
    save_curves(args.to, histories, game)
    print(f"learning curves of {', '.join(histories)}: {args.to}")
    return 0


def _measured(results: Mapping[str, Any]) -> list[str]:
    """What a checkpoint's card tells, in short."""
    from glam_env.evaluation.measures.thresholds import Check

    lines = []
    if score := results.get("score"):
        lines.append(
            f"score: {score['mean']:.2f}, mean of {score['episodes']} whole real games; "
            f"human-normalised {100 * score['human_normalized']:.1f} %"
        )
    checks = results.get("fidelity", {}).get("checks", [])
    return lines + [str(Check(**check)) for check in checks]


def _outline(value: Any, depth: int = 0) -> str:
    """Nested facts as indented lines; long lists are cut."""
    if isinstance(value, list):
        shown = [str(item) for item in value[:8]]
        return ", ".join(shown) + (f", … ({len(value)})" if len(value) > 8 else "")
    if not isinstance(value, dict):
        return str(value)
    lines = []
    for name, item in value.items():
        text = _outline(item, depth + 1)
        gap = "\n" if isinstance(item, dict) and item else " "
        lines.append(f"{'  ' * depth}{name}:{gap}{text}")
    return "\n".join(lines)
