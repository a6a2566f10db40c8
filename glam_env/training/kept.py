"""Kept weights: world model and agent of a run at fixed shares of it, in ``kept/`` of its folder.

They are what an export stores, without optimizers and replay, so that many of them take little
space. The real game is not played for them in the training; ``glam eval RUN --kept`` does it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from glam_env.errors import GlamError
from glam_env.training.run_folder import RunFolder, write_whole

FOLDER = "kept"
_NAME = re.compile(r"step_(\d+)\.safetensors")
_WORLD_MODEL, _AGENT = "world_model.", "agent."


@dataclass(frozen=True)
class Kept:
    """Kept weights.

    Attributes:
        counts: ``env_steps`` and ``model_updates`` of the run when they were kept.
        seconds: of training until then.
        world_model: the world model's ``export_state()``.
        agent: the agent's ``export_state()``.
    """

    counts: Mapping[str, int]
    seconds: float
    world_model: Mapping[str, Tensor]
    agent: Mapping[str, Tensor]


def save_kept(run: RunFolder, kept: Kept) -> Path:
    """Write weights to a run's folder; those of the same step are replaced.

    Raises:
        GlamError: the folder cannot be written.
    """
    parts = {_WORLD_MODEL: kept.world_model, _AGENT: kept.agent}
    tensors = {
        prefix + name: value.detach().to("cpu").contiguous()
        for prefix, state in parts.items()
        for name, value in state.items()
    }
    about = {"counts": json.dumps(dict(kept.counts)), "seconds": json.dumps(kept.seconds)}
    data = safetensors.torch.save(tensors, about)
    folder = run.path / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise GlamError(
            f"cannot make {folder} ({error}); make the run's folder writable"
        ) from error
    path = folder / f"step_{kept.counts['env_steps']:010d}.safetensors"
    write_whole(path, lambda file: file.write(data))
    return path


def list_kept(run: RunFolder) -> dict[int, Path]:
    """List the kept weights of a run by environment step, in order."""
    found = {}
    for path in (run.path / FOLDER).glob("*.safetensors"):
        if match := _NAME.fullmatch(path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def load_kept(run: RunFolder, step: int, device: torch.device | str = "cpu") -> Kept:
    """Read the weights that a run kept at an environment step.

    Raises:
        GlamError: there are none, or the file cannot be read.
    """
    paths = list_kept(run)
    if step not in paths:
        steps = ", ".join(map(str, paths)) or "none, it was trained without --keep-every"
        raise GlamError(f"{run.path} kept no weights at step {step}; it has {steps}")
    states: dict[str, dict[str, Tensor]] = {_WORLD_MODEL: {}, _AGENT: {}}
    try:
        with safetensors.safe_open(paths[step], "pt", device=str(device)) as file:
            about = file.metadata()
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                prefix = _AGENT if name.startswith(_AGENT) else _WORLD_MODEL
                states[prefix][name.removeprefix(prefix)] = file.get_tensor(name)
        counts, seconds = json.loads(about["counts"]), json.loads(about["seconds"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise GlamError(f"{paths[step]} cannot be read ({error}); choose another step") from error
    return Kept(counts, seconds, states[_WORLD_MODEL], states[_AGENT])
