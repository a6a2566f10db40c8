"""STORM's actor–critic, trained in imagination alone.

Actor and critic read the features s_t = [z_t, h_{t−1}]. Sources:

- STORM (Zhang et al., 2023, arXiv:2310.09615, agent learning, from eq. 6): the whole agent.
- DreamerV3 (Hafner et al., 2023, arXiv:2301.04104, actor–critic learning), from which STORM takes
  the symlog two-hot critic, its slow copy, and the percentile range that divides advantages.
- REINFORCE (Williams, 1992): the gradient of the actor.

As in STORM, the policy is a plain softmax: no uniform distribution is mixed in, unlike in the
categoricals of the world model.

Symbols of shapes: H steps of imagination, N dreams, E envs, F features, A actions, K categoricals
of C classes, D width of h.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glam_agents import AgentKind
from glam_agents.base import ModuleAgent
from glam_env.checks import require_ranges
from glam_env.fast.precision import autocast
from glam_env.model.distributions import (
    SymlogTwoHot,
    categorical_entropy,
    embed_codes,
    one_hot_linear,
    sample_codes,
)
from glam_env.model.world_model import Head
from glam_env.training.imagination import Player, Rollout

RETURN_QUANTILES = (0.05, 0.95)


@dataclass(frozen=True)
class StormConfig:
    """Hyperparameters; the defaults are STORM's.

    Attributes:
        hidden: width of both hidden layers, of actor and critic.
        gamma: discount γ.
        lambda_: λ of the λ-returns.
        entropy: weight of the entropy bonus, in nats.
        learning_rate: learning rate of Adam.
        adam_eps: ε of Adam.
        gradient_clip: largest norm of the gradient.
        slow_decay: decay of the slow critic's moving average, per update.
        range_decay: decay of the moving percentiles of the returns, per update.
        range_floor: smallest number that advantages are divided by, in points, or in usual
            rewards with ``relative_floor``.
        value_bins: bins of the critic, on [−20, 20] symlog.
        expected_value: whether a value is the expected value over the range of returns that were
            seen; otherwise, as in STORM, the mean is taken in symlog space.
        autocast: run the networks in bfloat16 where the hardware is faster with it. Losses and
            returns stay in float32.
        relative_floor: whether ``range_floor`` counts in usual rewards: the mean size of the
            game's rewards other than 0. Where a game pays hundreds of points and seldom, returns
            of dreams that predict no reward range over less than a point, all of it noise.
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
    expected_value: bool = False
    autocast: bool = True
    relative_floor: bool = False

    def validate(self) -> None:
        """Check all values.

        Raises:
            GlamError: a value is outside of its range.
        """
        require_ranges(
            self,
            {
                "hidden": "[1, 16384]",
                "gamma": "[0, 1]",
                "lambda_": "[0, 1]",
                "entropy": "[0, inf)",
                "learning_rate": "(0, inf)",
                "adam_eps": "(0, inf)",
                "gradient_clip": "(0, inf)",
                "slow_decay": "[0, 1)",
                "range_decay": "[0, 1)",
                "range_floor": "(0, inf)",
                "value_bins": "[2, 65536]",
            },
            "agent.",
        )


AGENT_PRESETS: dict[str, StormConfig] = {
    "paper": StormConfig(),
    # A tenth of the paper's updates: each must do more. A narrower network costs half of them.
    "small": StormConfig(
        hidden=256,
        learning_rate=1e-3,
        entropy=3e-3,
        range_floor=0.2,
        expected_value=True,
        relative_floor=True,
    ),
    "debug": StormConfig(
        hidden=16, learning_rate=3e-4, entropy=3e-3, expected_value=True, autocast=False
    ),
}
"""The agent's part of the presets of ``glam_env.training.presets``."""


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


def _read(rollout: Rollout, *heads: Head) -> list[Tensor]:
    """Return each head's output, (H+1, N, …), on all features of a rollout."""
    if rollout.codes is None:
        return [head(rollout.features) for head in heads]
    # The first layers run side by side: the codes are looked up, and sorted, once.
    weights: list[Tensor] = [next(head.layers.parameters()) for head in heads]
    rest = rollout.features[..., rollout.one_hot_width :]  # (H+1, N, D)
    first = one_hot_linear(torch.cat(weights), rollout.codes, rest)
    parts = first.split([len(weight) for weight in weights], -1)
    return [head.after_first(part) for head, part in zip(heads, parts, strict=True)]


