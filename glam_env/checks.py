"""Checks of what users give: a mistake gets one clear line, before anything has moved."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from glam_env.errors import GlamError


def require_choice(name: str, value: object, choices: tuple[str | None, ...]) -> None:
    """Raises GlamError unless an option's value is one of its choices."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise GlamError(f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}")


def require_count(name: str, value: object) -> int:
    """An option's value, Python's or numpy's, as an int.

    Raises:
        GlamError: it is no whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise GlamError(f"{name} must be a whole number >= 1, got {value!r}")
    return int(value)


def require_integers(name: str, value: Any) -> Tensor:
    """An int64 tensor of integers from numpy, torch or Python ones, where they lie.

    Raises:
        GlamError: they are anything else.
    """
    if not isinstance(value, Tensor):
        try:
            array = np.asarray(value)
        except (ValueError, TypeError) as error:
            raise GlamError(f"{name} must be integers of one shape ({error})") from error
        if not np.issubdtype(array.dtype, np.integer):
            raise GlamError(f"{name} must be integers, got dtype {array.dtype}")
        return torch.from_numpy(array.astype(np.int64))
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise GlamError(f"{name} must be integers, got dtype {value.dtype}")
    return value.long()


def require_range(name: str, values: Tensor, limit: int) -> None:
    """Raises GlamError unless all values lie in [0, limit)."""
    outside = (values < 0) | (values >= limit)
    if bool(outside.any()):
        worst = int(values[outside][0])
        raise GlamError(f"{name} must lie in 0 … {limit - 1}, got {worst}")


def read_actions(actions: Any, num_envs: int, num_actions: int) -> Tensor:
    """(E) int64 actions, each in [0, A), where they lie.

    Args:
        actions: what the user gave.
        num_envs: E.
        num_actions: A.

    Raises:
        GlamError: no integers, another shape, or one out of range.
    """
    chosen = require_integers("actions", actions)
    if tuple(chosen.shape) != (num_envs,):
        raise GlamError(f"actions must have shape ({num_envs},), got {tuple(chosen.shape)}")
    require_range("actions", chosen, num_actions)
    return chosen


def read_mask(value: Any, num_envs: int, row: str) -> Tensor:
    """The (E) bool mask of ``options["reset_mask"]``, a copy where it lies.

    Args:
        value: what the user gave.
        num_envs: E.
        row: what messages call a row.

    Raises:
        GlamError: neither numpy nor torch, another dtype or shape, or no row at all.
    """
    if not isinstance(value, np.ndarray | Tensor):
        raise GlamError(
            f"options['reset_mask'] must be an array or a tensor, got {type(value).__name__}"
        )
    if value.dtype not in (np.bool_, torch.bool) or tuple(value.shape) != (num_envs,):
        raise GlamError(
            f"options['reset_mask'] must be bool of shape ({num_envs},), "
            f"got {value.dtype} of shape {tuple(value.shape)}"
        )
    if not bool(value.any()):
        raise GlamError(f"options['reset_mask'] must be true for at least one {row}")
    return value.clone() if isinstance(value, Tensor) else torch.from_numpy(value.copy())


def read_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """The mode itself, or the one of a name (``SAME_STEP``) or value (``SameStep``).

    Raises:
        GlamError: there is no such mode.
    """
    for known in AutoresetMode:
        if mode in (known, known.name, known.value):
            return known
    names = ", ".join(known.name for known in AutoresetMode)
    raise GlamError(f"autoreset_mode must be one of {names}; got {mode!r}")
