"""``DreamSnapshot``: a copy of dreams, to continue later or many times.

A snapshot may come from a file or from another user, and C++ code steps the dreams in their memory.
So every part is checked before it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glam_env.checkpoint.config import WORLD_MODEL, CheckpointConfig, to_json
from glam_env.checks import require_dense
from glam_env.device import find_device
from glam_env.envs.base import FRAME_SHAPE
from glam_env.envs.dream.engine import DreamEngine, EngineDraws, EngineState
from glam_env.errors import GlamError
from glam_env.model.structures import DreamState, tree_map

MOST_STEPS = 1 << 62
"""More steps than a dream can have; the limit keeps step counts within int64."""
_DEEPEST = 16  # levels of a state's tree


@dataclass(frozen=True)
class DreamSnapshot:
    """The state of E dreams, in tensors of its own.

    A whole snapshot contains the state of the random draws as well: an env that is set to it
    continues, bit for bit, as the env that it was taken from. A selection of its :meth:`rows` does
    not, and an env that is set to it continues with its own draws: branches of one moment become
    different futures.

    Attributes:
        world: Identity of the world model that dreamt them (:func:`world_identity`); no other can
            continue them.
        engine: State of the dreams, and steps since each began.
        done: (E) bool, dreams that have ended and have not been reset.
        frames: (E, 64, 64, 3) uint8, their frames; None from an env of latents.
        draws: The state of the random draws; None in a selection.
    """

    world: str
    engine: EngineState
    done: Tensor
    frames: Tensor | None
    draws: EngineDraws | None

    @property
    def num_envs(self) -> int:
        """Number of dreams, E."""
        return len(self.done)

    def rows(self, index: Any) -> DreamSnapshot:
        """Select dreams, each as often as wanted, without the state of the draws.

        Args:
            index: (N) integers from 0 to E − 1, a number (N = 1), or (E) bool; in numpy, torch
                or a list.

        Returns:
            N dreams, copies.

        Raises:
            GlamError: The index is of another kind, or out of range, or the snapshot is damaged.
        """
        self._require_whole()
        chosen = self._checked_index(index).to(self.done.device)
        return replace(
            self,
            engine=EngineState(self.engine.dream.rows(chosen), self.engine.steps[chosen]),
            done=self.done[chosen],
            frames=None if self.frames is None else self.frames[chosen],
            draws=None,
        )

    def without_draws(self) -> DreamSnapshot:
        """Return all dreams, without the state of the draws."""
        return replace(self, draws=None)

    def to(self, device: torch.device | str) -> DreamSnapshot:
        """Return the same dreams on a device.

        The state of the draws is not moved: it fits only devices of its own type.

        Raises:
            GlamError: There is no such device, or the snapshot is damaged.
        """
        self._require_whole()
        device = find_device(device)
        return replace(
            self,
            engine=tree_map(lambda part: part.to(device), self.engine),
            done=self.done.to(device),
            frames=None if self.frames is None else self.frames.to(device),
        )

    def _require_whole(self) -> None:
        """Check that all parts are tensors of E rows; GlamError if one is not."""
        _require_tensor("done", self.done, torch.bool)
        if self.done.ndim != 1:
            raise _damaged("done", f"must have shape (E,), got {tuple(self.done.shape)}")
        _require_engine(self.engine)
        _require_tensor("steps", self.engine.steps)
        parts = list(_tensors("engine", self.engine))
        if self.frames is not None:
            parts.append(("frames", self.frames))
        for name, part in parts:
            _require_tensor(name, part)
            if part.ndim == 0 or len(part) != len(self.done):
                shape = tuple(part.shape)
                raise _damaged(name, f"must have {len(self.done)} rows, got shape {shape}")

    def _checked_index(self, index: Any) -> Tensor:
        try:
            chosen = index if isinstance(index, Tensor) else torch.from_numpy(np.array(index))
        except (TypeError, ValueError) as error:
            raise GlamError(f"an index of dreams must be integers, not {index!r}") from error
        require_dense("an index of dreams", chosen)
        if chosen.dtype == torch.bool and tuple(chosen.shape) == (self.num_envs,):
            chosen = chosen.nonzero().flatten()
        if chosen.ndim == 0:
            chosen = chosen[None]
        whole = not (
            chosen.dtype == torch.bool or chosen.is_floating_point() or chosen.is_complex()
        )
        if not whole or chosen.ndim != 1 or len(chosen) == 0:
            raise GlamError(
                f"an index of dreams must be integers of shape (N,), or bool of shape "
                f"({self.num_envs},); got {chosen.dtype} of shape {tuple(chosen.shape)}"
            )
        chosen = chosen.long()
        if bool(((chosen < 0) | (chosen >= self.num_envs)).any()):
            raise GlamError(
                f"this snapshot has dreams 0 … {self.num_envs - 1}; got {chosen.tolist()}"
            )
        return chosen


def world_identity(config: CheckpointConfig) -> str:
    """Return the SHA-256 of a world model's weights and sizes.

    The sizes are included, since some of them (the window of LMamba) change the state but no
    weight.
    """
    parts = [config.files[WORLD_MODEL].sha256, to_json(config.world_model)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_snapshot(snapshot: DreamSnapshot, engine: DreamEngine) -> None:
    """Check every part of a snapshot before an engine continues from it.

    Args:
        snapshot: A snapshot of the engine's world model.
        engine: It is not changed.

    Raises:
        GlamError: A part has another type, shape or dtype, or holds a number that no dream has, or
            there are more or fewer dreams.
    """
    count = engine.num_envs
    _require_tensor("done", snapshot.done, torch.bool)
    if snapshot.done.ndim == 1 and snapshot.num_envs != count:
        raise GlamError(
            f"the snapshot holds {snapshot.num_envs} dreams and this env {count}: "
            "select that many with its rows()"
        )
    _require_tensor("done", snapshot.done, torch.bool, (count,))
    _require_engine(snapshot.engine)
    dream, steps = snapshot.engine
    for name, like, part in _pairs("dream", engine.pool.example, dream):
        _require_tensor(name, part, like.dtype, (count, *like.shape[1:]))
        if like.is_floating_point() and part.numel():
            low, high = torch.aminmax(part)  # NaN if there is one
            if not bool(low.isfinite() & high.isfinite()):
                raise _damaged(name, "must be finite")
    _require_range("dream.code", dream.code, engine.world_model.config.classes)
    _require_tensor("steps", steps, torch.int64, (count,))
    _require_range("steps", steps, MOST_STEPS)
    if snapshot.frames is not None:
        _require_tensor("frames", snapshot.frames, torch.uint8, (count, *FRAME_SHAPE))
    if snapshot.draws is not None:
        _check_draws(snapshot.draws, engine)


def _require_engine(engine: Any) -> None:
    for name, part, kind in (
        ("engine", engine, EngineState),
        ("dream", getattr(engine, "dream", None), DreamState),
    ):
        if type(part) is not kind or len(part) != len(kind._fields):
            raise _damaged(name, f"is a {type(part).__name__} of another structure")


def _check_draws(draws: EngineDraws, engine: DreamEngine) -> None:
    if type(draws) is not EngineDraws or len(draws) != 3:
        raise _damaged("draws", f"is a {type(draws).__name__}")
    generator, key, drawn = draws
    if isinstance(drawn, Tensor) and drawn.device.type != engine.device.type:
        raise GlamError(
            f"the snapshot draws on {drawn.device.type}, this env on {engine.device.type}: "
            "leave its draws out with without_draws()"
        )
    _require_tensor("draws.starts_drawn", drawn, torch.int64, (engine.num_envs,))
    _require_range("draws.starts_drawn", drawn, MOST_STEPS)
    if type(key) is not int or not -(1 << 63) <= key < 1 << 64:
        raise _damaged("draws.start_key", "must be an integer of 64 bits")
    own = engine.get_draws().generator
    _require_tensor("draws.generator", generator, own.dtype, tuple(own.shape))
    try:
        torch.Generator(engine.device).set_state(generator)
    except (RuntimeError, TypeError) as error:
        raise _damaged("draws.generator", "is no state of a generator") from error


def _pairs(name: str, like: Any, given: Any) -> Iterator[tuple[str, Tensor, Any]]:
    """Yield the tensors of a tree by name, with their counterparts in another tree.

    Raises:
        GlamError: The other tree has another structure.
    """
    if isinstance(like, Tensor):
        yield name, like, given
    elif like is None or type(given) is not type(like) or len(given) != len(like):
        if like is not given:
            raise _damaged(name, f"is a {type(given).__name__} of another structure")
    elif isinstance(like, dict):
        if like.keys() != given.keys():
            raise _damaged(name, "has other names")
        for key in like:
            yield from _pairs(f"{name}.{key}", like[key], given[key])
    else:
        names = getattr(like, "_fields", range(len(like)))
        for key, own, part in zip(names, like, given, strict=True):
            yield from _pairs(f"{name}.{key}", own, part)


def _tensors(name: str, tree: Any, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a tree by name; GlamError if it holds anything else."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, tuple | list | Mapping) and depth < _DEEPEST:
        keys = tree if isinstance(tree, Mapping) else getattr(tree, "_fields", range(len(tree)))
        values = list(tree.values() if isinstance(tree, Mapping) else tree)
        if len(keys) != len(values):  # a NamedTuple that was not built by its class
            raise _damaged(name, f"has {len(values)} parts")
        for key, part in zip(keys, values, strict=True):
            yield from _tensors(f"{name}.{key}", part, depth + 1)
    elif tree is not None:
        raise _damaged(name, f"is a {type(tree).__name__}")


def _require_tensor(
    name: str, part: Any, dtype: torch.dtype | None = None, shape: tuple[int, ...] | None = None
) -> None:
    """Check that a part is a plain, dense tensor of a dtype and a shape, if given.

    Its storage must be large enough for each of its numbers to have its own memory.
    """
    if type(part) is not Tensor:
        raise _damaged(name, f"must be a tensor, not a {type(part).__name__}")
    try:
        require_dense(name, part)
    except GlamError as error:
        raise GlamError(f"the snapshot is damaged: {error}") from error
    found = part.dtype, tuple(part.shape)
    if (dtype or found[0], found[1] if shape is None else shape) != found:
        wanted = f"{dtype or found[0]} of shape {found[1] if shape is None else shape}"
        raise _damaged(name, f"must be {wanted}, got {found[0]} of shape {found[1]}")
    if part.numel():
        # A tensor can repeat its memory (expand), and its storage can have shrunk.
        last = sum((n - 1) * stride for n, stride in zip(part.shape, part.stride(), strict=True))
        numbers = max(part.storage_offset() + last + 1, part.numel())
        if numbers * part.element_size() > part.untyped_storage().nbytes():
            raise _damaged(name, "has less memory than its shape needs")


def _require_range(name: str, part: Tensor, limit: int) -> None:
    low, high = (int(value) for value in torch.aminmax(part))
    if low < 0 or high >= limit:
        raise _damaged(name, f"must be in 0 … {limit - 1}, got {low if low < 0 else high}")


def _damaged(name: str, what: str) -> GlamError:
    return GlamError(f"the snapshot is damaged: {name} {what}")
