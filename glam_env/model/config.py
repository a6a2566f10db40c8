"""Sizes of a world model and weights of its loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from glam_env.model.cores.base import CoreConfig
from glam_env.model.cores.glam import GlamConfig
from glam_env.model.vision import GRIDS

_SIZES = {
    "num_actions": (1, 256),  # stored as bytes, as are the classes
    "stem": (1, 1024),
    "categoricals": (1, 1024),
    "classes": (2, 256),
    "width": (1, 16_384),
    "embed_hidden": (0, 16_384),
    "prior_hidden": (0, 16_384),
    "reward_bins": (2, 65_536),
}

_FLAT = tuple(f.name for f in fields(GlamConfig) if f.name != "name")


@dataclass(frozen=True)
class WorldModelConfig:
    """Sizes of a world model; the defaults are the paper's (table 3).

    Attributes:
        num_actions: A.
        stem: Channels of the encoder's first convolution.
        categoricals: K, categorical variables of the latent.
        classes: C, classes of each.
        width: D, width of the features and of h.
        core: Name and sizes of the sequence core.
        background_residual: Whether the decoder draws the difference from the game's background.
        unimix: Share of the uniform distribution in the latents' categoricals.
        draw_temperature: Temperature at which z is drawn for use: from the posterior of a real
            frame, from the prior in a dream, and for a sequence model that learns from stored
            latents. Without ``sharp_prior`` what is learned along with images has temperature 1,
            and so have the prior's targets.
        reward_bins: Bins of the symlog two-hot reward on [−20, 20].
        expected_reward: Whether a predicted reward is its expected value, over the range of
            rewards that were seen. Otherwise, as in STORM, the mean is taken in symlog space, where
            half a chance of 100 points counts as 9.
        sharp_prior: Whether the prior learns the posterior at ``draw_temperature``, instead of at
            1, and is drawn as it is. A prior that is drawn sharply keeps the likeliest outcome of a
            step alone: dreams of a game of chance are then too certain, and too good.
        embed_hidden: Width of the feature encoder's hidden layer; 0: D, as in the paper.
        prior_hidden: Width of a hidden layer between h and the prior; 0: none, as in the paper.
            A latent is an arbitrary code of what is where, and takes more units to read and to
            write than to remember.
        latent_grid: Side of the grid of places that the categoricals are divided among, 4 or 8, in
            equal parts. Each sees and draws what lies around its place. 0: each sees the whole
            image, as in the paper. With places fewer latents change from frame to frame, but few
            of them hold each object.
    """

    num_actions: int
    stem: int = 32
    categoricals: int = 32
    classes: int = 32
    width: int = 256
    core: CoreConfig = field(default_factory=GlamConfig)
    background_residual: bool = False
    unimix: float = 0.01
    draw_temperature: float = 1.0
    reward_bins: int = 255
    expected_reward: bool = False
    sharp_prior: bool = False
    embed_hidden: int = 0
    prior_hidden: int = 0
    latent_grid: int = 0

    @property
    def feature_dim(self) -> int:
        """Width of the agent's features [z_t, h_{t−1}]."""
        return self.categoricals * self.classes + self.width

    @property
    def prior_temperature(self) -> float:
        """Temperature at which z is drawn from the prior, in a dream."""
        return 1.0 if self.sharp_prior else self.draw_temperature

    @property
    def target_temperature(self) -> float:
        """Temperature of the posterior that the prior learns, and of draws along with images."""
        return self.draw_temperature if self.sharp_prior else 1.0

    def validate(self) -> None:
        """Check all values.

        Raises:
            ValueError: The first value that is out of range, by its field's name.
        """
        for name, (least, most) in _SIZES.items():
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
            if value > most:
                raise ValueError(f"{name} must be at most {most}, got {value}")
        if self.latent_grid not in GRIDS:
            raise ValueError(f"latent_grid must be 0, 4 or 8, got {self.latent_grid}")
        if self.latent_grid and self.categoricals % self.latent_grid**2:
            raise ValueError(
                f"categoricals must be a multiple of the {self.latent_grid**2} places of "
                f"latent_grid {self.latent_grid}, got {self.categoricals}"
            )
        # Without a uniform share a probability may be 0, and the KL infinite or NaN.
        if not 1e-6 <= self.unimix < 1.0:
            raise ValueError(f"unimix must be in [1e-6, 1), got {self.unimix}")
        if not 1e-3 <= self.draw_temperature < math.inf:
            raise ValueError(
                f"draw_temperature must be finite and at least 1e-3, got {self.draw_temperature}"
            )
        self.core.validate()
        self.core.validate_width(self.width)


