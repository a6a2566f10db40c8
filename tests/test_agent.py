"""STORM's actor–critic: its returns, its loss, its exports, and imagination."""

import copy
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from glam_agents import load_agent
from glam_agents.storm import AGENT_PRESETS, ActorCritic, StormConfig, lambda_returns
from hypothesis import example, given, settings
from hypothesis import strategies as st
from limits import limits
from torch.utils._pytree import tree_leaves

from glam_env.errors import GlamError
from glam_env.model.config import WorldModelConfig
from glam_env.model.cores.glam import GlamConfig
from glam_env.model.distributions import one_hot
from glam_env.model.world_model import WorldModel
from glam_env.training.config import HorizonConfig
from glam_env.training.imagination import Rollout, imagine
from glam_env.training.presets import PRESETS

FEATURES, ACTIONS = 6, 3
CONFIG = StormConfig(hidden=16, autocast=False)


def make_agent(config=CONFIG, **changes):
    torch.manual_seed(1)
    agent = ActorCritic(replace(config, **changes), FEATURES, ACTIONS)
    with torch.no_grad():  # actor and critic start with outputs of zero
        for head in (agent.actor, agent.critic, agent.slow_critic):
            head.layers[-1].weight.normal_(0.0, 0.3)
    return agent


def make_rollout(horizon=5, dreams=7, seed=0, ends=0.0):
    g = torch.Generator().manual_seed(seed)
    return Rollout(
        torch.randn(horizon + 1, dreams, FEATURES, generator=g),
        torch.randint(ACTIONS, (horizon, dreams), generator=g),
        torch.randn(horizon, dreams, generator=g),
        torch.rand(horizon, dreams, generator=g) < ends,
    )


