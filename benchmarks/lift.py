"""Lift: what dreams add to an algorithm, beside the same algorithm on the real game.

    python benchmarks/lift.py Pong --to benchmarks/results/lift.json

Each algorithm learns from nothing three times: in the dreams of a checkpoint; on the real game with
as many real steps as the checkpoint's model has seen; and on the real game with as many steps as it
took in dreams. All see the features of the checkpoint's world model. Each agent then plays whole
real games. The lift is the score after dreams less the score after as many real steps as the model
has seen. Rows that the file holds already are kept, so that a stopped study goes on.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from learners import learn

from glam_env.checkpoint.folder import Checkpoint
from glam_env.cli.trained import open_checkpoint
from glam_env.console import Progress
from glam_env.envs.latent_filter import Act, FilteredPolicy
from glam_env.evaluation.play.scores import evaluate_policy
from glam_env.model.world_model import WorldModel
from glam_env.training.export import describe_hardware

HORIZONS = {"storm": 24}  # steps of a dream; those of `glam sb3` else
SB3_HORIZON = 128
NUM_ENVS = {"storm": 64, "ppo": 64}  # as `glam sb3`: fewer for algorithms with small updates
FEW_ENVS = 16
SEED = 1000  # of the real games, as `glam eval` has it


@dataclass
class Args:
    """Train algorithms in dreams and on the real game, and compare their real scores.

    Attributes:
        game: Name or folder of a checkpoint.
        algos: storm, or algorithms of `glam sb3`.
        dream_steps: Steps in dreams.
        real_steps: Steps on the real game; 0: those that the checkpoint's model has seen.
        num_envs: Dreams or games side by side; 0: as usual for the algorithm.
        games: Whole real games of each agent.
        seed: Of the training.
        threads: Threads.
        to: A JSON file for the figures.
    """

    game: tyro.conf.Positional[str]
    algos: tuple[str, ...] = ("storm", "ppo", "dqn")
    dream_steps: int = 3_000_000
    real_steps: int = 0
    num_envs: int = 0
    games: int = 20
    seed: int = 0
    threads: int = 1
    to: Path | None = None


def measure(
    args: Args,
    checkpoint: Checkpoint,
    world_model: WorldModel,
    row: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Train as a row says, and return it with the score."""
    algo, world, steps = row["algo"], row["world"], row["steps"]
    begin, played = time.process_time(), dict[str, Any]()

    def score(_steps: int, act: Act) -> None:
        report = evaluate_policy(
            FilteredPolicy(world_model, act),
            checkpoint.config.game,
            episodes=args.games,
            num_envs=min(args.games, 4),
            seed=SEED,
            play=checkpoint.config.protocol,
        )
        played.update(
            score=report.mean,
            standard_error=None if args.games == 1 else report.standard_error,
            interval=report.interval,
            scores=list(report.scores),
        )

    def at_the_end(done: int, act: Act) -> None:
        if done >= steps:
            score(done, act)

    learn(
        algo,
        checkpoint,
        world_model,
        world=world,
        steps=steps,
        every=steps,
        num_envs=args.num_envs or NUM_ENVS.get(algo, FEW_ENVS),
        horizon=HORIZONS.get(algo, SB3_HORIZON),
        seed=args.seed,
        on_point=at_the_end,
        on_steps=lambda done: progress(f"{algo}, {world}", min(done, steps), steps, "steps"),
    )
    return {**row, **played, "cpu_seconds": round(time.process_time() - begin, 1)}


def lifts(rows: list[dict[str, Any]], real_steps: int) -> dict[str, float]:
    """Return each algorithm's score after dreams less that after the model's real steps."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["world"] == "dream" or row["steps"] == real_steps:
            found.setdefault(row["algo"], {})[row["world"]] = row["score"]
    return {a: part["dream"] - part["real"] for a, part in found.items() if len(part) == 2}


def main(args: Args) -> dict[str, Any]:
    """Train, play, print and write; return the lift and the rows."""
    torch.set_num_threads(args.threads)
    checkpoint = open_checkpoint(args.game)
    world_model = checkpoint.world_model()
    real_steps = args.real_steps or checkpoint.config.provenance.real_steps
    settings = {
        "checkpoint": checkpoint.config.game,
        "protocol": str(checkpoint.config.protocol),
        **{name: getattr(args, name) for name in ("dream_steps", "num_envs", "games", "seed")},
        "real_steps": real_steps,
    }
    rows: list[dict[str, Any]] = []
    if args.to is not None and args.to.exists():
        before = json.loads(args.to.read_text())
        if before["settings"] != settings:
            sys.exit(f"{args.to} holds figures of other settings; choose another --to")
        rows = before["rows"]
    wanted = [
        {"algo": algo, "world": world, "steps": steps}
        for algo in args.algos
        for world, steps in (
            ("dream", args.dream_steps),
            ("real", real_steps),
            ("real", args.dream_steps),
        )
    ]
    with Progress() as progress:
        for row in wanted:
            if any(row.items() <= done.items() for done in rows):
                continue
            rows.append(measure(args, checkpoint, world_model, row, progress))
            print(json.dumps(rows[-1]), flush=True)
            if args.to is not None:
                document = {
                    "settings": settings,
                    "hardware": describe_hardware(torch.device("cpu")),
                    "lift": lifts(rows, real_steps),
                    "rows": rows,
                }
                args.to.parent.mkdir(parents=True, exist_ok=True)
                args.to.write_text(json.dumps(document, indent=2) + "\n")
    found = lifts(rows, real_steps)
    print(json.dumps({"lift": found}))
    return {"lift": found, "rows": rows}


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
