"""What the whole benchmark takes, from the iteration times that `glam bench` has measured.

    glam bench Pong --preset paper --skip emulator dreams long --to result.json
    python benchmarks/gpu_hours.py result.json

A run is its schedule (`glam_env.training.phases`) times the measured cost of an update or of a step
of joint training. Measuring and exporting a run afterwards is not counted. Runs do not share a
device here; where several do, divide by what `benchmarks/side_by_side.py` measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from glam_env.bench.report import read_report
from glam_env.errors import GlamError
from glam_env.sweep.estimate import phases_left
from glam_env.training.config import TrainConfig
from glam_env.training.phases import Step
from glam_env.training.presets import PRESETS

IMAGES, LATENTS = "world-model update, images", "world-model update, stored latents"
JOINT = "a step of joint training"


@dataclass
class Args:
    """What the benchmark takes.

    Attributes:
        results: JSON files of `glam bench`.
        games: Games of the benchmark.
        seeds: Runs of each game.
        devices: Numbers of devices.
    """

    results: tyro.conf.Positional[tuple[Path, ...]]
    games: int = 26
    seeds: int = 5
    devices: tuple[int, ...] = field(default=(1, 8, 130))


def run_seconds(config: TrainConfig, parts: list[Mapping[str, Any]]) -> float:
    """Return the seconds of a run.

    An update of the image model alone counts as one of the whole world model on images, of which it
    is a part. Play before learning is not counted.

    Args:
        config: Settings of the training.
        parts: The parts of training that were measured.

    Raises:
        GlamError: A part that the schedule needs was not measured.
    """
    known = {(part["name"], part["what"]): part["seconds"]["median"] for part in parts}
    by_name = {name: seconds for (name, _), seconds in known.items()}
    total = 0.0
    for phase, frozen in phases_left(config):
        if phase.step in (Step.RANDOM_PLAY, Step.PLAY) or not phase.total:
            continue
        try:
            if phase.step is Step.JOINT:
                unit = known[JOINT, "stored latents" if frozen else "images"]
            else:
                unit = by_name[LATENTS if phase.step is Step.MODEL_UPDATE and frozen else IMAGES]
        except KeyError as error:
            raise GlamError(f"{error} was not measured; leave training out of --skip") from error
        total += phase.total * unit
    return total


def table(args: Args) -> str:
    """Return a row for each file and preset, as Markdown."""
    runs = args.games * args.seeds
    count = [f"{number} device{'s' if number > 1 else ''}" for number in args.devices]
    head = ["measured on", "preset", "a run (h)", f"{runs} runs (device-hours)", *count]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for path in args.results:
        report = read_report(path)
        for name, preset in report["presets"].items():
            if not preset["training"]:
                continue
            hours = run_seconds(PRESETS[name], preset["training"]) / 3600
            walls = [f"{math.ceil(runs / number) * hours:,.1f} h" for number in args.devices]
            where = f"{report['hardware']}, {report['device']}"
            cells = [where, name, f"{hours:,.2f}", f"{runs * hours:,.1f}", *walls]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(tyro.cli(Args)))
