"""Agents that learn in dreams, and a bridge to Stable-Baselines3.

An agent that learns in imagination is one file and one line in :data:`AGENTS`. `glam train
--algorithm NAME` trains it; `docs/add_an_agent.md` shows how to write one. Importing this package
imports no PyTorch: an agent's module is imported when the agent is looked up.
"""

from __future__ import annotations

import pkgutil
from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from glam_env.errors import GlamError, line_of
from glam_env.files import shown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from glam_env.training.imagination import Agent

__all__ = [
    "AGENTS",
    "DEFAULT_AGENT",
    "AgentKind",
    "config_of",
    "find_agent",
    "load_agent",
    "load_run_agent",
]

DEFAULT_AGENT = "storm"


@dataclass(frozen=True)
class AgentKind:
    """A kind of agent that learns in imagination.

    Attributes:
        name: its key in :data:`AGENTS`, and the ``class`` of an agent in a checkpoint.
        config: a frozen dataclass of hyperparameters. Each field has a default, so that a field
            that is added later keeps old checkpoints readable.
        make: builds an untrained agent from a config, the width of the features and the number
            of actions.
        presets: configs by the name of a training preset, or by its part before a hyphen. All
            other presets use the defaults.
        sizes: fields of the config that determine the shapes of the weights. A warm start takes
            them from its checkpoint.
    """

    name: str
    config: type[Any]
    make: Callable[[Any, int, int], Agent]
    presets: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_dataclass(self.config):
            raise TypeError(f"the config of agent {self.name!r} must be a dataclass")
        self.config()  # TypeError for a field without a default

    def preset(self, name: str) -> Any:
        """Return the config of a training preset.

        A preset such as ``"small-local"`` without a config of its own has that of ``"small"``, or
        else the defaults.
        """
        for known in (name, name.partition("-")[0]):
            if known in self.presets:
                return self.presets[known]
        return self.config()

    def validate(self, config: Any) -> None:
        """Check a config by its own ``validate()``, if it has one.

        Raises:
            GlamError: a value is impossible.
        """
        if hasattr(config, "validate"):
            config.validate()

    def with_sizes_of(self, config: Any, other: Any) -> Any:
        """Return ``config`` with those fields of ``other`` that determine shapes."""
        return replace(config, **{name: getattr(other, name) for name in self.sizes})

    def as_json(self, config: Any) -> dict[str, Any]:
        """Return a config as a checkpoint or a run stores it.

        :func:`config_of` reads it.
        """
        from glam_env.checkpoint.config import to_json

        return {"class": self.name, **to_json(config)}


class _Registry(UserDict[str, Any]):
    """Agents by name.

    A value is an :class:`AgentKind`, or ``"module:attribute"`` of one.
    """

    def __getitem__(self, name: str) -> AgentKind:
        kind = super().__getitem__(name)
        if isinstance(kind, str):
            kind = self[name] = pkgutil.resolve_name(kind)
        return kind


AGENTS: _Registry = _Registry(
    {
        "storm": "glam_agents.storm:STORM",
    }
)
"""All agents that learn in imagination."""


def find_agent(name: str) -> AgentKind:
    """Look up an agent by its name.

    Raises:
        GlamError: there is no such agent.
    """
    if not isinstance(name, str) or name not in AGENTS:
        raise GlamError(f"agent class {shown(name)} is unknown; known: {', '.join(AGENTS)}")
    return AGENTS[name]


def config_of(
    stored: Mapping[str, Any], where: str, default: str | None = None
) -> tuple[AgentKind, Any]:
    """Read the ``agent`` part of a checkpoint's or a run's config.json.

    Args:
        stored: ``class`` and fields of the config. Absent fields take their defaults.
        where: the file, for messages.
        default: the class if it is absent. Earlier runs stored none, since there was one agent.

    Returns:
        The kind of agent, and its config.

    Raises:
        GlamError: an unknown class, an unknown field, or a value of another type.
    """
    from glam_env.checkpoint.config import from_json

    if not isinstance(stored, Mapping):
        raise GlamError(f"{where}: agent must be an object with a class, got {shown(stored)}")
    values = dict(stored)
    kind = find_agent(values.pop("class", default))
    config = from_json(kind.config, values, f"{where}: agent")
    try:
        kind.validate(config)
    except GlamError as error:
        raise GlamError(f"{where}: {error}") from error
    return kind, config


def load_agent(
    stored: Mapping[str, Any],
    state: Mapping[str, Tensor],
    feature_dim: int,
    num_actions: int,
    device: torch.device | str = "cpu",
    where: str = "config.json",
) -> Agent:
    """Build the agent of a checkpoint, ready to act.

    Args:
        stored: the ``agent`` part of config.json.
        state: the tensors of the agent's ``export_state()``.
        feature_dim: F, width of the features [z_t, h_{t−1}] of the world model.
        num_actions: A, number of actions of the game.
        device: device of the agent.
        where: the config file, for messages.

    Returns:
        The agent. A ``torch.nn.Module`` is in eval mode and requires no gradients.

    Raises:
        GlamError: an unknown class or field, an impossible value, or tensors that do not fit.
    """
    kind, config = config_of(stored, where)
    state = _require_fit(kind, config, feature_dim, num_actions, state, where)
    agent = _make(kind, config, feature_dim, num_actions, device, where)
    agent.load_exported(state)
    return _ready(agent)


def load_run_agent(
    stored: Mapping[str, Any],
    learner_state: dict[str, Any],
    feature_dim: int,
    num_actions: int,
    device: torch.device | str = "cpu",
    where: str = "config.json",
) -> Agent:
    """Build the agent of a training run, ready to act.

    Args:
        stored: the ``agent`` part of the run's config.json.
        learner_state: result of the agent's ``learner_state()``.
        feature_dim, num_actions, device, where: see :func:`load_agent`.

    Raises:
        GlamError: an unknown class or field, or an impossible value.
    """
    kind, config = config_of(stored, where, DEFAULT_AGENT)
    agent = _make(kind, config, feature_dim, num_actions, device, where)
    agent.load_learner_state(learner_state)
    return _ready(agent)


def _require_fit(
    kind: AgentKind,
    config: Any,
    feature_dim: int,
    num_actions: int,
    state: Mapping[str, Tensor],
    where: str,
) -> dict[str, Tensor]:
    """Check tensors against an agent without data.

    This is done before memory is taken for the real agent.

    Returns:
        The tensors, in the agent's dtypes; unchanged if the agent is not a ``torch.nn.Module``.
    """
    import torch

    from glam_env.checkpoint.config import require_weights
    from glam_env.checkpoint.folder import check_tensors

    with torch.device("meta"):
        agent = _make(kind, config, feature_dim, num_actions, "meta", where)
        if not isinstance(agent, torch.nn.Module):
            return dict(state)
        expected = agent.export_state()
    require_weights(f"{where}: agent", expected)
    return check_tensors(state, expected, f"{where}: agent")


def _make(
    kind: AgentKind,
    config: Any,
    feature_dim: int,
    num_actions: int,
    device: torch.device | str,
    where: str,
) -> Agent:
    import torch

    try:
        agent = kind.make(config, feature_dim, num_actions)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: sizes beyond 64 bits
        raise GlamError(
            f"{where}: agent does not fit: {line_of(error)}; export it again"
        ) from error
    return agent.to(device) if isinstance(agent, torch.nn.Module) else agent


def _ready(agent: Agent) -> Agent:
    import torch

    return agent.eval().requires_grad_(False) if isinstance(agent, torch.nn.Module) else agent
