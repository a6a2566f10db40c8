"""STORM's actor–critic, trained in imagination alone.

Actor and critic read the features s_t = [z_t, h_{t−1}]. Sources:

- STORM (Zhang et al., 2023, arXiv:2310.09615, agent learning, from eq. 6): the whole agent.
- DreamerV3 (Hafner et al., 2023, arXiv:2301.04104, actor–critic learning), from which STORM takes
  the symlog two-hot critic, its slow copy, and the percentile range that divides advantages.
- REINFORCE (Williams, 1992): the gradient of the actor.
- PPO (Schulman et al., 2017, arXiv:1707.06347, eq. 7): the clipped gradient of the actor, where it
  takes several steps on one rollout. STORM takes one.

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
from glam_agents.steps import (
    Inputs,
    Targets,
    lambda_returns,
    mean_alive,
    of_actions,
    read_heads,
)
from glam_env.checks import require_ranges
from glam_env.fast.precision import autocast
from glam_env.model.distributions import (
    SymlogTwoHot,
    categorical_entropy,
    embed_codes,
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
        epochs: how often an update goes through the steps of its rollout.
        minibatches: into how many parts it divides them each time, at random; each part is a step
            of Adam.
        clip: largest change of an action's probability, as a share of it, that the actor is
            rewarded for in one update. In the first step of Adam there is none.
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
    epochs: int = 1
    minibatches: int = 1
    clip: float = 0.2

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
                "epochs": "[1, 1024]",
                "minibatches": "[1, 1024]",
                "clip": "(0, inf)",
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
        hidden=16,
        learning_rate=3e-4,
        entropy=3e-3,
        expected_value=True,
        autocast=False,
        epochs=2,
        minibatches=2,
    ),
}
"""The agent's part of the presets of ``glam_env.training.presets``."""


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
        """Return :meth:`act` as a function of codes z_t and h_{t−1}.

        The first layer is laid out to read codes instead of one-hot vectors.
        """
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
        inputs = Inputs.of(rollout)
        action_logits, value_logits = read_heads(inputs, self.actor, self.critic)
        targets, about = self._targets(rollout, inputs, action_logits, value_logits)
        loss, metrics = self._loss(action_logits[:-1], value_logits[:-1], targets, clip=None)
        return loss, metrics | about

    @torch.no_grad()
    def _targets(
        self, rollout: Rollout, inputs: Inputs, action_logits: Tensor, value_logits: Tensor
    ) -> tuple[Targets, dict[str, Tensor]]:
        """Return the targets of a rollout, M = (H, N), and figures about it.

        Args:
            rollout: H steps of N dreams.
            inputs: Inputs for the rollout.
            action_logits: (H+1, N, A).
            value_logits: (H+1, N, bins).
        """
        c, actions, terminated = self.config, rollout.actions, rollout.terminated
        values = self.value_code.mean(value_logits)  # (H+1, N)
        slow_values = self.value_code.mean(*read_heads(inputs, self.slow_critic))
        returns = lambda_returns(rollout.rewards, values, terminated, c.gamma, c.lambda_)
        slow_returns = lambda_returns(rollout.rewards, slow_values, terminated, c.gamma, c.lambda_)
        self.value_code.see(torch.stack([returns, slow_returns]))
        # Steps after the end of a life do not count.
        over = torch.cumsum(terminated, 0) - terminated.long()  # (H, N), ends before step t
        alive = (over == 0).float()
        lived = returns.masked_fill(over > 0, float("nan"))
        advantages = (returns - values[:-1]) / self._move_range(lived)
        log_probs = of_actions(action_logits[:-1].log_softmax(-1), actions)
        targets = Targets(actions, returns, slow_returns, advantages, alive, log_probs)
        return targets, {
            "dream_reward": mean_alive(rollout.rewards, alive),
            "dream_return": mean_alive(returns, alive),
            "return_range": self.return_range[1] - self.return_range[0],
        }

    def _loss(
        self, action_logits: Tensor, value_logits: Tensor, targets: Targets, clip: float | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss on M steps, and its parts.

        Args:
            action_logits: (M, A).
            value_logits: (M, bins).
            targets: Targets of these steps.
            clip: PPO's ε; None takes the gradient of the policy as it is.
        """
        alive, advantages = targets.alive, targets.advantages
        log_probs = action_logits.log_softmax(-1)
        chosen = of_actions(log_probs, targets.actions)
        if clip is None:
            gain = chosen * advantages
        else:
            ratio = (chosen - targets.log_probs).exp()
            bounded = ratio.clamp(1.0 - clip, 1.0 + clip)
            gain = torch.minimum(ratio * advantages, bounded * advantages)
        entropy = mean_alive(categorical_entropy(log_probs), alive)
        policy_loss = -mean_alive(gain, alive)
        losses = self.value_code.losses(value_logits, targets.returns, targets.slow_returns)
        value_loss, slow_loss = (mean_alive(each, alive) for each in losses)
        loss = policy_loss + value_loss + slow_loss - self.config.entropy * entropy
        return loss, {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": entropy.detach(),
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
        """Take the steps of Adam on a rollout, and move the slow critic.

        Returns:
            Detached scalars; with several steps, the parts of the loss are their means.
        """
        c, device = self.config, rollout.features.device
        if c.epochs == c.minibatches == 1:
            with autocast(device, c.autocast):
                loss, metrics = self.loss(rollout)
            self._step_optimizer(loss)
        else:
            metrics = self._update_in_parts(rollout)
        with torch.no_grad():
            pairs = zip(self.slow_critic.parameters(), self.critic.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, 1.0 - c.slow_decay)
        return metrics

    def _update_in_parts(self, rollout: Rollout) -> dict[str, Tensor]:
        """Update on random parts of a rollout.

        The rollout is gone through ``epochs`` times, in ``minibatches`` random parts each time.
        """
        c, inputs, parts = self.config, Inputs.of(rollout), []
        with torch.no_grad(), autocast(rollout.features.device, c.autocast):
            action_logits, value_logits = read_heads(inputs, self.actor, self.critic)
            targets, about = self._targets(rollout, inputs, action_logits, value_logits)
        flat = [part.flatten() for part in targets]
        for _ in range(c.epochs):
            # Not randperm, which a CUDA graph cannot hold.
            order = torch.rand(flat[0].shape, device=flat[0].device).argsort()
            for rows in order.chunk(c.minibatches):
                with autocast(rollout.features.device, c.autocast):
                    action_logits, value_logits = read_heads(
                        inputs.take(rows), self.actor, self.critic
                    )
                    some = Targets(*(part[rows] for part in flat))
                    loss, metrics = self._loss(action_logits, value_logits, some, c.clip)
                self._step_optimizer(loss)
                parts.append(metrics)
        means = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        return means | about

    def _step_optimizer(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)
        self.optimizer.step()

    def scale_learning_rate(self, factor: float) -> None:
        """Set the learning rate to ``factor`` times that of the config."""
        for group in self.optimizer.param_groups:
            rate = factor * self.config.learning_rate
            if isinstance(group["lr"], Tensor):  # a CUDA graph reads it from this tensor
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def set_usual_reward(self, size: float) -> None:
        """Set the unit of ``range_floor``, if the config has ``relative_floor``."""
        if self.config.relative_floor:
            self._floor.fill_(self.config.range_floor * size)

    def set_capturable(self, capturable: bool) -> None:
        """Prepare :meth:`update` for a CUDA graph, or for single calls."""
        for group in self.optimizer.param_groups:
            group["capturable"] = capturable
            rate = float(group["lr"])
            device = group["params"][0].device
            group["lr"] = torch.tensor(rate, device=device) if capturable else rate

    def export_state(self) -> dict[str, Tensor]:
        """Return the tensors of actor and critic, without those that only learning needs."""
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
