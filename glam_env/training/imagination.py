"""Imagination: a batch of dreams under a policy, and what an agent needs to see of it."""

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

    ``features`` (H+1, N, F) float32, before each step and after the last; ``actions`` (H, N)
    int64; ``rewards`` (H, N) float32; ``terminated`` (H, N) bool: the step ended the dream's life.
    If there are ``codes`` (H+1, N, K) int64, their one-hot vectors are the features' first
    ``one_hot_width`` numbers, and an agent may read its first layer from them.
    """

    features: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    codes: Tensor | None = None
    one_hot_width: int = 0


Player = Callable[[Tensor, Tensor, torch.Generator | None], Tensor]
"""(E, K) int64 codes of z_t, (E, D) h_{t−1} and a generator to (E) int64 actions."""


class Agent(Protocol):
    """What the trainer asks of an agent that learns in imagination."""

    def act(
        self,
        features: Tensor,
        *,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(E, F) features to (E) int64 actions."""
        ...

    def player(self, one_hot_width: int) -> Player:
        """As :meth:`act`, of features that begin with so many numbers of one-hot vectors.

        It acts with the weights of now; the same generator draws the same actions, up to rounding.
        """
        ...

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """One learning step; returns detached scalars."""
        ...

    def learner_state(self) -> dict[str, Any]:
        """Everything that learning goes on from: weights, optimiser, moving statistics."""
        ...

    def load_learner_state(self, state: dict[str, Any]) -> None:
        """Goes back to a :meth:`learner_state`."""
        ...

    def export_state(self) -> dict[str, Tensor]:
        """The tensors that acting needs."""
        ...

    def load_exported(self, state: dict[str, Tensor]) -> None:
        """Goes on from an :meth:`export_state`; GlamError if it does not fit."""
        ...


@runtime_checkable
class Capturable(Protocol):
    """An agent whose ``update`` may run as a CUDA graph: static shapes, no wait for the device."""

    def set_capturable(self, capturable: bool) -> None:
        """Readies its optimisers for that, or for updates one by one."""
        ...


@torch.no_grad()
def imagine(
    world_model: WorldModel,
    agent: Agent,
    start: DreamState,
    horizon: int,
    generator: torch.Generator | None = None,
) -> Rollout:
    """Lets an agent play dreams.

    They are stepped by :func:`make_stepper` of the weights as they are now: the same draws as
    :meth:`WorldModel.step` takes, and its numbers up to rounding.

    Args:
        world_model: dreams; only its recurrent part is run, no image is drawn.
        agent: acts on the features [z_t, h_{t−1}].
        start: N dreams.
        horizon: H steps.
        generator: for the draws of latents and actions.
    """
    stepper, c = make_stepper(world_model), world_model.config  # laid out anew: weights move
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
    # Nothing on the way hangs on these: one pass for all steps.
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
