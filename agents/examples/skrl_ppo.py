"""PPO of skrl in dreams.

    pip install skrl
    python agents/examples/skrl_ppo.py --total-steps 200000

What skrl needs of the env:

- It passes actions as numpy arrays (E,), and copies rewards and flags with ``torch.tensor``, which
  warns about anything but numpy.
- It reads the device from ``envs.device``, and calls ``envs.reset()`` once.
- It takes the observation of a step as the one that the step led to. That holds in autoreset mode
  NEXT_STEP only. skrl can then bootstrap the value of truncated dreams (``time_limit_bootstrap``).
  In return, one step between two dreams has no meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
import tyro
from skrl.agents.torch import ExperimentCfg
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import Wrapper, wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR

import glam_env  # noqa: F401  (registers the ids)
from glam_env.envs.wrappers import EpisodeStatistics

EPOCHS = 4  # of an update; after each the learning rate falls


@dataclass
class Args:
    """PPO of skrl in dreams.

    Attributes:
        game: the game's name.
        total_steps: dream steps to learn from.
        num_envs: dreams side by side.
        horizon: steps after which a dream is truncated.
        num_steps: steps of a rollout.
        hidden: size of the hidden layers.
        learning_rate: learning rate of Adam at the start; it falls to 0.
        gamma: discount.
        entropy: weight of the entropy bonus.
        seed: of the dreams and the agent.
        device: auto, cpu, cuda, …
    """

    game: str = "Pong"
    total_steps: int = 200_000
    num_envs: int = 64
    horizon: int = 64
    num_steps: int = 128
    hidden: int = 256
    learning_rate: float = 5e-4
    gamma: float = 0.985
    entropy: float = 0.005
    seed: int = 1
    device: str = "auto"


def network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Make a network with two hidden layers."""
    first, second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(hidden, outputs))


class Actor(CategoricalMixin, Model):
    """The distribution of actions."""

    def __init__(self, env: Wrapper, hidden: int) -> None:
        spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
        Model.__init__(self, **spaces, device=env.device)
        CategoricalMixin.__init__(self)
        self.net = network(self.num_observations, hidden, self.num_actions)

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[Tensor, dict[str, Any]]:
        """Return logits, as the mixin expects them."""
        return self.net(inputs["observations"]), {}


class Critic(DeterministicMixin, Model):
    """The expected return."""

    def __init__(self, env: Wrapper, hidden: int) -> None:
        spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
        Model.__init__(self, **spaces, device=env.device)
        DeterministicMixin.__init__(self)
        self.net = network(self.num_observations, hidden, 1)

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[Tensor, dict[str, Any]]:
        """Return values, as the mixin expects them."""
        return self.net(inputs["observations"]), {}


def main(args: Args) -> tuple[list[float], list[float]]:
    """Learn and print; return the returns of the first and the last E dreams."""
    torch.manual_seed(args.seed)
    envs = gym.make_vec(
        f"GLAMDream-{args.game}-v0",
        num_envs=args.num_envs,
        autoreset_mode="NEXT_STEP",
        obs_type="latent",
        max_episode_steps=args.horizon,
        device=args.device,
    )
    counted = EpisodeStatistics(envs, buffer_length=10**6)
    env: Any = wrap_env(counted, wrapper="gymnasium", verbose=False)
    rounds = max(args.total_steps // (args.num_steps * args.num_envs), 1)
    actor, critic = (make(env, args.hidden).to(env.device) for make in (Actor, Critic))
    agent = PPO(
        models={"policy": actor, "value": critic},
        memory=RandomMemory(memory_size=args.num_steps, num_envs=env.num_envs, device=env.device),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device=env.device,
        cfg=PPO_CFG(
            rollouts=args.num_steps,
            learning_epochs=EPOCHS,
            mini_batches=8,
            learning_rate=args.learning_rate,
            learning_rate_scheduler=LinearLR,
            learning_rate_scheduler_kwargs={
                "start_factor": 1.0,
                "end_factor": 0.0,
                "total_iters": rounds * EPOCHS,
            },
            discount_factor=args.gamma,
            entropy_loss_scale=args.entropy,
            value_loss_scale=0.5,
            time_limit_bootstrap=True,
            experiment=ExperimentCfg(write_interval=0, checkpoint_interval=0),
        ),
    )
    SequentialTrainer(
        env=env,
        agents=agent,
        cfg={
            "timesteps": rounds * args.num_steps,
            "headless": True,
            "close_environment_at_exit": False,
        },
    ).train()
    env.close()
    returns = list(counted.return_queue)
    first, last = returns[: args.num_envs], returns[-args.num_envs :]
    print(
        f"{counted.episode_count} dreams of at most {args.horizon} steps; the first "
        f"{len(first)} returned {sum(first) / len(first):+.2f}, the last "
        f"{sum(last) / len(last):+.2f}"
    )
    return first, last


if __name__ == "__main__":
    main(tyro.cli(Args))
