"""The ONNX files of a trained game: graphs, start states and a manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from glam_agents.storm import ActorCritic
from torch import Tensor

from glam_env import __version__
from glam_env.errors import GlamError
from glam_env.fast.plain import ModelStepper
from glam_env.games import GAMES
from glam_env.model.reward_values import RewardValues
from glam_env.model.structures import DreamState, tree_tensors
from glam_env.model.world_model import WorldModel
from glam_env.onnx.convert import OPSET, to_onnx
from glam_env.onnx.graphs import AgentGraph, DrawGraph, StepGraph
from glam_env.onnx.starts import core_names, fields_of, joined, pack_starts

MANIFEST = "manifest.json"
FORMAT = 2
ENTROPY_STEPS, ENTROPY_SEED = 48, 0  # of the agent's play that shows the usual range
ENTROPY_QUANTILES = (0.05, 0.95)


@dataclass(frozen=True)
class Exported:
    """The files of a game.

    Attributes:
        manifest: Content of ``manifest.json`` without the files.
        files: Bytes of the files by name.
    """

    manifest: dict[str, Any]
    files: dict[str, bytes]


def export_game(
    game: str,
    world_model: WorldModel,
    agent: Any,
    states: Sequence[DreamState],
    *,
    reward_values: Sequence[float] = (),
    horizon: int,
    weights: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Make the ONNX graphs of a trained game, with start states and a manifest.

    Args:
        game: Name of the game.
        world_model: In eval mode, on the CPU.
        agent: STORM's agent, which the registry calls ``storm``.
        states: States to start from.
        reward_values: The values that the game pays.
        horizon: Steps of a dream in the envs.
        weights: SHA-256 of the checkpoint's world model, for the manifest.
        say: Called with a line before each part of the work.

    Raises:
        GlamError: The agent is of another kind.
    """
    if not isinstance(agent, ActorCritic):
        raise GlamError(f"only agents of the class storm become ONNX, not {type(agent).__name__}")
    c, values = world_model.config, RewardValues(world_model.reward_code, reward_values)
    k, d = c.categoricals, c.width
    core = world_model.memory.initial_state(2)
    names, parts = core_names(core), tree_tensors(core)
    code, h, draw = torch.zeros(2, k, dtype=torch.int32), torch.zeros(2, d), torch.zeros(2, k)
    action = torch.zeros(2, dtype=torch.int32)
    step_outputs = ["code", "h", "reward", "expected_reward", "end_probability", "prior_entropy"]
    graphs = {
        "step": (
            StepGraph(world_model, values),
            [code, action, draw, draw[:, 0], *parts],
            ["code", "action", "draw", "reward_draw", *names],
            [f"next.{name}" for name in step_outputs[:2]]
            + step_outputs[2:]
            + [f"next.{name}" for name in names],
        ),
        "draw": (DrawGraph(world_model), [code], ["code"], ["frame"]),
        "agent": (
            AgentGraph(agent.actor, k, c.classes),
            [code, h, draw[:, 0]],
            ["code", "h", "draw"],
            ["action", "probabilities"],
        ),
    }
    files: dict[str, bytes] = {}
    for name, (module, example, inputs, outputs) in graphs.items():
        say(f"{game}: {name}.onnx")
        model = to_onnx(module, example, inputs, outputs)
        files[f"{name}.onnx"] = model.SerializeToString(deterministic=True)
    files["starts.bin"] = pack_starts(list(states))
    say(f"{game}: usual entropy")
    low, high = _usual_entropy(world_model, agent, joined(list(states)))
    manifest = {
        "format": FORMAT,
        "glam_env": __version__,
        "opset": OPSET,
        "game": game,
        "weights": weights,
        "actions": list(GAMES[game].action_meanings),
        "categoricals": k,
        "classes": c.classes,
        "width": d,
        "frame": [64, 64, 3],
        "reward_values": [float(value) for value in values.values],
        "horizon": horizon,
        "state": [field._asdict() for field in fields_of(joined(list(states)))],
        "graphs": {
            name: {"inputs": inputs, "outputs": outputs}
            for name, (_, _, inputs, outputs) in graphs.items()
        },
        "starts": len(states),
        "usual_entropy": [low, high],
    }
    return Exported(manifest, files)


@torch.no_grad()
def _usual_entropy(
    world_model: WorldModel, agent: ActorCritic, state: DreamState
) -> tuple[float, float]:
    """Return the 5% and 95% quantiles of the prior's entropy in the agent's dreams."""
    stepper, generator = ModelStepper(world_model), torch.Generator().manual_seed(ENTROPY_SEED)
    found: list[Tensor] = []
    for _ in range(ENTROPY_STEPS):
        action = agent.act(world_model.features(state), generator=generator)
        draw = torch.rand(state.code.shape, generator=generator)
        step = stepper.step(state, action, draw)
        state = step.state
        found.append(step.prior_entropy)
    low, high = np.quantile(torch.cat(found).numpy(), ENTROPY_QUANTILES)
    return float(low), float(high)


def describe(exported: Exported) -> bytes:
    """Return the bytes of ``manifest.json``, with size and SHA-256 of each file."""
    manifest = {**exported.manifest, "files": records(exported.files)}
    return (json.dumps(manifest, indent=1, allow_nan=False) + "\n").encode()


def records(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of files by name."""
    return {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files to a folder, which is made if missing.

    Raises:
        GlamError: The files cannot be written.
    """
    try:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    except OSError as error:
        raise GlamError(f"cannot write {folder} ({error.strerror}); choose another") from error


def read_states(manifest: Mapping[str, Any], data: bytes) -> dict[str, np.ndarray]:
    """Read the bytes of ``starts.bin``.

    Returns:
        Arrays of all start states, by the names of the state's tensors.
    """
    fields = [(each["name"], each["dtype"], tuple(each["shape"])) for each in manifest["state"]]
    rows = np.frombuffer(data, np.dtype(fields).newbyteorder("<"))
    return {name: np.ascontiguousarray(rows[name]) for name, _, _ in fields}
