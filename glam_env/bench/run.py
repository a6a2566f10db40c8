"""The command ``glam bench``: dreams beside the emulator, long dreams, the parts of training."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from glam_env.bench.clock import Progress, Turns
from glam_env.bench.dreams import measure_dreams, measure_long_dream
from glam_env.bench.emulator import measure_emulator, usable_cores
from glam_env.bench.report import (
    FORMAT,
    read_report,
    report_path,
    save_speed_plot,
    speed_table,
    write_report,
)
from glam_env.bench.training import PartsClock
from glam_env.bench.world import BenchWorld, find_weights, make_world
from glam_env.checks import require_choice, require_count
from glam_env.cli.options import Bench
from glam_env.console import ProgressLines
from glam_env.device import find_device
from glam_env.envs.dream.options import OBS_TYPES
from glam_env.errors import GlamError
from glam_env.fast.choose import missing
from glam_env.games import find_game
from glam_env.training.export import describe_hardware
from glam_env.training.learner import AgentFactory

SKIPS = ("emulator", "dreams", "long", "training")


def bench(args: Bench, agent_of: Callable[[str], AgentFactory]) -> int:
    """Runs ``glam bench``.

    Args:
        args: the options.
        agent_of: a preset's name to the agent that is trained with it.
    """
    if args.plot:
        if args.to is None:
            raise GlamError("--plot needs a picture to draw: glam bench --plot FILE --to PNG")
        save_speed_plot(args.to, [read_report(path) for path in args.plot])
        print(f"speeds of {', '.join(map(str, args.plot))}: {args.to}")
        return 0
    _check(args)
    game = find_game(args.game).name
    device = find_device(args.device)
    weights = find_weights(game, args.preset, args.checkpoint)
    report = _head(args, game, device)
    if args.to is not None:  # found out now, not after minutes
        _require_writable(report_path(args.to, report))
    with (
        _threads(args.threads),
        ProgressLines() as progress,
        tempfile.TemporaryDirectory() as folder,
    ):
        turns = Turns(args.repeats, args.steps, args.seconds)
        emulator = None
        if "emulator" not in args.skip:
            speed, emulator = measure_emulator(game, turns, args.threads, progress)
            report["emulator"] = speed.as_json()
        for preset, path in weights.items():
            world = make_world(game, preset, path, Path(folder))
            report["presets"][preset] = _measure_preset(
                args, world, turns, device, emulator, agent_of, progress
            )
    print(json.dumps(report, indent=2, allow_nan=False) if args.json else speed_table(report))
    if args.to is not None:
        path = report_path(args.to, report)
        write_report(path, report)
        print(f"written to {path}", file=sys.stderr)
    return 0


def _measure_preset(
    args: Bench,
    world: BenchWorld,
    turns: Turns,
    device: torch.device,
    emulator: Callable[[], float] | None,
    agent_of: Callable[[str], AgentFactory],
    progress: Progress,
) -> dict[str, Any]:
    dreams, long, parts = [], [], []
    if "dreams" not in args.skip:
        for obs_type in args.obs:
            dreams += measure_dreams(world, obs_type, args.envs, turns, device, emulator, progress)
    if "long" not in args.skip:
        for obs_type in args.obs:
            long.append(
                measure_long_dream(world, obs_type, args.long_envs, args.long, device, progress)
            )
    if "training" not in args.skip:
        agent, turn = agent_of(world.preset), (args.repeats, args.seconds)
        clock = PartsClock(world.game, world.preset, agent, device, *turn, progress, args.graphs)
        parts = clock.measure()
    return world.as_json() | {
        "dreams": [one.as_json() for one in dreams],
        "long": [one.as_json() for one in long],
        "training": [one.as_json() for one in parts],
    }


def _head(args: Bench, game: str, device: torch.device) -> dict[str, Any]:
    """What a report says of itself before anything is measured."""
    names = ("glam-env", "torch", "gymnasium", "ale-py", "numpy")
    told = ["envs", "obs", "repeats", "steps", "seconds", "long", "long_envs", "skip", "graphs"]
    settings = {name: value for name, value in asdict(args).items() if name in told}
    return {
        "bench_format": FORMAT,
        "game": game,
        "hardware": describe_hardware(device),
        "host": describe_hardware(torch.device("cpu")),
        "device": str(device),
        "threads": torch.get_num_threads() if args.threads is None else args.threads,
        "cores": usable_cores(),
        "native": device.type == "cpu" and not missing(),  # dreams in C++
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in names},
        },
        "settings": settings,
        "emulator": None,
        "presets": {},
    }


def _version(name: str) -> str | None:
    installed = {found.metadata["Name"].lower() for found in importlib.metadata.distributions()}
    return importlib.metadata.version(name) if name in installed else None


def _check(args: Bench) -> None:
    """Raises GlamError for options that cannot be measured, before anything is."""
    for name in ("repeats", "long", "long_envs"):
        require_count(name, getattr(args, name))
    for name in ("steps", "threads"):
        if getattr(args, name) is not None:
            require_count(name, getattr(args, name))
    if not 0.0 < args.seconds <= 60.0:
        raise GlamError(f"seconds of a turn must lie in (0, 60], got {args.seconds}")
    for name in ("preset", "envs", "obs"):
        if not getattr(args, name):
            raise GlamError(f"give at least one {name}")
    for num_envs in args.envs:
        require_count("envs", num_envs)
    for obs_type in args.obs:
        require_choice("obs", obs_type, OBS_TYPES)
    for part in args.skip:
        require_choice("skip", part, SKIPS)


def _require_writable(path: Path) -> None:
    """Makes the folder of a file, or raises GlamError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GlamError(f"cannot write {path} ({error}); choose a writable --to") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise GlamError(f"cannot write {path}; choose a writable --to")


@contextmanager
def _threads(count: int | None) -> Any:
    """PyTorch with so many threads, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
