"""Checkpoint folders: what a trained game is shipped as.

``config.json`` says what the folder holds and vouches for the size and the SHA-256 of
``world_model.safetensors``, ``agent.safetensors`` and ``contexts.safetensors``; ``CARD.md`` tells
people. Nothing in it is unpickled, and nothing is believed unread: every value and every tensor
is checked before it is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from glam_env.dream.contexts import Contexts
from glam_env.errors import GlamError
from glam_env.games import GAMES, find_game
from glam_env.model.world_model import WorldModel, WorldModelConfig

FORMAT_VERSION = 1
CONFIG, CARD = "config.json", "CARD.md"
WORLD_MODEL, AGENT, CONTEXTS = (
    "world_model.safetensors",
    "agent.safetensors",
    "contexts.safetensors",
)
EXPORT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_PACKAGE = Path(__file__).resolve().parent
_CURE = "fetch the checkpoint again, or export it again with `glam export`"
T = TypeVar("T")


@dataclass(frozen=True)
class ContextsConfig:
    """Size of the contexts: ``count`` N of ``length`` L known steps each."""

    count: int
    length: int


@dataclass(frozen=True)
class Protocol:
    """How the real game was played: the dream is a dream of that.

    Attributes:
        repeat_action_probability: sticky actions, in [0, 1).
        frame_skip: emulator frames to an agent step.
        noop_max: most no-ops at a reset.
    """

    repeat_action_probability: float = 0.0
    frame_skip: int = 4
    noop_max: int = 30


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from.

    Attributes:
        preset: named settings the training began from.
        environment_steps: agent steps on the real game.
        updates: of the world model.
        hours: of training, wall clock.
        hardware: what it ran on, in words.
        seed: of the run.
        versions: of glam-env and the libraries that matter, by name.
    """

    preset: str
    environment_steps: int
    updates: int
    hours: float
    hardware: str
    seed: int
    versions: Mapping[str, str]


@dataclass(frozen=True)
class FileRecord:
    """What ``config.json`` vouches for: a file's size in bytes and its SHA-256 in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class CheckpointConfig:
    """``config.json``.

    Attributes:
        game: name as in :data:`~glam_env.games.GAMES`.
        world_model: sizes of the world model.
        agent: ``class`` and the settings the agent is built from; read by the agent's package.
        contexts: size of the start contexts.
        max_episode_steps: the dream's horizon, in agent steps.
        protocol, provenance: see there.
        results: measured figures, such as scores; kept as they are.
        files: filled in by :func:`save_checkpoint`.
        format_version: of this format.
    """

    game: str
    world_model: WorldModelConfig
    agent: Mapping[str, Any]
    contexts: ContextsConfig
    max_episode_steps: int
    protocol: Protocol
    provenance: Provenance
    results: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def from_json(kind: type[T], value: Any, where: str) -> T:
    """Builds a dataclass from what JSON gave, strictly: every key known, present and typed.

    Args:
        kind: a dataclass of bool, int, float, str, mappings and dataclasses.
        value: a mapping.
        where: named in errors, such as the file.

    Raises:
        GlamError: an unknown key, a missing one, or a value of another type.
    """
    if not isinstance(value, Mapping):
        raise GlamError(f"{where}: expected an object, got {value!r}; {_CURE}")
    hints = get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(value.keys() - set(names)):
        raise GlamError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(names)}")
    if missing := [name for name in names if name not in value]:
        raise GlamError(f"{where}: key {missing[0]!r} is missing; {_CURE}")
    return kind(**{name: _decode(hints[name], value[name], f"{where}: {name}") for name in names})


def _decode(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_json(kind, value, where)  # type: ignore[arg-type]
    if kind is Any:
        return value
    if get_origin(kind) is not None:
        if not isinstance(value, Mapping):
            raise GlamError(f"{where}: expected an object, got {value!r}; {_CURE}")
        of = get_args(kind)[1]
        return types.MappingProxyType(
            {name: _decode(of, item, f"{where}.{name}") for name, item in value.items()}
        )
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # so that true is no int
        raise GlamError(f"{where}: expected {kind.__name__}, got {value!r}; {_CURE}")
    return value


def to_json(value: Any) -> Any:
    """The reverse of :func:`from_json`: dataclasses and mappings to plain dicts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: to_json(item) for name, item in value.items()}
    return value