def weights_of(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# --- λ-returns ---------------------------------------------------------------------------


def returns_by_definition(rewards, values, terminated, gamma, lam):
    """Return the λ-weighted mean of all n-step returns, in float64, without recursion."""
    horizon, dreams = rewards.shape
    out = np.zeros((horizon, dreams))
    for i in range(dreams):
        for t in range(horizon):
            total, discount, n_step = 0.0, 1.0, []
            for k in range(t, horizon):
                total += discount * rewards[k, i]
                discount *= gamma * (not terminated[k, i])
                n_step.append(total + discount * values[k + 1, i])
            weights = [(1 - lam) * lam**n for n in range(len(n_step) - 1)]
            weights.append(lam ** (len(n_step) - 1))
            out[t, i] = np.dot(weights, n_step)
    return out


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(1, 12), st.integers(0, 999), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
@example(12, 0, 0.985, 0.95, 0.2)
def test_returns_are_the_mean_of_all_n_step_returns(horizon, seed, gamma, lam, ends):
    _, _, rewards, terminated = make_rollout(horizon, 4, seed, ends)[:4]
    values = 10 * torch.randn(horizon + 1, 4, generator=torch.Generator().manual_seed(seed))
    expected = returns_by_definition(
        rewards.double().numpy(), values.double().numpy(), terminated.numpy(), gamma, lam
    )
    returns = lambda_returns(rewards, values, terminated, gamma, lam)
    np.testing.assert_allclose(returns.numpy(), expected, rtol=1e-5, atol=1e-4)


def test_returns_stop_at_the_end_of_a_life():
    rewards = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    terminated = torch.tensor([[False], [True], [False], [False]])
    values = torch.full((5, 1), 100.0)
    returns = lambda_returns(rewards, values, terminated, 1.0, 1.0)
    assert returns.flatten().tolist() == [3.0, 2.0, 112.0, 108.0]


def test_returns_are_float32_for_any_input():
    _, _, rewards, terminated = make_rollout(30)[:4]
    rewards, values = rewards + 100.3, torch.full((31, 7), 20.3)
    plain = lambda_returns(rewards, values, terminated, 0.985, 0.95)
    with torch.autocast("cpu", torch.bfloat16):
        cast = lambda_returns(rewards, values, terminated, 0.985, 0.95)
    assert cast.dtype == torch.float32
    assert torch.equal(plain, cast)
    half = lambda_returns(rewards.bfloat16(), values.bfloat16(), terminated, 0.985, 0.95)
    assert half.dtype == torch.float32


# --- the loss ----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 6.0])
def test_loss_equals_its_definition(scale):
    """On both sides of max(1, S): returns that spread less than one, and more."""
    agent, rollout = make_agent(entropy=0.07), make_rollout(ends=0.2)
    rollout = rollout._replace(rewards=scale * rollout.rewards)
    with torch.no_grad():
        agent.critic.layers[-1].weight *= 0.1
        agent.slow_critic.layers[-1].weight.normal_(0.0, 0.05)
    loss, metrics = agent.loss(rollout)

    with torch.no_grad():
        probs = agent.actor(rollout.features[:-1]).double().softmax(-1).numpy()
        logits = agent.critic(rollout.features).double()
        slow_logits = agent.slow_critic(rollout.features).double()
    centres = np.linspace(-20, 20, 255)

    def values_of(logits):
        mean = logits.softmax(-1).numpy() @ centres
        return np.sign(mean) * np.expm1(np.abs(mean))

    def cross_entropy(target, log_probs):
        at = (np.sign(target) * np.log1p(abs(target)) + 20) / 40 * 254
        low = int(np.floor(at))
        return -((1 - at + low) * log_probs[low] + (at - low) * log_probs[low + 1])

    values, ended = values_of(logits), rollout.terminated.numpy()
    rewards = rollout.rewards.double().numpy()
    returns = returns_by_definition(rewards, values, ended, 0.985, 0.95)
    slow = returns_by_definition(rewards, values_of(slow_logits), ended, 0.985, 0.95)
    log_probs = logits.log_softmax(-1).numpy()
    lived = np.cumsum(ended, 0) - ended == 0
    low, high = np.quantile(returns[lived], [0.05, 0.95])
    assert (high - low > 1.0) == (scale > 1.0)
    policy, value, regulariser, entropy = [], [], [], []
    for i in range(returns.shape[1]):
        for t in range(returns.shape[0]):
            p = probs[t, i]
            advantage = (returns[t, i] - values[t, i]) / max(1.0, high - low)
            policy.append(-np.log(p[rollout.actions[t, i]]) * advantage)
            value.append(cross_entropy(returns[t, i], log_probs[t, i]))
            regulariser.append(cross_entropy(slow[t, i], log_probs[t, i]))
            entropy.append(-(p * np.log(p)).sum())
            if ended[t, i]:
                break
    assert len(policy) < returns.size  # some dreams ended early
    assert metrics["policy_loss"].item() == pytest.approx(np.mean(policy), rel=1e-3, abs=1e-5)
    assert metrics["value_loss"].item() == pytest.approx(np.mean(value), rel=1e-4)
    assert metrics["entropy"].item() == pytest.approx(np.mean(entropy), rel=1e-5)
    total = np.mean(policy) + np.mean(value) + np.mean(regulariser) - 0.07 * np.mean(entropy)
    assert loss.item() == pytest.approx(total, rel=1e-4)


def test_codes_give_the_same_loss_and_gradients_as_features():
    rollout = make_rollout(ends=0.2)
    codes = torch.randint(2, (*rollout.features.shape[:2], 2), generator=torch.Generator())
    features = torch.cat([one_hot(codes, 2).flatten(-2), rollout.features[..., 4:]], -1)
    rollout = rollout._replace(features=features, codes=codes, one_hot_width=4)
    found = []
    for read in (rollout, rollout._replace(codes=None)):
        agent = make_agent()
        loss, _ = agent.loss(read)
        loss.backward()
        found.append([loss, *(p.grad for p in agent.parameters() if p.grad is not None)])
    assert len(found[0]) > 10
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("floor", "divisor"), [(1.0, 1.0), (0.5, 0.5), (0.1, 0.3)])
def test_advantages_are_divided_by_the_range_or_its_floor(floor, divisor):
    losses = []
    for own, spread in ((floor, 0.3), (1.0, 1.0)):
        agent = make_agent(range_floor=own, range_decay=1.0)  # the range stays fixed
        agent.return_range.copy_(torch.tensor([0.0, spread]))
        losses.append(agent.loss(make_rollout())[1]["policy_loss"])
    torch.testing.assert_close(losses[0], losses[1] / divisor)


