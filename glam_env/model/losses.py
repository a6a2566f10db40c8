"""The losses of the world model: equations 8, 9, 10 and 12 of the paper.

Each function returns a mean over the frames or steps that are valid, not padding. K and C are the
latent's categoricals and classes, M stands for any leading dimensions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from glam_env.model.config import LossConfig
from glam_env.model.distributions import (
    UNIMIX,
    SymlogTwoHot,
    categorical_kl,
    kl_to_logits,
    unimix_log_probs,
)

SHARE_SIDE = 9  # pixels around a pixel that say how often it differs from the background
LEAST_SHARE = 0.002


class LossTerms(NamedTuple):
    """The terms of the loss, L = L_pred + L_dyn + L_rep + L_var (eq. 8).

    L_pred is the sum of ``reward``, ``termination`` and ``reconstruction``. A term that does not
    apply is None: the image terms where the model learns from stored latents, the variation where
    the sequence core has none.
    """

    reward: Tensor
    termination: Tensor
    dynamics: Tensor
    variation: Tensor | None = None
    representation: Tensor | None = None
    reconstruction: Tensor | None = None


def total_loss(terms: LossTerms, config: LossConfig) -> Tensor:
    """Weight the terms and add them up (eq. 12)."""
    loss = terms.reward + terms.termination + config.dynamics * terms.dynamics
    if terms.variation is not None:
        loss = loss + config.variation * terms.variation
    if terms.representation is not None:
        loss = loss + config.representation * terms.representation
    if terms.reconstruction is not None:
        loss = loss + terms.reconstruction
    return loss


def valid_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of (M) values over the (M) bool that are valid; over all if None."""
    if valid is None:
        return x.mean()
    return (x * valid).sum() / valid.sum().clamp_min(1)


