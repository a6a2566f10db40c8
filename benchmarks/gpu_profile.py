"""The heaviest kernels of training iterations, by preset and phase.

    python benchmarks/gpu_profile.py --preset paper small --to profile.json

An iteration is an update of the world model and one of the agent, as `training_iteration.py` makes
them. On a CPU the operators of PyTorch take the place of kernels.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from training_iteration import PHASES, Iterations

from glam_env.bench.report import write_report
from glam_env.device import find_device
from glam_env.errors import GlamError
from glam_env.training.export import describe_hardware
from glam_env.training.presets import PRESETS


@dataclass
class Args:
    """Profile training.

    Attributes:
        preset: Presets, each a measurement in each of its phases.
        turns: Iterations that are timed, and as many that are profiled.
        rows: Kernels to report.
        to: A JSON file for the figures.
    """

    preset: tuple[str, ...] = ("paper", "small")
    turns: int = 10
    rows: int = 12
    to: Path | None = None


def measure(preset: str, phase: str, args: Args, folder: Path) -> dict[str, Any]:
    """Time some iterations by part, then profile others."""
    iterations = Iterations(preset, phase, {}, folder)
    for _ in range(3):
        iterations.turn()
    turns = [iterations.turn() for _ in range(args.turns)]
    return {
        "preset": preset,
        "phase": phase,
        "ms": {part: 1e3 * statistics.median(turn[part] for turn in turns) for part in turns[0]},
        "profile": iterations.profile(args.turns, args.rows),
    }


def main(args: Args) -> None:
    """Measure, print, and write the figures."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for preset in args.preset:
            for phase in PHASES if PRESETS[preset].freeze.at else PHASES[:1]:
                row = measure(preset, phase, args, Path(name) / f"{preset}-{phase}")
                rows.append(row)
                parts = ", ".join(f"{part} {ms:.2f} ms" for part, ms in row["ms"].items())
                print(f"{preset}, {phase}: {parts}")
                for each in row["profile"]["operators"]:
                    time = f"{each['ms']:9.3f} ms {100 * each['share']:5.1f} %"
                    print(f"  {time}  {each['calls']:7.1f} x {each['operator'][:90]}", flush=True)
    if args.to is not None:
        hardware = describe_hardware(find_device("auto"))
        write_report(args.to, {"hardware": hardware, "torch": torch.__version__, "rows": rows})


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except GlamError as error:
        sys.exit(f"gpu_profile: {error}")
