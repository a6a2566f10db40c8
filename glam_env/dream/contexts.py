"""Where dreams start: real moments, each with the steps that led to it, as latent codes.

A context is L known steps and the moment after them: codes z_0 … z_L and actions a_0 … a_{L−1},
a byte each, so that thousands fit in a few MB. The world model's parallel pass turns one into
the state a dream goes on from (its warm-up), which :class:`ContextPool` does once for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from glam_env.errors import GlamError
from glam_env.model.rendering import Renderer
from glam_env.model.structures import DreamState, WorldModelConfig
from glam_env.model.variation import CoreState
from glam_env.model.world_model import WorldModel

CONTEXT_LENGTH = 16
"""L, the paper's context of 16 steps."""

_WARM_UP_BATCH = 128  # contexts at once on an accelerator


@dataclass(frozen=True)
class Contexts:
    """N start contexts.

    Attributes:
        codes: (N, L+1, K) uint8, class indices of the L known latents and of the current one.
        actions: (N, L) uint8, the actions taken on seeing the first L.
    """

    codes: Tensor
    actions: Tensor

    @property
    def count(self) -> int:
        """N."""
        return self.codes.shape[0]

    @property
    def length(self) -> int:
        """L."""
        return self.actions.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, as ``contexts.safetensors`` holds them."""
        return {"codes": self.codes, "actions": self.actions}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], config: WorldModelConfig, where: str
    ) -> Contexts:
        """Checks tensors against the world model that will dream from them.

        Args:
            tensors: ``codes`` and ``actions``.
            config: the world model's sizes.
            where: named in errors, such as the file.

        Raises:
            GlamError: a name, a shape, a dtype or a value that does not fit.
        """
        if tensors.keys() != {"codes", "actions"}:
            names = ", ".join(sorted(tensors)) or "nothing"
            raise GlamError(f"{where}: holds {names}; contexts are exactly codes and actions")
        for name, tensor in tensors.items():
            if tensor.dtype != torch.uint8:
                raise GlamError(f"{where}: {name} has dtype {tensor.dtype}; it must be uint8")
        codes, actions = tensors["codes"], tensors["actions"]
        count, length = actions.shape if actions.ndim == 2 else (0, 0)
        if count < 1 or length < config.local_window:
            raise GlamError(
                f"{where}: actions has shape {tuple(actions.shape)}; it must be (N, L) "
                f"with N >= 1 and L >= {config.local_window}"
            )
        expected = (count, length + 1, config.categoricals)
        if tuple(codes.shape) != expected:
            raise GlamError(f"{where}: codes has shape {tuple(codes.shape)}, not {expected}")
        for name, tensor, limit in (
            ("codes", codes, config.classes),
            ("actions", actions, config.num_actions),
        ):
            if (highest := int(tensor.max())) >= limit:
                raise GlamError(f"{where}: {name} holds {highest}; it must be below {limit}")
        return cls(codes, actions)

    def to(self, device: torch.device | str) -> Contexts:
        """The same contexts on a device."""
        return Contexts(self.codes.to(device), self.actions.to(device))


def draw_frames(world_model: WorldModel, codes: Tensor) -> Tensor:
    """What dreams look like: (..., K) int64 codes to (..., 64, 64, 3) uint8 frames."""
    with torch.no_grad():
        return world_model.decode(codes).mul_(255.0).round_().to(torch.uint8)


class ContextPool:
    """Start states (and first frames) of all contexts, each warmed up once.

    On an accelerator everything is computed at construction, so a start is one gather. On a CPU,
    where that would take many seconds, each context is warmed up when first asked for. Either
    way the batch a context is computed in is always the same, and so are its bits.

    Args:
        world_model: in eval mode, on ``device``.
        contexts: where dreams may start.
        device: where the states live.
        frames: whether first frames will be asked for.
        draw: draws them; :func:`draw_frames` if None.
        arrange: puts states in the order of memory that they shall be kept in.
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
        # Uninitialised memory costs nothing until a context is written to it.
        first = arrange(self._warm_up(0))
        rows = contexts.count
        self._codes, self._h = (_room(part, rows) for part in (first.code, first.h))
        self._core = CoreState(*(_room(part, rows) for part in first.core))
        self._frames = (
            torch.empty((rows, 64, 64, 3), dtype=torch.uint8, device=device) if frames else None
        )
        if device.type != "cpu":
            for batch in sorted(self._batches_missing):
                self._fill(batch)

    def __len__(self) -> int:
        return self._contexts.count

    def states(self, indices: Tensor, mask: Tensor) -> DreamState:
        """Start states.

        Args:
            indices: (E) int64 contexts.
            mask: (E) bool, the rows that will be used; the others hold anything.

        Returns:
            E states, copies.
        """
        everything = self.all_states(indices, mask)
        core = CoreState(*(part[indices] for part in everything.core))
        return DreamState(everything.code[indices], everything.h[indices], core)

    def all_states(self, indices: Tensor, mask: Tensor) -> DreamState:
        """The start states of all contexts, no copies; they hold anything but at those of the (N)
        ``indices`` where the mask is true."""
        self._require(indices, mask)
        return DreamState(self._codes, self._h, self._core)

    def frames(self, indices: Tensor, mask: Tensor) -> Tensor:
        """First frames (E, 64, 64, 3) uint8, copies; arguments as in :meth:`states`."""
        assert self._frames is not None, "this pool was made without frames"
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
        self._codes[rows], self._h[rows] = state.code, state.h
        for own, part in zip(self._core, state.core, strict=True):
            own[rows] = part
        if self._frames is not None:
            self._frames[rows] = self._draw(state.code)
        self._batches_missing.discard(batch)


def _room(part: Tensor, rows: int) -> Tensor:
    """Memory for as many rows like those of (E, ...), in the order that they have there."""
    order = sorted(range(1, part.ndim), key=lambda axis: -part.stride(axis))
    room = part.new_empty((rows, *(part.shape[axis] for axis in order)))
    return room.permute(0, *(1 + order.index(axis) for axis in range(1, part.ndim)))