# --- finding -----------------------------------------------------------------------------------


def shipped_checkpoints() -> dict[str, Path]:
    """The checkpoint folders at hand, by game.

    They lie in the folder that the environment variable GLAM_CHECKPOINTS names, in an installed
    wheel, or in the checkout that this package is run from; the first found counts.
    """
    roots = [_PACKAGE / "_checkpoints", _PACKAGE.parent / "checkpoints"]
    if own := os.environ.get("GLAM_CHECKPOINTS"):
        roots.insert(0, Path(own).expanduser())
    found: dict[str, Path] = {}
    for game in GAMES:
        for root in roots:
            if (root / game / CONFIG).is_file():
                found.setdefault(game, root / game)
    return found


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The folder of a game's checkpoint, or the one a path names.

    Raises:
        GlamError: no such game, no checkpoint of it, or no checkpoint at that path.
    """
    path = Path(name_or_path).expanduser()
    is_name = isinstance(name_or_path, str) and path.name == name_or_path
    if is_name and (name_or_path in GAMES or not path.is_dir()):
        game = find_game(str(name_or_path)).name
        shipped = shipped_checkpoints()
        if game not in shipped:
            raise GlamError(
                f"there is no checkpoint of {game} (there is: {', '.join(shipped) or 'none'}); "
                f"make one with `glam train {game}`, then `glam export {game}`"
            )
        return shipped[game]
    if not (path / CONFIG).is_file():
        raise GlamError(f"{path} is no checkpoint: give a folder with {CONFIG}, or a game's name")
    return path


# --- loading -----------------------------------------------------------------------------------


def load_config(folder: str | Path) -> CheckpointConfig:
    """Reads and checks ``config.json``.

    Raises:
        GlamError: it is missing, no JSON, of another version, or holds an impossible value.
    """
    path = Path(folder) / CONFIG
    try:
        plain = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise GlamError(f"{path} cannot be read ({error.strerror}); {_CURE}") from error
    except ValueError as error:
        raise GlamError(f"{path} is no JSON ({error}); {_CURE}") from error
    version = plain.get("format_version") if isinstance(plain, dict) else None
    if version != FORMAT_VERSION:
        raise GlamError(
            f"{path}: format_version is {version!r}, this glam-env reads {FORMAT_VERSION}; "
            "update glam-env, or export the checkpoint again with `glam export`"
        )
    config = from_json(CheckpointConfig, plain, str(path))
    _check_values(config, str(path))
    if set(config.files) != {WORLD_MODEL, AGENT, CONTEXTS}:
        raise GlamError(f"{path}: files must name the three safetensors files; {_CURE}")
    return config


def load_world_model(folder: str | Path, device: torch.device | str = "cpu") -> WorldModel:
    """The world model: float32, in eval mode, without gradients.

    Raises:
        GlamError: a file or a tensor that is not what it should be.
    """
    config = load_config(folder)
    state = _read_tensors(Path(folder), WORLD_MODEL, config)
    state = check_tensors(state, _world_model_tensors(config), str(Path(folder) / WORLD_MODEL))
    with torch.random.fork_rng(devices=[]):  # building draws weights; a load must not
        world_model = WorldModel(config.world_model)
    world_model.load_exported(state)
    return world_model.to(device).eval().requires_grad_(False)


def load_agent_state(
    folder: str | Path, expected: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The agent's state dict, on the CPU.

    Args:
        folder: the checkpoint.
        expected: a state dict to check names, shapes and dtypes against, and to take dtypes from.

    Raises:
        GlamError: a file or a tensor that is not what it should be.
    """
    state = _read_tensors(Path(folder), AGENT, load_config(folder))
    where = str(Path(folder) / AGENT)
    return state if expected is None else check_tensors(state, expected, where)


def load_contexts(folder: str | Path, device: torch.device | str = "cpu") -> Contexts:
    """The start contexts.

    Raises:
        GlamError: a file or a tensor that is not what it should be.
    """
    config = load_config(folder)
    where = str(Path(folder) / CONTEXTS)
    tensors = _read_tensors(Path(folder), CONTEXTS, config)
    contexts = Contexts.from_tensors(tensors, config.world_model, where)
    _check_contexts(contexts, config, where)
    return contexts.to(device)


