"""Table 2 on one replay: sequence cores that learn the same steps and latents.

    python benchmarks/one_replay.py Pong --run runs/Pong --to benchmarks/results/one_replay.json
    python benchmarks/one_replay.py Pong --to benchmarks/results/one_replay.json
    python benchmarks/one_replay.py Pong --run runs/Pong --to FILE --variants N16 N24 N32
    python benchmarks/one_replay.py Pong --run runs/Pong --to FILE --variants G1L2 G2L1 G2L2

For each variant and seed, a sequence model learns from nothing beside the finished image model of
a run, on the latents of the run's replay, and an agent learns from nothing in its dreams. All
variants get as many updates, on the same sequences in the same order. What differs is the core
alone: no variant collects steps of its own, which in whole runs (`glam sweep
benchmarks/experiments/table2.toml`) adds more noise than the cores differ by.

N16, N24 and N32 are glam's with agents whose dreams grow from 16 steps by 8 to that many (eq. 11);
GgLl has g blocks in GMamba and l in LMamba (`glam` is G1L1).

A run of play alone has the image model of a checkpoint, and a replay of what its agent does under
sticky actions, half of it exploring; so the tables can be made from a shipped checkpoint:

    glam train Pong --preset small --warm-start Pong --run runs/replay --image-warmup 0 \\
      --total-steps 100000 --random-steps 100000 --replay-capacity 100000

Each row is written as it is done; the command again does those that are missing. Without `--run` it
prints the table of the file.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from glam_agents.storm import AGENT_PRESETS
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
from glam_env.model.config import LossConfig, WorldModelConfig
from glam_env.model.world_model import WorldModel
from glam_env.protocols import PROTOCOLS
from glam_env.training.config import HorizonConfig
from glam_env.training.export import describe_hardware
from glam_env.training.latent_store import LatentStore
from glam_env.training.presets import PRESETS

WITHOUT_VARIATION = "without variation loss"
VARIANTS = (
    *("double_transformer", "double_mamba", "transformer", "local"),
    *(WITHOUT_VARIATION, "glam"),
)
HORIZONS = {"N16": 16, "N24": 24, "N32": 32}
LAYERS = {name: (int(name[1]), int(name[3])) for name in ("G1L2", "G2L1", "G2L2")}

SHARED = ("sequence_updates", "agent_updates", "dreams", "horizon", "steps", "games")
HORIZON = 16  # steps of open-loop dreams
# The agent that `small` had when the first rows were made: all rows have the same.
AGENT = replace(AGENT_PRESETS["small"], expected_value=False)


@dataclass
class Args:
    """Compare sequence cores on one replay.

    Attributes:
        game: Name of the game.
        to: The JSON file of the figures.
        run: A run of the game, for its replay and its image model; None measures nothing.
        variants: Sequence cores, in the sizes of the presets small-NAME; without variation loss is
            glam with a weight of 0. Also N16, N24, N32, G1L2, G2L1 and G2L2.
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


class World(NamedTuple):
    """A world model that has been trained, and how."""

    core: str
    config: WorldModelConfig
    loss: LossConfig
    seed: int
    model: WorldModel
    losses: list[dict[str, float]]
    cpu_seconds: float


def configure(study: Study, variant: str) -> str:
    """Set the study's settings to a variant's, and return the name of its core.

    Raises:
        ValueError: There is no such variant.
    """
    known = {*VARIANTS, *HORIZONS, *LAYERS}
    if variant not in known:
        raise ValueError(f"no variant {variant!r}; there are {', '.join(sorted(known))}")
    core = variant if variant in VARIANTS and variant != WITHOUT_VARIATION else "glam"
    preset = PRESETS["small" if core == "glam" else f"small-{core.replace('_', '-')}"]
    core_config, loss = preset.model.core, PRESETS["small"].loss
    if variant == WITHOUT_VARIATION:
        loss = replace(loss, variation=0.0)
    if variant in LAYERS:
        global_depth, local_depth = LAYERS[variant]
        core_config = replace(core_config, global_depth=global_depth, local_depth=local_depth)
    model = replace(study.config.model, core=core_config)
    study.config = replace(study.config, model=model, loss=loss)
    return core


def train_world(study: Study, store: LatentStore, core: str, before: World | None) -> World:
    """Train a sequence model from nothing, unless the world model before has the same settings."""
    settings = core, study.config.model, study.config.loss, study.args.seed
    if before is not None and before[: len(settings)] == settings:
        return before
    begin = time.process_time()
    study.rng = np.random.default_rng(study.args.seed)  # all variants learn from the same draws
    learner = study.learner()
    study.take_images(learner.world_model)
    losses = study.train_sequences(learner, study.args.sequence_updates, store)
    seconds = time.process_time() - begin
    return World(*settings, learner.world_model.eval(), losses, seconds)


def measure(
    args: Args, study: Study, store: LatentStore, world: World, variant: str
) -> dict[str, Any]:
    """Train an agent, and measure it and its world model."""
    begin, seed, model = time.process_time(), world.seed, world.model
    study.rng = np.random.default_rng((seed, 1))
    growing = None
    if variant in HORIZONS:
        every = max(1, args.agent_updates // len(HORIZONS))
        growing = HorizonConfig(every=every, maximum=HORIZONS[variant])
    agent, points = study.train_agent(model, store, growing)
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
        ceiling_moments=0,
        horizon=HORIZON,
        seed=seed,
        play=PROTOCOLS["published"],
    )
    lines = [
        {"phase": JOINT, "model_updates": at, **loss} for at, loss in enumerate(world.losses, 1)
    ]
    found = fluctuation(lines[len(lines) // 4 :])  # not of the steep first updates
    return {
        "variant": variant,
        "seed": seed,
        "row": row_of(world.core, world.loss.variation) if variant in VARIANTS else "",
        "scores": scores,
        "points_in_1000_dream_steps": points,
        "fidelity": fidelity_figures(examination.figures()),
        "fluctuation": found and {"deviations": found.deviations, "means": found.means},
        "core_parameters": sum(weights.numel() for weights in model.memory.parameters()),
        "cpu_seconds": round(world.cpu_seconds + time.process_time() - begin, 1),
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
        study.agent_config = AGENT
        with tempfile.TemporaryDirectory(prefix="glam_one_replay_") as folder:
            store = study.latents(study.trained.world_model, Path(folder))
            small, world = study.config, None
            for variant in missing:
                study.config = small
                world = train_world(study, store, configure(study, variant), world)
                document["rows"].append(measure(args, study, store, world, variant))
                settings = {name: str(value) for name, value in vars(args).items() if name != "to"}
                document["settings"] = settings | {"run": args.run.resolve().name}
                document["hardware"] = describe_hardware(torch.device("cpu"))
                args.to.parent.mkdir(parents=True, exist_ok=True)
                args.to.write_text(json.dumps(document, indent=2) + "\n")
    print(ablation_markdown([figures(args.game, row) for row in document["rows"]]))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
