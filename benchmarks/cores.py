"""The cost of a dream step by sequence core and age, by turns in one process.

    python benchmarks/cores.py

All cores run in PyTorch here, of one preset's sizes and with random weights; ``glam`` in C++ is
measured beside them. A step is a latent one: the core, the prior, the heads and the draw.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import tyro

from glam_env.bench.clock import Figure, take_turns
from glam_env.bench.report import write_report
from glam_env.bench.world import preset_sizes
from glam_env.errors import GlamError
from glam_env.fast.choose import make_stepper
from glam_env.fast.plain import ModelStepper, Stepper
from glam_env.model.cores.base import CORES
from glam_env.model.structures import DreamState
from glam_env.model.world_model import WorldModel
from glam_env.training.export import describe_hardware

BASE = "glam"
NATIVE = "glam in C++"


@dataclass
class Args:
    """Measure steps of dreams with every core.

    Attributes:
        preset: Whose sizes; each core has its default ones in that width.
        dreams: Dreams side by side.
        ages: Steps behind the context at which a step is measured, ascending.
        steps: Steps of a turn.
        repeats: Turns.
        threads: CPU threads of PyTorch. By default all cores.
        to: A JSON file for the figures.
    """

    preset: str = "small"
    dreams: int = 64
    ages: tuple[int, ...] = (0, 1000, 10000)
    steps: int = 20
    repeats: int = 9
    threads: int | None = None
    to: Path | None = None


class Dreams:
    """Dreams of one core, grown to an age."""

    def __init__(self, stepper: Stepper, state: DreamState, actions: int) -> None:
        self.stepper, self.state, self.actions = stepper, state, actions

    def step(self, steps: int) -> DreamState:
        """Return the state after some steps."""
        state, draw = self.state, torch.rand(self.state.code.shape)
        for t in range(steps):
            action = torch.full((len(draw),), t % self.actions)
            state = self.stepper.step(state, action, draw.roll(t, 0)).state
        return state

    def time(self, steps: int) -> float:
        """Return the seconds that a step takes."""
        begin = perf_counter()
        self.step(steps)
        return (perf_counter() - begin) / steps


def grow(args: Args) -> dict[str, dict[int, Dreams]]:
    """Make dreams of all cores, of every age."""
    sizes = preset_sizes("Pong", args.preset)
    found: dict[str, dict[int, Dreams]] = {}
    for name in (NATIVE, *CORES):
        kind = CORES[BASE if name == NATIVE else name]
        core = kind.config() if kind.config is not type(sizes.core) else sizes.core  # type: ignore[call-arg]
        torch.manual_seed(0)
        model = WorldModel(replace(sizes, core=core)).eval().requires_grad_(False)
        codes = torch.randint(sizes.classes, (args.dreams, 17, sizes.categoricals))
        state = model.warm_up(codes, torch.randint(sizes.num_actions, (args.dreams, 16)))
        stepper = make_stepper(model) if name == NATIVE else ModelStepper(model)
        state, age = stepper.arrange(state), 0
        found[name] = {}
        for wanted in args.ages:
            dreams = Dreams(stepper, state, sizes.num_actions)
            state = dreams.step(wanted - age) if wanted > age else state
            age, found[name][wanted] = wanted, Dreams(stepper, state, sizes.num_actions)
    return found


def main(args: Args) -> int:
    """Print a table, and write the figures if a file is named."""
    try:
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        if not args.ages or list(args.ages) != sorted(set(args.ages)) or args.ages[0] < 0:
            raise GlamError("ages must ascend from 0 or more, such as --ages 0 1000 10000")
        players: dict[str, Callable[[], float]] = {
            f"{name} {age}": lambda dreams=dreams: dreams.time(args.steps)
            for name, ages in grow(args).items()
            for age, dreams in ages.items()
        }
        seconds = take_turns(players, args.repeats)
        hardware = describe_hardware(torch.device("cpu"))
        print(f"{hardware}, threads: {torch.get_num_threads()}; {args.dreams} latent dreams")
        print(f"time of a step over that of {BASE} in PyTorch in the same turn (low – high)")
        print(f"{'core':20}" + "".join(f"age {age:<20,}" for age in args.ages) + "last / first age")
        for name in (NATIVE, *CORES):
            print(_line(name, args.ages, seconds))
        if args.to is not None:
            facts: dict[str, Any] = {"hardware": hardware, "torch": torch.__version__}
            own = {"preset": args.preset, "dreams": args.dreams, "threads": torch.get_num_threads()}
            figures = {name: figure.as_json() for name, figure in seconds.items()}
            write_report(args.to, facts | own | {"seconds": figures})
    except GlamError as error:
        print(f"cores: {error}", file=sys.stderr)
        return 2
    return 0


def _line(name: str, ages: tuple[int, ...], seconds: dict[str, Figure]) -> str:
    base = seconds[f"{BASE} {ages[0]}"]
    shown = [seconds[f"{name} {age}"] for age in ages]
    ratios = [_show(figure.over(base)) for figure in [*shown]]
    return f"{name:20}" + "".join(f"{text:24}" for text in ratios) + _show(shown[-1].over(shown[0]))


def _show(ratio: Figure) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f} – {ratio.high:.2f})"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