def check_tensors(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Holds tensors to the names, shapes, dtypes and finiteness of a module's state dict.

    Returns:
        The tensors in the expected dtypes (weights may be stored as bfloat16).

    Raises:
        GlamError: the first that does not fit, named.
    """
    if missing := sorted(expected.keys() - state.keys()):
        raise GlamError(f"{where}: tensor {missing[0]!r} is missing; {_CURE}")
    if extra := sorted(state.keys() - expected.keys()):
        raise GlamError(f"{where}: tensor {extra[0]!r} belongs to no such model; {_CURE}")
    checked = {}
    for name, like in expected.items():
        tensor = state[name]
        if tensor.shape != like.shape:
            shapes = f"shape {tuple(tensor.shape)}, not {tuple(like.shape)}"
            raise GlamError(f"{where}: tensor {name!r} has {shapes}; {_CURE}")
        allowed = EXPORT_DTYPES.values() if like.is_floating_point() else (like.dtype,)
        if tensor.dtype not in (like.dtype, *allowed):
            dtypes = f"dtype {tensor.dtype}, not {like.dtype}"
            raise GlamError(f"{where}: tensor {name!r} has {dtypes}; {_CURE}")
        checked[name] = tensor.to(like.dtype)
    _check_finite(checked, where)
    return checked


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise GlamError(f"{where}: tensor {name!r} holds numbers that are not finite; {_CURE}")


def _read_tensors(folder: Path, name: str, config: CheckpointConfig) -> dict[str, Tensor]:
    path, record = folder / name, config.files[name]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GlamError(f"{path} cannot be read ({error.strerror}); {_CURE}") from error
    if len(data) != record.bytes:
        sizes = f"has {len(data)} bytes where {CONFIG} says {record.bytes}"
        raise GlamError(f"{path} {sizes}; {_CURE}")
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise GlamError(f"{path} is not the file whose SHA-256 {CONFIG} tells; {_CURE}")
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise GlamError(f"{path} is no safetensors file ({error}); {_CURE}") from error
    _check_finite(tensors, str(path))
    return tensors


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _world_model_tensors(config: CheckpointConfig) -> dict[str, Tensor]:
    """Names, shapes and dtypes of the exported world model, without its memory."""
    with torch.device("meta"):
        return WorldModel(config.world_model).export_state()


def _check_values(config: CheckpointConfig, where: str) -> None:
    if config.game not in GAMES:
        raise GlamError(f"{where}: game is {config.game!r}, none of Atari 100k; {_CURE}")
    positive = {
        **{f"world_model.{k}": v for k, v in dataclasses.asdict(config.world_model).items()},
        "max_episode_steps": config.max_episode_steps,
        "contexts.count": config.contexts.count,
        "contexts.length": config.contexts.length,
        "protocol.frame_skip": config.protocol.frame_skip,
    }
    for name, value in positive.items():
        if type(value) is int and value < 1:
            raise GlamError(f"{where}: {name} must be at least 1, got {value}")
    actions = GAMES[config.game].num_actions
    if config.world_model.num_actions != actions:
        got = config.world_model.num_actions
        raise GlamError(f"{where}: world_model.num_actions is {got}; {config.game} has {actions}")
    if config.world_model.classes > 256:
        raise GlamError(f"{where}: world_model.classes must be at most 256, a byte's values")
    if not isinstance(config.agent.get("class"), str):
        raise GlamError(f"{where}: agent must name its class; {_CURE}")
    probability = config.protocol.repeat_action_probability
    if not 0.0 <= probability < 1.0:
        raise GlamError(f"{where}: protocol.repeat_action_probability {probability} is not in [0, 1)")
    if not 0.0 <= config.provenance.hours < math.inf:
        raise GlamError(f"{where}: provenance.hours must be a time, got {config.provenance.hours}")
    try:
        _world_model_tensors(config)
    except ValueError as error:
        raise GlamError(f"{where}: no world model has such sizes ({error}); {_CURE}") from error


def _check_contexts(contexts: Contexts, config: CheckpointConfig, where: str) -> None:
    if (contexts.count, contexts.length) != (config.contexts.count, config.contexts.length):
        raise GlamError(
            f"{where}: holds {contexts.count} contexts of {contexts.length} steps where {CONFIG} "
            f"says {config.contexts.count} of {config.contexts.length}; {_CURE}"
        )
