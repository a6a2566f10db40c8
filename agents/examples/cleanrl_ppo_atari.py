"""PPO from frames, with the structure of CleanRL's ``ppo_atari.py``.

    python agents/examples/cleanrl_ppo_atari.py --env-id GLAMDream-Pong-v0
    python agents/examples/cleanrl_ppo_atari.py --env-id GLAMReal-Pong-v0
    python agents/examples/cleanrl_ppo_atari.py --env-id ALE/Pong-v5

Only the id changes between dreams and real games. Each env is made by ``gymnasium.make`` and
wrapped by itself, as in CleanRL. The wrappers that skip and maximise frames, and those that read
lives from the emulator, are for the ids of ``ALE`` only: dreams and ``GLAMReal`` have that inside.
``cleanrl_ppo.py`` steps all dreams as one batch instead and is many times faster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn
from torch.distributions import Categorical

import glam_env  # noqa: F401  (registers the ids)


@dataclass
class Args:
    """PPO from frames.

    Attributes:
        env_id: any id of Gymnasium with frames (H, W, 3).
        total_timesteps: env steps to learn from.
        num_envs: envs side by side.
        num_steps: steps of a rollout.
        num_minibatches: of an epoch.
        update_epochs: epochs of an update.
        learning_rate: learning rate of Adam, which falls to 0.
        gamma: discount.
        gae_lambda: λ of generalised advantage estimation.
        clip_coef: largest change of the probability ratio.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss.
        max_grad_norm: largest norm of the gradient.
        seed: of the envs and the agent.
    """

    env_id: str = "GLAMDream-Pong-v0"
    total_timesteps: int = 1_000_000
    num_envs: int = 8
    num_steps: int = 128
    num_minibatches: int = 4
    update_epochs: int = 4
    learning_rate: float = 2.5e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_coef: float = 0.1
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    seed: int = 1


def make_env(env_id: str) -> Callable[[], gym.Env]:
    """Return a function that makes one env.

    Its frames are (4, 84, 84), and its rewards are in {−1, 0, 1}.
    """

    def thunk() -> gym.Env:
        if env_id.startswith("ALE/"):
            import ale_py

            gym.register_envs(ale_py)
            env = gym.make(env_id, frameskip=1)
            env = gym.wrappers.RecordEpisodeStatistics(env)
            env = gym.wrappers.AtariPreprocessing(env, terminal_on_life_loss=True)
        else:
            env = gym.wrappers.RecordEpisodeStatistics(gym.make(env_id))
            env = gym.wrappers.ResizeObservation(env, (84, 84))
            env = gym.wrappers.GrayscaleObservation(env)
        env = gym.wrappers.TransformReward(env, lambda reward: float(np.sign(float(reward))))
        return gym.wrappers.FrameStackObservation(env, 4)

    return thunk


def layer_init(layer: nn.Module, gain: float = 2**0.5) -> nn.Module:
    """Give a layer orthogonal weights and no bias."""
    nn.init.orthogonal_(layer.weight, gain)  # pyright: ignore[reportArgumentType]
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return layer


class Agent(nn.Module):
    """Actor and critic behind the convolutions of the Nature DQN (Mnih et al., 2015)."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            layer_init(nn.Conv2d(4, 32, 8, stride=4)),
            nn.ReLU(),
            layer_init(nn.Conv2d(32, 64, 4, stride=2)),
            nn.ReLU(),
            layer_init(nn.Conv2d(64, 64, 3, stride=1)),
            nn.ReLU(),
            nn.Flatten(),
            layer_init(nn.Linear(64 * 7 * 7, 512)),
            nn.ReLU(),
        )
        self.actor = layer_init(nn.Linear(512, actions), 0.01)
        self.critic = layer_init(nn.Linear(512, 1), 1.0)

    def forward(self, frames: Tensor) -> tuple[Categorical, Tensor]:
        """Map (E, 4, 84, 84) uint8 frames to the policy and the values, (E)."""
        hidden = self.network(frames / 255.0)
        return Categorical(logits=self.actor(hidden)), self.critic(hidden).squeeze(-1)


def main(args: Args) -> list[float]:
    """Learn and print; return the points of all whole episodes, in order."""
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    envs = gym.vector.SyncVectorEnv(
        [make_env(args.env_id) for _ in range(args.num_envs)],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    agent = Agent(int(envs.single_action_space.n)).to(device)  # pyright: ignore[reportAttributeAccessIssue]
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)

    shape = (args.num_steps, args.num_envs)
    obs = torch.zeros(*shape, 4, 84, 84, dtype=torch.uint8, device=device)
    actions = torch.zeros(shape, dtype=torch.int64, device=device)
    logprobs, rewards, values, dones = (torch.zeros(shape, device=device) for _ in range(4))
    returns_of_episodes: list[float] = []
    next_obs = torch.as_tensor(envs.reset(seed=args.seed)[0], device=device)
    updates = max(args.total_timesteps // (args.num_steps * args.num_envs), 1)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1.0 - update / updates)
        with torch.no_grad():
            for step in range(args.num_steps):
                policy, values[step] = agent(next_obs)
                action = policy.sample()
                obs[step], actions[step], logprobs[step] = next_obs, action, policy.log_prob(action)
                seen, reward, terminated, truncated, info = envs.step(action.cpu().numpy())
                next_obs = torch.as_tensor(seen, device=device)
                rewards[step] = torch.as_tensor(reward, device=device)
                dones[step] = torch.as_tensor(terminated | truncated, device=device)
                if "episode" in info.get("final_info", {}):
                    ended = info["final_info"]["_episode"]
                    returns_of_episodes += info["final_info"]["episode"]["r"][ended].tolist()
            # Generalised advantage estimation (Schulman et al., 2016), backwards in time.
            advantages, running, following = torch.zeros_like(rewards), 0.0, agent(next_obs)[1]
            for step in reversed(range(args.num_steps)):
                going = 1.0 - dones[step]
                delta = rewards[step] + args.gamma * going * following - values[step]
                running = delta + args.gamma * args.gae_lambda * going * running
                advantages[step], following = running, values[step]
            returns = advantages + values

        flat = [x.flatten(0, 1) for x in (obs, actions, logprobs, advantages, returns)]
        for _ in range(args.update_epochs):
            order = torch.randperm(len(flat[0]), device=device)
            for rows in order.chunk(args.num_minibatches):
                frames, taken, old, gains, targets = (x[rows] for x in flat)
                policy, value = agent(frames)
                ratio = (policy.log_prob(taken) - old).exp()
                gains = (gains - gains.mean()) / (gains.std() + 1e-8)
                clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                policy_loss = -torch.minimum(ratio * gains, clipped * gains).mean()
                value_loss = 0.5 * (value - targets).square().mean()
                entropy = policy.entropy().mean()
                loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * entropy
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()
        if recent := returns_of_episodes[-20:]:
            done = (update + 1) * args.num_steps * args.num_envs
            print(f"{done:>9,} steps | episode return {sum(recent) / len(recent):+.2f}")
    envs.close()
    return returns_of_episodes


if __name__ == "__main__":
    main(tyro.cli(Args))