def reconstruction_loss(
    drawn: Tensor,
    images: Tensor,
    background: Tensor,
    config: LossConfig,
    valid: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the squared error of drawn frames (eq. 9, image).

    The error is summed over pixels and channels. Pixels that differ from the background may have
    more weight, those that seldom do still more, and so may a margin around them, and pixels that
    equal the background where few differ. What a frame's pixels weigh together may have a limit.

    Args:
        drawn: (M, 64, 64, 3) float32, from the decoder.
        images: (M, 64, 64, 3) uint8.
        background: (64, 64, 3) float32 in [0, 1].
        config: Weights.
        valid: (M) bool, the frames that count; None: all.

    Returns:
        The loss, and as metrics ``foreground_error``: the squared error on the pixels that differ
        from the background, over that of the background itself; ``rare_error``, the same with each
        pixel divided by the share of the frames in which it differs, so that a ball counts as much
        as a score; with a margin, ``margin_error``, the first with the error on the margin added.
    """
    target = images / 255.0
    difference = target - background
    error = (drawn - target).square()
    mask = difference.abs().amax(-1, keepdim=True) > config.foreground_threshold
    shown = 1.0 if valid is None else valid[:, None, None, None]
    # Share of the frames in which each pixel differs, (64, 64, 1); one frame at least.
    share = (mask * shown).float().mean(0).clamp_min(1.0 / len(mask))
    seldom = share
    if config.frame_share > 0.0:  # a flash does not make rare what moves elsewhere
        seldom = (_limited(mask.float(), config) * shown).mean(0).clamp_min(1.0 / len(mask))
    counts = mask * (config.rare_share / seldom).clamp_min(1.0)  # as so many pixels; 0: background
    focused = counts * _missing(error, difference, config) if config.focus > 0.0 else counts
    if config.frame_share > 0.0:
        counts, focused = _limited(counts, config), _limited(focused, config)
    weight: Tensor | float = 1.0
    if config.foreground_weight != 1.0:
        weight = torch.where(mask, config.foreground_weight * focused, 1.0)
    if config.empty_weight > 0.0:
        weight = torch.where(mask, weight, _empty_weight(mask * shown, config))
    around = mask
    if config.margin > 0:
        near = _largest_near(counts, config.margin)
        around = near > 0.0
        weight = torch.where(around, config.margin_weight * near, 1.0).clamp_min(weight)
    with torch.no_grad():
        missed, empty = error * mask * shown, difference.square() * mask * shown
        worst = empty.sum().clamp_min(1e-6)
        metrics = {
            "foreground_error": missed.sum() / worst,
            "rare_error": (missed / share).sum() / (empty / share).sum().clamp_min(1e-6),
        }
        if config.margin > 0:
            metrics["margin_error"] = (error * around * shown).sum() / worst
    weighted = error if isinstance(weight, float) else weight * error
    return valid_mean(weighted.sum((1, 2, 3)), valid), metrics


def _missing(error: Tensor, difference: Tensor, config: LossConfig) -> Tensor:
    """Return ``focus`` times the share of each pixel's difference that is not drawn, 1 at most.

    Args:
        error: (M, 64, 64, 3), squared errors.
        difference: (M, 64, 64, 3), of the images from the background.
        config: Weights.
    """
    whole = difference.square().sum(-1, keepdim=True).clamp_min(1e-6)
    return config.focus * (error.detach().sum(-1, keepdim=True) / whole).clamp_max(1.0)


def _limited(counts: Tensor, config: LossConfig) -> Tensor:
    """Scale what the pixels of frames count as, so that no frame's mean exceeds ``frame_share``.

    Args:
        counts: (M, 64, 64, 1) float32.
        config: Weights.
    """
    means = counts.mean((1, 2, 3), keepdim=True)
    return counts * (config.frame_share / means.clamp_min(config.frame_share))


def _largest_near(counts: Tensor, margin: int) -> Tensor:
    """Return the largest number within a margin around each pixel, in both directions.

    Max pooling, but by rows and then by columns, which takes a fifteenth of its time on a CPU.

    Args:
        counts: (M, 64, 64, 1) float32, at least 0.
        margin: In pixels.
    """
    largest = counts.squeeze(-1)
    for _ in range(2):
        rows = F.pad(largest, (margin, margin)).unfold(-1, 2 * margin + 1, 1)
        largest = rows.amax(-1).mT
    return largest.unsqueeze(-1)


def _empty_weight(mask: Tensor, config: LossConfig) -> Tensor:
    """Return the weight of pixels that equal the background, (64, 64, 1).

    Args:
        mask: (M, 64, 64, 1), 1 for pixels that differ from it.
        config: Weights.
    """
    share = mask.float().mean(0).movedim(-1, 0)  # (1, 64, 64)
    # Around a pixel: one pixel differs too seldom for the frames of a batch to say how often.
    share = F.avg_pool2d(share, SHARE_SIDE, 1, SHARE_SIDE // 2, count_include_pad=False)
    rarity = (config.rare_share / share.clamp_min(LEAST_SHARE)).clamp_min(1.0)
    return (config.empty_weight * rarity).clamp_min(1.0).movedim(0, -1)


def entropy_loss(log_probs: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Compute the entropy of the latents of frames, so that their draws are alike.

    Args:
        log_probs: (M, K, C) of z.
        config: Weights.

    Returns:
        The weighted mean over the frames of the entropy in nats, summed over the categoricals, and
        that mean without gradient.
    """
    entropy = -(log_probs.exp() * log_probs).sum((-2, -1)).mean()
    return config.image_entropy * entropy, entropy.detach()


def diversity_loss(
    log_probs: Tensor, reconstruction: Tensor, config: LossConfig
) -> tuple[Tensor, Tensor]:
    """Compute how many classes a batch uses, so that all of them stay in use.

    The loss is the diversity loss of wav2vec 2.0 (Baevski et al., 2020, arXiv:2006.11477, eq. 4)
    with the sum over the categoricals instead of the mean, and a weight in proportion to the
    reconstruction loss, which differs between games by a factor of forty.

    Args:
        log_probs: (M, K, C) of z.
        reconstruction: Weighted reconstruction loss of the same frames, a scalar.
        config: Weights.

    Returns:
        The weighted negative entropy in nats of the latents' mean over the frames, summed over the
        categoricals, and that entropy without gradient: K ln C if all classes are used alike, 0 if
        all frames have the same latents, without chance.
    """
    mean = log_probs.logsumexp(0) - math.log(len(log_probs))  # (K, C)
    entropy = -(mean.exp() * mean).sum()
    weight = config.diversity * reconstruction.detach()
    return -weight * entropy, entropy.detach()


def reward_loss(
    code: SymlogTwoHot, logits: Tensor, rewards: Tensor, config: LossConfig, valid: Tensor
) -> Tensor:
    """Compute the symlog two-hot loss of the reward (eq. 9, reward).

    Args:
        code: Of the bins.
        logits: (M, bins).
        rewards: (M) float32; those other than zero have weight ``config.reward_weight``.
        config: Weights.
        valid: (M) bool.
    """
    losses = code.loss(logits, rewards)
    weight = 1.0 + (config.reward_weight - 1.0) * (rewards != 0)
    return valid_mean(weight * losses, valid)


def termination_loss(logits: Tensor, life_lost: Tensor, valid: Tensor) -> Tensor:
    """Compute the binary cross-entropy of the end of a life (eq. 9, continuation).

    Args:
        logits: (M) of "this transition ended the life".
        life_lost: (M) bool.
        valid: (M) bool.
    """
    losses = F.binary_cross_entropy_with_logits(logits, life_lost.float(), reduction="none")
    return valid_mean(losses, valid)


def dynamics_loss(
    posterior: Tensor, prior_logits: Tensor, unimix: float, config: LossConfig, valid: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute max(free, KL(sg q(z_{t+1}) ‖ p(z_{t+1} | h_t))) (eq. 9, dynamics).

    The KL is summed over the categoricals, then averaged, then bounded.

    Args:
        posterior: (M, K, C) float32 log-probabilities q of z_{t+1}; gets no gradient.
        prior_logits: (M, K, C) of p, before the uniform share.
        unimix: Share of the uniform distribution in p.
        config: Free nats.
        valid: (M) bool, the frames z_{t+1} that are not padding.

    Returns:
        The loss, the mean KL before the bound, and the mean entropy of p without gradient.
    """
    kl, entropy = kl_to_logits(posterior, prior_logits, unimix)
    mean = valid_mean(kl, valid)
    return mean.clamp_min(config.free_nats), mean, valid_mean(entropy, valid)


def representation_loss(
    posterior: Tensor, prior_logits: Tensor, unimix: float, config: LossConfig, valid: Tensor
) -> Tensor:
    """Compute max(free, KL(q(z_{t+1}) ‖ sg p(z_{t+1} | h_t))) (eq. 9, representation).

    Args:
        posterior: (M, K, C) float32 log-probabilities q of z_{t+1}.
        prior_logits: (M, K, C) of p; gets no gradient.
        unimix: Share of the uniform distribution in p.
        config: Free nats.
        valid: (M) bool, the frames z_{t+1} that are not padding.
    """
    prior = unimix_log_probs(prior_logits.detach(), unimix)
    kl = valid_mean(categorical_kl(posterior, prior), valid)
    return kl.clamp_min(config.free_nats)


def variation_loss(
    change: Tensor, predicted_logits: Tensor, config: LossConfig, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Compare GMamba's own prediction with the change of the image features (eq. 10).

    The loss is max(free nats, KL(sg V(x_{t+1} − x_t) ‖ V'(u^g_t))). V is a fixed random projection
    of the encoder's feature map to categoricals, V' a learned one.

    Args:
        change: (M, K, C) projected image features of t + 1 less those of t, as logits.
        predicted_logits: (M, K, C) from u^g_t.
        config: Free nats.
        valid: (M) bool, the frames of t + 1 that are not padding.

    Returns:
        The loss, and the mean KL before the bound.
    """
    kl, _ = kl_to_logits(change, predicted_logits, target_share=UNIMIX)
    mean = valid_mean(kl, valid)
    return mean.clamp_min(config.variation_free_nats), mean
