"""What C++ gains: dream steps a second with it and with PyTorch, by turns in one process.

    python benchmarks/native.py

A preset whose sizes no checkpoint has is measured with random weights.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from glam_env.bench.clock import Turns, take_turns
from glam_env.bench.dreams import open_dreams
from glam_env.bench.report import write_report
from glam_env.bench.world import BenchWorld, find_weights, make_world
from glam_env.errors import GlamError
from glam_env.games import find_game
from glam_env.training.export import describe_hardware

BACKENDS = ("native", "torch")


@dataclass
class Args:
    """Measure dreams with both backends of a CPU.

    Attributes:
        game: Whose dreams.
        preset: Presets, whose sizes are measured.
        num_envs: Numbers of dreams side by side, each a measurement.
        obs: What the dreams show.
        repeats: Turns.
        seconds: Length of a turn, about.
        threads: CPU threads of PyTorch. By default all cores.
        to: A JSON file for the figures.
    """

    game: str = "Pong"
    preset: tuple[str, ...] = ("small", "paper")
    num_envs: tuple[int, ...] = (1, 16, 256)
    obs: tuple[str, ...] = ("latent", "rgb")
    repeats: int = 5
    seconds: float = 0.4
    threads: int | None = None
    to: Path | None = None


def measure(args: Args, world: BenchWorld, obs_type: str, num_envs: int) -> dict[str, Any]:
    """Measure both backends, by turns."""
    turns = Turns(args.repeats, None, args.seconds)
    with ExitStack() as stack:
        players: dict[str, Callable[[], float]] = {}
        for backend in BACKENDS:
            dreams = open_dreams(world, obs_type, num_envs, torch.device("cpu"), backend)
            stepping = stack.enter_context(dreams)
            steps = turns.steps_of(stepping)
            players[backend] = lambda stepping=stepping, steps=steps: stepping.rate(steps)
        figures = take_turns(players, args.repeats)
    native, pytorch = (figures[name] for name in BACKENDS)
    return {
        "preset": world.preset,
        "obs_type": obs_type,
        "num_envs": num_envs,
        "native": native.as_json(),
        "torch": pytorch.as_json(),
        "ratio": native.over(pytorch).as_json(),
    }


def main(args: Args) -> int:
    """Print a line for each measurement, and write the figures if a file is named."""
    try:
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        game, found = find_game(args.game).name, []
        hardware = describe_hardware(torch.device("cpu"))
        print(f"{hardware}, threads: {torch.get_num_threads()}; dream steps a second")
        with tempfile.TemporaryDirectory() as folder:
            for preset, weights in find_weights(game, args.preset, None).items():
                world = make_world(game, preset, weights, Path(folder))
                for obs_type in args.obs:
                    for num_envs in args.num_envs:
                        found.append(measure(args, world, obs_type, num_envs))
                        print(_line(found[-1]), flush=True)
        if args.to is not None:
            facts = {"hardware": hardware, "torch": torch.__version__}
            write_report(args.to, facts | {"threads": torch.get_num_threads(), "dreams": found})
    except GlamError as error:
        print(f"native: {error}", file=sys.stderr)
        return 2
    return 0


def _line(found: dict[str, Any]) -> str:
    ratio = found["ratio"]
    return (
        f"{found['preset']:6} {found['obs_type']:7} {found['num_envs']:5}   "
        f"C++ {found['native']['median']:9,.0f}   PyTorch {found['torch']['median']:9,.0f}   "
        f"ratio {ratio['median']:.2f} ({ratio['low']:.2f} – {ratio['high']:.2f})"
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
