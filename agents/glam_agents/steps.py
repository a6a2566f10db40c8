"""The steps of a rollout, as inputs and targets of an agent's networks.

Symbols of shapes: H steps of imagination, N dreams, A actions, K categoricals, D width of the other
features; M stands for any leading dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from glam_env.model.distributions import one_hot_linear
from glam_env.model.world_model import Head
from glam_env.training.imagination import Rollout


def lambda_returns(
    rewards: Tensor, values: Tensor, terminated: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """Compute λ-returns, in float32.

    R_t = r_t + γ c_t ((1 − λ) V_{t+1} + λ R_{t+1}) with R_H = V_H and c_t = 0 where step t ended
    the life, else 1.

    Args:
        rewards: (H, N); r_t follows the action at t.
        values: (H+1, N); V_t is the value of the features at t.
        terminated: (H, N) bool.
        gamma: γ.
        lambda_: λ.

    Returns:
        (H, N) float32.
    """
    rewards, values = rewards.float(), values.float()
    discount = gamma * (~terminated).float()
    target, returns = values[-1], []
    for t in range(len(rewards) - 1, -1, -1):
        target = rewards[t] + discount[t] * ((1 - lambda_) * values[t + 1] + lambda_ * target)
        returns.append(target)
    return torch.stack(returns[::-1])


def mean_alive(x: Tensor, alive: Tensor) -> Tensor:
    """Return the mean of (M) values over the (M) steps that are alive."""
    return (alive * x).sum() / alive.sum().clamp_min(1.0)


def of_actions(log_probs: Tensor, actions: Tensor) -> Tensor:
    """Return the log-probabilities of (M) actions, from (M, A) of all actions."""
    return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


class Inputs(NamedTuple):
    """Inputs of the networks for M steps.

    Attributes:
        codes: (M, K) int64, the classes of z, or None.
        rest: (M, D), the features that are not one-hot vectors of the codes; all features if
            ``codes`` is None.
    """

    codes: Tensor | None
    rest: Tensor

    @classmethod
    def of(cls, rollout: Rollout) -> Inputs:
        """Return the inputs for a rollout, M = (H+1, N)."""
        if rollout.codes is None:
            return cls(None, rollout.features)
        return cls(rollout.codes, rollout.features[..., rollout.one_hot_width :])

    def take(self, rows: Tensor) -> Inputs:
        """Return the inputs for some rows of the H·N steps.

        These are the (H+1, N) steps without the last one of each dream.

        Args:
            rows: (B) int64.
        """
        parts = (None if part is None else part[:-1].flatten(0, 1)[rows] for part in self)
        return Inputs(*parts)  # type: ignore[arg-type]


class Targets(NamedTuple):
    """Targets of actor and critic for M steps.

    Each is (M) float32, except for the actions.

    Attributes:
        actions: (M) int64.
        returns: λ-returns.
        slow_returns: λ-returns under the slow critic.
        advantages: advantages, divided by the range of the returns.
        alive: 1, or 0 for steps after the end of a life, which do not count.
        log_probs: log-probabilities of the actions when they were taken.
    """

    actions: Tensor
    returns: Tensor
    slow_returns: Tensor
    advantages: Tensor
    alive: Tensor
    log_probs: Tensor


def read_heads(inputs: Inputs, *heads: Head) -> list[Tensor]:
    """Return each head's output, (M, …)."""
    if inputs.codes is None:
        return [head(inputs.rest) for head in heads]
    # The first layers run as one, so that the codes are looked up, and sorted, once.
    weights: list[Tensor] = [next(head.layers.parameters()) for head in heads]
    first = one_hot_linear(torch.cat(weights), inputs.codes, inputs.rest)
    parts = first.split([len(weight) for weight in weights], -1)
    return [head.after_first(part) for head, part in zip(heads, parts, strict=True)]
