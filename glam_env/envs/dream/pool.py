"""``ContextPool``: the start states of all contexts, each warmed up once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from glam_env.checkpoint.contexts import Contexts
from glam_env.errors import GlamNumberError
from glam_env.fast.plain import NOT_FINITE
from glam_env.fast.render import Renderer
from glam_env.model.structures import DreamState, tree_map, tree_tensors
from glam_env.model.world_model import WorldModel

_WARM_UP_BATCH = 128  # contexts at once on an accelerator


def draw_frames(world_model: WorldModel, codes: Tensor) -> Tensor:
    """Map (..., K) int64 codes to (..., 64, 64, 3) uint8 frames."""
    with torch.no_grad():
        return world_model.decode(codes).mul_(255.0).round_().to(torch.uint8)


class ContextPool:
    """Start states (and first frames) of all contexts, each warmed up once.

    On an accelerator the pool computes everything at construction, so a start is one gather. On a
    CPU that would take many seconds, and each context is warmed up when it is first needed. In
    both cases a context is always computed in the same batch, and so has the same bits.

    Args:
        world_model: In eval mode, on ``device``.
        contexts: Where dreams may start.
        device: Device of the states.
        frames: Whether first frames are needed.
        draw: Draws the first frames; :func:`draw_frames` if None.
        arrange: Puts states in the memory order in which they are kept.
    """

    def __init__(
        self,
        world_model: WorldModel,
        contexts: Contexts,
        device: torch.device,
        *,
        frames: bool = False,
        draw: Renderer | None = None,
        arrange: Callable[[DreamState], DreamState] = lambda state: state,
    ) -> None:
        self._world_model = world_model
        self._draw = partial(draw_frames, world_model) if draw is None else draw
        self._contexts = contexts.to(device)
        self._batch = 1 if device.type == "cpu" else min(_WARM_UP_BATCH, contexts.count)
        self._batches_missing = set(range(-(-contexts.count // self._batch)))
        # Memory that is not initialised costs nothing until a context is written to it.
        first = arrange(self._warm_up(0))
        rows = contexts.count
        self._states: DreamState = tree_map(partial(_memory_for, rows), first)
        self._frames = (
            torch.empty((rows, 64, 64, 3), dtype=torch.uint8, device=device) if frames else None
        )
        if device.type != "cpu":
            for batch in sorted(self._batches_missing):
                self._fill(batch)

    def __len__(self) -> int:
        return self._contexts.count

    @property
    def example(self) -> DreamState:
        """States of the right structure, shapes and dtypes, with undefined numbers."""
        return self._states

    def states(self, indices: Tensor, mask: Tensor) -> DreamState:
        """Return start states.

        Args:
            indices: (E) int64 contexts.
            mask: (E) bool, the rows that are needed; the others are undefined.

        Returns:
            E states, copies.
        """
        return self.all_states(indices, mask).rows(indices)

    def all_states(self, indices: Tensor, mask: Tensor) -> DreamState:
        """Return the start states of all contexts, not copies.

        Those of the (N) ``indices`` where the mask is true are computed; others may be undefined.
        """
        self._require(indices, mask)
        return self._states

    def frames(self, indices: Tensor, mask: Tensor) -> Tensor:
        """Return first frames (E, 64, 64, 3) uint8, copies; see :meth:`states`."""
        assert self._frames is not None, "this pool has no frames"
        self._require(indices, mask)
        if indices.device.type != "cpu":
            return self._frames[indices]
        frames = self._frames.new_empty(len(indices), *self._frames.shape[1:])
        rows = mask.nonzero().flatten()
        return frames.index_copy_(0, rows, self._frames[indices[rows]])

    def _require(self, indices: Tensor, mask: Tensor) -> None:
        if self._batches_missing:
            wanted = set((indices[mask] // self._batch).tolist())
            for batch in sorted(wanted & self._batches_missing):
                self._fill(batch)

    def _warm_up(self, batch: int) -> DreamState:
        rows = slice(batch * self._batch, (batch + 1) * self._batch)
        contexts = self._contexts
        return self._world_model.warm_up(contexts.codes[rows].long(), contexts.actions[rows].long())

    def _fill(self, batch: int) -> None:
        rows = slice(batch * self._batch, (batch + 1) * self._batch)
        state = self._warm_up(batch)
        parts = [part for part in tree_tensors(state) if part.is_floating_point()]
        if bool(
            sum((part - part).sum() for part in parts) != 0.0
        ):  # x − x is NaN if x is not finite
            raise GlamNumberError(NOT_FINITE)
        for own, part in zip(tree_tensors(self._states), tree_tensors(state), strict=True):
            own[rows] = part
        if self._frames is not None:
            self._frames[rows] = self._draw(state.code)
        self._batches_missing.discard(batch)


def _memory_for(rows: int, part: Tensor) -> Tensor:
    """Allocate rows like those of an (E, ...) tensor, in the same memory order."""
    order = sorted(range(1, part.ndim), key=lambda axis: -part.stride(axis))
    memory = part.new_empty((rows, *(part.shape[axis] for axis in order)))
    return memory.permute(0, *(1 + order.index(axis) for axis in range(1, part.ndim)))
