"""STORM's actor–critic (model.md § 4), trained in imagination alone.

Actor and critic read the features [z_t, h_{t−1}]. The critic is a symlog two-hot distribution
with a slow copy as regulariser; the actor learns by REINFORCE on advantages that are divided by
the moving 5–95 percentile range of the returns (DreamerV3), with an entropy bonus. The policy is a
plain softmax: the 1 % uniform of the model's categoricals is not mixed into it, as in STORM.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glam_env.errors import GlamError
from glam_env.fast.precision import autocast
from glam_env.model.distributions import (
    SymlogTwoHot,
    categorical_entropy,
    one_hot_linear,
    sample_codes,
)
from glam_env.model.world_model import Head
from glam_env.training.imagination import Player, Rollout


@dataclass(frozen=True)
class AgentConfig:
    """The actor–critic; the defaults are STORM's.

    Attributes:
        hidden: width of both hidden layers.
        gamma, lambda_: discount and λ of the returns.
        entropy: weight of the entropy bonus (nats).
        learning_rate, adam_eps, gradient_clip: of Adam.
        slow_decay: of the slow critic's moving average, a step.
        range_decay: of the moving percentiles, a step.
        range_floor: what the range of the returns counts as if it is less.
        value_bins: bins of the critic on [−20, 20] symlog.
        autocast: bfloat16 for the networks where the hardware is faster with it; losses and
            returns stay in float32.
    """

    hidden: int = 512
    gamma: float = 0.985
    lambda_: float = 0.95
    entropy: float = 3e-4
    learning_rate: float = 3e-5
    adam_eps: float = 1e-5
    gradient_clip: float = 100.0
    slow_decay: float = 0.98
    range_decay: float = 0.99
    range_floor: float = 1.0
    value_bins: int = 255
    autocast: bool = True


AGENT_PRESETS: dict[str, AgentConfig] = {
    "paper": AgentConfig(),
    # A tenth of the paper's updates: each must do more. A narrower network costs half of them.
    "small": AgentConfig(hidden=256, learning_rate=3e-4, entropy=1e-3, range_floor=0.2),
    "debug": AgentConfig(hidden=16, learning_rate=3e-4, entropy=3e-3, autocast=False),
}
"""The agent's part of the presets of ``glam_env.training.presets``."""


