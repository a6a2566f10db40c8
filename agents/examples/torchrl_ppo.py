"""PPO of TorchRL in dreams: ``GymWrapper`` around the vector env.

    pip install torchrl
    python agents/examples/torchrl_ppo.py --total-steps 200000

TorchRL reads ``autoreset_mode`` of the env. It prefers DISABLED, where it resets ended dreams
itself by ``reset_mask``. It also takes SAME_STEP, and refuses NEXT_STEP. It passes actions as numpy
arrays, so the env returns numpy too. The dreams may still run on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
import tyro
from tensordict.nn import TensorDictModule
from torch import Tensor
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.envs import GymWrapper, RewardSum, TransformedEnv
from torchrl.modules import MLP, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import glam_env  # noqa: F401  (registers the ids)


@dataclass
class Args:
    """PPO of TorchRL in dreams.

    Attributes:
        game: the game's name.
        total_steps: dream steps to learn from.
        num_envs: dreams side by side.
        horizon: steps after which a dream is truncated.
        num_steps: steps of a rollout.
        minibatches: of an epoch.
        epochs: of an update.
        hidden: size of the hidden layers.
        learning_rate: learning rate of Adam at the start; it falls to 0.
        gamma: discount.
        gae_lambda: λ of generalised advantage estimation.
        clip: largest change of the probability ratio.
        entropy: weight of the entropy bonus.
        max_grad_norm: largest norm of the gradient.
        seed: of the dreams and the agent.
        device: of the dreams: auto, cpu, cuda, …
    """

    game: str = "Pong"
    total_steps: int = 200_000
    num_envs: int = 64
    horizon: int = 64
    num_steps: int = 128
    minibatches: int = 8
    epochs: int = 4
    hidden: int = 256
    learning_rate: float = 5e-4
    gamma: float = 0.985
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.005
    max_grad_norm: float = 0.5
    seed: int = 1
    device: str = "auto"


def make(args: Args) -> TransformedEnv:
    """Make the dreams as an env of TorchRL. Actions are integers, not one-hot."""
    envs = gym.make_vec(
        f"GLAMDream-{args.game}-v0",
        num_envs=args.num_envs,
        autoreset_mode="DISABLED",
        obs_type="latent",
        max_episode_steps=args.horizon,
        device=args.device,
    )
    env = TransformedEnv(GymWrapper(envs, categorical_action_encoding=True), RewardSum())
    env.set_seed(args.seed)
    return env


def main(args: Args) -> list[float]:
    """Learn and print the progress.

    Returns:
        Mean return of the dreams that ended in each rollout.
    """
    torch.manual_seed(args.seed)
    env = make(args)
    choice: Any = env.action_spec.space
    actions, sizes = int(choice.n), [args.hidden] * 2
    policy = MLP(out_features=actions, num_cells=sizes, activation_class=torch.nn.Tanh)
    value = MLP(out_features=1, num_cells=sizes, activation_class=torch.nn.Tanh)
    actor = ProbabilisticActor(
        TensorDictModule(policy, in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=Categorical,
        return_log_prob=True,
    )
    critic = ValueOperator(value, in_keys=["observation"])
    with torch.no_grad():  # lazy layers take their width from the first observation
        critic(actor(env.reset()))

    loss_of = ClipPPOLoss(
        actor,
        critic,
        clip_epsilon=args.clip,
        entropy_coeff=args.entropy,
        critic_coeff=0.5,
        loss_critic_type="l2",
        normalize_advantage=True,
    )
    advantages = GAE(gamma=args.gamma, lmbda=args.gae_lambda, value_network=critic)
    optimizer = torch.optim.Adam(loss_of.parameters(), lr=args.learning_rate, eps=1e-5)
    frames = args.num_steps * args.num_envs
    rollouts = max(args.total_steps // frames, 1)
    collector = Collector(
        env,
        actor,
        frames_per_batch=frames,
        total_frames=rollouts * frames,
        auto_register_policy_transforms=False,  # for recurrent policies only
    )
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(frames),
        sampler=SamplerWithoutReplacement(),
        batch_size=frames // args.minibatches,
    )
    means, done_steps = [], 0
    for rollout in collector:  # (E, T); a row holds several dreams
        share = done_steps / (rollouts * frames)
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - share)
        with torch.no_grad():
            advantages(rollout)
        for _ in range(args.epochs):
            buffer.extend(rollout.reshape(-1))
            for _ in range(args.minibatches):
                losses = loss_of(buffer.sample())
                total: Tensor = (
                    losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
                )
                optimizer.zero_grad()
                total.backward()
                torch.nn.utils.clip_grad_norm_(loss_of.parameters(), args.max_grad_norm)
                optimizer.step()
        done_steps += frames
        ended = rollout["next", "done"]
        means.append(float(rollout["next", "episode_reward"][ended].mean()))
        print(f"{done_steps:>9,} steps | {int(ended.sum())} dreams ended, return {means[-1]:+.2f}")
    collector.shutdown()
    return means


if __name__ == "__main__":
    main(tyro.cli(Args))
