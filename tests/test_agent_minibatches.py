"""Several steps of Adam on one rollout: PPO's clipped gradient, in random minibatches."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from glam_agents.storm import ActorCritic, StormConfig, lambda_returns
from torch import Tensor

from glam_env.errors import GlamError
from glam_env.training.imagination import Rollout

FEATURES, ACTIONS, BINS = 6, 3, 41
CONFIG = StormConfig(
    hidden=16, value_bins=BINS, learning_rate=3e-2, entropy=0.05, autocast=False, adam_eps=1e-3
)


def make_agent(**changes) -> ActorCritic:
    torch.manual_seed(1)
    agent = ActorCritic(replace(CONFIG, **changes), FEATURES, ACTIONS)
    with torch.no_grad():  # actor and critic start with outputs of zero
        for head in (agent.actor, agent.critic, agent.slow_critic):
            head.layers[-1].weight.normal_(0.0, 0.3)
    return agent


def make_rollout(horizon: int = 5, dreams: int = 8, seed: int = 0, ends: float = 0.2) -> Rollout:
    g = torch.Generator().manual_seed(seed)
    return Rollout(
        torch.randn(horizon + 1, dreams, FEATURES, generator=g),
        torch.randint(ACTIONS, (horizon, dreams), generator=g),
        2.0 * torch.randn(horizon, dreams, generator=g),
        torch.rand(horizon, dreams, generator=g) < ends,
    )


def weights_of(*modules: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().double().flatten() for m in modules for p in m.parameters()])


def two_hot(targets: Tensor) -> Tensor:
    """Return the (…, BINS) float64 codes of targets, a number at a time."""
    codes = torch.zeros(*targets.shape, BINS, dtype=torch.float64)
    for place in np.ndindex(*targets.shape):
        target = float(targets[place])
        at = (np.sign(target) * np.log1p(abs(target)) + 20.0) / 40.0 * (BINS - 1)
        low = int(np.floor(at))
        codes[place][low], codes[place][low + 1] = 1.0 - (at - low), at - low
    return codes


def learn_by_definition(agent: ActorCritic, rollout: Rollout, epochs: int) -> tuple[Tensor, int]:
    """Take PPO's steps on a whole rollout in float64.

    Returns:
        The weights of actor and critic after them, and how many actions of living steps the clip
        held back in the last step.
    """
    c, held = agent.config, 0
    actor, critic = copy.deepcopy(agent.actor).double(), copy.deepcopy(agent.critic).double()
    slow = copy.deepcopy(agent.slow_critic).double()
    centres = torch.linspace(-20.0, 20.0, BINS, dtype=torch.float64)
    features, ended = rollout.features.double(), rollout.terminated

    def value(logits: Tensor) -> Tensor:
        mean = logits.double().softmax(-1) @ centres
        return mean.sign() * mean.abs().expm1()

    with torch.no_grad():
        values = value(critic(features))
        returns = lambda_returns(rollout.rewards, values, ended, c.gamma, c.lambda_).double()
        regular = lambda_returns(rollout.rewards, value(slow(features)), ended, c.gamma, c.lambda_)
        living = torch.tensor(np.cumsum(ended.numpy(), 0) - ended.numpy() == 0)
        low, high = np.quantile(returns[living], [0.05, 0.95])
        advantages = (returns - values[:-1]) / max(c.range_floor, high - low)
        goal, slow_goal = two_hot(returns), two_hot(regular)
        log_probs = actor(features[:-1]).double().log_softmax(-1)
        old = log_probs.gather(-1, rollout.actions[..., None])[..., 0]
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=c.learning_rate, eps=c.adam_eps)
    for _ in range(epochs):
        log_probs = actor(features[:-1]).double().log_softmax(-1)
        ratio = (log_probs.gather(-1, rollout.actions[..., None])[..., 0] - old).exp()
        too_far = torch.where(advantages > 0, ratio > 1 + c.clip, ratio < 1 - c.clip)
        # Where the policy has moved far enough to its gain, the gain is constant.
        gain = torch.where(too_far, 0.0, ratio * advantages)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        value_log_probs = critic(features[:-1]).double().log_softmax(-1)
        losses = -((goal + slow_goal) * value_log_probs).sum(-1)
        loss = (losses - gain - c.entropy * entropy)[living].mean()
        optimizer.zero_grad()
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(parameters, 1e9) < c.gradient_clip
        optimizer.step()
        held = int((too_far & living).sum())
    return weights_of(actor, critic), held


@pytest.mark.parametrize("clip", [0.05, 0.2])
def test_epochs_are_ppo_s_steps(clip):
    agent, rollout = make_agent(epochs=4, clip=clip), make_rollout()
    wanted, held = learn_by_definition(agent, rollout, 4)
    before = weights_of(agent.actor, agent.critic)
    metrics = agent.update(rollout)
    assert held > 3  # so that the clip matters
    found = weights_of(agent.actor, agent.critic)
    assert (found - before).abs().max() > 0.05
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0.0)
    assert set(metrics) >= {"policy_loss", "value_loss", "entropy", "dream_return", "return_range"}
    assert all(each.ndim == 0 and not each.requires_grad for each in metrics.values())


def test_one_step_of_two_epochs_is_storm_s(monkeypatch):
    """The first step on a rollout has STORM's gradient: no probability has changed yet."""
    gradients = []
    for epochs in (1, 2):
        agent = make_agent(epochs=epochs)
        step = ActorCritic._step_optimizer

        def keep(self, loss, step=step):
            step(self, loss)
            parameters = [*self.actor.parameters(), *self.critic.parameters()]
            gradients.append(torch.cat([p.grad.flatten() for p in parameters]))

        with monkeypatch.context() as patch:
            patch.setattr(ActorCritic, "_step_optimizer", keep)
            agent.update(make_rollout())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)
    assert len(gradients) == 3


