"""What goes into a world model and comes out of it: batches, dream states, transitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from glam_env.model.cores.base import CoreOutput


def tree_map(function: Callable[..., Tensor], tree: Any, *others: Any) -> Any:
    """Apply a function to the tensors of a pytree, and to those at the same places of others.

    A pytree is a tensor, None, or a tuple, NamedTuple, list or dict of pytrees. (Written out here,
    since it runs in every step of a dream, where ``torch.utils._pytree`` takes ten times as long.)

    Args:
        function: Of as many tensors as there are trees.
        tree: Its structure is that of the result; None stays None.
        others: Pytrees of the same structure.
    """
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if isinstance(tree, dict):
        return {
            name: tree_map(function, part, *(other[name] for other in others))
            for name, part in tree.items()
        }
    parts = [tree_map(function, *group) for group in zip(tree, *others, strict=True)]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


def tree_tensors(tree: Any) -> list[Tensor]:
    """Return the tensors of a pytree, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    return [] if tree is None else [tensor for part in tree for tensor in tree_tensors(part)]


class SequenceBatch(NamedTuple):
    """B sequences of L steps that cross no end of an episode.

    ``images`` (B, L, 64, 64, 3) uint8, ``actions`` (B, L) int64, ``rewards`` (B, L) float32,
    ``life_lost`` (B, L) bool: this transition ended a life (or the game).
    """

    images: Tensor
    actions: Tensor
    rewards: Tensor
    life_lost: Tensor


class LatentBatch(NamedTuple):
    """A :class:`SequenceBatch` as the image model sees it.

    ``log_probs`` (B, L, K, C) of z, any float dtype; ``projected`` (B, L, K·C), the image features
    under the fixed projection of eq. 10; ``actions``, ``rewards`` and ``life_lost`` (B, L).
    """

    log_probs: Tensor
    projected: Tensor
    actions: Tensor
    rewards: Tensor
    life_lost: Tensor


class DreamState(NamedTuple):
    """Where dreams stand: ``code`` (E, K) int64, classes of z_t; ``h`` (E, D) float32, h_{t−1};
    ``core``, the sequence core after step t − 1."""

    code: Tensor
    h: Tensor
    core: Any

    def rows(self, index: Tensor) -> DreamState:
        """The states of some dreams (copies)."""
        return tree_map(lambda part: part[index], self)


class DreamStep(NamedTuple):
    """One dreamt transition: the next ``state``, and what follows from h_t.

    ``reward`` (E) float32 mean of the head in the game's units, ``reward_logits`` (E, bins),
    ``termination_logit`` (E) float32, ``prior_logits`` (E, K, C) float32 log-probabilities.
    """

    state: DreamState
    reward: Tensor
    reward_logits: Tensor
    termination_logit: Tensor
    prior_logits: Tensor


class Posterior(NamedTuple):
    """What a loss has computed that dreams can start from: codes (B, L, K) and the core's pass."""

    codes: Tensor
    core: CoreOutput
