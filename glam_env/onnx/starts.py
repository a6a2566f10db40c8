"""Start states of dreams, as one flat file that any language can read."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from glam_env.checkpoint.contexts import Contexts
from glam_env.model.structures import DreamState, tree_map, tree_tensors
from glam_env.model.world_model import WorldModel


class Field(NamedTuple):
    """A tensor of the state of a dream.

    Attributes:
        name: Name, as in the inputs and outputs of ``step.onnx``.
        shape: Without the dimension of the dreams.
        dtype: ``int32`` or ``float32``.
    """

    name: str
    shape: list[int]
    dtype: str


def core_names(core: Any) -> list[str]:
    """Return the names of the tensors of a core's state, such as ``core.window``."""
    return [f"core.{path}" for path in _paths(core)]


def _paths(tree: Any) -> list[str]:
    if tree is None:
        return []
    if isinstance(tree, Tensor):
        return [""]
    if isinstance(tree, dict):
        parts = list(tree.items())
    else:
        names = getattr(tree, "_fields", range(len(tree)))
        parts = list(zip(names, tree, strict=True))
    return [f"{name}.{path}".rstrip(".") for name, part in parts for path in _paths(part)]


def fields_of(state: DreamState) -> list[Field]:
    """Describe the tensors of a state, in the order of a start's bytes."""
    core = zip(core_names(state.core), tree_tensors(state.core), strict=True)
    return [
        Field("code", list(state.code.shape[1:]), "int32"),
        Field("h", list(state.h.shape[1:]), "float32"),
        *(Field(name, list(part.shape[1:]), "float32") for name, part in core),
    ]


@torch.no_grad()
def context_states(world_model: WorldModel, contexts: Contexts, count: int) -> list[DreamState]:
    """Return the states at the ends of the first contexts, each a state of one dream."""
    states = []
    for row in range(min(count, contexts.count)):
        codes, actions = contexts.codes[row : row + 1], contexts.actions[row : row + 1]
        states.append(world_model.warm_up(codes.long(), actions.long()))
    return states


def joined(states: list[DreamState]) -> DreamState:
    """Join states into one state of all dreams."""
    return tree_map(lambda *parts: torch.cat(parts), *states)


def pack_starts(states: list[DreamState]) -> bytes:
    """Return the bytes of states: one after the other, field by field, little-endian."""
    chunks = []
    for state in states:
        chunks.append(state.code.numpy().astype("<i4").tobytes())
        for part in (state.h, *tree_tensors(state.core)):
            chunks.append(np.ascontiguousarray(part.float().numpy()).astype("<f4").tobytes())
    return b"".join(chunks)
