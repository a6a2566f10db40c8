"""What goes into a world model and comes out of it: sizes, loss settings, batches, dreams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from glam_env.model.variation import CoreConfig, CoreOutput, CoreState


@dataclass(frozen=True)
class WorldModelConfig:
    """Sizes of a world model; the defaults are the paper's (table 3).

    Attributes:
        num_actions: A.
        stem: channels of the encoder's first convolution.
        categoricals, classes: K and C of the latent.
        width: D.
        background_residual: the decoder draws the difference from the game's background.
        unimix: share of the uniform distribution in the latents' categoricals.
        draw_temperature: of z where it is drawn for use: from the posterior of a real frame, from
            the prior in a dream, and for a sequence model that learns from stored latents. What
            it learns to foretell, and what is learnt along with images, is at temperature 1.
        reward_bins: bins of the symlog two-hot reward on [−20, 20].
        Others: see :class:`~glam_env.model.variation.CoreConfig`.
    """

    num_actions: int
    stem: int = 32
    categoricals: int = 32
    classes: int = 32
    width: int = 256
    local_window: int = 4
    global_depth: int = 1
    local_depth: int = 1
    state_size: int = 16
    conv_width: int = 4
    expand: int = 2
    background_residual: bool = False
    unimix: float = 0.01
    draw_temperature: float = 1.0
    reward_bins: int = 255

    @property
    def feature_dim(self) -> int:
        """Width of the agent's features [z_t, h_{t−1}]."""
        return self.categoricals * self.classes + self.width

    @property
    def core(self) -> CoreConfig:
        """The sequence core's part of this configuration."""
        return CoreConfig(
            self.width,
            self.local_window,
            self.global_depth,
            self.local_depth,
            self.state_size,
            self.conv_width,
            self.expand,
        )


@dataclass(frozen=True)
class LossConfig:
    """Weights and settings of the loss; the defaults are the paper's.

    Attributes:
        dynamics, representation, variation: weights of L_dyn, L_rep, L_var (eq. 12).
        free_nats, variation_free_nats: floors of the KL terms.
        decode_fraction: share of a batch's frames that the reconstruction is taken on.
        foreground_weight: weight of pixels that differ from the background (1: all alike).
        foreground_threshold: how much they differ, in [0, 1], over the largest channel.
        margin: pixels around such pixels that belong to their margin.
        margin_weight: weight there: without it a small object is drawn as a cloud, since what is
            drawn beside it costs next to nothing.
        latent_gradient: scale of the sequence losses' gradient through z into the encoder.
        reward_weight: weight of the reward loss on transitions with a reward other than zero
            (1: all alike).
    """

    dynamics: float = 0.5
    representation: float = 0.1
    variation: float = 0.1
    free_nats: float = 1.0
    variation_free_nats: float = 0.1
    decode_fraction: float = 1.0
    foreground_weight: float = 1.0
    foreground_threshold: float = 0.05
    margin: int = 0
    margin_weight: float = 1.0
    latent_gradient: float = 1.0
    reward_weight: float = 1.0


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
