"""The GLAM world model: encode, observe, predict, decode.

At step t the image o_t is encoded to the latent z_t, (z_t, a_t) to the feature e_t, the sequence
core turns e_0 … e_t into h_t, and from h_t come the next latent's prior, the reward r_t and the
probability that this transition ended the life. ``docs/model.md`` goes through all of it.

Shapes: B batch, L length, E dreams, K categoricals of C classes, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glam_env.model import losses
from glam_env.model.config import LossConfig, WorldModelConfig
from glam_env.model.cores.base import CoreOutput, make_core
from glam_env.model.distributions import (
    SymlogTwoHot,
    categorical_entropy,
    one_hot,
    one_hot_linear,
    sample_codes,
    sharpened,
    straight_through,
    unimix_log_probs,
)
from glam_env.model.heads import Head, make_prior
from glam_env.model.losses import LossTerms
from glam_env.model.memory import Memory
from glam_env.model.structures import (
    DreamState,
    LatentBatch,
    Posterior,
    Prediction,
    SequenceBatch,
)
from glam_env.model.vision import ImageDecoder, ImageEncoder

VARIATION_PROJECTION = "variation_target"  # prefix of the tensors that an export leaves out


class WorldModel(Memory):
    """Feature encoder, sequence core and predictors (eq. 5), and the image model.

    Args:
        config: Sizes.

    Raises:
        ValueError: A size is out of range.
    """

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        config.validate()
        self.config = config
        self._images_frozen = False
        k, c, d = config.categoricals, config.classes, config.width
        self.encoder = ImageEncoder(config.stem, k, c, config.latent_grid)
        self.decoder = ImageDecoder(
            config.stem, k, c, residual=config.background_residual, grid=config.latent_grid
        )
        inner = config.embed_hidden or d
        self.feature_encoder = nn.Sequential(
            nn.Linear(k * c + config.num_actions, inner, bias=False),
            nn.LayerNorm(inner),
            nn.ReLU(inplace=True),
            nn.Linear(inner, d, bias=False),
        )
        self.core = make_core(d, config.core)
        self.prior = make_prior(d, config.prior_hidden, k * c)
        self.reward = Head(d, d, config.reward_bins, zero=True)
        self.reward_code = SymlogTwoHot(config.reward_bins, expected=config.expected_reward)
        self.termination = Head(d, d, 1)
        if self.core.has_variation:
            self.variation = nn.Linear(d, k * c)
            # Eq. 10 stops the gradient on the side of the image features, so the map from them to
            # categoricals cannot learn: it is a fixed random projection.
            self.variation_target = nn.Linear(self.encoder.feature_dim, k * c, bias=False)
            self.variation_target.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.background.device

    # --- encode and decode -------------------------------------------------------------------

    def posterior(self, images: Tensor) -> Tensor:
        """Map (..., 64, 64, 3) uint8 images to (..., K, C) float32 log-probabilities of z."""
        _, logits = self.encoder(images.reshape(-1, *images.shape[-3:]))
        log_probs = unimix_log_probs(logits, self.config.unimix)
        return log_probs.reshape(*images.shape[:-3], *logits.shape[1:])

    def encode(self, images: Tensor) -> Tensor:
        """Compute :meth:`posterior` at ``draw_temperature``, to draw z from for use."""
        return sharpened(self.posterior(images), self.config.draw_temperature)

    def prior_target(self, log_probs: Tensor) -> Tensor:
        """Map (..., K, C) log-probabilities of the posterior to those that the prior learns."""
        return sharpened(log_probs, self.config.target_temperature)

    def decode(self, code: Tensor) -> Tensor:
        """Map (..., K) int64 codes to (..., 64, 64, 3) float32 images in [0, 1]."""
        z = one_hot(code.reshape(-1, code.shape[-1]), self.config.classes).flatten(-2)
        images = self.decoder(z).clamp(0.0, 1.0)
        return images.reshape(*code.shape[:-1], *images.shape[1:])

    def embed(self, z: Tensor, actions: Tensor) -> Tensor:
        """Map (..., K·C) latents and (...) int64 actions to features e, (..., D)."""
        return self.feature_encoder(torch.cat([z, one_hot(actions, self.config.num_actions)], -1))

    def embed_codes(self, codes: Tensor, actions: Tensor) -> Tensor:
        """Compute :meth:`embed` of the one-hot latents of (..., K) int64 codes.

        In float32 on a CPU, adding up rows of weights is far faster than a product with zeros.
        """
        rest = one_hot(actions, self.config.num_actions)
        if codes.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return self.embed(one_hot(codes, self.config.classes).flatten(-2), actions)
        first, *others = self.feature_encoder
        assert isinstance(first, nn.Linear)
        return nn.Sequential(*others)(one_hot_linear(first.weight, codes, rest))

    def prior_log_probs(self, h: Tensor) -> Tensor:
        """Map (..., D) states to (..., K, C) float32 log-probabilities of the next latent."""
        shape = (self.config.categoricals, self.config.classes)
        return unimix_log_probs(self.prior(h).unflatten(-1, shape), self.config.unimix)

    def features(self, state: DreamState) -> Tensor:
        """Return the agent's features [z_t, h_{t−1}], (E, K·C + D) float32."""
        return torch.cat([one_hot(state.code, self.config.classes).flatten(-2), state.h], -1)

    @torch.no_grad()
    def set_background(self, images: Tensor) -> None:
        """Take the pixels' median of (N, 64, 64, 3) uint8 images as the background."""
        self.decoder.background.copy_(images.float().median(0).values / 255.0)

    # --- observe and predict -----------------------------------------------------------------

    @torch.no_grad()
    def observe(
        self, code: Tensor, action: Tensor, core: Any, first: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Process one known step.

        Args:
            code: (E, K) int64, z_t.
            action: (E) int64, a_t.
            core: The state of :attr:`memory` after step t − 1; it is not changed.
            first: (E) bool, rows whose episode starts at this step.

        Returns:
            h_t (E, D), and the core's state after step t.
        """
        z = one_hot(code, self.config.classes).flatten(-2)
        return self.memory.step(self.embed(z, action), core, first)

    @torch.no_grad()
    def step(
        self,
        state: DreamState,
        action: Tensor,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """Dream one step.

        Args:
            state: E dreams; they are not changed.
            action: (E) int64, taken on seeing z_t.
            temperature: Of the next latent's draw, times the model's own; 0 takes its mode.
            generator: For the draw.
        """
        h, core = self.observe(state.code, action, state.core)
        prior = self.prior_log_probs(h)
        temperature = temperature * self.config.prior_temperature
        code = sample_codes(prior, temperature=temperature, generator=generator)
        reward_logits = self.reward_code.bounded(self.reward(h))
        return Prediction(
            state=DreamState(code, h.float(), core),
            reward=self.reward_code.mean(reward_logits),
            reward_logits=reward_logits,
            termination_logit=self.termination(h).squeeze(-1),
            prior_entropy=categorical_entropy(prior).sum(-1),
        )

    @torch.no_grad()
    def warm_up(self, codes: Tensor, actions: Tensor) -> DreamState:
        """Return the state after L known steps, by the core's parallel pass.

        Args:
            codes: (B, L+1, K) int64, the latents of the L steps and of the moment after them.
            actions: (B, L) int64, L ≥ ``core.context``.
        """
        z = one_hot(codes[:, :-1], self.config.classes).flatten(-2)
        output = self.memory(self.embed(z, actions).float())
        rows = torch.arange(len(actions), device=actions.device)
        last = torch.full_like(rows, actions.shape[1] - 1)
        return DreamState(codes[:, -1], output.h[:, -1], self.memory.state_at(output, rows, last))

    @torch.no_grad()
    def dream_starts(self, posterior: Posterior, rows: Tensor, positions: Tensor) -> DreamState:
        """Return states inside training sequences; they need no further pass.

        Args:
            posterior: Of :meth:`loss` or :meth:`latent_loss`.
            rows: (N) int64, the sequences.
            positions: (N) int64. At position t, ``core.context`` ≤ t < L, the dream sees z_t and
                has observed steps 0 … t − 1. Padding is no place to start.
        """
        for window in self._window:
            state = window.state_of(posterior.features, rows, positions - 1)
            return DreamState(posterior.codes[rows, positions], window.read(state).float(), state)
        start = self.core.context - 1
        return DreamState(
            posterior.codes[rows, positions],
            posterior.core.h.detach()[rows, positions - 1 - start].float(),
            self.core.state_at(posterior.core, rows, positions - 1),
        )

    # --- learn -------------------------------------------------------------------------------

    def loss(
        self, batch: SequenceBatch, config: LossConfig
    ) -> tuple[Tensor, dict[str, Tensor], Posterior]:
        """Compute the whole loss on a batch of sequences.

        Args:
            batch: B sequences of L > ``core.context`` steps.
            config: Weights.

        Returns:
            The loss, its terms and other figures as detached scalars, and what
            :meth:`dream_starts` needs.
        """
        b, length = batch.actions.shape
        x, logits = self.encoder(batch.images.flatten(0, 1))
        log_probs = unimix_log_probs(logits, self.config.unimix)  # (B·L, K, C)
        temperature = self.config.target_temperature
        codes = sample_codes(log_probs.detach(), temperature=temperature)  # (B·L, K)
        z = straight_through(log_probs, codes).flatten(-2)  # (B·L, K·C)

        shown, targets, valid = z, batch.images.flatten(0, 1), batch.valid.flatten()
        if config.decode_fraction < 1.0:
            count = max(1, round(config.decode_fraction * b * length))
            # Not randperm, which a CUDA graph cannot hold.
            chosen = torch.rand(b * length, device=z.device).argsort()[:count]
            shown, targets, valid = shown[chosen], targets[chosen], valid[chosen]
        reconstruction, metrics = self.reconstruction(shown, targets, config, valid)

        if config.latent_gradient != 1.0:
            z = z.detach() + config.latent_gradient * (z - z.detach())
        latents = LatentBatch(
            log_probs.unflatten(0, (b, length)),
            self._project(x.detach()).unflatten(0, (b, length)),
            *batch[1:],
        )
        e = self.embed(z.unflatten(0, (b, length)), batch.actions)
        terms, others, output = self._sequence_terms(e, latents, config)
        loss = losses.total_loss(terms._replace(reconstruction=reconstruction), config)
        metrics |= {"reconstruction": reconstruction.detach(), **others, "loss": loss.detach()}
        codes = codes.unflatten(0, (b, length))
        return loss, metrics, Posterior(codes, batch.valid, output, e.detach())

    def latent_loss(
        self, batch: LatentBatch, config: LossConfig
    ) -> tuple[Tensor, dict[str, Tensor], Posterior]:
        """Compute the loss without its image terms, on what :meth:`latents` stored.

        Args:
            batch: B sequences of L > ``core.context`` steps; each call draws z again, as for use.
            config: Weights.

        Returns:
            As :meth:`loss`.
        """
        codes = sample_codes(batch.log_probs, temperature=self.config.draw_temperature)
        e = self.embed_codes(codes, batch.actions)
        terms, metrics, output = self._sequence_terms(e, batch, config)
        loss = losses.total_loss(terms, config)
        posterior = Posterior(codes, batch.valid, output, e.detach())
        return loss, metrics | {"loss": loss.detach()}, posterior

    def autoencoder_loss(
        self, images: Tensor, config: LossConfig
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the image model's loss on (N, 64, 64, 3) uint8 frames, without the sequence's."""
        log_probs = self.posterior(images)
        codes = sample_codes(log_probs.detach(), temperature=config.image_temperature)
        z = straight_through(log_probs, codes)
        reconstruction, metrics = self.reconstruction(z.flatten(-2), images, config)
        entropy_loss, entropy = losses.entropy_loss(log_probs, config)
        diversity_loss, diversity = losses.diversity_loss(log_probs, reconstruction, config)
        metrics |= {"reconstruction": reconstruction.detach(), "posterior_entropy": entropy}
        metrics |= {"latent_diversity": diversity}
        return reconstruction + entropy_loss + diversity_loss, metrics

    def reconstruction(
        self, z: Tensor, images: Tensor, config: LossConfig, valid: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw (N, K·C) latents and compare them with (N, 64, 64, 3) uint8 images.

        See :func:`glam_env.model.losses.reconstruction_loss`.
        """
        background = self.decoder.background
        return losses.reconstruction_loss(self.decoder(z), images, background, config, valid)

    @torch.no_grad()
    def latents(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, 64, 64, 3) uint8 images to ``log_probs`` and ``projected`` of a batch."""
        x, logits = self.encoder(images)
        return unimix_log_probs(logits, self.config.unimix), self._project(x)

    def _project(self, x: Tensor) -> Tensor:
        """Map the encoder's features (N, ·) to (N, K·C) by the fixed projection of eq. 10.

        It runs in float32, since differences of the result are taken. Without a variation there
        is nothing to project, and the result is zero.
        """
        if not self.core.has_variation:
            return x.new_zeros(len(x), self.config.categoricals * self.config.classes)
        with torch.autocast(x.device.type, enabled=False):
            return self.variation_target(x.float())

    def _sequence_terms(
        self, e: Tensor, batch: LatentBatch, config: LossConfig
    ) -> tuple[LossTerms, dict[str, Tensor], CoreOutput]:
        """Compute all terms but the reconstruction, from the features e (B, L, D)."""
        start, unimix = self.core.context - 1, self.config.unimix  # h_t is there from t = start
        output = self.core(e)
        valid, valid_next = batch.valid[:, start:], batch.valid[:, start + 1 :]

        posterior = batch.log_probs[:, start + 1 :].float()  # of z_{t+1}
        shape = posterior.shape[-2:]  # (K, C)
        prior = self.prior(output.h[:, :-1]).unflatten(-1, shape)
        dynamics, dynamics_kl, entropy = losses.dynamics_loss(
            self.prior_target(posterior), prior, unimix, config, valid_next
        )

        self.reward_code.see(batch.rewards)
        rewards = batch.rewards[:, start:]
        reward_logits = self.reward(output.h)
        reward = losses.reward_loss(self.reward_code, reward_logits, rewards, config, valid)
        termination = losses.termination_loss(
            self.termination(output.h).squeeze(-1), batch.life_lost[:, start:], valid
        )
        terms = LossTerms(reward, termination, dynamics)
        metrics = {"reward": reward, "termination": termination, "dynamics_kl": dynamics_kl}

        if output.variation is not None:
            # The projection is linear: the change of its result is the result of the change.
            projected = batch.projected.float()
            change = projected[:, start + 1 :] - projected[:, start:-1]
            predicted = self.variation(output.variation[:, :-1])
            variation, metrics["variation_kl"] = losses.variation_loss(
                change.unflatten(-1, shape), predicted.unflatten(-1, shape), config, valid_next
            )
            terms = terms._replace(variation=variation)
        if posterior.requires_grad:
            representation = losses.representation_loss(
                posterior, prior, unimix, config, valid_next
            )
            terms = terms._replace(representation=representation)
        with torch.no_grad():
            events = (rewards != 0) & valid
            near = (self.reward_code.mean(reward_logits) - rewards).abs() < 0.5 * rewards.abs()
            metrics |= {
                "prior_entropy": entropy,
                "posterior_entropy": losses.valid_mean(
                    categorical_entropy(posterior).sum(-1), valid_next
                ),
                "rewards_found": (near & events).sum() / events.sum().clamp_min(1),
            }
        return terms, {name: value.detach() for name, value in metrics.items()}, output

    def freeze_images(self, frozen: bool = True) -> None:
        """Freeze encoder, decoder and their statistics, or let them learn again."""
        self._images_frozen = frozen
        for part in (self.encoder, self.decoder):
            part.requires_grad_(not frozen).train(self.training and not frozen)

    def train(self, mode: bool = True) -> WorldModel:
        """Set training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        if self._images_frozen:
            self.encoder.eval()
            self.decoder.eval()
        return self

    # --- export ------------------------------------------------------------------------------

    def export_state(self) -> dict[str, Tensor]:
        """Return the state dict without the fixed projection, which only training needs."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith(VARIATION_PROJECTION)
        }

    def load_exported(self, state: dict[str, Tensor]) -> None:
        """Load an :meth:`export_state`; any other missing or extra name is an error."""
        own = {
            name: value
            for name, value in self.state_dict().items()
            if name.startswith(VARIATION_PROJECTION)
        }
        self.load_state_dict(own | state)
