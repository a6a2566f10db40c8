"""How well the world model expects new play, before it learns from it.

The difference to the same figures of training shows how far the sequence model has learned its
replay by heart.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from glam_env.device import upload
from glam_env.envs.latent_filter import LatentFilter
from glam_env.model.distributions import categorical_kl


class NewPlay:
    """Compares what a filter's world model expects of real play with what follows.

    At each step call :meth:`see` after the filter's ``see``, :meth:`earn` with the rewards that
    followed, and :meth:`read`.

    Args:
        latents: Follows the games.
    """

    def __init__(self, latents: LatentFilter) -> None:
        self._filter = latents
        self._age = np.zeros(len(latents.state.code), np.int64)  # actions seen of each episode
        self._figures: dict[str, Tensor] = {}

    @torch.no_grad()
    def see(self, first: np.ndarray) -> None:
        """Compare the latents of the frames just seen with the prior.

        Rows whose episode has had fewer actions than the core's context are left out, as in
        training.

        Args:
            first: (E) bool, true where the frame is the first of an episode.
        """
        latents, world_model = self._filter, self._filter.world_model
        self._age = np.where(first, 0, self._age)
        if len(known := np.flatnonzero(self._known)):  # places, since a mask waits for the device
            target = world_model.prior_target(latents.posterior)
            kl = categorical_kl(target, world_model.prior_log_probs(latents.state.h))  # (E)
            self._figures["new_play_kl"] = kl[upload(known, kl.device)].mean()
        self._age = self._age + 1

    @torch.no_grad()
    def earn(self, rewards: np.ndarray) -> None:
        """Compare the rewards (E) float32 of the actions just taken with what was expected."""
        latents, world_model = self._filter, self._filter.world_model
        if len(events := np.flatnonzero((rewards != 0.0) & self._known)):
            h = latents.state.h[upload(events, latents.state.h.device)].float()  # not bfloat16
            earned = upload(rewards[events], h.device)
            expected = world_model.reward_code.mean(world_model.reward(h))
            found = (expected - earned).abs() < 0.5 * earned.abs()
            self._figures["new_play_rewards_found"] = found.float().mean()

    @property
    def _known(self) -> np.ndarray:
        """Rows (E) bool whose h rests on a full context."""
        return self._age >= self._filter.world_model.core.context

    def read(self) -> dict[str, Tensor]:
        """Return the figures of this step, and start again from none.

        Returns:
            ``new_play_kl``, the KL in nats from prior to posterior, and
            ``new_play_rewards_found``, the share of rewards other than zero that were predicted
            with an error below half of them: scalars, each only where there is something to
            compare. ``dynamics_kl`` and ``rewards_found`` are the same in training.
        """
        figures, self._figures = self._figures, {}
        return figures

    def memory(self) -> Tensor:
        """Return what a run's checkpoint stores, (E) int64."""
        return torch.from_numpy(self._age)

    def load_memory(self, memory: Tensor) -> None:
        """Return to a :meth:`memory`."""
        self._age = memory.cpu().numpy()
