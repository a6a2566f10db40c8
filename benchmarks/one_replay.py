"""Table 2 on one replay: sequence cores that learn the same steps and latents.

    python benchmarks/one_replay.py Pong --run runs/Pong --to benchmarks/results/one_replay.json
    python benchmarks/one_replay.py Pong --to benchmarks/results/one_replay.json

For each variant and seed, a sequence model learns from nothing beside the finished image model of
a run, on the latents of the run's replay, and an agent learns from nothing in its dreams. All
variants get as many updates, on the same sequences in the same order. What differs is the core
alone: no variant collects steps of its own, which in whole runs (`glam sweep
benchmarks/experiments/table2.toml`) adds more noise than the cores differ by.

Each row is written as it is done; the command again does those that are missing. Without `--run` it
prints the table of the file.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from limits import Args as LimitsArgs
from limits import Study

from glam_env.evaluation.examine import examine
from glam_env.evaluation.report.ablation import (
    RunFigures,
    ablation_markdown,
    fidelity_figures,
    row_of,
)
from glam_env.evaluation.report.fluctuation import JOINT, Fluctuation, fluctuation
from glam_env.evaluation.report.history import Curve
from glam_env.protocols import PROTOCOLS
from glam_env.training.export import describe_hardware
from glam_env.training.latent_store import LatentStore
from glam_env.training.presets import PRESETS

WITHOUT_VARIATION = "without variation loss"
VARIANTS = (
    *("double_transformer", "double_mamba", "transformer", "local"),
    *(WITHOUT_VARIATION, "glam"),
)

SHARED = ("sequence_updates", "agent_updates", "dreams", "horizon", "steps", "games")
HORIZON = 16  # steps of open-loop dreams


@dataclass
class Args:
    """Compare sequence cores on one replay.

    Attributes:
        game: Name of the game.
        to: The JSON file of the figures.
        run: A run of the game, for its replay and its image model; None measures nothing.
        variants: Sequence cores, in the sizes of the presets small-NAME; without variation loss is
            glam with a weight of 0.
        seeds: Of sequence model, agent and games.
        sequence_updates: Of each sequence model.
        agent_updates: Of each agent.
        dreams: Dreams in each of these.
        horizon: Their steps.
        steps: Held-out steps to dream along.
        branch_steps: Held-out steps at moments of which each action is tried.
        games: Real games of each agent under each protocol.
        threads: Threads.
    """

    game: tyro.conf.Positional[str]
    to: Path
    run: Path | None = None
    variants: tuple[str, ...] = VARIANTS
    seeds: tuple[int, ...] = (0, 1)
    sequence_updates: int = 2000
    agent_updates: int = 1000
    dreams: int = 128
    horizon: int = 24
    steps: int = 8000
    branch_steps: int = 4000
    games: int = 10
    threads: int = 1


def measure(args: Args, study: Study, store: LatentStore, variant: str) -> dict[str, Any]:
    """Train and measure one variant."""
    begin, seed = time.process_time(), study.args.seed
    study.rng = np.random.default_rng(seed)  # all variants learn from the same draws
    core = "glam" if variant == WITHOUT_VARIATION else variant
    preset = PRESETS["small" if core == "glam" else f"small-{core.replace('_', '-')}"]
    model_config = replace(study.config.model, core=preset.model.core)
    loss = PRESETS["small"].loss
    if variant == WITHOUT_VARIATION:
        loss = replace(loss, variation=0.0)
    study.config = replace(study.config, model=model_config, loss=loss)
    learner = study.learner()
    study.take_images(learner.world_model)
    losses = study.train_sequences(learner, args.sequence_updates, store)
    model = learner.world_model.eval()
    agent, points = study.train_agent(model)
    scores = {name: list(study.score(model, agent, name)) for name in PROTOCOLS}
    examination, _ = examine(
        model,
        lambda features, generator: agent.act(features, generator=generator),
        args.game,
        recording=study.recording,
        steps=args.steps,
        behavior_steps=args.steps,
        branch_steps=args.branch_steps,
        ranking_moments=0,
        horizon=HORIZON,
        seed=seed,
        play=PROTOCOLS["published"],
    )
    lines = [{"phase": JOINT, "model_updates": at, **loss} for at, loss in enumerate(losses, 1)]
    found = fluctuation(lines[len(lines) // 4 :])  # not of the steep first updates
    return {
        "variant": variant,
        "seed": seed,
        "row": row_of(core, loss.variation),
        "scores": scores,
        "points_in_1000_dream_steps": points,
        "fidelity": fidelity_figures(examination.figures()),
        "fluctuation": found and {"deviations": found.deviations, "means": found.means},
        "core_parameters": sum(weights.numel() for weights in model.memory.parameters()),
        "cpu_seconds": round(time.process_time() - begin, 1),
    }


def figures(game: str, row: dict[str, Any]) -> RunFigures:
    """Return what the tables show of a row."""
    losses = row["fluctuation"]
    return RunFigures(
        game,
        row["variant"],
        row["seed"],
        row["row"],
        {name: sum(scores) / len(scores) for name, scores in row["scores"].items()},
        row["fidelity"],
        Fluctuation(1, **losses, loss=Curve((), ())) if losses else None,
    )


def main(args: Args) -> None:
    """Measure the missing rows, and print the table."""
    torch.set_num_threads(args.threads)
    document: dict[str, Any] = {"rows": []}
    if args.run is None or args.to.exists():
        document = json.loads(args.to.read_text())
    done = {(row["variant"], row["seed"]) for row in document["rows"]}
    for seed in args.seeds if args.run else ():
        missing = [variant for variant in args.variants if (variant, seed) not in done]
        if not missing:
            continue
        few = {name: getattr(args, name) for name in SHARED}
        study = Study(LimitsArgs(args.game, args.run, seed=seed, **few))
        with tempfile.TemporaryDirectory(prefix="glam_one_replay_") as folder:
            store = study.latents(study.trained.world_model, Path(folder))
            for variant in missing:
                document["rows"].append(measure(args, study, store, variant))
                document["settings"] = {name: str(value) for name, value in vars(args).items()}
                document["hardware"] = describe_hardware(torch.device("cpu"))
                args.to.parent.mkdir(parents=True, exist_ok=True)
                args.to.write_text(json.dumps(document, indent=2) + "\n")
    print(ablation_markdown([figures(args.game, row) for row in document["rows"]]))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