def upgrade_config(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a world model's config, as JSON has it, in the current format.

    Format 1 kept the sizes of the core ``glam`` beside the others; now they are under ``core``.

    Args:
        plain: In either format; it is not checked and not changed.
    """
    if "core" in plain or not any(name in plain for name in _FLAT):
        return dict(plain)
    core = {name: plain[name] for name in _FLAT if name in plain}
    rest = {name: value for name, value in plain.items() if name not in _FLAT}
    return rest | {"core": {"name": "glam", **core}}


@dataclass(frozen=True)
class LossConfig:
    """Weights and settings of the loss; the defaults are the paper's.

    Attributes:
        dynamics: Weight of L_dyn.
        representation: Weight of L_rep.
        variation: Weight of L_var.
        free_nats: Lower bound of the KL of L_dyn and of L_rep.
        variation_free_nats: Lower bound of the KL of L_var.
        decode_fraction: Share of a batch's frames that the reconstruction is computed on.
        foreground_weight: Weight of pixels that differ from the background (1: all alike).
        rare_share: Pixels that differ in a smaller share of a batch's frames count as much in all
            as if they differed in this share (0: each counts as it comes). Otherwise a ball that is
            never drawn costs little, since it is seldom anywhere.
        frame_share: What the pixels of one frame that differ count as, together, is at most this
            share of a frame (0: no limit). Otherwise flashes of the whole screen outweigh all else,
            and no pixel differs seldom.
        empty_weight: Pixels that equal the background weigh empty_weight * rare_share / s, at least
            1, where a share s of the pixels around them differs (0: they weigh 1). Otherwise the
            decoder paints faint balls wherever a ball may be.
        foreground_threshold: By how much they differ, in [0, 1], in the channel that differs most.
        margin: Width in pixels of the margin around such pixels.
        margin_weight: Weight in the margin. Without it a small object becomes a cloud, since
            errors beside it cost next to nothing.
        latent_gradient: Scale of the sequence losses' gradient through z into the encoder.
        image_entropy: Weight of the latents' entropy where the image model learns alone. Latents
            that hardly vary are easier to predict.
        image_temperature: Temperature of the latents' draws where the image model learns alone.
            Draws with less noise teach it faster.
        diversity: Weight of the entropy of a batch's mean latents, in shares of the reconstruction
            loss, where the image model learns alone and is not yet fine-tuned. Otherwise the
            latents of some games become constant before the decoder can use them, and stay so.
        reward_weight: Weight of the reward loss on transitions whose reward is not zero (1: all
            alike).
        focus: Pixels that differ count focus * m, where m is the share of their difference that is
            not drawn, 1 at most (0: all alike). Small objects that are not drawn yet then outweigh
            what is drawn but for its edges.
    """

    dynamics: float = 0.5
    representation: float = 0.1
    variation: float = 0.1
    free_nats: float = 1.0
    variation_free_nats: float = 0.1
    decode_fraction: float = 1.0
    foreground_weight: float = 1.0
    rare_share: float = 0.0
    frame_share: float = 0.0
    empty_weight: float = 0.0
    foreground_threshold: float = 0.05
    margin: int = 0
    margin_weight: float = 1.0
    latent_gradient: float = 1.0
    image_entropy: float = 0.0
    image_temperature: float = 1.0
    diversity: float = 0.0
    reward_weight: float = 1.0
    focus: float = 0.0
