"""What the bridge to Stable-Baselines3 costs: dream steps a second bare and bridged, side by side.

    python benchmarks/bridge.py

The two take turns in one process, with the same random actions, so the ratio stands where the
machine's speed drifts; figures are medians over the turns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from glam_agents.sb3.env import measure_bridge

from glam_env.training.export import describe_hardware


@dataclass
class Args:
    """Measure SB3VecEnv against the env beneath it.

    Attributes:
        game: whose dreams.
        num_envs: dreams side by side, of each measurement.
        steps: vector steps of each turn.
        repeats: turns.
        to: a JSON file for the figures.
    """

    game: str = "Pong"
    num_envs: tuple[int, ...] = (64, 256)
    steps: int = 64
    repeats: int = 5
    to: Path | None = None


def main(args: Args) -> None:
    """Prints a table, and writes the figures if a file is named."""
    speeds = []
    print(
        f"{'dreams':>6} {'seen':>6} {'stack':>5} {'bare':>9} {'bridged':>9} {'ratio':>6} monitored"
    )
    for obs_type, frame_stack in (("latent", 1), ("rgb", 4)):
        for num_envs in args.num_envs:
            speed = measure_bridge(
                args.game,
                num_envs=num_envs,
                obs_type=obs_type,
                frame_stack=frame_stack,
                steps=args.steps,
                repeats=args.repeats,
            )
            speeds.append(speed.as_json())
            print(
                f"{num_envs:6} {obs_type:>6} {frame_stack:5} {speed.bare:9,.0f} "
                f"{speed.bridged:9,.0f} {speed.ratio:6.2f} {speed.monitored_ratio:.2f}",
                flush=True,
            )
    if args.to is not None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        facts = {
            "hardware": describe_hardware(device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "bridge": speeds,
        }
        args.to.parent.mkdir(parents=True, exist_ok=True)
        args.to.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