def test_each_epoch_learns_each_step_once(monkeypatch):
    seen: list[Tensor] = []
    loss = ActorCritic._loss

    def look(self, action_logits, value_logits, targets, clip):
        seen.append(targets.returns)
        assert len(action_logits) == len(value_logits) == len(targets.actions)
        return loss(self, action_logits, value_logits, targets, clip)

    monkeypatch.setattr(ActorCritic, "_loss", look)
    agent, rollout = make_agent(epochs=2, minibatches=3), make_rollout(5, 7)
    torch.manual_seed(0)
    agent.update(rollout)
    assert [len(part) for part in seen] == [12, 12, 11] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)
    assert len(first.unique()) == 35


@pytest.mark.parametrize("minibatches", [1, 3])
def test_steps_after_an_end_do_not_count(minibatches):
    before = make_rollout(6, 8, seed=3, ends=0.3)
    over = (torch.cumsum(before.terminated, 0) - before.terminated.long()) > 0
    assert over.any()
    after = before._replace(
        rewards=torch.where(over, before.rewards + 0.5, before.rewards),
        actions=torch.where(over, (before.actions + 1) % ACTIONS, before.actions),
        terminated=before.terminated & ~over,
    )
    results = []
    for rollout in (before, after):
        agent = make_agent(epochs=2, minibatches=minibatches)
        torch.manual_seed(5)
        agent.update(rollout)
        results.append(weights_of(agent.actor, agent.critic))
    torch.testing.assert_close(results[0], results[1])


def test_codes_teach_what_features_do():
    rollout = make_rollout()
    codes = torch.randint(2, (*rollout.features.shape[:2], 2), generator=torch.Generator())
    hot = torch.nn.functional.one_hot(codes, 2).flatten(-2).float()
    features = torch.cat([hot, rollout.features[..., 4:]], -1)
    learned = []
    for given in (
        rollout._replace(features=features),
        rollout._replace(features=features, codes=codes, one_hot_width=4),
    ):
        agent = make_agent(epochs=2, minibatches=2)
        torch.manual_seed(5)
        agent.update(given)
        learned.append(weights_of(agent.actor, agent.critic))
    torch.testing.assert_close(learned[0], learned[1], atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("autocast", [False, True])
def test_rewarded_action_becomes_more_probable(autocast):
    agent = ActorCritic(
        replace(CONFIG, learning_rate=3e-3, autocast=autocast, epochs=2, minibatches=4),
        FEATURES,
        ACTIONS,
    )
    g = torch.Generator().manual_seed(0)
    features = torch.randn(5, 64, FEATURES, generator=g)
    for _ in range(30):
        actions = torch.stack([agent.act(f, generator=g) for f in features[:-1]])
        paid = (actions == 1).float()
        agent.update(Rollout(features, actions, paid, torch.zeros_like(paid, dtype=torch.bool)))
    with torch.no_grad():
        assert agent.actor(features).softmax(-1)[..., 1].min() > 0.8


@pytest.mark.parametrize("change", [{"epochs": 0}, {"minibatches": 0}, {"clip": 0.0}])
def test_impossible_values_are_refused(change):
    with pytest.raises(GlamError, match=next(iter(change))):
        replace(CONFIG, **change).validate()
