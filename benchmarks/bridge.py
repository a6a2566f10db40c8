"""The cost of the bridge to Stable-Baselines3: dream steps a second without it and with it.

    python benchmarks/bridge.py

The two take turns in one process, with the same random actions, so that their ratio holds on a
machine whose speed drifts. Figures are medians over the turns.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from glam_agents.sb3 import SB3VecEnv
from stable_baselines3.common.vec_env import VecMonitor

from glam_env.checks import require_count
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.training.export import describe_hardware


@dataclass
class Args:
    """Measure SB3VecEnv against the env beneath it.

    Attributes:
        game: Whose dreams.
        num_envs: Numbers of dreams side by side, each a measurement.
        steps: Vector steps of a turn.
        repeats: Turns.
        to: A JSON file for the figures.
    """

    game: str = "Pong"
    num_envs: tuple[int, ...] = (64, 256)
    steps: int = 64
    repeats: int = 5
    to: Path | None = None


@dataclass(frozen=True)
class BridgeSpeed:
    """Dream steps a second, medians of runs that took turns.

    Attributes:
        num_envs, obs_type, frame_stack: what was measured.
        bare: of the env itself, tensors in and out.
        bridged: within ``SB3VecEnv``.
        monitored: within ``SB3VecEnv`` and SB3's `VecMonitor`.
        ratio, monitored_ratio: medians over the turns of bridged / bare and monitored / bare.
    """

    num_envs: int
    obs_type: str
    frame_stack: int
    bare: float
    bridged: float
    monitored: float
    ratio: float
    monitored_ratio: float


def measure_bridge(
    game: str = "Pong",
    *,
    num_envs: int = 64,
    obs_type: str = "latent",
    frame_stack: int = 1,
    steps: int = 128,
    repeats: int = 5,
    device: str = "auto",
    checkpoint: str | Path | None = None,
    seed: int = 0,
) -> BridgeSpeed:
    """Step one dream env bare and through the bridge, by turns, with the same random actions.

    Args:
        game, num_envs, obs_type, device, checkpoint: of the dreams.
        frame_stack: of the bridge.
        steps: vector steps of each turn.
        repeats: turns.
        seed: of dreams and actions.

    Raises:
        GlamError: an impossible option.
    """
    require_count("steps", steps)
    require_count("repeats", repeats)
    envs = DreamVectorEnv(
        game,
        num_envs,
        device=device,
        array_type="torch",
        obs_type=obs_type,
        checkpoint=checkpoint,
    )
    with closing(envs):
        bridge = SB3VecEnv(envs, frame_stack)
        monitor = VecMonitor(bridge)
        generator = np.random.default_rng(seed)
        actions = generator.integers(bridge.action_space.n, size=(steps, num_envs))  # pyright: ignore[reportAttributeAccessIssue]
        tensors = torch.from_numpy(actions).to(envs.device)

        def run(begin: Callable[[], Any], step: Callable[[Any], Any], chosen: Any) -> float:
            begin()
            step(chosen[0])
            _wait_for(envs.device)
            start = time.perf_counter()
            for action in chosen:
                step(action)
            _wait_for(envs.device)
            return steps * num_envs / (time.perf_counter() - start)

        turns = []
        for _ in range(repeats):
            bare = run(lambda: envs.reset(seed=seed), envs.step, tensors)
            bridge.seed(seed)
            bridged = run(bridge.reset, bridge.step, actions)
            bridge.seed(seed)
            turns.append((bare, bridged, run(monitor.reset, monitor.step, actions)))
    bare, bridged, monitored = (statistics.median(column) for column in zip(*turns, strict=True))
    return BridgeSpeed(
        num_envs,
        obs_type,
        frame_stack,
        bare,
        bridged,
        monitored,
        statistics.median(turn[1] / turn[0] for turn in turns),
        statistics.median(turn[2] / turn[0] for turn in turns),
    )


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(args: Args) -> None:
    """Print a table, and write the figures if a file is named."""
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
            speeds.append(asdict(speed))
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