def test_a_relative_floor_counts_in_usual_rewards():
    """In other units the same game is learned alike."""
    rollout = make_rollout()
    small = rollout._replace(rewards=1e-3 * rollout.rewards)

    def policy_loss(rollout, size, floor=0.2, **changes):
        agent = make_agent(range_floor=floor, gamma=0.0, **changes)
        with torch.no_grad():
            for parameter in agent.critic.layers[-1].parameters():
                parameter.zero_()  # values of 0 in any unit
        agent.set_usual_reward(size)
        return agent.loss(rollout)[1]["policy_loss"]

    one = policy_loss(small, 1.0, relative_floor=True)
    hundred = small._replace(rewards=150.0 * small.rewards)
    torch.testing.assert_close(policy_loss(hundred, 150.0, relative_floor=True), one)
    torch.testing.assert_close(policy_loss(hundred, 150.0), policy_loss(hundred, 1.0))
    torch.testing.assert_close(policy_loss(small, 150.0), one)  # as STORM's, in points
    assert policy_loss(hundred, 150.0).abs() > 10 * one.abs() > 0.0


def test_range_of_returns_is_set_once_and_then_moves_slowly():
    agent = make_agent(range_decay=0.99)
    assert agent.return_range.isnan().all()
    first = torch.linspace(0.0, 100.0, 1001).reshape(7, 143)
    divisor = agent._move_range(first)
    torch.testing.assert_close(agent.return_range, torch.tensor([5.0, 95.0]))
    assert divisor.item() == pytest.approx(90.0, rel=1e-5)
    divisor = agent._move_range(3.0 * first)
    torch.testing.assert_close(agent.return_range, torch.tensor([5.1, 96.9]))
    assert divisor.item() == pytest.approx(91.8, rel=1e-5)
    assert make_agent()._move_range(0.001 * first).item() == 1.0


def test_steps_after_an_end_do_not_count():
    """Returns spread less than one, so that the divisor is 1 in both cases."""
    before = make_rollout(6, 8, seed=3, ends=0.3)
    before = before._replace(rewards=0.02 * before.rewards)
    over = (torch.cumsum(before.terminated, 0) - before.terminated.long()) > 0
    assert over.any()
    after = before._replace(
        rewards=torch.where(over, before.rewards + 0.05, before.rewards),
        actions=torch.where(over, (before.actions + 1) % ACTIONS, before.actions),
        terminated=before.terminated & ~over,
    )
    results = []
    for rollout in (before, after):
        agent = make_agent(entropy=0.1)
        with torch.no_grad():
            for critic in (agent.critic, agent.slow_critic):
                critic.layers[-1].weight *= 0.01
        loss, _ = agent.loss(rollout)
        loss.backward()
        assert agent.return_range[1] - agent.return_range[0] < 1.0
        gradients = [p.grad for p in agent.parameters() if p.grad is not None]
        results.append([loss.detach(), *gradients])
    torch.testing.assert_close(results[0], results[1])


# --- learning ----------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True])
def test_rewarded_action_becomes_more_probable(autocast):
    agent = ActorCritic(replace(CONFIG, learning_rate=1e-2, autocast=autocast), FEATURES, ACTIONS)
    g = torch.Generator().manual_seed(0)
    features = torch.randn(5, 64, FEATURES, generator=g)

    def probability():
        with torch.no_grad():
            return agent.actor(features).softmax(-1)[..., 1]

    assert probability().mean().item() == pytest.approx(1 / 3)
    for _ in range(40):
        actions = torch.stack([agent.act(f, generator=g) for f in features[:-1]])
        paid = (actions == 1).float()
        agent.update(Rollout(features, actions, paid, torch.zeros_like(paid, dtype=torch.bool)))
    assert probability().min() > 0.8


def test_the_critic_learns_the_value():
    agent = ActorCritic(replace(CONFIG, learning_rate=1e-2), FEATURES, ACTIONS)
    rollout = make_rollout(4, 32)
    ended = torch.ones_like(rollout.terminated)
    pays = rollout._replace(rewards=torch.full_like(rollout.rewards, 3.0), terminated=ended)
    for _ in range(150):
        agent.update(pays)
    value = agent.value(rollout.features[:-1])
    torch.testing.assert_close(value, torch.full_like(value, 3.0), atol=0.3, rtol=0.0)


