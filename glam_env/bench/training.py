"""The cost of the parts of training: the trainer's own code, random weights, random play."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glam_env.bench.clock import Figure, OnProgress, take_turns, timed
from glam_env.bench.memory import Memory, PeakMemory
from glam_env.bench.world import preset_sizes
from glam_env.envs.latent_filter import FilteredPolicy
from glam_env.fast.graphs import WARM_UPS as GRAPH_WARM_UPS
from glam_env.fast.precision import autocast
from glam_env.model.structures import DreamState
from glam_env.model.world_model import WorldModel
from glam_env.training.config import TrainConfig
from glam_env.training.imagination import Rollout, imagine
from glam_env.training.learner import AgentFactory
from glam_env.training.phases import FINE_TUNING, RANDOM_PLAY
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

NEVER = 10**9  # updates of a warm-up that does not end
TURNS_FIT = 20  # turns of the usual length that all turns of a part may take; at least two
WARM_UPS = 2  # after which Adam has its state


@dataclass(frozen=True)
class Part:
    """The cost of a part of training.

    Attributes:
        name: Name of the part.
        what: How much is done at once, in words.
        seconds: Time that it took.
        memory: Memory for preparing and doing it.
    """

    name: str
    what: str
    seconds: Figure
    memory: Memory

    def as_json(self) -> dict[str, Any]:
        """Return the figures for `json.dumps`."""
        return asdict(self) | {
            "seconds": self.seconds.as_json(),
            "memory": self.memory.as_json(),
        }


class TrainingParts:
    """Time the parts of training with one preset.

    Args:
        game: A game's name.
        preset: Name of the preset.
        make_agent: Makes the preset's agent.
        device: Where training happens.
        repeats: How often each part is timed, unless that takes much longer than `TURNS_FIT`
            times `seconds`; at least twice.
        seconds: Length of a usual turn.
        on_progress: Takes reports of progress.
        graphs: Whether the trainer's updates are CUDA graphs. Imagination and the agent's update
            by themselves never are.
    """

    def __init__(
        self,
        game: str,
        preset: str,
        make_agent: AgentFactory,
        device: torch.device,
        repeats: int,
        seconds: float,
        on_progress: OnProgress,
        graphs: bool = False,
    ) -> None:
        self._game, self._preset, self._make_agent = game, preset, make_agent
        self._device, self._repeats, self._seconds = device, repeats, seconds
        self._on_progress = on_progress
        self._config = replace(PRESETS[preset], graphs=graphs)

    def measure(self) -> list[Part]:
        """Time all parts, in the order in which training does them."""
        c, parts = self._config, []
        what = f"{c.batch} × {c.length} frames"
        parts.append(self._trainer_part("world-model update, images", what, False, NEVER))
        if c.freeze.at:
            what = f"{c.freeze.latent_batch} × {c.freeze.latent_length} latents"
            name = "world-model update, stored latents"
            parts.append(self._trainer_part(name, what, True, NEVER))
        parts += self._agent_parts()
        parts.append(self._trainer_part("a step of joint training", "images", False, 0))
        if c.freeze.at:
            parts.append(self._trainer_part("a step of joint training", "stored latents", True, 0))
        return parts

    def _time(self, name: str, what: str, work: Callable[[], Any], per: int = 1) -> Figure:
        """Time some work, and return the seconds divided by `per`."""
        title = f"{self._preset}, {name} ({what})"
        self._on_progress(title, 0, self._repeats)
        # An update becomes a graph when it has run a few times.
        warm_ups = WARM_UPS + (GRAPH_WARM_UPS if self._config.graphs else 0)
        once = [timed(work, self._device) for _ in range(warm_ups)][-1]
        fitting = int(TURNS_FIT * self._seconds / max(once, 1e-9))
        repeats = min(self._repeats, max(2, fitting))
        done = 0

        def report() -> None:
            nonlocal done
            done += 1
            self._on_progress(title, done, repeats)

        def turn() -> float:
            return timed(work, self._device) / per

        return take_turns({"work": turn}, repeats, report)["work"]

    # --- parts that the trainer does ---------------------------------------------------------

    def _trainer_part(self, name: str, what: str, frozen: bool, warm_up: int) -> Part:
        """Time a unit of a trainer's work.

        Args:
            name: Name of the part.
            what: How much is done at once, in words.
            frozen: Whether the image model is frozen.
            warm_up: Updates of the world model on random play. With them a unit is such an update;
                without, it is a step of the real game with the updates that are due after it.
        """
        config = shortened(self._config, frozen, warm_up)
        with (
            tempfile.TemporaryDirectory() as folder,
            PeakMemory(self._device) as watch,
        ):
            settings = {"game": self._game, "preset": self._preset, "train": asdict(config)}
            run = RunFolder(Path(folder) / "run", settings)
            trainer = Trainer(self._game, config, run, self._make_agent, self._device)
            while trainer.phase.name in (RANDOM_PLAY, FINE_TUNING):
                trainer.advance()
            # Updates are due only after some steps; so many steps have an average share of them.
            units = 1 if warm_up else math.lcm(config.num_envs, config.update_every)
            advances = 1 if warm_up else units // config.num_envs

            def work() -> None:
                for _ in range(advances):
                    trainer.advance()

            figure = self._time(name, what, work, units)
            trainer.close()
        return Part(name, what, figure, watch.memory)

    # --- parts that are functions of their own -----------------------------------------------

    def _agent_parts(self) -> list[Part]:
        c, device = self._config, self._device
        dreams, horizon = c.imagination_batch, c.horizon.initial
        parts = []
        with PeakMemory(device) as watch:
            torch.manual_seed(0)
            model = self._make_model().train()
            agent = self._make_agent(model.config.feature_dim, model.config.num_actions)
            if isinstance(agent, torch.nn.Module):
                agent.to(device)
            start = _random_start(model, dreams, c.context, device)
            rollout: list[Rollout] = []

            def dream() -> None:
                with autocast(device, c.autocast):
                    rollout[:] = [imagine(model, agent, start, horizon)]

            name, what = "imagination", f"{dreams} dreams × {horizon} steps"
            figure = self._time(name, what, dream)
        parts.append(Part(name, what, figure, watch.memory))
        with PeakMemory(device) as watch:
            name = "agent update"
            figure = self._time(name, what, lambda: agent.update(rollout[0]))
        parts.append(Part(name, what, figure, watch.memory))
        with PeakMemory(device) as watch:
            policy = FilteredPolicy(
                model, lambda features, generator: agent.act(features, generator=generator)
            )
            policy.begin(1, seed=0)
            frames = np.random.default_rng(0).integers(256, size=(1, 64, 64, 3), dtype=np.uint8)
            first = np.zeros(1, bool)

            def act() -> None:
                with autocast(device, c.autocast):
                    policy.act(frames, first)

            name, what = "acting", "1 frame encoded, filtered, acted on"
            figure = self._time(name, what, act)
        return [*parts, Part(name, what, figure, watch.memory)]

    def _make_model(self) -> WorldModel:
        return WorldModel(preset_sizes(self._game, self._preset)).to(self._device)


def shortened(config: TrainConfig, frozen: bool, warm_up: int) -> TrainConfig:
    """Return a preset with hardly any random play before the part that is timed."""
    freeze = replace(config.freeze, at=(0.0,) if frozen else (), finetune=0, adapt=0, end_to_end=0)
    longest = max(config.length, freeze.latent_length if frozen else 0)
    return replace(
        config,
        random_steps=config.num_envs * 2 * longest,
        replay_capacity=max(4096, config.num_envs * 2 * longest),
        image_warmup=0,
        model_warmup=warm_up,
        freeze=freeze,
        checkpoint_every=1024,
    )


def _random_start(model: WorldModel, dreams: int, context: int, device: torch.device) -> DreamState:
    """Return states to dream from, after contexts of random latents and actions."""
    c = model.config
    codes = torch.randint(c.classes, (dreams, context + 1, c.categoricals), device=device)
    return model.warm_up(codes, torch.randint(c.num_actions, (dreams, context), device=device))