def lambda_returns(
    rewards: Tensor, values: Tensor, terminated: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """R_t = r_t + γ c_t ((1 − λ) V_{t+1} + λ R_{t+1}), R_H = V_H, in float32.

    Args:
        rewards: (H, N); r_t follows the action at t.
        values: (H+1, N); V_t is the value on seeing step t.
        terminated: (H, N) bool; c_t = 0 where true.

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


def _read(rollout: Rollout, *heads: Head) -> list[Tensor]:
    """Each head's output (H+1, N, …) on all features of a rollout."""
    if rollout.codes is None:
        return [head(rollout.features) for head in heads]
    # The first layers go side by side: the codes are then looked up, and sorted, once.
    weights: list[Tensor] = [next(head.layers.parameters()) for head in heads]
    rest = rollout.features[..., rollout.one_hot_width :]
    first = one_hot_linear(torch.cat(weights), rollout.codes, rest)
    parts = first.split([len(weight) for weight in weights], -1)
    return [head.after_first(part) for head, part in zip(heads, parts, strict=True)]


class ActorCritic(nn.Module):
    """The bundled agent.

    Args:
        config: hyperparameters.
        feature_dim: F, width of the features.
        num_actions: A.
    """

    return_range: Tensor
    _quantiles: Tensor

    def __init__(self, config: AgentConfig, feature_dim: int, num_actions: int) -> None:
        super().__init__()
        self.config = config
        self.actor = Head(feature_dim, config.hidden, num_actions, zero=True)
        self.critic = Head(feature_dim, config.hidden, config.value_bins, zero=True)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.value_code = SymlogTwoHot(config.value_bins)
        # Moving 5th and 95th percentile of the returns; NaN until the first update sets them.
        self.register_buffer("return_range", torch.full((2,), float("nan")))
        self.register_buffer("_quantiles", torch.tensor([0.05, 0.95]), persistent=False)
        self.optimizer = torch.optim.Adam(
            [*self.actor.parameters(), *self.critic.parameters()],
            lr=config.learning_rate,
            eps=config.adam_eps,
            fused=True,
        )

    @torch.no_grad()
    def act(
        self,
        features: Tensor,
        *,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(E, F) features to (E) int64 actions, sampled unless ``greedy``."""
        logits = self.actor(features)
        return sample_codes(logits, temperature=0.0 if greedy else 1.0, generator=generator)

    def player(self, one_hot_width: int) -> Player:
        """:meth:`act` for many steps of dreams, with the first layer laid out to read codes."""
        first, *_ = self.actor.layers
        assert isinstance(first, nn.Linear)
        table = first.weight[:, :one_hot_width].T.contiguous()
        others = first.weight[:, one_hot_width:].T

        @torch.no_grad()
        def act(code: Tensor, h: Tensor, generator: torch.Generator | None) -> Tensor:
            count = code.shape[-1]
            places = torch.arange(0, one_hot_width, one_hot_width // count, device=code.device)
            x = torch.addmm(F.embedding_bag(code + places, table, mode="sum"), h, others)
            return sample_codes(self.actor.after_first(x), generator=generator)

        return act

    def value(self, features: Tensor) -> Tensor:
        """(..., F) features to (...) float32 values."""
        return self.value_code.mean(self.critic(features))

    def loss(self, rollout: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """Actor and critic loss of a rollout; moves the percentiles along.

        Returns:
            The loss (scalar) and detached scalars.
        """
        c = self.config
        action_logits, value_logits = _read(rollout, self.actor, self.critic)
        log_probs = action_logits[:-1].log_softmax(-1)
        with torch.no_grad():
            values = self.value_code.mean(value_logits)
            slow_values = self.value_code.mean(*_read(rollout, self.slow_critic))
            ends = (rollout.rewards, rollout.terminated)
            returns = lambda_returns(ends[0], values, ends[1], c.gamma, c.lambda_)
            slow_returns = lambda_returns(ends[0], slow_values, ends[1], c.gamma, c.lambda_)
            # What a dream goes on to show after its end has not happened.
            over = torch.cumsum(rollout.terminated, 0) - rollout.terminated.long()
            alive = (over == 0).float()
            lived = returns.masked_fill(over > 0, float("nan"))
            advantage = (returns - values[:-1]) / self._move_range(lived)

        def mean(x: Tensor) -> Tensor:
            return (alive * x).sum() / alive.sum()

        chosen = log_probs.gather(-1, rollout.actions.unsqueeze(-1)).squeeze(-1)
        entropy = mean(categorical_entropy(log_probs))
        policy_loss = -mean(chosen * advantage)
        losses = self.value_code.losses(value_logits[:-1], returns, slow_returns)
        value_loss, slow_loss = map(mean, losses)
        loss = policy_loss + value_loss + slow_loss - c.entropy * entropy
        return loss, {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": entropy.detach(),
            "dream_reward": mean(rollout.rewards),
            "dream_return": mean(returns),
            "return_range": self.return_range[1] - self.return_range[0],
        }

    def _move_range(self, returns: Tensor) -> Tensor:
        """Moves the percentiles towards those of returns (NaN: none); the divisor max(floor, S)."""
        now = torch.nanquantile(returns.flatten(), self._quantiles)
        decay = self.config.range_decay
        moved = torch.where(
            self.return_range.isnan(), now, decay * self.return_range + (1 - decay) * now
        )
        self.return_range.copy_(moved)
        return (moved[1] - moved[0]).clamp_min(self.config.range_floor)

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """One step of Adam on :meth:`loss`; the slow critic follows."""
        with autocast(rollout.features.device, self.config.autocast):
            loss, metrics = self.loss(rollout)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)
        self.optimizer.step()
        with torch.no_grad():
            pairs = zip(self.slow_critic.parameters(), self.critic.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, 1.0 - self.config.slow_decay)
        return metrics

    def set_capturable(self, capturable: bool) -> None:
        """Readies :meth:`update` for a CUDA graph, or for none."""
        for group in self.optimizer.param_groups:
            group["capturable"] = capturable

    def learner_state(self) -> dict[str, Any]:
        """Weights, moving statistics and optimiser."""
        return {"agent": self.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_learner_state(self, state: dict[str, Any]) -> None:
        """Goes back to a :meth:`learner_state`."""
        self.load_state_dict(state["agent"])
        self.optimizer.load_state_dict(state["optimizer"])

    def export_state(self) -> dict[str, Tensor]:
        """Actor and critic, without what only learning needs."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if name.startswith(("actor.", "critic."))
        }

    def load_exported(self, state: dict[str, Tensor]) -> None:
        """Goes on from an :meth:`export_state`: the slow critic is a copy, statistics begin anew.

        Raises:
            GlamError: tensors that do not fit.
        """
        own = {k: v for k, v in self.state_dict().items() if k not in self.export_state()}
        try:
            self.load_state_dict(own | state)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise GlamError(
                f"the checkpoint's agent does not fit: {reason}; export it anew"
            ) from error
        self.slow_critic.load_state_dict(self.critic.state_dict())

    @classmethod
    def from_export(
        cls, config: Mapping[str, Any], state: dict[str, Tensor], feature_dim: int, num_actions: int
    ) -> ActorCritic:
        """The agent of a checkpoint folder, ready to act.

        Args:
            config: the ``agent`` part of config.json: ``class`` and the fields of
                :class:`AgentConfig`.
            state: of :meth:`export_state`.
            feature_dim, num_actions: of the world model that it lives in.

        Raises:
            GlamError: another class, unknown fields, or tensors that do not fit.
        """
        fields = dict(config)
        if fields.pop("class", None) != "storm":
            raise GlamError(f"agent class {config.get('class')!r} is unknown; known: 'storm'")
        try:
            agent = cls(AgentConfig(**fields), feature_dim, num_actions)
        except (TypeError, ValueError) as error:
            raise GlamError(
                f"the checkpoint's agent does not fit: {error}; export it anew"
            ) from error
        agent.load_exported(state)
        return agent.eval().requires_grad_(False)
