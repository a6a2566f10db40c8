"""Runs side by side on one machine: how long do two take, as a multiple of one alone?

    python benchmarks/side_by_side.py --preset small --turns 5 --to side_by_side.json

Each turn measures the same runs in fresh processes, first one alone, then all together, then the
other way round in the next turn, so that a slow moment of the machine meets both. A run is the
trainer's own code with one thread, begun at joint training; its time is that of a number of steps
after it has warmed up. The processes wait for each other before the clock starts.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from glam_agents import AGENTS, DEFAULT_AGENT

from glam_env.bench.training import shortened
from glam_env.training.export import describe_hardware
from glam_env.training.phases import Step
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer


@dataclass
class Args:
    """Runs side by side.

    Attributes:
        preset: Preset of the runs.
        game: Name of the game.
        runs: Runs side by side.
        iterations: Model updates of a measurement, with the steps and agent updates around them.
        turns: How often both are measured.
        device: Where the runs train; on a GPU all share it.
        to: A JSON file for the figures.
        worker: Used by the script itself.
    """

    preset: str = "small"
    game: str = "Pong"
    runs: int = 2
    iterations: int = 20
    turns: int = 5
    device: str = "cpu"
    to: Path | None = None
    worker: bool = False


def work(args: Args) -> None:
    """Be one run: get ready, say so, wait, and report the seconds."""
    torch.set_num_threads(1)
    config = PRESETS[args.preset]
    config = replace(shortened(config, bool(config.freeze.at), 0), total_steps=10**9)
    kind = AGENTS[DEFAULT_AGENT]
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run", {"game": args.game, "train": asdict(config)})
        trainer = Trainer(
            args.game,
            config,
            run,
            lambda width, actions: kind.make(kind.preset(args.preset), width, actions),
            args.device,
        )
        while trainer.phase.step is not Step.JOINT:
            trainer.advance()
        unit = math.lcm(config.num_envs, config.update_every) // config.num_envs
        for _ in range(3 * unit):
            trainer.advance()
        print("ready", flush=True)
        sys.stdin.readline()
        done, begin = trainer.model_updates, time.perf_counter()
        while trainer.model_updates < done + args.iterations:
            trainer.advance()
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        print(time.perf_counter() - begin, flush=True)
        sys.stdin.readline()  # the others may still be measured
        trainer.close()


def measure(args: Args, runs: int) -> float:
    """Return the mean seconds of some runs side by side."""
    words = [sys.executable, __file__, "--worker", "--preset", args.preset, "--game", args.game]
    words += ["--iterations", str(args.iterations), "--device", args.device]
    processes = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(runs)
    ]
    pipes = [(each.stdin, each.stdout) for each in processes]
    seconds = []
    try:
        for _, printed in pipes:
            assert printed is not None
            if printed.readline() != "ready\n":
                raise SystemExit("a run has failed; its error is above")
        for start, _ in pipes:
            assert start is not None
            start.write("go\n")
            start.flush()
        for _, printed in pipes:
            assert printed is not None
            seconds.append(float(printed.readline()))
    finally:
        for each in processes:
            each.communicate("end\n")
    return statistics.fmean(seconds)


def main(args: Args) -> dict[str, Any]:
    """Measure by turns, and print the ratio."""
    turns = []
    for turn in range(args.turns):
        order = [1, args.runs] if turn % 2 == 0 else [args.runs, 1]
        taken = {runs: measure(args, runs) for runs in order}
        turns.append({"alone": taken[1], "together": taken[args.runs]})
        turns[-1]["ratio"] = turns[-1]["together"] / turns[-1]["alone"]
        print(f"turn {turn + 1}: {turns[-1]}", file=sys.stderr, flush=True)
    ratios = [turn["ratio"] for turn in turns]
    figures = {
        "hardware": describe_hardware(torch.device(args.device)),
        "torch": torch.__version__,
        "preset": args.preset,
        "runs": args.runs,
        "iterations": args.iterations,
        "ratio": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "turns": turns,
    }
    print(json.dumps(figures["ratio"]))
    if args.to is not None:
        args.to.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


if __name__ == "__main__":
    given = tyro.cli(Args)
    if given.worker:
        work(given)
    else:
        main(given)
