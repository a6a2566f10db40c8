"""PPO in one file, in the style of CleanRL.

    python agents/examples/cleanrl_ppo.py --total-steps 500000

The agent learns in ``GLAMDream-<Game>-v0`` and then plays ``GLAMReal-<Game>-v0``. Both ids have the
same observation space and take the same policy. No tensor leaves the device of the dreams.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Categorical

import glam_env  # noqa: F401  (registers the ids)
from glam_env.envs.wrappers import EpisodeStatistics


@dataclass
class Args:
    """PPO in dreams.

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
        value: weight of the value loss.
        max_grad_norm: largest norm of the gradient.
        real_games: whole real games to play at the end, side by side.
        seed: of the dreams, the games and the agent.
        device: auto, cpu, cuda, …
    """

    game: str = "Pong"
    total_steps: int = 500_000
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
    value: float = 0.5
    max_grad_norm: float = 0.5
    real_games: int = 4
    seed: int = 1
    device: str = "auto"


def make(env_id: str, num_envs: int, args: Args, **options: Any) -> EpisodeStatistics:
    """Make a vector env that takes and returns tensors on its device."""
    envs = gym.make_vec(
        env_id,
        num_envs=num_envs,
        device=args.device,
        array_type="torch",
        obs_type="latent",
        **options,
    )
    return EpisodeStatistics(envs)


def layer(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    """Make a linear layer with orthogonal weights."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    """Actor and critic on features (E, F) float32."""

    def __init__(self, envs: EpisodeStatistics, size: int) -> None:
        super().__init__()
        features = int(np.prod(envs.single_observation_space.shape or ()))
        actions = int(envs.single_action_space.n)  # pyright: ignore[reportAttributeAccessIssue]

        def head(outputs: int, gain: float) -> nn.Sequential:
            hidden = layer(features, size), nn.Tanh(), layer(size, size), nn.Tanh()
            return nn.Sequential(*hidden, layer(size, outputs, gain))

        self.actor, self.critic = head(actions, 0.01), head(1, 1.0)

    def policy(self, features: Tensor) -> Categorical:
        """Return the distribution of actions."""
        return Categorical(logits=self.actor(features))

    def value(self, features: Tensor) -> Tensor:
        """Return the values, (…), of features (…, F)."""
        return self.critic(features).squeeze(-1)


@torch.no_grad()
def play(envs: EpisodeStatistics, agent: Agent, seed: int) -> Tensor:
    """Return the returns of the first episode of each row, (E) float32."""
    features, _ = envs.reset(seed=seed)
    returns = torch.full((envs.num_envs,), torch.nan, device=features.device)
    while returns.isnan().any():
        features, _, _, _, info = envs.step(agent.policy(features).sample())
        if "episode" in info:
            first = info["_episode"] & returns.isnan()
            returns = torch.where(first, info["episode"]["r"], returns)
    return returns


def describe(returns: Tensor) -> str:
    """Return the mean ± its standard error as text."""
    error = returns.std() / len(returns) ** 0.5 if len(returns) > 1 else torch.tensor(torch.nan)
    return f"{returns.mean():+.2f} ± {error:.2f}"


def main(args: Args) -> dict[str, Tensor]:
    """Learn in dreams, play the real game, and print the scores.

    Returns:
        Returns of dreams, ``before`` and ``after`` learning, and of ``real`` games.
    """
    torch.manual_seed(args.seed)
    envs = make(f"GLAMDream-{args.game}-v0", args.num_envs, args, max_episode_steps=args.horizon)
    device = envs.unwrapped.device  # pyright: ignore[reportAttributeAccessIssue]
    agent = Agent(envs, args.hidden).to(device)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    before = play(envs, agent, args.seed)

    shape = (args.num_steps, args.num_envs)
    seen = torch.zeros(*shape, *envs.single_observation_space.shape, device=device)  # pyright: ignore[reportOptionalIterable]
    actions = torch.zeros(shape, dtype=torch.int64, device=device)
    log_probs, rewards, values = (torch.zeros(shape, device=device) for _ in range(3))
    dones = torch.zeros(shape, dtype=torch.bool, device=device)

    started_at, done_steps = time.perf_counter(), 0
    features, _ = envs.reset(seed=args.seed)
    updates = max(args.total_steps // (args.num_steps * args.num_envs), 1)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - update / updates)
        with torch.no_grad():
            for step in range(args.num_steps):
                policy = agent.policy(features)
                action = policy.sample()
                seen[step], actions[step] = features, action
                log_probs[step], values[step] = policy.log_prob(action), agent.value(features)
                features, reward, terminated, truncated, info = envs.step(action)
                if truncated.any():  # bootstrap: the dream was truncated, not over
                    only = truncated & ~terminated
                    reward = reward + args.gamma * only * agent.value(info["final_obs"])
                rewards[step], dones[step] = reward, terminated | truncated
            # Generalised advantage estimation (Schulman et al., 2016), backwards in time.
            advantages, running, following = torch.zeros_like(rewards), 0.0, agent.value(features)
            for step in reversed(range(args.num_steps)):
                going = (~dones[step]).float()
                delta = rewards[step] + args.gamma * going * following - values[step]
                running = delta + args.gamma * args.gae_lambda * going * running
                advantages[step], following = running, values[step]
            returns = advantages + values

        flat = [x.flatten(0, 1) for x in (seen, actions, log_probs, advantages, returns)]
        for _ in range(args.epochs):
            order = torch.randperm(len(flat[0]), device=device)
            for rows in order.chunk(args.minibatches):
                features_, actions_, old, advantages_, returns_ = (x[rows] for x in flat)
                policy = agent.policy(features_)
                ratio = (policy.log_prob(actions_) - old).exp()
                advantages_ = (advantages_ - advantages_.mean()) / (advantages_.std() + 1e-8)
                gain = torch.minimum(
                    ratio * advantages_, ratio.clamp(1 - args.clip, 1 + args.clip) * advantages_
                ).mean()
                miss = 0.5 * (agent.value(features_) - returns_).square().mean()
                loss = -gain + args.value * miss - args.entropy * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()

        done_steps += args.num_steps * args.num_envs
        if update % 10 == 0 and envs.return_queue:
            rate = done_steps / (time.perf_counter() - started_at)
            recent = sum(envs.return_queue) / len(envs.return_queue)
            print(f"{done_steps:>9,} steps | {rate:,.0f} steps/s | dream return {recent:+.2f}")

    after = play(envs, agent, args.seed)
    envs.close()
    dreams = f"{args.num_envs} dreams of at most {args.horizon} steps"
    print(f"{dreams}: {describe(before)} -> {describe(after)}")
    games = make(f"GLAMReal-{args.game}-v0", args.real_games, args)
    real = play(games, agent, args.seed)
    games.close()
    print(f"{args.real_games} whole real games: {describe(real)}")
    return {"before": before, "after": after, "real": real}


if __name__ == "__main__":
    main(tyro.cli(Args))
