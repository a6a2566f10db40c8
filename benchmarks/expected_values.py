"""Do agents learn more from expected rewards and values than from means in symlog space?

    python benchmarks/expected_values.py KungFuMaster --to expected_values.json

Two agents learn from nothing in the frozen dreams of a checkpoint, with the same settings, starts
and seed, and play the real game. The first has rewards and values that are means in symlog space,
as STORM has, the second expected values (`--model.expected-reward --agent.expected-value`). The
points of the dreams are in each one's own rewards, so they do not compare; the scores do.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import tyro
from glam_agents.frozen import FrozenDreams, usual_reward
from glam_agents.storm import AGENT_PRESETS, ActorCritic

from glam_env.checkpoint.folder import Checkpoint
from glam_env.envs.latent_filter import FilteredPolicy
from glam_env.evaluation.play.scores import evaluate_policy
from glam_env.model.world_model import WorldModel
from glam_env.protocols import PROTOCOLS, find_protocol
from glam_env.training.warm_start import with_own_ranges

FINAL_RATE = 0.1  # of the agent's learning rate, to which it falls in the second half


@dataclass
class Args:
    """Compare two agents that learn in the dreams of a checkpoint.

    Attributes:
        game: A game's name, or the path of a checkpoint.
        to: A JSON file for the figures.
        updates: Of each agent.
        dreams: Dreams of an update.
        horizon: Their steps.
        games: Real games of each agent under each protocol.
        protocols: Names of the protocols.
        seed: Of weights, dreams and games.
        threads: Threads.
    """

    game: tyro.conf.Positional[str]
    to: Path | None = None
    updates: int = 1000
    dreams: int = 128
    horizon: int = 24
    games: int = 20
    protocols: tuple[str, ...] = tuple(PROTOCOLS)
    seed: int = 0
    threads: int = 1


def world_model(checkpoint: Checkpoint, expected: bool) -> WorldModel:
    """Return a checkpoint's world model, whose rewards are expected ones or not."""
    stored = checkpoint.world_model()
    model = WorldModel(replace(stored.config, expected_reward=expected))
    model.load_exported(with_own_ranges(stored.export_state(), model.export_state()))
    model.reward_code.see(torch.tensor([0.0, *checkpoint.config.reward_values]))
    return model.eval().requires_grad_(False)


def row(args: Args, checkpoint: Checkpoint, expected: bool) -> dict[str, Any]:
    """Train one agent, and let it play."""
    begin, model = time.process_time(), world_model(checkpoint, expected)
    torch.manual_seed(args.seed)
    settings = replace(AGENT_PRESETS["small"], expected_value=expected)
    agent = ActorCritic(settings, model.config.feature_dim, model.config.num_actions)
    agent.set_usual_reward(usual_reward(checkpoint.config))
    sizes = {"dreams": args.dreams, "horizon": args.horizon, "seed": args.seed}
    dreams, points = FrozenDreams(model, checkpoint.contexts(), **sizes), []
    for update in range(args.updates):
        gone = max(0.0, 2.0 * update / args.updates - 1.0)
        agent.scale_learning_rate(1.0 - (1.0 - FINAL_RATE) * gone)
        rollout = dreams.rollout(agent)
        agent.update(rollout)
        points.append(1000.0 * float(rollout.rewards.mean()))
    scores = {
        name: evaluate_policy(
            FilteredPolicy(
                model, lambda features, generator: agent.act(features, generator=generator)
            ),
            checkpoint.config.game,
            episodes=args.games,
            num_envs=min(args.games, 4),
            seed=args.seed + 5000,
            play=find_protocol(name),
        )
        for name in args.protocols
    }
    return {
        "expected": expected,
        "points_in_1000_dream_steps": fmean(points[-max(1, len(points) // 10) :]),
        "scores": {
            name: {"mean": score.mean, "standard_error": score.standard_error}
            for name, score in scores.items()
        },
        "cpu_seconds": round(time.process_time() - begin, 1),
    }


def main(args: Args) -> int:
    """Measure, print and write both rows."""
    torch.set_num_threads(args.threads)
    checkpoint = Checkpoint.open(args.game)
    rows = []
    for expected in (False, True):
        rows.append(row(args, checkpoint, expected))
        print(json.dumps(rows[-1]), flush=True)
    if args.to is not None:
        settings = {key: value for key, value in asdict(args).items() if key != "to"}
        args.to.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
