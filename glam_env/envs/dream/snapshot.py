"""``DreamSnapshot``: a copy of dreams, to continue later or many times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glam_env.envs.dream.engine import EngineDraws, EngineState
from glam_env.errors import GlamError
from glam_env.model.structures import tree_map


@dataclass(frozen=True)
class DreamSnapshot:
    """The state of E dreams, in tensors of its own.

    A whole snapshot contains the further draws as well: an env that is set to it continues, bit
    for bit, as the env that it was taken from. A selection of its :meth:`rows` contains none, and
    an env that is set to it continues with its own draws: branches of one moment become different
    futures.

    Attributes:
        world: SHA-256 of the world model that dreamt them; no other can continue them.
        engine: State of the dreams, and steps since each began.
        done: (E) bool, dreams that have ended and have not been reset.
        frames: (E, 64, 64, 3) uint8, their frames; None from an env of latents.
        draws: What determines further draws; None in a selection.
    """

    world: str
    engine: EngineState
    done: Tensor
    frames: Tensor | None
    draws: EngineDraws | None

    @property
    def num_envs(self) -> int:
        """E."""
        return len(self.done)

    def rows(self, index: Any) -> DreamSnapshot:
        """Select dreams, each as often as wanted, without their further draws.

        Args:
            index: (N) integers from 0 to E − 1, a number (N = 1), or (E) bool; in numpy, torch
                or a list.

        Returns:
            N dreams, copies.

        Raises:
            GlamError: The index is of another kind, or out of range.
        """
        chosen = self._checked_index(index).to(self.done.device)
        return replace(
            self,
            engine=EngineState(self.engine.dream.rows(chosen), self.engine.steps[chosen]),
            done=self.done[chosen],
            frames=None if self.frames is None else self.frames[chosen],
            draws=None,
        )

    def without_draws(self) -> DreamSnapshot:
        """Return all dreams, without their further draws."""
        return replace(self, draws=None)

    def to(self, device: torch.device | str) -> DreamSnapshot:
        """Return the same dreams on a device; their draws stay for the first device."""
        return replace(
            self,
            engine=tree_map(lambda part: part.to(device), self.engine),
            done=self.done.to(device),
            frames=None if self.frames is None else self.frames.to(device),
        )

    def _checked_index(self, index: Any) -> Tensor:
        try:
            chosen = index if isinstance(index, Tensor) else torch.from_numpy(np.array(index))
        except (TypeError, ValueError) as error:
            raise GlamError(f"an index of dreams must be integers, not {index!r}") from error
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
        if bool(((chosen < 0) | (chosen >= self.num_envs)).any()):
            raise GlamError(
                f"this snapshot has dreams 0 … {self.num_envs - 1}; got {chosen.tolist()}"
            )
        return chosen.long()
