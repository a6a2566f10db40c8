"""``config.json`` of a checkpoint: versioned, typed, and checked value by value."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from glam_env.errors import GlamError
from glam_env.games import GAMES
from glam_env.model.config import WorldModelConfig, upgrade_config
from glam_env.model.cores.base import CoreConfig, core_config_type
from glam_env.model.world_model import WorldModel

FORMAT_VERSION = 1
CONFIG = "config.json"
WORLD_MODEL, AGENT, CONTEXTS = (
    "world_model.safetensors",
    "agent.safetensors",
    "contexts.safetensors",
)
CURE = "fetch the checkpoint again, or export it again with `glam export`"

T = TypeVar("T")


@dataclass(frozen=True)
class ContextsConfig:
    """Size of the contexts: ``count`` N of ``length`` L known steps each."""

    count: int
    length: int


@dataclass(frozen=True)
class PlaySettings:
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
        begun_from: provenance, as JSON, of the checkpoint whose weights a warm start took; empty
            if the run began from nothing.
        note: what else is to be known of how the run went.
    """

    preset: str
    environment_steps: int
    updates: int
    hours: float
    hardware: str
    seed: int
    versions: Mapping[str, str]
    begun_from: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


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
    protocol: PlaySettings
    provenance: Provenance
    results: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def from_json(kind: type[T], value: Any, where: str) -> T:
    """Builds a dataclass from what JSON gave, strictly: every key known, present and typed.

    Args:
        kind: a dataclass of bool, int, float, str, tuples, mappings and dataclasses.
        value: a mapping.
        where: named in errors, such as the file.

    Raises:
        GlamError: an unknown key, a missing one, or a value of another type.
    """
    if not isinstance(value, Mapping):
        raise GlamError(f"{where}: expected an object, got {value!r}; {CURE}")
    if kind is WorldModelConfig:
        value = upgrade_config(value)
    if kind is CoreConfig:
        try:
            kind = core_config_type(value)  # type: ignore[assignment]
        except ValueError as error:
            raise GlamError(f"{where}: {error}; {CURE}") from error
    hints = get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(value.keys() - set(names)):
        raise GlamError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(names)}")
    needed = [
        f.name
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in needed if name not in value]:
        raise GlamError(f"{where}: key {missing[0]!r} is missing; {CURE}")
    return kind(
        **{
            name: _decode(hints[name], value[name], f"{where}: {name}")
            for name in names
            if name in value
        }
    )


def _decode(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_json(kind, value, where)  # type: ignore[arg-type]
    if kind is Any:
        return value
    if get_origin(kind) is tuple:  # of any length, of one type
        if not isinstance(value, list | tuple):
            raise GlamError(f"{where}: expected a list, got {value!r}; {CURE}")
        of = get_args(kind)[0]
        return tuple(_decode(of, item, f"{where}[{i}]") for i, item in enumerate(value))
    if get_origin(kind) is not None:
        if not isinstance(value, Mapping):
            raise GlamError(f"{where}: expected an object, got {value!r}; {CURE}")
        of = get_args(kind)[1]
        return {name: _decode(of, item, f"{where}.{name}") for name, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # so that true is no int
        raise GlamError(f"{where}: expected {kind.__name__}, got {value!r}; {CURE}")
    return value


def to_json(value: Any) -> Any:
    """The reverse of :func:`from_json`: dataclasses and mappings to plain dicts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: to_json(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def read_config(folder: str | Path) -> CheckpointConfig:
    """Reads and checks ``config.json``.

    Raises:
        GlamError: it is missing, no JSON, of another version, or holds an impossible value.
    """
    path = Path(folder) / CONFIG
    try:
        plain = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise GlamError(f"{path} cannot be read ({error.strerror}); {CURE}") from error
    except ValueError as error:
        raise GlamError(f"{path} is no JSON ({error}); {CURE}") from error
    version = plain.get("format_version") if isinstance(plain, dict) else None
    if version != FORMAT_VERSION:
        raise GlamError(
            f"{path}: format_version is {version!r}, this glam-env reads {FORMAT_VERSION}; "
            "update glam-env, or export the checkpoint again with `glam export`"
        )
    config = from_json(CheckpointConfig, plain, str(path))
    check_values(config, str(path))
    if set(config.files) != {WORLD_MODEL, AGENT, CONTEXTS}:
        raise GlamError(f"{path}: files must name the three safetensors files; {CURE}")
    return config


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def world_model_tensors(config: CheckpointConfig) -> Mapping[str, Tensor]:
    """Names, shapes and dtypes of the exported world model, without its memory."""
    return _exported(config.world_model)


@cache  # every env that is made asks for it several times
def _exported(config: WorldModelConfig) -> Mapping[str, Tensor]:
    with torch.device("meta"):
        return MappingProxyType(WorldModel(config).export_state())


def check_values(config: CheckpointConfig, where: str) -> None:
    if config.game not in GAMES:
        raise GlamError(f"{where}: game is {config.game!r}, none of Atari 100k; {CURE}")
    positive = {
        "max_episode_steps": config.max_episode_steps,
        "contexts.count": config.contexts.count,
        "contexts.length": config.contexts.length,
        "protocol.frame_skip": config.protocol.frame_skip,
    }
    for name, value in positive.items():
        if type(value) is int and value < 1:
            raise GlamError(f"{where}: {name} must be at least 1, got {value}")
    try:
        config.world_model.validate()
    except ValueError as error:
        raise GlamError(f"{where}: world_model.{error}") from error
    actions = GAMES[config.game].num_actions
    if config.world_model.num_actions != actions:
        got = config.world_model.num_actions
        raise GlamError(f"{where}: world_model.num_actions is {got}; {config.game} has {actions}")
    if not isinstance(config.agent.get("class"), str):
        raise GlamError(f"{where}: agent must name its class; {CURE}")
    probability = config.protocol.repeat_action_probability
    if not 0.0 <= probability < 1.0:
        raise GlamError(
            f"{where}: protocol.repeat_action_probability {probability} is not in [0, 1)"
        )
    if not 0.0 <= config.provenance.hours < math.inf:
        raise GlamError(f"{where}: provenance.hours must be a time, got {config.provenance.hours}")
    try:
        world_model_tensors(config)
    except ValueError as error:
        raise GlamError(f"{where}: no world model has such sizes ({error}); {CURE}") from error
