"""The interface of a sequence core, and the registry of all cores.

A core turns the features e_0 … e_t of a sequence into the deterministic state h_t. A new core is
one file with a :class:`CoreConfig` and a :class:`SequenceCore`, and one line in
``glam_env/model/cores/__init__.py`` that adds both to :data:`CORES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LARGEST = 65_536
"""Largest whole number in the settings of a core."""


@dataclass(frozen=True)
class CoreConfig:
    """Settings of a sequence core; each core derives its own class from it.

    Attributes:
        name: The core's key in :data:`CORES`.
    """

    name: str

    @property
    def context(self) -> int:
        """Steps that the core needs before its first output, that step included."""
        return 1

    def validate(self) -> None:
        """Check all values.

        Raises:
            ValueError: The name is not that of this class in :data:`CORES`, or a size is not in
                1 … :data:`LARGEST`.
        """
        if find_core(self.name).config is not type(self):
            raise ValueError(
                f"core.name is {self.name!r}, but {type(self).__name__} is not for that core"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is int and value < 1:
                raise ValueError(f"core.{field.name} must be at least 1, got {value}")
            if type(value) is int and value > LARGEST:
                raise ValueError(f"core.{field.name} must be at most {LARGEST}, got {value}")

    def validate_width(self, width: int) -> None:
        """Check that the core can have a width D.

        Raises:
            ValueError: It cannot.
        """


def require_length(e: Tensor, least: int) -> None:
    """Check the length of (B, L, D) features.

    Raises:
        ValueError: L is less than ``least``.
    """
    if e.shape[1] < least:
        raise ValueError(f"a sequence needs at least {least} steps, got {e.shape[1]}")


class CoreOutput(NamedTuple):
    """What :meth:`SequenceCore.forward` returns for B sequences of L steps.

    Attributes:
        h: (B, L − context + 1, D) the states h_t for t = context − 1 … L − 1.
        variation: The same shape, u^g_t, which the variation loss compares with the change of the
            image features; None if the core has no such output.
        trace: A pytree of tensors from which :meth:`SequenceCore.state_at` builds states.
    """

    h: Tensor
    variation: Tensor | None
    trace: Any


class SequenceCore(nn.Module, ABC):
    """Base class of all sequence cores.

    :meth:`forward` and :meth:`step` compute the same h_t: the first for all steps of known
    sequences at once, the second for one step. A state is a pytree (nested tuples, NamedTuples,
    lists and dicts) of tensors whose first dimension is the batch. A core is built from the
    feature width D and its config.

    Attributes:
        context: Steps that the core needs before its first output, that step included.
        has_variation: Whether :meth:`forward` returns a variation.
    """

    context: int
    has_variation: bool = False

    @abstractmethod
    def forward(self, e: Tensor) -> CoreOutput:
        """Process known sequences, each from an empty state.

        Args:
            e: (B, L, D) features, L ≥ context.

        Raises:
            ValueError: L is less than ``context``.
        """

    @abstractmethod
    def initial_state(self, batch: int, device: torch.device | str | None = None) -> Any:
        """Return a state to start from; the next :meth:`step` must mark all rows as first."""

    @abstractmethod
    def step(self, e: Tensor, state: Any, first: Tensor | None = None) -> tuple[Tensor, Any]:
        """Process one step.

        Args:
            e: (B, D) features e_t.
            state: The state after step t − 1; it is not changed.
            first: (B) bool, rows whose sequence starts at this step: their state is ignored.

        Returns:
            h_t (B, D), and the state after step t. From step context − 1 of a sequence on, h_t is
            what :meth:`forward` returns; before that the core pads the missing past.
        """

    @abstractmethod
    def state_at(self, output: CoreOutput, rows: Tensor, positions: Tensor) -> Any:
        """Return the states after given steps of a :meth:`forward` pass, without gradient.

        Args:
            output: The result of :meth:`forward`.
            rows: (N) int64, the sequences.
            positions: (N) int64, the steps t, context − 1 ≤ t < L.

        Returns:
            A state of N rows, from which :meth:`step` continues with e_{t+1}.
        """


class CoreKind(NamedTuple):
    """A registered core: its config class, and the class built from width and config."""

    config: type[CoreConfig]
    core: type[SequenceCore]


CORES: dict[str, CoreKind] = {}
"""All sequence cores by name; filled in ``glam_env/model/cores/__init__.py``."""


def find_core(name: str) -> CoreKind:
    """Return a registered core.

    Raises:
        ValueError: There is no core of that name.
    """
    if name not in CORES:
        raise ValueError(f"core.name must be one of {', '.join(CORES)}; got {name[:60]!r}")
    return CORES[name]


def core_config_type(plain: Mapping[str, Any]) -> type[CoreConfig]:
    """Return the config class of a core's settings in JSON, by their ``name``.

    Raises:
        ValueError: The name is missing, or there is no core of that name.
    """
    return find_core(str(plain.get("name", "")) if isinstance(plain, Mapping) else "").config


def make_core(width: int, config: CoreConfig) -> SequenceCore:
    """Build a core for features of a given width."""
    return find_core(config.name).core(width, config)