def test_slow_critic_moves_by_a_fiftieth():
    agent = make_agent(learning_rate=1e-2)
    slow, fast = weights_of(agent.slow_critic), weights_of(agent.critic)
    agent.update(make_rollout())
    moved = weights_of(agent.critic)
    assert not torch.equal(moved, fast)
    torch.testing.assert_close(weights_of(agent.slow_critic), 0.98 * slow + 0.02 * moved)
    assert all(p.grad is None for p in agent.slow_critic.parameters())


def test_learning_continues_from_a_saved_state():
    agent = make_agent(learning_rate=1e-2)
    agent.update(make_rollout(seed=1))
    other = ActorCritic(agent.config, FEATURES, ACTIONS)
    other.load_learner_state(copy.deepcopy(agent.learner_state()))
    results = [one.update(make_rollout(seed=2)) for one in (agent, other)]
    assert results[0] == results[1]
    assert torch.equal(weights_of(agent), weights_of(other))


@pytest.mark.parametrize("learned", [False, True])
def test_a_loaded_learner_is_saved_as_it_was(learned):
    """Whether the agent has an optimizer already or makes it to be saved."""
    agent, other = make_agent(), make_agent()
    for seed in range(3):
        agent.update(make_rollout(seed=seed))
    if learned:
        other.update(make_rollout(seed=7))
    stored = agent.learner_state()
    other.load_learner_state(copy.deepcopy(stored))
    again = other.learner_state()
    assert again["optimizer"]["param_groups"] == stored["optimizer"]["param_groups"]
    pairs = zip(tree_leaves(again), tree_leaves(stored), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor))


