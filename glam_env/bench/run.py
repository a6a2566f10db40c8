"""A whole benchmark: dreams beside the emulator, long dreams, and the parts of training."""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from glam_env.bench.clock import OnProgress, Turns
from glam_env.bench.dreams import measure_dreams, measure_long_dream
from glam_env.bench.emulator import measure_emulator, usable_cores
from glam_env.bench.report import FORMAT
from glam_env.bench.settings import PARTS, BenchSettings
from glam_env.bench.training import TrainingParts
from glam_env.bench.world import BenchWorld, find_weights, make_world
from glam_env.checks import require_choice, require_count
from glam_env.device import find_device, use_threads
from glam_env.envs.dream.options import OBS_TYPES
from glam_env.errors import GlamError
from glam_env.fast.choose import missing
from glam_env.games import find_game
from glam_env.training.export import describe_hardware
from glam_env.training.learner import AgentFactory

PACKAGES = ("glam-env", "torch", "gymnasium", "ale-py", "numpy")  # whose versions are reported
REPORTED = (  # settings that a report repeats
    "envs",
    "obs",
    "repeats",
    "steps",
    "seconds",
    "long",
    "long_envs",
    "skip",
    "graphs",
)


class Benchmark:
    """A benchmark that is ready to be measured.

    Args:
        game: A game's name.
        settings: What is measured.
        agent_of: Maps a preset's name to the agent that is trained with it.

    Attributes:
        head: What the report says before anything is measured.

    Raises:
        GlamError: If something cannot be measured, such as an unknown preset.
    """

    def __init__(
        self, game: str, settings: BenchSettings, agent_of: Callable[[str], AgentFactory]
    ) -> None:
        _check(settings)
        self._game = find_game(game).name
        self._settings, self._agent_of = settings, agent_of
        self._device = find_device(settings.device)
        self._turns = Turns(settings.repeats, settings.steps, settings.seconds)
        self._weights = find_weights(self._game, settings.preset, settings.checkpoint)
        self.head = self._make_head()

    def measure(self, on_progress: OnProgress) -> dict[str, Any]:
        """Measure everything.

        Returns:
            The report, for `json.dumps` and for `glam_env.bench.report`.
        """
        s, report, emulator = self._settings, dict(self.head), None
        with use_threads(s.threads), tempfile.TemporaryDirectory() as folder:
            if "emulator" not in s.skip:
                speed, emulator = measure_emulator(self._game, self._turns, s.threads, on_progress)
                report["emulator"] = speed.as_json()
            report["presets"] = {
                preset: self._measure_preset(
                    make_world(self._game, preset, weights, Path(folder)), emulator, on_progress
                )
                for preset, weights in self._weights.items()
            }
        return report

    def _measure_preset(
        self,
        world: BenchWorld,
        emulator: Callable[[], float] | None,
        on_progress: OnProgress,
    ) -> dict[str, Any]:
        s, dreams, long, parts = self._settings, [], [], []
        if "dreams" not in s.skip:
            for obs_type in s.obs:
                dreams += measure_dreams(
                    world, obs_type, s.envs, self._turns, self._device, emulator, on_progress
                )
        if "long" not in s.skip:
            long = [
                measure_long_dream(world, obs_type, s.long_envs, s.long, self._device, on_progress)
                for obs_type in s.obs
            ]
        if "training" not in s.skip:
            parts = TrainingParts(
                world.game,
                world.preset,
                self._agent_of(world.preset),
                self._device,
                s.repeats,
                s.seconds,
                on_progress,
                s.graphs,
            ).measure()
        return world.as_json() | {
            "dreams": [one.as_json() for one in dreams],
            "long": [one.as_json() for one in long],
            "training": [one.as_json() for one in parts],
        }

    def _make_head(self) -> dict[str, Any]:
        s, device = self._settings, self._device
        settings = asdict(s)
        return {
            "bench_format": FORMAT,
            "game": self._game,
            "hardware": describe_hardware(device),
            "host": describe_hardware(torch.device("cpu")),
            "device": str(device),
            "threads": torch.get_num_threads() if s.threads is None else s.threads,
            "cores": usable_cores(),
            "native": device.type == "cpu" and not missing(),  # dreams in C++
            "versions": {
                "python": platform.python_version(),
                **{name: _version(name) for name in PACKAGES},
            },
            "settings": {name: settings[name] for name in REPORTED},
            "emulator": None,
            "presets": {},
        }


def _version(name: str) -> str | None:
    """Return a package's version, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check(settings: BenchSettings) -> None:
    """Raise GlamError for settings that cannot be measured, before anything is."""
    for name in ("repeats", "long", "long_envs"):
        require_count(name, getattr(settings, name))
    for name in ("steps", "threads"):
        if getattr(settings, name) is not None:
            require_count(name, getattr(settings, name))
    if not 0.0 < settings.seconds <= 60.0:
        raise GlamError(f"seconds of a turn must lie in (0, 60], got {settings.seconds}")
    for name in ("preset", "envs", "obs"):
        if not getattr(settings, name):
            raise GlamError(f"give at least one {name}")
    for num_envs in settings.envs:
        require_count("envs", num_envs)
    for obs_type in settings.obs:
        require_choice("obs", obs_type, OBS_TYPES)
    for part in settings.skip:
        require_choice("skip", part, PARTS)