class ActorCritic(ModuleAgent):
    """STORM's agent.

    Args:
        config: hyperparameters.
        feature_dim: F, width of the features.
        num_actions: A.
    """

    return_range: Tensor
    _quantiles: Tensor
    _floor: Tensor

    def __init__(self, config: StormConfig, feature_dim: int, num_actions: int) -> None:
        super().__init__()
        self.config = config
        self.actor = Head(feature_dim, config.hidden, num_actions, zero=True)
        self.critic = Head(feature_dim, config.hidden, config.value_bins, zero=True)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.value_code = SymlogTwoHot(config.value_bins, expected=config.expected_value)
        # Moving 5th and 95th percentile of the returns; NaN until the first update sets them.
        self.register_buffer("return_range", torch.full((2,), float("nan")))
        self.register_buffer("_quantiles", torch.tensor(RETURN_QUANTILES), persistent=False)
        # A tensor: a CUDA graph reads it again in each update.
        self.register_buffer("_floor", torch.tensor(config.range_floor), persistent=False)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Make Adam for actor and critic."""
        return torch.optim.Adam(
            [*self.actor.parameters(), *self.critic.parameters()],
            lr=self.config.learning_rate,
            eps=self.config.adam_eps,
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
        """Choose actions; see :meth:`ModuleAgent.act`."""
        logits = self.actor(features)  # (E, A)
        return sample_codes(logits, temperature=0.0 if greedy else 1.0, generator=generator)

    def player(self, one_hot_width: int) -> Player:
        """Return :meth:`act` with the first layer laid out to read codes instead of one-hots."""
        first, *_ = self.actor.layers
        assert isinstance(first, nn.Linear)
        table = first.weight[:, :one_hot_width].T.contiguous()  # (K·C, hidden)
        others = first.weight[:, one_hot_width:].T  # (D, hidden)

        @torch.no_grad()
        def act(code: Tensor, h: Tensor, generator: torch.Generator | None) -> Tensor:
            x = torch.addmm(embed_codes(table, code), h, others)
            return sample_codes(self.actor.after_first(x), generator=generator)

        return act

    def value(self, features: Tensor) -> Tensor:
        """Return the values, (...) float32, of (..., F) features."""
        return self.value_code.mean(self.critic(features))

    def loss(self, rollout: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of actor and critic; move the percentiles of the returns.

        With advantages A_t = (R_t − V_t) / max(floor, S), S the moving range of the returns, and
        R' the returns under the slow critic, the loss is the mean over the steps of living dreams
        of −A_t log π(a_t | s_t) − η H(π(· | s_t)) + CE(V_t, R_t) + CE(V_t, R'_t), where CE is the
        cross-entropy to the two-hot code of the target.

        Returns:
            The loss (scalar), and detached scalars.
        """
        c = self.config
        action_logits, value_logits = _read(rollout, self.actor, self.critic)
        log_probs = action_logits[:-1].log_softmax(-1)  # (H, N, A)
        with torch.no_grad():
            values = self.value_code.mean(value_logits)  # (H+1, N)
            slow_values = self.value_code.mean(*_read(rollout, self.slow_critic))
            rewards, terminated = rollout.rewards, rollout.terminated
            returns = lambda_returns(rewards, values, terminated, c.gamma, c.lambda_)
            slow_returns = lambda_returns(rewards, slow_values, terminated, c.gamma, c.lambda_)
            self.value_code.see(torch.stack([returns, slow_returns]))
            # Steps after the end of a life count for nothing.
            over = torch.cumsum(terminated, 0) - terminated.long()  # (H, N), ends before step t
            alive = (over == 0).float()
            lived = returns.masked_fill(over > 0, float("nan"))
            advantage = (returns - values[:-1]) / self._move_range(lived)

        def mean(x: Tensor) -> Tensor:
            return (alive * x).sum() / alive.sum()

        chosen = log_probs.gather(-1, rollout.actions.unsqueeze(-1)).squeeze(-1)  # (H, N)
        entropy = mean(categorical_entropy(log_probs))
        policy_loss = -mean(chosen * advantage)
        losses = self.value_code.losses(value_logits[:-1], returns, slow_returns)
        value_loss, slow_loss = map(mean, losses)
        loss = policy_loss + value_loss + slow_loss - c.entropy * entropy
        return loss, {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": entropy.detach(),
            "dream_reward": mean(rewards),
            "dream_return": mean(returns),
            "return_range": self.return_range[1] - self.return_range[0],
        }

    def _move_range(self, returns: Tensor) -> Tensor:
        """Move the percentiles towards those of ``returns``; return max(floor, S).

        Args:
            returns: (H, N); NaN where a step does not count.
        """
        now = torch.nanquantile(returns.flatten(), self._quantiles)
        decay = self.config.range_decay
        moved = torch.where(
            self.return_range.isnan(), now, decay * self.return_range + (1 - decay) * now
        )
        self.return_range.copy_(moved)
        return torch.maximum(moved[1] - moved[0], self._floor)

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """Take one step of Adam on :meth:`loss`, and move the slow critic."""
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

    def scale_learning_rate(self, factor: float) -> None:
        """Set the learning rate to ``factor`` times that of the config."""
        for group in self.optimizer.param_groups:
            rate = factor * self.config.learning_rate
            if isinstance(group["lr"], Tensor):  # of a graph, which reads it from there
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def set_usual_reward(self, size: float) -> None:
        """Set what ``relative_floor`` counts in."""
        if self.config.relative_floor:
            self._floor.fill_(self.config.range_floor * size)

    def set_capturable(self, capturable: bool) -> None:
        """Make :meth:`update` fit for a CUDA graph, or for single calls."""
        for group in self.optimizer.param_groups:
            group["capturable"] = capturable
            rate = float(group["lr"])
            device = group["params"][0].device
            group["lr"] = torch.tensor(rate, device=device) if capturable else rate

    def export_state(self) -> dict[str, Tensor]:
        """Return the tensors of actor and critic, without what only learning needs."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if name.startswith(("actor.", "critic.", "value_code."))
        }

    def load_exported(self, state: Mapping[str, Tensor]) -> None:
        """Load an :meth:`export_state`; the slow critic becomes a copy of the critic.

        Raises:
            GlamError: a tensor is missing, unknown or of another shape.
        """
        super().load_exported(state)
        self.slow_critic.load_state_dict(self.critic.state_dict())


STORM = AgentKind(
    name="storm",
    config=StormConfig,
    make=ActorCritic,
    presets=AGENT_PRESETS,
    sizes=("hidden", "value_bins"),
)
"""The entry in :data:`glam_agents.AGENTS`."""