def test_an_agent_that_acts_makes_no_optimizer_and_loads_no_compiler():
    """Of a checkpoint or of a run; in a new process, since the tests themselves load it."""
    script = """
import sys
import torch
from glam_agents import load_agent, load_run_agent
from glam_agents.storm import STORM, ActorCritic, StormConfig

config = StormConfig(hidden=8)
trained, stored = ActorCritic(config, 12, 3), STORM.as_json(config)
optimizer = {"state": {}, "param_groups": []}
for agent in (
    load_agent(stored, trained.export_state(), 12, 3),
    load_run_agent(stored, {"agent": trained.state_dict(), "optimizer": optimizer}, 12, 3),
):
    agent.act(torch.zeros(2, 12))
    assert "torch._dynamo" not in sys.modules
agent = ActorCritic(config, 12, 3)
agent.optimizer
assert "torch._dynamo" in sys.modules  # else this test shows nothing
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_act_samples_or_takes_the_most_probable():
    agent = make_agent()
    features = torch.randn(1, FEATURES, generator=torch.Generator().manual_seed(0))
    probs = agent.actor(features).softmax(-1)[0]
    actions = agent.act(features.expand(5000, -1), generator=torch.Generator().manual_seed(1))
    frequency = torch.bincount(actions, minlength=ACTIONS) / 5000
    torch.testing.assert_close(frequency, probs.detach(), atol=0.03, rtol=0.0)
    assert agent.act(features, greedy=True).item() == probs.argmax().item()


# --- checkpoints -------------------------------------------------------------------------


def test_export_acts_as_the_agent_did():
    agent = make_agent()
    state = agent.export_state()
    assert {name.split(".")[0] for name in state} == {"actor", "critic"}
    fields = {"class": "storm", "hidden": 16, "autocast": False}
    other = load_agent(fields, state, FEATURES, ACTIONS)
    features = torch.randn(20, FEATURES)
    assert torch.equal(agent.actor(features), other.actor(features))
    assert torch.equal(agent.value(features), other.value(features))
    assert not any(p.requires_grad for p in other.parameters())
    assert not other.training
    assert fields["class"] == "storm"  # the caller's dict is unchanged


@pytest.mark.parametrize(
    ("fields", "change", "message"),
    [
        ({"class": "dreamer"}, {}, "'dreamer' is unknown; known: storm"),
        ({"hidden": 16}, {}, "unknown"),
        ({"class": "storm", "hiden": 16}, {}, "hiden"),
        ({"class": "storm", "hidden": 8}, {}, r"shape \(16, .*, not \(8, "),
        ({"class": "storm", "hidden": 16}, {"actor.layers.9.weight": torch.ones(1)}, "not part"),
        ({"class": "storm", "hidden": 16}, {"actor.layers.0.weight": None}, "missing"),
    ],
)
def test_export_that_does_not_fit_gets_one_line(fields, change, message):
    state = {k: v for k, v in (make_agent().export_state() | change).items() if v is not None}
    with pytest.raises(GlamError, match=message) as error:
        load_agent(fields, state, FEATURES, ACTIONS)
    assert "\n" not in str(error.value)


# --- imagination -------------------------------------------------------------------------


def test_rollout_aligns_features_actions_and_rewards():
    config = WorldModelConfig(num_actions=ACTIONS, stem=4, categoricals=3, classes=4, width=16)
    torch.manual_seed(0)
    world = WorldModel(config).requires_grad_(False)
    for head in (world.reward, world.termination):
        head.layers[-1].weight.normal_()
    world.prior.weight.normal_(0.0, 2.0)
    agent = ActorCritic(CONFIG, config.feature_dim, ACTIONS)
    start = world.warm_up(torch.randint(4, (5, 9, 3)), torch.randint(ACTIONS, (5, 8)))
    rollout = imagine(world, agent, start, 6, torch.Generator().manual_seed(0))
    assert rollout.features.shape == (7, 5, config.feature_dim)
    assert rollout.actions.shape == rollout.rewards.shape == rollout.terminated.shape == (6, 5)
    assert rollout.terminated.dtype == torch.bool
    assert rollout.terminated.any()
    assert not rollout.terminated.all()
    assert torch.equal(rollout.features[0], world.features(start))
    state = start
    for t in range(6):  # step the model again, with the latents that were drawn
        step = world.step(state, rollout.actions[t])
        drawn = rollout.features[t + 1, :, :12].unflatten(-1, (3, 4)).argmax(-1)
        state = step.state._replace(code=drawn)
        torch.testing.assert_close(rollout.features[t + 1], world.features(state))
        torch.testing.assert_close(rollout.rewards[t], step.reward, atol=1e-5, rtol=1e-4)
        assert torch.equal(rollout.terminated[t], step.termination_logit > 0)
        assert torch.equal(rollout.codes[t + 1], drawn)
    assert rollout.one_hot_width == 12
    again = imagine(world, agent, start, 6, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(again[:-1], rollout[:-1], strict=True))


def test_imagination_equals_the_models_own_steps():
    """The laid-out weights follow every change of the weights."""
    config = WorldModelConfig(num_actions=ACTIONS, stem=4, categoricals=3, classes=4, width=16)
    torch.manual_seed(0)
    world, seen = WorldModel(config), []
    agent = ActorCritic(CONFIG, config.feature_dim, ACTIONS)
    start = world.warm_up(torch.randint(4, (5, 9, 3)), torch.randint(ACTIONS, (5, 8)))
    for _ in range(3):
        with torch.no_grad():
            for parameter in [*world.parameters(), *agent.parameters()]:
                parameter.add_(0.1 * torch.randn_like(parameter))
        rollout = imagine(world, agent, start, 20, torch.Generator().manual_seed(3))
        generator, state = torch.Generator().manual_seed(3), start
        for t in range(20):
            features = world.features(state)
            torch.testing.assert_close(rollout.features[t], features, atol=2e-5, rtol=1e-4)
            action = agent.act(features, generator=generator)
            assert torch.equal(rollout.actions[t], action)
            step = world.step(state, action, generator=generator)
            state = step.state
            assert rollout.codes is not None
            assert torch.equal(rollout.codes[t + 1], state.code)
            torch.testing.assert_close(rollout.rewards[t], step.reward, atol=1e-4, rtol=1e-4)
            assert torch.equal(rollout.terminated[t], step.termination_logit > 0)
        torch.testing.assert_close(
            rollout.features[-1], world.features(state), atol=2e-5, rtol=1e-4
        )
        seen.append(rollout.features)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    st.integers(0, 200_000),
    st.integers(1, 40),
    st.integers(0, 20),
    st.integers(1, 50_000),
    st.integers(1, 60),
)
def test_horizon_follows_equation_11(step, initial, increase, every, maximum):
    schedule = HorizonConfig(initial, increase, every, maximum)
    expected = min(initial + math.floor(step / every) * increase, maximum)
    assert schedule.at(step) == expected


def test_the_papers_horizon_grows_in_whole_steps_and_is_capped_as_a_whole():
    """Neither ⌊t · n_i / n_f⌋, which grows every 3 125 steps, nor n_0 + min(…, n_max)."""
    schedule = PRESETS["paper"].horizon
    at = {t: schedule.at(t) for t in (0, 3_125, 24_999, 25_000, 49_999, 50_000, 75_000, 100_000)}
    assert list(at.values()) == [16, 16, 16, 24, 24, 32, 32, 32]


def test_the_paper_preset_is_section_4():
    agent, train = AGENT_PRESETS["paper"], PRESETS["paper"]
    assert (agent.hidden, agent.gamma, agent.lambda_, agent.entropy) == (512, 0.985, 0.95, 3e-4)
    assert (agent.learning_rate, agent.adam_eps, agent.gradient_clip) == (3e-5, 1e-5, 100.0)
    assert (agent.slow_decay, agent.range_decay, agent.value_bins) == (0.98, 0.99, 255)
    assert (train.batch, train.length, train.imagination_batch, train.context) == (32, 64, 1024, 16)
    assert (train.total_steps, train.random_steps, train.update_every) == (100_000, 1024, 1)
    assert (train.learning_rate, train.gradient_clip, train.agent_updates) == (1e-4, 1000.0, 1)
    assert (train.image_warmup, train.model_warmup, train.num_envs) == (0, 0, 1)
    loss = train.loss
    assert (loss.dynamics, loss.representation, loss.variation) == (0.5, 0.1, 0.1)
    assert (loss.free_nats, loss.variation_free_nats) == (1.0, 0.1)
    assert (loss.decode_fraction, loss.foreground_weight) == (1.0, 1.0)
    assert (loss.latent_gradient, loss.reward_weight) == (1.0, 1.0)
    model = train.model
    assert (model.stem, model.categoricals, model.classes, model.width) == (32, 32, 32, 256)
    core = model.core
    assert isinstance(core, GlamConfig)
    assert (core.local_window, core.global_depth, core.local_depth) == (4, 1, 1)
    assert (core.state_size, core.conv_width, core.expand) == (16, 4, 2)
    assert not model.background_residual


def test_steps_after_an_end_do_not_move_the_range_of_returns():
    ranges = []
    for rest in (0.0, 1000.0):
        agent = ActorCritic(StormConfig(hidden=8, autocast=False), 4, 2)
        rewards, ended = torch.ones(6, 10), torch.zeros(6, 10, dtype=torch.bool)
        ended[1] = True
        rewards[2:] = rest
        actions = torch.zeros(6, 10, dtype=torch.int64)
        agent.loss(Rollout(torch.zeros(7, 10, 4), actions, rewards, ended))
        ranges.append(agent.return_range)
    torch.testing.assert_close(*ranges)


@pytest.mark.parametrize("hidden", [4096, 16384])
def test_an_agent_of_another_width_is_refused_before_memory_is_taken(hidden):
    """A width of 16384 would take gigabytes; the tensors of the checkpoint are of width 16."""
    fields, state = {"class": "storm", "hidden": hidden}, make_agent().export_state()
    with limits(memory=2**27), pytest.raises(GlamError, match=r"shape|weights") as error:
        load_agent(fields, state, FEATURES, ACTIONS)
    assert "\n" not in str(error.value)


def test_impossible_agent_of_a_checkpoint_gets_one_line():
    agent = ActorCritic(StormConfig(hidden=8), 4, 2)
    config = {"class": "storm", "hidden": 8, "value_bins": 1}
    with pytest.raises(GlamError, match="bins"):
        load_agent(config, agent.export_state(), 4, 2)
