"""Train an agent from scratch in the dreams of a checkpoint, to win or to lose.

    python agents/examples/frozen_dream.py Pong --lose --to runs/Pong-lose
    glam fidelity Pong --ranking-agents storm:runs/Pong-lose

The world model is not trained further. The result is a checkpoint with the new agent, which
``glam eval``, ``glam fidelity`` and ``glam demo`` take by its folder. An agent that was trained to
lose shows whether dreams are right for the worst policies, too.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import tyro
from glam_agents.frozen import FrozenDreams, new_agent, save_with_agent, usual_reward

from glam_env.checkpoint.folder import Checkpoint
from glam_env.checkpoint.replace import require_replaceable
from glam_env.device import find_device
from glam_env.training.imagination import Rollout


@dataclass
class Args:
    """An agent in frozen dreams.

    Attributes:
        game: a game's name, or the path of a checkpoint.
        to: the folder of the new checkpoint.
        lose: negate the rewards.
        agent: a name in ``glam_agents.AGENTS``.
        preset: training preset whose hyperparameters the agent has.
        updates: updates of the agent.
        dreams: dreams of an update.
        horizon: steps of a dream.
        seed: of the weights, the starts, the latents and the actions.
        device: auto, cpu, cuda, …
    """

    game: tyro.conf.Positional[str]
    to: Path
    lose: bool = False
    agent: str = "storm"
    preset: str = "small"
    updates: int = 1000
    dreams: int = 128
    horizon: int = 24
    seed: int = 0
    device: str = "auto"


def main(args: Args) -> tuple[float, float]:
    """Train the agent and write the checkpoint.

    Returns:
        Mean points of a dream step in the first and in the last tenth of the updates.
    """
    require_replaceable(args.to)
    checkpoint = Checkpoint.open(args.game)
    world_model = checkpoint.world_model(find_device(args.device))
    scale = -1.0 if args.lose else 1.0
    dreams = FrozenDreams(
        world_model,
        checkpoint.contexts(),
        dreams=args.dreams,
        horizon=args.horizon,
        seed=args.seed,
        reward_scale=scale,
        usual_reward=usual_reward(checkpoint.config),
    )
    agent, stored = new_agent(args.agent, world_model, args.preset, args.seed)
    points: list[float] = []

    def show(rollout: Rollout) -> None:
        points.append(scale * float(rollout.rewards.mean()))
        if len(points) % 50 == 0:
            recent = statistics.fmean(points[-50:])
            print(f"{len(points):>6} updates | {1000 * recent:+.2f} points in 1000 dream steps")

    dreams.train(agent, args.updates, show)
    aim = "to lose" if args.lose else "to win"
    note = (
        f"Its agent was trained {aim}, from nothing, in the frozen dreams of this world model: "
        f"{args.updates} updates, {dreams.steps:,} dream steps."
    )
    save_with_agent(checkpoint, agent, stored, args.to, note)
    print(f"written to {args.to}")
    share = max(len(points) // 10, 1)
    return statistics.fmean(points[:share]), statistics.fmean(points[-share:])


if __name__ == "__main__":
    main(tyro.cli(Args))
