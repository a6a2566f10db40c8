"""The GLAM world model: encode, remember, foretell (eqs. 4–10 of the paper).

At step t the image o_t is encoded to the latent z_t, (z_t, a_t) to the feature e_t, the sequence
core turns e_0 … e_t into h_t, and from h_t come the next latent's prior, the reward r_t and the
probability that this transition ended the life.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glam_env.model.config import LossConfig, WorldModelConfig
from glam_env.model.cores.base import CoreOutput, make_core
from glam_env.model.distributions import (
    SymlogTwoHot,
    categorical_entropy,
    categorical_kl,
    kl_to_logits,
    one_hot,
    one_hot_linear,
    sample_codes,
    straight_through,
    unimix_log_probs,
)
from glam_env.model.structures import DreamState, DreamStep, LatentBatch, Posterior, SequenceBatch
from glam_env.model.vision import ImageDecoder, ImageEncoder

VARIATION_PROJECTION = "variation_target"  # state-dict prefix of what an export leaves out


class Head(nn.Module):
    """Two hidden layers (linear without bias, LayerNorm, ReLU), then a linear layer; float32 out.

    Args:
        inputs, hidden, outputs: widths.
        zero: start with an output of zeros.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, *, zero: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden, bias=False),
            nn.LayerNorm(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden, bias=False),
            nn.LayerNorm(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, outputs),
        )
        if zero:
            for parameter in self.layers[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs) float32."""
        return self.layers(x).float()

    def forward_codes(self, codes: Tensor, rest: Tensor) -> Tensor:
        """As :meth:`forward` of [one-hot of (..., K) codes, (..., R) rest], cheaper."""
        first, *_ = self.layers
        return self.after_first(one_hot_linear(first.weight, codes, rest))  # type: ignore[arg-type]

    def after_first(self, x: Tensor) -> Tensor:
        """The rest of :meth:`forward`, from what the first layer gives, (..., hidden)."""
        for layer in list(self.layers)[1:]:
            x = layer(x)
        return x.float()


class WorldModel(nn.Module):
    """See the module's docstring.

    Args:
        config: sizes.
    """

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        config.validate()
        self.config = config
        self._images_frozen = False
        k, c, d = config.categoricals, config.classes, config.width
        self.encoder = ImageEncoder(config.stem, k, c)
        self.decoder = ImageDecoder(config.stem, k, c, residual=config.background_residual)
        self.feature_encoder = nn.Sequential(
            nn.Linear(k * c + config.num_actions, d, bias=False),
            nn.LayerNorm(d),
            nn.ReLU(inplace=True),
            nn.Linear(d, d, bias=False),
        )
        self.core = make_core(d, config.core)
        self.prior = nn.Linear(d, k * c)
        self.reward = Head(d, d, config.reward_bins, zero=True)
        self.reward_code = SymlogTwoHot(config.reward_bins)
        self.termination = Head(d, d, 1)
        self.variation = nn.Linear(d, k * c)
        # Eq. 10 stops the gradient on the side of the image features, so the map from them to
        # categoricals can't learn: it is a fixed random projection.
        self.variation_target = nn.Linear(self.encoder.feature_dim, k * c, bias=False)
        self.variation_target.requires_grad_(False)

    # --- parts ---------------------------------------------------------------------------

    def posterior(self, images: Tensor) -> Tensor:
        """(..., 64, 64, 3) uint8 images to (..., K, C) float32 log-probabilities of z (eq. 4)."""
        _, logits = self.encoder(images.reshape(-1, *images.shape[-3:]))
        log_probs = unimix_log_probs(logits, self.config.unimix)
        return log_probs.reshape(*images.shape[:-3], *logits.shape[1:])

    def encode(self, images: Tensor) -> Tensor:
        """As :meth:`posterior`, at ``draw_temperature``: what to draw z from for use."""
        log_probs, temperature = self.posterior(images), self.config.draw_temperature
        return log_probs if temperature == 1.0 else (log_probs / temperature).log_softmax(-1)

    def decode(self, code: Tensor) -> Tensor:
        """(..., K) int64 codes to (..., 64, 64, 3) float32 images in [0, 1]."""
        z = one_hot(code.reshape(-1, code.shape[-1]), self.config.classes).flatten(-2)
        images = self.decoder(z).clamp(0.0, 1.0)
        return images.reshape(*code.shape[:-1], *images.shape[1:])

    def embed(self, z: Tensor, actions: Tensor) -> Tensor:
        """(..., K·C) latents and (...) int64 actions to features e, (..., D)."""
        return self.feature_encoder(torch.cat([z, one_hot(actions, self.config.num_actions)], -1))

    def prior_log_probs(self, h: Tensor) -> Tensor:
        """(..., D) states to (..., K, C) float32 log-probabilities of the next latent."""
        shape = (self.config.categoricals, self.config.classes)
        return unimix_log_probs(self.prior(h).unflatten(-1, shape), self.config.unimix)

    @torch.no_grad()
    def set_background(self, images: Tensor) -> None:
        """Takes the per-pixel median of (N, 64, 64, 3) uint8 images as the game's background."""
        self.decoder.background.copy_(images.float().median(0).values / 255.0)

    # --- training ------------------------------------------------------------------------

    def freeze_images(self, frozen: bool = True) -> None:
        """From here on encoder and decoder stand still, BatchNorm's statistics included.

        With ``frozen`` false they learn again.
        """
        self._images_frozen = frozen
        for part in (self.encoder, self.decoder):
            part.requires_grad_(not frozen).train(self.training and not frozen)

    def train(self, mode: bool = True) -> WorldModel:
        """As any module's, but frozen parts stay in evaluation mode."""
        super().train(mode)
        if self._images_frozen:
            self.encoder.eval()
            self.decoder.eval()
        return self

    def image_loss(
        self, images: Tensor, z: Tensor, config: LossConfig
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_rec: squared error summed over pixels and channels, mean over frames.

        Args:
            images: (N, 64, 64, 3) uint8.
            z: (N, K·C) latents.

        Returns:
            The loss, and ``foreground_error``: squared error on the pixels that differ from the
            background over what drawing the background only would give there; with a margin,
            ``margin_error``, the same with the error on the margin added.
        """
        target = images / 255.0
        difference = target - self.decoder.background
        error = (self.decoder(z) - target).square()
        mask = difference.abs().amax(-1, keepdim=True) > config.foreground_threshold
        weight: Tensor | float = 1.0
        if config.foreground_weight != 1.0:
            weight = 1.0 + (config.foreground_weight - 1.0) * mask
        around = mask
        if config.margin > 0:
            side = 2 * config.margin + 1
            around = F.max_pool2d(mask.float().movedim(-1, 1), side, 1, config.margin).movedim(
                1, -1
            )
            weight = (1.0 + (config.margin_weight - 1.0) * around).clamp_min(weight)
        with torch.no_grad():
            worth = (difference.square() * mask).sum().clamp_min(1e-6)
            metrics = {"foreground_error": (error * mask).sum() / worth}
            if config.margin > 0:
                metrics["margin_error"] = (error * around).sum() / worth
        weighted = error if isinstance(weight, float) else weight * error
        return weighted.sum((1, 2, 3)).mean(), metrics

    def autoencoder_loss(
        self, images: Tensor, config: LossConfig
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_rec alone on (N, 64, 64, 3) uint8 frames: the image model's warm-up."""
        log_probs = self.posterior(images)
        z = straight_through(log_probs, sample_codes(log_probs.detach()))
        loss, metrics = self.image_loss(images, z.flatten(-2), config)
        return loss, {"reconstruction": loss.detach()} | metrics

    def loss(
        self, batch: SequenceBatch, config: LossConfig
    ) -> tuple[Tensor, dict[str, Tensor], Posterior]:
        """The whole loss of model.md § 3 (eqs. 8–10) on a batch of sequences.

        Args:
            batch: B sequences of L > s steps.
            config: weights.

        Returns:
            The loss (scalar), its parts and others as detached scalars, and the posterior
            (detached) for dreams to start from.
        """
        b, length = batch.actions.shape
        x, logits = self.encoder(batch.images.flatten(0, 1))
        log_probs = unimix_log_probs(logits, self.config.unimix)  # (B·L, K, C)
        codes = sample_codes(log_probs.detach())
        z = straight_through(log_probs, codes).flatten(-2)

        frames, targets = z, batch.images.flatten(0, 1)
        if config.decode_fraction < 1.0:
            count = max(1, round(config.decode_fraction * b * length))
            # Not randperm, which a CUDA graph may not hold.
            chosen = torch.rand(b * length, device=z.device).argsort()[:count]
            frames, targets = frames[chosen], targets[chosen]
        reconstruction, metrics = self.image_loss(targets, frames, config)

        if config.latent_gradient != 1.0:
            z = z.detach() + config.latent_gradient * (z - z.detach())
        latents = LatentBatch(
            log_probs.unflatten(0, (b, length)),
            self._project(x.detach()).unflatten(0, (b, length)),
            *batch[1:],
        )
        loss, others, output = self._sequence_loss(z.unflatten(0, (b, length)), latents, config)
        loss = loss + reconstruction
        metrics |= {"reconstruction": reconstruction.detach(), **others, "loss": loss.detach()}
        return loss, metrics, Posterior(codes.unflatten(0, (b, length)), output)

    def latent_loss(
        self, batch: LatentBatch, config: LossConfig
    ) -> tuple[Tensor, dict[str, Tensor], Posterior]:
        """The loss without its image terms (L_rec, L_rep), on what :meth:`latents` stored.

        Args:
            batch: B sequences of L > s steps; z is drawn anew each time, as for use.
            config: weights.

        Returns:
            As :meth:`loss`.
        """
        codes = sample_codes(batch.log_probs, temperature=self.config.draw_temperature)
        z = one_hot(codes, self.config.classes).flatten(-2)
        loss, metrics, output = self._sequence_loss(z, batch, config)
        return loss, metrics | {"loss": loss.detach()}, Posterior(codes, output)

    @torch.no_grad()
    def latents(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 64, 64, 3) uint8 images to the ``log_probs`` and ``projected`` of a LatentBatch."""
        x, logits = self.encoder(images)
        return unimix_log_probs(logits, self.config.unimix), self._project(x)

    def _project(self, x: Tensor) -> Tensor:
        """Eq. 10's fixed projection in float32, since differences will be taken of it."""
        with torch.autocast(x.device.type, enabled=False):
            return self.variation_target(x.float())

    def _sequence_loss(
        self, z: Tensor, batch: LatentBatch, config: LossConfig
    ) -> tuple[Tensor, dict[str, Tensor], CoreOutput]:
        """All that follows from the latents z (B, L, K·C): L_rew, L_con, L_dyn, L_rep, L_var."""
        start = self.core.context - 1  # first position with a full window
        output = self.core(self.embed(z, batch.actions))

        posterior = batch.log_probs[:, start + 1 :].float()
        shape, share = posterior.shape[-2:], self.config.unimix
        prior = self.prior(output.h[:, :-1]).unflatten(-1, shape)
        kl, prior_entropy = kl_to_logits(posterior, prior, share)
        dynamics_kl = kl.mean()

        rewards = batch.rewards[:, start:]
        reward_logits = self.reward(output.h)
        reward_losses = self.reward_code.loss(reward_logits, rewards)
        weight = 1.0 + (config.reward_weight - 1.0) * (rewards != 0)
        reward = (weight * reward_losses).mean()
        life_lost = batch.life_lost[:, start:].float()
        termination = F.binary_cross_entropy_with_logits(
            self.termination(output.h).squeeze(-1), life_lost
        )

        # The projection is linear: the change of what it gives is what it gives of the change.
        projected = batch.projected.float()
        change = projected[:, start + 1 :] - projected[:, start:-1]
        kl, _ = kl_to_logits(
            unimix_log_probs(change.unflatten(-1, shape)),
            self.variation(output.variation[:, :-1]).unflatten(-1, shape),
        )
        variation_kl = kl.mean()

        loss = (
            reward
            + termination
            + config.dynamics * dynamics_kl.clamp_min(config.free_nats)
            + config.variation * variation_kl.clamp_min(config.variation_free_nats)
        )
        if posterior.requires_grad:
            foretold = unimix_log_probs(prior.detach(), share)
            representation_kl = categorical_kl(posterior, foretold).mean()
            loss = loss + config.representation * representation_kl.clamp_min(config.free_nats)
        with torch.no_grad():
            events = rewards != 0
            near = (self.reward_code.mean(reward_logits) - rewards).abs() < 0.5 * rewards.abs()
            metrics = {
                "reward": reward,
                "termination": termination,
                "dynamics_kl": dynamics_kl,
                "variation_kl": variation_kl,
                "prior_entropy": prior_entropy.mean(),
                "posterior_entropy": categorical_entropy(posterior).sum(-1).mean(),
                "rewards_found": (near & events).sum() / events.sum().clamp_min(1),
            }
        return loss, {name: value.detach() for name, value in metrics.items()}, output

    @torch.no_grad()
    def dream_starts(self, posterior: Posterior, rows: Tensor, positions: Tensor) -> DreamState:
        """Dreams that start where training sequences stood, at no cost.

        Args:
            posterior: of :meth:`loss`.
            rows, positions: (N) int64; at position t, s ≤ t < L, the dream sees z_t and
                remembers e_0 … e_{t−1}.
        """
        start = self.core.context - 1
        return DreamState(
            posterior.codes[rows, positions],
            posterior.core.h.detach()[rows, positions - 1 - start].float(),
            self.core.state_at(posterior.core, rows, positions - 1),
        )

    # --- dreaming ------------------------------------------------------------------------

    @torch.no_grad()
    def warm_up(self, codes: Tensor, actions: Tensor) -> DreamState:
        """The state after L known steps, through the parallel pass.

        Args:
            codes: (B, L+1, K) int64, the latents of the L steps and of the moment after them.
            actions: (B, L) int64, L ≥ s.
        """
        output = self._known(codes[:, :-1], actions)
        rows = torch.arange(len(actions), device=actions.device)
        last = torch.full_like(rows, actions.shape[1] - 1)
        return DreamState(codes[:, -1], output.h[:, -1], self.core.state_at(output, rows, last))

    def _known(self, codes: Tensor, actions: Tensor) -> CoreOutput:
        z = one_hot(codes, self.config.classes).flatten(-2)
        return self.core(self.embed(z, actions).float())

    @torch.no_grad()
    def step(
        self,
        state: DreamState,
        action: Tensor,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> DreamStep:
        """Dreams one step on.

        Args:
            state: E dreams.
            action: (E) int64, taken on seeing z_t.
            temperature: of the next latent's draw; 0 takes its mode.
            generator: for the draw.
        """
        h, core = self.observe(state.code, action, state.core)
        return self._foretell(h, core, temperature, generator)

    @torch.no_grad()
    def step_window(
        self,
        codes: Tensor,
        actions: Tensor,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> DreamStep:
        """As :meth:`step`, recomputed over the last l steps and nothing older.

        This is how the paper's imagination runs (``context="window"``); it costs l times as much.

        Args:
            codes: (E, l, K) int64 latents, the last one current; actions: (E, l) int64.
        """
        output = self._known(codes, actions)
        rows = torch.arange(len(actions), device=actions.device)
        last = torch.full_like(rows, actions.shape[1] - 1)
        core = self.core.state_at(output, rows, last)
        return self._foretell(output.h[:, -1], core, temperature, generator)

    @torch.no_grad()
    def observe(
        self, code: Tensor, action: Tensor, core: Any, first: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Takes one known step (z_t, a_t) into the memory; returns h_t (E, D) and the new memory.

        ``first`` (E) bool marks rows whose episode begins at this step.
        """
        z = one_hot(code, self.config.classes).flatten(-2)
        return self.core.step(self.embed(z, action), core, first)

    def _foretell(
        self,
        h: Tensor,
        core: Any,
        temperature: float,
        generator: torch.Generator | None,
    ) -> DreamStep:
        prior = self.prior_log_probs(h)
        temperature = temperature * self.config.draw_temperature
        code = sample_codes(prior, temperature=temperature, generator=generator)
        reward_logits = self.reward(h)
        return DreamStep(
            DreamState(code, h.float(), core),
            self.reward_code.mean(reward_logits),
            reward_logits,
            self.termination(h).squeeze(-1),
            prior,
        )

    def features(self, state: DreamState) -> Tensor:
        """The agent's features [z_t, h_{t−1}], (E, K·C + D) float32."""
        return torch.cat([one_hot(state.code, self.config.classes).flatten(-2), state.h], -1)

    # --- export --------------------------------------------------------------------------

    def export_state(self) -> dict[str, Tensor]:
        """The state dict without the fixed random projection, which only the loss needs."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith(VARIATION_PROJECTION)
        }

    def load_exported(self, state: dict[str, Tensor]) -> None:
        """Loads what :meth:`export_state` gave; any other missing or extra name is an error."""
        own = {
            name: value
            for name, value in self.state_dict().items()
            if name.startswith(VARIATION_PROJECTION)
        }
        self.load_state_dict(own | state)
