"""Reading a training run, to evaluate it or to export a checkpoint from it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import glam_env
from glam_env.checkpoint.config import Provenance, from_json
from glam_env.checkpoint.contexts import Contexts
from glam_env.errors import GlamError, line_of
from glam_env.files import reading
from glam_env.games import find_game
from glam_env.model.distributions import sample_codes
from glam_env.model.world_model import WorldModel
from glam_env.training.config import TrainConfig
from glam_env.training.earlier_runs import upgrade_train
from glam_env.training.extension import describe_extensions
from glam_env.training.kept import Kept
from glam_env.training.replay import Replay
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import open_replay

ENCODE_BATCH = 64  # contexts encoded at once


def read_settings(settings: Mapping[str, Any], where: str) -> tuple[str, str, TrainConfig]:
    """Read game, preset and training settings from a run folder's ``config.json``.

    Raises:
        GlamError: A key is missing, or a value is of another type than expected or impossible.
    """
    try:
        game, preset, train = settings["game"], settings["preset"], settings["train"]
    except KeyError as error:
        raise GlamError(f"{where}: key {error} is missing; start a new run") from error
    if not (isinstance(game, str) and isinstance(preset, str)):
        raise GlamError(f"{where}: game and preset must be names; start a new run")
    config = from_json(TrainConfig, upgrade_train(train), where)
    try:
        config.validate()
    except GlamError as error:
        raise GlamError(f"{where}: {error}") from error
    return game, preset, config


def draw_contexts(
    world_model: WorldModel, replay: Replay, count: int, length: int, seed: int
) -> Contexts:
    """Draw start contexts uniformly from the replay, as codes and actions.

    Args:
        world_model: Encodes the frames; in eval mode.
        replay: The run's replay.
        count: N contexts.
        length: L known steps in a context, before the frame that a dream starts at.
        seed: Seed of the random draws.
    """
    rng = np.random.default_rng(seed)
    device = next(world_model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    codes, actions = [], []
    for start in range(0, count, ENCODE_BATCH):
        windows = replay.draw_whole(min(ENCODE_BATCH, count - start), length + 1, rng)
        batch = replay.read(windows, device)
        with torch.no_grad():
            code = sample_codes(world_model.encode(batch.images), generator=generator)
        codes.append(code.to(torch.uint8).cpu())
        actions.append(batch.actions[:, :-1].to(torch.uint8).cpu())
    return Contexts(torch.cat(codes), torch.cat(actions))


def describe_hardware(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU and its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or 'CPU'}, {os.cpu_count()} cores"


@dataclass(frozen=True)
class TrainedRun:
    """A run at its last checkpoint.

    Attributes:
        game: Name of the game.
        config: Settings of the training.
        world_model: The world model, in eval mode.
        learner: The agent's learner state.
        replay: The experience, read-only.
        provenance: Where the weights come from.
    """

    game: str
    config: TrainConfig
    world_model: WorldModel
    learner: dict[str, Any]
    replay: Replay
    provenance: Provenance


def load_run(run: RunFolder, device: torch.device) -> TrainedRun:
    """Read a run, which may still be in training; its files are not changed.

    Raises:
        GlamError: The run has no checkpoint yet, or a file cannot be read.
    """
    game, preset, config = read_settings(run.settings, str(run.path / "config.json"))
    checkpoint = run.load_checkpoint(device)
    if checkpoint is None:
        raise GlamError(f"{run.path} has no checkpoint yet; let it train for a while")
    sizes = replace(config.model, num_actions=find_game(game).num_actions)
    world_model = WorldModel(sizes).to(device)
    replay = open_replay(config, run, writable=False)
    with reading(f"the last checkpoint in {run.path}", "start a new run"):
        try:
            world_model.load_state_dict(checkpoint["world_model"])
        except RuntimeError as error:
            raise ValueError(line_of(error, -1)) from error
        replay.load_state(checkpoint["replay"])
        packages = ("glam-env", "torch", "gymnasium", "ale-py")
        origin = Provenance(
            preset=preset,
            environment_steps=checkpoint["counts"]["env_steps"],
            updates=checkpoint["counts"]["model_updates"],
            hours=round(checkpoint["seconds"] / 3600, 3),
            hardware=describe_hardware(device),
            seed=config.seed,
            versions={name: _version(name) for name in packages},
            begun_from=run.settings.get("begun_from", {}),
            note=describe_extensions(run.settings),
            recorded_steps=checkpoint.get("recorded_steps", 0),
        )
    return TrainedRun(game, config, world_model.eval(), checkpoint["agent"], replay, origin)


def put_back(trained: TrainedRun, kept: Kept) -> TrainedRun:
    """Return a run with kept weights in its world model; the agent's are up to the caller."""
    trained.world_model.load_exported(dict(kept.world_model))
    origin = replace(
        trained.provenance,
        environment_steps=kept.counts["env_steps"],
        updates=kept.counts["model_updates"],
        hours=round(kept.seconds / 3600, 3),
    )
    return replace(trained, provenance=origin)


def _version(package: str) -> str:
    """Return the version of an installed package; this one may run from a source tree."""
    if package == "glam-env":
        return glam_env.__version__
    return importlib.metadata.version(package)
