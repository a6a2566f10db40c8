"""What goes into a world model and comes out of it: batches, dream states, transitions."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from glam_env.model.cores.glam import CoreOutput, CoreState


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
    core: CoreState

    def rows(self, index: Tensor) -> DreamState:
        """The states of some dreams (copies)."""
        return DreamState(self.code[index], self.h[index], self.core.rows(index))


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
