"""``config.json`` of a checkpoint: a versioned format with checked values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from glam_env.checkpoint.packing import XZ
from glam_env.checks import require_ranges
from glam_env.errors import GlamError, printable
from glam_env.files import SHOWN, read_json, shown
from glam_env.games import GAMES
from glam_env.model.config import WorldModelConfig, upgrade_config
from glam_env.model.cores.base import CoreConfig, core_config_type
from glam_env.model.reward_values import LARGEST_VALUE, MOST_VALUES
from glam_env.model.world_model import WorldModel
from glam_env.protocols import PlaySettings

FORMAT_VERSION = 4
# Version 1 has the sizes of the core among those of the world model. Version 2 has no compression
# and no 8-bit weights. Version 3 has no values of rewards.
READABLE = (1, 2, 3, 4)
CONFIG = "config.json"
WORLD_MODEL, AGENT, CONTEXTS = (
    "world_model.safetensors",
    "agent.safetensors",
    "contexts.safetensors",
)
CURE = "fetch the checkpoint again, or export it again with `glam export`"
PARAMETERS = 2**26
"""Maximum number of weights of a world model or an agent: five times the paper's."""
CONTEXT_BYTES = 2**28
"""Maximum size of all start contexts in bytes; each code and each action takes one byte."""

T = TypeVar("T")


@dataclass(frozen=True)
class ContextsConfig:
    """Size of the start contexts.

    Attributes:
        count: N contexts.
        length: L known steps in each.
    """

    count: int
    length: int


