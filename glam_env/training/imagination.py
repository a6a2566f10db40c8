"""Imagination: an agent plays a batch of dreams and learns from the rollout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from glam_env.fast.choose import make_stepper
from glam_env.model.structures import DreamState
from glam_env.model.world_model import WorldModel


class Rollout(NamedTuple):
    """N dreams of H steps.

    Attributes:
        features: (H+1, N, F) float32, [one-hot z_t, h_{t−1}] before each step and after the last.
        actions: (H, N) int64.
        rewards: (H, N) float32; the reward that follows the action.
        terminated: (H, N) bool, whether the step ended the dream's life.
        codes: (H+1, N, K) int64, the classes of z_t, if known. An agent may look its first layer up
            by them instead of multiplying with the one-hot vectors.
        one_hot_width: K·C, the number of features that are one-hot vectors of ``codes``.
    """

    features: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    codes: Tensor | None = None
    one_hot_width: int = 0


Player = Callable[[Tensor, Tensor, torch.Generator | None], Tensor]
"""Chooses (E) int64 actions from (E, K) int64 codes of z_t, (E, D) h_{t−1} and a generator."""


class Agent(Protocol):
    """An agent that learns in imagination, as the trainer uses it."""

    def act(
        self,
        features: Tensor,
        *,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Choose actions.

        Args:
            features: (E, F) float32, [one-hot z_t, h_{t−1}].
            greedy: Take the most probable action instead of a random draw.
            generator: For the random draws.

        Returns:
            (E) int64 actions.
        """
        ...

    def player(self, one_hot_width: int) -> Player:
        """Return :meth:`act` as a function of codes and h, for the current weights.

        With the same generator it draws the same actions as :meth:`act`, up to rounding.

        Args:
            one_hot_width: K·C, the number of features that are one-hot vectors of the codes.
        """
        ...

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """Learn from imagined dreams; return detached scalars for the metrics."""
        ...

    def learner_state(self) -> dict[str, Any]:
        """Return all that learning resumes from: weights, optimizer, moving statistics."""
        ...

    def load_learner_state(self, state: dict[str, Any]) -> None:
        """Load a :meth:`learner_state`."""
        ...

    def export_state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint stores: those that acting needs."""
        ...

    def load_exported(self, state: dict[str, Tensor]) -> None:
        """Load an :meth:`export_state`.

        Raises:
            GlamError: A tensor is missing, unknown or of another shape.
        """
        ...


@runtime_checkable
class Capturable(Protocol):
    """An agent whose ``update`` can be a CUDA graph: static shapes, no waits for the device."""

    def set_capturable(self, capturable: bool) -> None:
        """Prepare the optimizers for a graph, or for updates one by one."""
        ...


@runtime_checkable
class Annealed(Protocol):
    """An agent whose learning rate falls with that of the world model."""

    def scale_learning_rate(self, factor: float) -> None:
        """Set the learning rate of the next updates to ``factor`` times the agent's own."""
        ...


@runtime_checkable
class RewardScaled(Protocol):
    """An agent for whose learning it matters how large the game's rewards are."""

    def set_usual_reward(self, size: float) -> None:
        """Set the mean size of the game's rewards other than 0, for the next updates."""
        ...


@torch.no_grad()
def imagine(
    world_model: WorldModel,
    agent: Agent,
    start: DreamState,
    horizon: int,
    generator: torch.Generator | None = None,
) -> Rollout:
    """Let an agent play dreams.

    The steps are those of :meth:`WorldModel.step`, with the same random draws and with the same
    numbers up to rounding. No image is decoded.

    Args:
        world_model: The world model.
        agent: Acts on the features [one-hot z_t, h_{t−1}].
        start: N states.
        horizon: H steps.
        generator: For the random draws of latents and actions.
    """
    stepper, c = make_stepper(world_model), world_model.config  # for the current weights
    shape = (c.categoricals, c.classes)
    width = c.categoricals * c.classes
    act = agent.player(width)
    features = torch.zeros(horizon + 1, *start.h.shape[:1], c.feature_dim, device=start.h.device)
    state, codes, actions = start, [start.code], []
    for seen in features[1:]:
        actions.append(act(state.code, state.h, generator))
        draw = torch.rand(state.code.shape, generator=generator, device=seen.device)
        with torch.autocast(seen.device.type, enabled=False):  # the recurrence is float32
            state = stepper.go_on(state, actions[-1], draw)
        seen[:, width:] = state.h
        codes.append(state.code)
    classes = torch.stack(codes)
    features[0, :, width:] = start.h
    features[..., :width].unflatten(-1, shape).scatter_(-1, classes.unsqueeze(-1), 1.0)
    # No step depends on rewards and ends, so all are computed at once.
    with torch.autocast(features.device.type, enabled=False):
        rewards, _, ends = stepper.outcome(features[1:, :, width:].flatten(0, 1))
    taken = torch.stack(actions)
    return Rollout(
        features,
        taken,
        rewards.view(taken.shape),
        ends.view(taken.shape) > 0.0,
        classes,
        width,
    )
