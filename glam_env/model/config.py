"""Sizes of a world model and weights of its loss."""

from __future__ import annotations

from dataclasses import dataclass

from glam_env.model.cores.glam import CoreConfig


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
        Others: see :class:`~glam_env.model.cores.glam.CoreConfig`.
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