@dataclass(frozen=True)
class Provenance:
    """How the weights were trained.

    Attributes:
        preset: named settings of the training.
        environment_steps: agent steps on the real game.
        updates: number of updates of the world model.
        hours: wall-clock time of the training.
        hardware: a description of the machine.
        seed: seed of the run.
        versions: versions of glam-env and of the libraries that matter, by name.
        begun_from: provenance, as JSON, of the checkpoint that a warm start took its weights from;
            empty without a warm start.
        note: remarks on the run.
        recorded_steps: number of the environment steps that come from recordings of `glam play`.
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
    recorded_steps: int = 0

    @property
    def real_steps(self) -> int:
        """Agent steps on the real game, in this run and all :attr:`earlier_runs`."""
        return self.environment_steps + sum(run["environment_steps"] for run in self.earlier_runs)

    @property
    def all_recorded_steps(self) -> int:
        """Agent steps from recordings, in this run and all :attr:`earlier_runs`."""
        earlier = (run.get("recorded_steps", 0) for run in self.earlier_runs)
        return self.recorded_steps + sum(earlier)

    @property
    def all_hours(self) -> float:
        """Hours of training, in this run and all :attr:`earlier_runs`."""
        return self.hours + sum(run["hours"] for run in self.earlier_runs)

    @property
    def earlier_runs(self) -> list[Mapping[str, Any]]:
        """Provenance of the runs that the weights come from.

        It is as in JSON, with the latest run first.
        """
        runs, earlier = [], self.begun_from
        while earlier:
            runs.append(earlier)
            earlier = earlier.get("begun_from", {})
        return runs


@dataclass(frozen=True)
class FileRecord:
    """A file of tensors.

    Attributes:
        bytes: its size.
        sha256: its SHA-256, in hex.
        compression: ``xz``, or empty for none.
    """

    bytes: int
    sha256: str
    compression: str = ""

    def file(self, name: str) -> str:
        """Return the name of the file that holds the tensors of ``name``."""
        return f"{name}.{self.compression}" if self.compression else name


@dataclass(frozen=True)
class CheckpointConfig:
    """The content of ``config.json``.

    Attributes:
        game: name as in :data:`~glam_env.games.GAMES`.
        world_model: sizes of the world model.
        agent: ``class`` and the settings that the agent is built from; the agent's package reads
            them.
        contexts: size of the start contexts.
        max_episode_steps: the dream's horizon, in agent steps.
        protocol: settings of the real game that the world model learned from.
        provenance: how the weights were trained.
        results: measured figures, such as scores; not interpreted here.
        reward_values: values of the rewards that the game has shown, in ascending order; empty if
            they are not known.
        files: size and hash of each safetensors file; filled in by
            :func:`~glam_env.checkpoint.folder.save_checkpoint`.
        format_version: version of the format.
    """

    game: str
    world_model: WorldModelConfig
    agent: Mapping[str, Any]
    contexts: ContextsConfig
    max_episode_steps: int
    protocol: PlaySettings
    provenance: Provenance
    results: Mapping[str, Any] = field(default_factory=dict)
    reward_values: tuple[float, ...] = ()
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def from_json(kind: type[T], value: Any, where: str) -> T:
    """Build a dataclass from JSON, with strict checks of keys and types.

    Every key must be known, and every value must have the type of its field; an int is accepted for
    a float. A key may be absent if its field has a default, so that a new field leaves older files
    readable.

    Args:
        kind: a dataclass of bool, int, float, str, tuples, mappings and dataclasses.
        value: a mapping.
        where: named in errors, such as the file.

    Raises:
        GlamError: a key is unknown or missing, or a value is of another type.
    """
    if not isinstance(value, Mapping):
        raise GlamError(f"{where}: expected an object, got {shown(value)}; {CURE}")
    if kind is WorldModelConfig:
        value = upgrade_config(value)
    if kind is CoreConfig:
        try:
            kind = core_config_type(value)  # type: ignore[assignment]
        except ValueError as error:
            raise GlamError(f"{where}: {error}; {CURE}") from error
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(value.keys() - fields.keys()):
        raise GlamError(f"{where}: unknown key {shown(unknown[0])}; known are {', '.join(fields)}")
    for name, f in fields.items():
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if needed and name not in value:
            raise GlamError(f"{where}: key {name!r} is missing; {CURE}")
    return kind(
        **{name: _decode(hints[name], item, f"{where}: {name}") for name, item in value.items()}
    )


def _decode(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_json(kind, value, where)  # type: ignore[arg-type]
    if kind is Any:
        return value
    if get_origin(kind) is tuple:  # tuple[X, ...]
        if not isinstance(value, list | tuple):
            raise GlamError(f"{where}: expected a list, got {shown(value)}; {CURE}")
        of = get_args(kind)[0]
        return tuple(_decode(of, item, f"{where}[{i}]") for i, item in enumerate(value))
    if get_origin(kind) is not None:
        if not isinstance(value, Mapping):
            raise GlamError(f"{where}: expected an object, got {shown(value)}; {CURE}")
        of = get_args(kind)[1]
        return {
            name: _decode(of, item, f"{where}.{printable(name, SHOWN)}")
            for name, item in value.items()
        }
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # isinstance would take true for an int
        raise GlamError(f"{where}: expected {kind.__name__}, got {shown(value)}; {CURE}")
    return value


def to_json(value: Any) -> Any:
    """Convert dataclasses, mappings and tuples to JSON.

    This is the reverse of :func:`from_json`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: to_json(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def read_config(folder: str | Path) -> CheckpointConfig:
    """Read and check ``config.json``, in this format or an older one.

    Raises:
        GlamError: the file is missing, is not JSON, has an unknown format, or holds a wrong key or
            value.
    """
    path = Path(folder) / CONFIG
    plain = read_json(path, CURE)
    if not isinstance(plain, dict) or "format_version" not in plain:
        raise GlamError(
            f"{path} is not of a checkpoint: it has no format_version; "
            "a training run becomes a checkpoint with `glam export`"
        )
    if (version := plain["format_version"]) not in READABLE:
        readable = " and ".join([", ".join(map(str, READABLE[:-1])), str(READABLE[-1])])
        raise GlamError(
            f"{path}: format_version is {shown(version)}, this glam-env reads {readable}; "
            "update glam-env, or export the checkpoint again with `glam export`"
        )
    config = from_json(CheckpointConfig, {**plain, "format_version": FORMAT_VERSION}, str(path))
    check_values(config, str(path))
    if set(config.files) != {WORLD_MODEL, AGENT, CONTEXTS}:
        raise GlamError(f"{path}: files must name the three safetensors files; {CURE}")
    for name, record in config.files.items():
        if record.compression not in ("", XZ):
            raise GlamError(f"{path}: files: {name}: compression must be {XZ} or empty; {CURE}")
    return config


def world_model_tensors(config: CheckpointConfig) -> Mapping[str, Tensor]:
    """Return the exported world model's tensors on the meta device.

    They have names, shapes and dtypes, but no data.
    """
    return _exported(config.world_model)


@lru_cache(maxsize=16)  # opening one env needs it several times
def _exported(config: WorldModelConfig) -> Mapping[str, Tensor]:
    with torch.device("meta"):
        return MappingProxyType(WorldModel(config).export_state())


def require_weights(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Check the number of weights.

    Args:
        what: the model, for the message.
        tensors: its state dict, with or without data.

    Raises:
        GlamError: there are more than :data:`PARAMETERS`.
    """
    if (count := sum(tensor.numel() for tensor in tensors.values())) > PARAMETERS:
        raise GlamError(f"{what} has {count:,} weights; at most {PARAMETERS:,} are possible")


def require_world_model(config: WorldModelConfig, where: str) -> None:
    """Check that a world model of these sizes can be built; no memory is taken for it.

    Args:
        config: its sizes.
        where: prefix of the names of fields in messages, such as ``"model."``.

    Raises:
        GlamError: a value is out of range, or there are too many weights.
    """
    try:
        config.validate()
    except ValueError as error:
        raise GlamError(f"{where}{error}") from error
    try:
        tensors = _exported(config)
    except ValueError as error:
        raise GlamError(f"{where.rstrip('.')}: no world model has these sizes ({error})") from error
    require_weights(where.rstrip("."), tensors)


_STEPS = "[1, 1000000000]"
_RANGES = {"max_episode_steps": _STEPS}
_CONTEXTS_RANGES = {"count": _STEPS, "length": _STEPS}
_PROTOCOL_RANGES = {
    "repeat_action_probability": "[0, 1)",
    "frame_skip": "[1, 1000]",
    "noop_max": "[0, 1000000]",
}
_PROVENANCE_RANGES = {"hours": "[0, inf)"}


def check_values(config: CheckpointConfig, where: str) -> None:
    """Check the values of a config beyond their types.

    Args:
        config: config of a checkpoint.
        where: named in errors, such as the file.

    Raises:
        GlamError: a value is impossible; the message names the first one.
    """
    if config.game not in GAMES:
        raise GlamError(f"{where}: game is {shown(config.game)}, no game of Atari 100k; {CURE}")
    parts = (
        ("", config, _RANGES),
        ("contexts.", config.contexts, _CONTEXTS_RANGES),
        ("protocol.", config.protocol, _PROTOCOL_RANGES),
        ("provenance.", config.provenance, _PROVENANCE_RANGES),
    )
    for prefix, part, ranges in parts:
        require_ranges(part, ranges, f"{where}: {prefix}")
    require_world_model(config.world_model, f"{where}: world_model.")
    actions = GAMES[config.game].num_actions
    if config.world_model.num_actions != actions:
        got = config.world_model.num_actions
        raise GlamError(f"{where}: world_model.num_actions is {got}; {config.game} has {actions}")
    count, length = config.contexts.count, config.contexts.length
    if count * (length + 1) * (config.world_model.categoricals + 1) > CONTEXT_BYTES:
        raise GlamError(
            f"{where}: {count:,} contexts of {length:,} steps take more than the possible "
            f"{CONTEXT_BYTES:,} bytes"
        )
    _check_rewards(config.reward_values, f"{where}: reward_values")
    if not isinstance(config.agent.get("class"), str):
        raise GlamError(f"{where}: agent must name its class; {CURE}")
    if config.protocol.frame_skip != (skip := PlaySettings().frame_skip):
        raise GlamError(
            f"{where}: protocol.frame_skip is {config.protocol.frame_skip}; this glam-env plays "
            f"{skip} frames to a step"
        )


def _check_rewards(values: tuple[float, ...], where: str) -> None:
    if len(values) > MOST_VALUES:
        raise GlamError(f"{where} holds {len(values)} values; at most {MOST_VALUES} are possible")
    if not all(abs(value) <= LARGEST_VALUE for value in values):  # nor NaN
        raise GlamError(f"{where} must be finite, at most {LARGEST_VALUE:g} in size; {CURE}")
    if any(one >= other for one, other in pairwise(values)):
        raise GlamError(f"{where} must ascend; {CURE}")
