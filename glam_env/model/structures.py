"""Inputs and outputs of a world model, and functions of trees of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from glam_env.model.cores.base import CoreOutput


def tree_map(function: Callable[..., Tensor], tree: Any, *others: Any) -> Any:
    """Apply a function to the tensors of a pytree, or of several of one structure.

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
    """B sequences of up to L steps, none of which crosses the end of an episode.

    Attributes:
        images: (B, L, 64, 64, 3) uint8.
        actions: (B, L) int64.
        rewards: (B, L) float32.
        life_lost: (B, L) bool, this transition ended a life (or the game).
        valid: (B, L) bool; the others are padding, at the end of a sequence.
    """

    images: Tensor
    actions: Tensor
    rewards: Tensor
    life_lost: Tensor
    valid: Tensor


class LatentBatch(NamedTuple):
    """A :class:`SequenceBatch` after the image model.

    Attributes:
        log_probs: (B, L, K, C) of z, any float dtype.
        projected: (B, L, K·C) image features under the fixed projection of eq. 10; zeros if the
            sequence core has no variation.
        actions: (B, L) int64.
        rewards: (B, L) float32.
        life_lost: (B, L) bool.
        valid: (B, L) bool.
    """

    log_probs: Tensor
    projected: Tensor
    actions: Tensor
    rewards: Tensor
    life_lost: Tensor
    valid: Tensor


class DreamState(NamedTuple):
    """The state of E dreams.

    Attributes:
        code: (E, K) int64, classes of z_t.
        h: (E, D) float32, h_{t−1}.
        core: The sequence core's state after step t − 1, a pytree.
    """

    code: Tensor
    h: Tensor
    core: Any

    def rows(self, index: Tensor) -> DreamState:
        """Return the states of some dreams, as copies."""
        return tree_map(lambda part: part[index], self)


class Prediction(NamedTuple):
    """One predicted transition of E dreams, float32.

    Attributes:
        state: The state after the transition.
        reward: (E) mean of the reward head, in the game's units.
        reward_logits: (E, bins).
        termination_logit: (E).
        prior_entropy: (E) nats, summed over the categoricals.
        features: (E, K·C + D) of the state, if they were asked for.
    """

    state: DreamState
    reward: Tensor
    reward_logits: Tensor
    termination_logit: Tensor
    prior_entropy: Tensor
    features: Tensor | None = None


class Posterior(NamedTuple):
    """What a loss has computed that dreams can start from.

    Attributes:
        codes: (B, L, K) int64.
        valid: (B, L) bool, the steps that are not padding.
        core: The sequence core's parallel pass.
        features: (B, L, D) what it read, without gradient.
    """

    codes: Tensor
    valid: Tensor
    core: CoreOutput
    features: Tensor
