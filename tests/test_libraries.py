"""Heavy libraries in dreams: ``pytest -m libraries`` in a venv that has one; see docs/libraries.md.

They are left out otherwise: each starts processes or takes a minute.
"""

from __future__ import annotations

import tempfile
from typing import Any

import gymnasium as gym
import pytest

import glam_env  # noqa: F401  (registers the ids)

pytestmark = pytest.mark.libraries


@pytest.fixture(autouse=True)
def _asked_for(request: pytest.FixtureRequest) -> None:
    if "libraries" not in request.config.getoption("markexpr"):
        pytest.skip("run once a release: pytest -m libraries")


def make_dream() -> gym.Env:
    return gym.make("GLAMDream-Pong-v0", obs_type="latent", device="cpu")


@pytest.mark.filterwarnings("ignore")
def test_tianshou_collects_and_learns() -> None:
    pytest.importorskip("tianshou")
    from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.utils.net.common import Net
    from tianshou.utils.torch_utils import policy_within_training_step

    env = make_dream()
    shape, actions = env.observation_space.shape, env.action_space.n
    net = Net(state_shape=shape, action_shape=actions, hidden_sizes=[64])
    policy = DiscreteQLearningPolicy(model=net, action_space=env.action_space, eps_training=0.1)
    algorithm = DQN(policy=policy, optim=AdamOptimizerFactory(lr=1e-3))
    buffer = VectorReplayBuffer(4000, 4)
    collector = Collector(algorithm, DummyVectorEnv([make_dream] * 4), buffer)
    collector.reset()
    collected = collector.collect(n_step=800)
    assert collected.n_collected_steps == 800
    assert collected.n_collected_episodes > 4
    with policy_within_training_step(algorithm.policy):
        assert algorithm.update(sample_size=64, buffer=buffer).loss >= 0.0


@pytest.mark.filterwarnings("ignore")
def test_rllib_learns_in_another_process() -> None:
    ray = pytest.importorskip("ray")
    ppo = pytest.importorskip("ray.rllib.algorithms.ppo")
    from ray.tune.registry import register_env

    def make_in_worker(config: Any) -> gym.Env:
        """Make a dream in a process that has not imported this file; pickled by value."""
        import gymnasium

        return gymnasium.make("glam_env:GLAMDream-Pong-v0", obs_type="latent", device="cpu")

    register_env("dream", make_in_worker)
    settings = (
        ppo.PPOConfig()
        .environment("dream")
        .env_runners(num_env_runners=1, num_envs_per_env_runner=4)
        .learners(num_learners=0)
        .training(train_batch_size_per_learner=1000, minibatch_size=250, num_epochs=2)
    )
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # its sockets need a short path
        ray.init(address="local", num_cpus=2, include_dashboard=False, _temp_dir=folder)
        try:
            algorithm = settings.build_algo()
            result = algorithm.train()
            assert result["num_env_steps_sampled_lifetime"] >= 1000
            assert -21.0 <= result["env_runners"]["episode_return_mean"] <= 21.0
            algorithm.stop()
        finally:
            ray.shutdown()
