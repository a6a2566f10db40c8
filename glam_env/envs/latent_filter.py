"""``LatentFilter``: maps real frames to the agent's features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glam_env.device import threads_for, upload
from glam_env.model.cores.glam import GlamCore, GlamState
from glam_env.model.distributions import sample_codes, sharpened
from glam_env.model.mode import evaluating
from glam_env.model.structures import DreamState, tree_map, tree_tensors
from glam_env.model.world_model import WorldModel

Act = Callable[[Tensor, torch.Generator], Tensor]
"""Maps (E, F) features and a generator to (E) int64 actions."""


class LatentFilter:
    """Follows E real streams with the encoder and the sequence core.

    At each step call :meth:`see` with the frames, then :meth:`act` with the actions taken on them.
    The agent then acts on the latent of the current frame and on h_{t−1}, as in a dream.

    Args:
        world_model: Used in evaluation mode; the filter restores its previous mode.
        num_envs: E.
        generator: For the posterior's samples, on the model's device.

    Attributes:
        state: State of the world model for the E streams.
        posterior: (E, K, C) float32 log-probabilities of the latents of the frames seen last, not
            sharpened.
    """

    posterior: Tensor

    def __init__(
        self, world_model: WorldModel, num_envs: int, generator: torch.Generator | None = None
    ) -> None:
        self.world_model, self.generator = world_model, generator
        device = next(world_model.parameters()).device
        c = world_model.config
        self.state = DreamState(
            torch.zeros(num_envs, c.categoricals, dtype=torch.int64, device=device),
            torch.zeros(num_envs, c.width, device=device),
            world_model.memory.initial_state(num_envs, device),
        )
        self._first = torch.ones(num_envs, dtype=torch.bool, device=device)

    @torch.no_grad()
    def see(self, frames: np.ndarray | Tensor, first: np.ndarray | Tensor) -> Tensor:
        """Encode the current frames.

        Args:
            frames: (E, 64, 64, 3) uint8.
            first: (E) bool, true where the frame is the first of an episode.

        Returns:
            (E, K·C + D) float32 features; h is zero at an episode's first frame.
        """
        device = self._first.device
        images, self._first = upload(frames, device), upload(first, device)
        rows = threads_for(len(images))
        with rows, evaluating(self.world_model.encoder):  # BatchNorm with its running statistics
            self.posterior = self.world_model.posterior(images)
        temperature = self.world_model.config.draw_temperature
        code = sample_codes(sharpened(self.posterior, temperature), generator=self.generator)
        h = self.state.h.masked_fill(self._first[:, None], 0.0)
        self.state = DreamState(code, h, self.state.core)
        return self.world_model.features(self.state)

    def begin(self, code: Tensor, mask: Tensor) -> None:
        """Start an episode in some rows with known latents, instead of :meth:`see`.

        Args:
            code: (E, K) int64 latents of the frames; rows outside the mask are not read.
            mask: (E) bool, the rows; the others are unchanged.
        """
        rows, before = mask[:, None], self.state
        self._first = self._first | mask
        self.state = DreamState(
            torch.where(rows, code, before.code), before.h.masked_fill(rows, 0.0), before.core
        )

    def resume(self, state: DreamState) -> None:
        """Continue in the middle of episodes, from E states after seeing a frame."""
        self.state, self._first = state, torch.zeros_like(self._first)

    @torch.no_grad()
    def act(self, actions: Tensor) -> None:
        """Process the (E) int64 actions taken on the current frames."""
        code, _, core = self.state
        with threads_for(len(code)):
            h, core = self.world_model.observe(code, actions, core, self._first)
        self.state = DreamState(code, h, core)

    def memory(self) -> dict[str, Any]:
        """Return the state that a run's checkpoint stores."""
        return {
            "code": self.state.code,
            "h": self.state.h,
            "core": tree_tensors(self.state.core),
        }

    def load_memory(self, memory: dict[str, Any]) -> None:
        """Restore a :meth:`memory`, in this format or that of earlier versions."""
        core = self.world_model.memory
        parts = list(memory["core"])
        if isinstance(core, GlamCore) and len(parts) == len(GlamState._fields) - 1:
            parts.append(core.lmamba.inputs(parts[0]))  # from a version without ``local``
        given = iter(parts)
        self.state = DreamState(
            memory["code"], memory["h"], tree_map(lambda _: next(given), self.state.core)
        )


class FilteredPolicy:
    """An agent that acts on latent features, as a policy on real frames.

    Args:
        world_model: Filters the frames.
        act: Chooses the actions.
    """

    def __init__(self, world_model: WorldModel, act: Act) -> None:
        self.world_model, self._act = world_model, act

    def begin(self, num_envs: int, seed: int) -> None:
        """Start from an empty state, with random draws seeded by ``seed``."""
        device = next(self.world_model.parameters()).device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.filter = LatentFilter(self.world_model, num_envs, self.generator)

    def act(self, frames: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Map (E, 64, 64, 3) uint8 frames and (E) bool firsts to (E) int64 actions."""
        with threads_for(len(frames)):
            actions = self._act(self.filter.see(frames, first), self.generator)
            self.filter.act(actions)
        return actions.cpu().numpy()
