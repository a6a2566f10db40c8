"""The real game seen through the world model: frames in, the agent's features out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glam_env.device import upload
from glam_env.model.cores.glam import GlamCore, GlamState
from glam_env.model.distributions import sample_codes
from glam_env.model.structures import DreamState, tree_map, tree_tensors
from glam_env.model.world_model import WorldModel

Act = Callable[[Tensor, torch.Generator], Tensor]
"""(E, F) features and a generator to (E) int64 actions."""


class LatentFilter:
    """Follows E real streams with the encoder and the recurrent core.

    At each step first :meth:`see` the frames, then :meth:`act` to tell the actions taken on them.
    An agent so acts on the latent of the frame just seen and on h_{t−1}, as in a dream.

    Args:
        world_model: used in evaluation mode (the filter switches it there for the encoder and
            back to the mode in which it found it).
        num_envs: E.
        generator: for the posterior's samples, on the model's device.
    """

    def __init__(
        self, world_model: WorldModel, num_envs: int, generator: torch.Generator | None = None
    ) -> None:
        self.world_model, self.generator = world_model, generator
        device = next(world_model.parameters()).device
        c = world_model.config
        self.state = DreamState(
            torch.zeros(num_envs, c.categoricals, dtype=torch.int64, device=device),
            torch.zeros(num_envs, c.width, device=device),
            world_model.core.initial_state(num_envs, device),
        )
        self._first = torch.ones(num_envs, dtype=torch.bool, device=device)

    @torch.no_grad()
    def see(self, frames: np.ndarray | Tensor, first: np.ndarray | Tensor) -> Tensor:
        """Takes in what is seen now.

        Args:
            frames: (E, 64, 64, 3) uint8.
            first: (E) bool, true where the frame is the first of an episode.

        Returns:
            (E, K·C + D) float32 features; h is zero on an episode's first frame.
        """
        device = self._first.device
        images, self._first = upload(frames, device), upload(first, device)
        training = self.world_model.training
        self.world_model.eval()  # BatchNorm with its running statistics
        log_probs = self.world_model.encode(images)
        self.world_model.train(training)
        code = sample_codes(log_probs, generator=self.generator)
        h = self.state.h.masked_fill(self._first[:, None], 0.0)
        self.state = DreamState(code, h, self.state.core)
        return self.world_model.features(self.state)

    def begin(self, code: Tensor, mask: Tensor) -> None:
        """Begins an episode in some rows with what is seen there, in place of :meth:`see`.

        Args:
            code: (E, K) int64 latents of the frames; those outside the mask are not read.
            mask: (E) bool, the rows; the others stay as they are.
        """
        rows, before = mask[:, None], self.state
        self._first = self._first | mask
        self.state = DreamState(
            torch.where(rows, code, before.code), before.h.masked_fill(rows, 0.0), before.core
        )

    @torch.no_grad()
    def act(self, actions: Tensor) -> None:
        """Takes in the (E) int64 actions that follow the frames last seen."""
        code, _, core = self.state
        h, core = self.world_model.observe(code, actions, core, self._first)
        self.state = DreamState(code, h, core)

    def memory(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "code": self.state.code,
            "h": self.state.h,
            "core": tree_tensors(self.state.core),
        }

    def load_memory(self, memory: dict[str, Any]) -> None:
        """Goes back to a :meth:`memory`."""
        core = self.world_model.core
        parts = list(memory["core"])
        if isinstance(core, GlamCore) and len(parts) == len(GlamState._fields) - 1:
            parts.append(core.lmamba.inputs(parts[0]))  # saved before there was ``local``
        given = iter(parts)
        self.state = DreamState(
            memory["code"], memory["h"], tree_map(lambda _: next(given), self.state.core)
        )


class FilteredPolicy:
    """An agent of the latent features as a policy on real frames.

    Args:
        world_model: filters the frames.
        act: chooses the actions.
    """

    def __init__(self, world_model: WorldModel, act: Act) -> None:
        self.world_model, self._act = world_model, act

    def begin(self, num_envs: int, seed: int) -> None:
        """Forgets everything and draws from ``seed`` on."""
        device = next(self.world_model.parameters()).device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.filter = LatentFilter(self.world_model, num_envs, self.generator)

    def act(self, frames: np.ndarray, first: np.ndarray) -> np.ndarray:
        """(E, 64, 64, 3) uint8 frames and (E) bool firsts to (E) int64 actions."""
        actions = self._act(self.filter.see(frames, first), self.generator)
        self.filter.act(actions)
        return actions.cpu().numpy()
