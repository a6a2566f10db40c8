"""Checks of user input, made before any state changes.

Each mistake raises a :class:`~glam_env.errors.GlamError` of one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from glam_env.errors import GlamError


def require_choice(name: str, value: object, choices: tuple[str | None, ...]) -> None:
    """Check that the value of an option is one of its choices.

    Raises:
        GlamError: it is not.
    """
    if not (value is None or isinstance(value, str)) or value not in choices:
        known = ", ".join(map(str, choices))
        raise GlamError(
            f"{name} must be one of {known}; got {value!r}{did_you_mean(value, choices)}"
        )


def did_you_mean(value: object, choices: Iterable[str | None]) -> str:
    """Return ``"; did you mean X?"``, or an empty string if no choice is similar.

    X is the choice most similar to the value.
    """
    names = [choice for choice in choices if choice is not None]
    close = difflib.get_close_matches(str(value), names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def require_count(name: str, value: object) -> int:
    """Return an integer option, of Python or numpy, as an int.

    Raises:
        GlamError: it is not a whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise GlamError(f"{name} must be a whole number >= 1, got {value!r}")
    return int(value)


def require_within(name: str, value: float, interval: str) -> None:
    """Check that a number is in an interval.

    Args:
        name: Name of the number, for the message.
        value: The number; NaN is in no interval.
        interval: The interval in mathematical notation, such as ``"[0, 1)"`` or ``"(0, inf)"``.

    Raises:
        GlamError: it is not.
    """
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):
        raise GlamError(f"{name} must be in {interval}, got {value}")


def require_ranges(config: Any, ranges: Mapping[str, str], prefix: str = "") -> None:
    """Check fields of a config, each against its interval; see :func:`require_within`.

    Args:
        config: An object with the fields.
        ranges: Intervals by name of the field.
        prefix: Prefix of the names in the message, such as ``"loss."``.

    Raises:
        GlamError: a field is outside of its interval.
    """
    for name, interval in ranges.items():
        require_within(prefix + name, getattr(config, name), interval)


INTEGERS = frozenset(
    getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)
)


def require_dense(name: str, value: Tensor) -> None:
    """Check that a tensor is dense and holds numbers.

    Raises:
        GlamError: it is on the device ``meta``, which has shapes only, or sparse or nested.
    """
    if value.is_meta or value.layout is not torch.strided or value.is_nested:
        kind = "on the device meta" if value.is_meta else "sparse or nested"
        raise GlamError(f"{name} must be a dense tensor with numbers, not one that is {kind}")


def require_integers(name: str, value: Any) -> Tensor:
    """Convert integers of numpy, torch or Python to an int64 tensor on their device.

    Raises:
        GlamError: they are not integers, or not of one shape.
    """
    if not isinstance(value, Tensor):
        try:
            array = np.asarray(value)
        except (ValueError, TypeError) as error:
            raise GlamError(f"{name} must be integers of one shape ({error})") from error
        if not np.issubdtype(array.dtype, np.integer):
            raise GlamError(f"{name} must be integers, got dtype {array.dtype}")
        return torch.from_numpy(array.astype(np.int64))
    if value.dtype not in INTEGERS:
        raise GlamError(f"{name} must be integers, got dtype {value.dtype}")
    require_dense(name, value)
    return value.long()


def require_range(name: str, values: Tensor, limit: int) -> None:
    """Check that all values are in [0, limit).

    Raises:
        GlamError: one is not.
    """
    outside = (values < 0) | (values >= limit)
    if bool(outside.any()):
        worst = int(values[outside][0])
        raise GlamError(f"{name} must be in 0 … {limit - 1}, got {worst}")


def read_actions(actions: Any, num_envs: int, num_actions: int) -> Tensor:
    """Check actions and return them as (E) int64 on their device.

    Args:
        actions: the user's actions.
        num_envs: E.
        num_actions: A.

    Raises:
        GlamError: they are not integers, of another shape, or one is not in [0, A).
    """
    chosen = require_integers("actions", actions)
    if tuple(chosen.shape) != (num_envs,):
        raise GlamError(f"actions must have shape ({num_envs},), got {tuple(chosen.shape)}")
    require_range("actions", chosen, num_actions)
    return chosen


def read_mask(value: Any, num_envs: int, row: str) -> Tensor:
    """Check ``options["reset_mask"]`` and return a copy, (E) bool on its device.

    Args:
        value: the user's mask.
        num_envs: E.
        row: the word for a row in messages.

    Raises:
        GlamError: it is neither numpy nor torch, of another dtype or shape, or true for no row.
    """
    if not isinstance(value, np.ndarray | Tensor):
        raise GlamError(
            f"options['reset_mask'] must be an array or a tensor, got {type(value).__name__}"
        )
    if isinstance(value, Tensor):
        require_dense("options['reset_mask']", value)
    if value.dtype not in (np.bool_, torch.bool) or tuple(value.shape) != (num_envs,):
        raise GlamError(
            f"options['reset_mask'] must be bool of shape ({num_envs},), "
            f"got {value.dtype} of shape {tuple(value.shape)}"
        )
    if not bool(value.any()):
        raise GlamError(f"options['reset_mask'] must be true for at least one {row}")
    return value.clone() if isinstance(value, Tensor) else torch.from_numpy(value.copy())


def require_options(options: Any) -> dict[str, Any]:
    """Return a copy of the options of reset; an empty dict for None.

    Raises:
        GlamError: they are not a dict.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise GlamError(f"options of reset() must be a dict or None, got {options!r:.80}")
    return dict(options)


def read_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Convert a name (``SAME_STEP``) or a value (``SameStep``) to an autoreset mode.

    A mode is returned unchanged.

    Raises:
        GlamError: there is no such mode.
    """
    for known in AutoresetMode:
        if mode in (known, known.name, known.value):
            return known
    names = [known.name for known in AutoresetMode]
    meant = did_you_mean(mode, names)
    raise GlamError(f"autoreset_mode must be one of {', '.join(names)}; got {mode!r}{meant}")
