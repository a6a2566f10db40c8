"""Stable-Baselines3's own pipeline for Atari, with the id of a dream.

    python agents/examples/sb3_atari.py

``make`` is that pipeline: SB3's ``make_vec_env``, ``ClipRewardEnv``, ``VecFrameStack`` and
``VecTransposeImage``. ``AtariWrapper`` is left out, since dreams and ``GLAMReal`` skip, maximise
and resize frames themselves. It steps envs one by one: real games here, and dreams with
``--one-by-one``. ``make_batch`` steps all dreams as one batch, which is faster, and gives the same
observations and rewards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tyro
from glam_agents.sb3 import ClippedRewards
from glam_agents.sb3 import make_vec_env as make_batch_env
from stable_baselines3 import PPO
from stable_baselines3.common.atari_wrappers import ClipRewardEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage
from torch.nn.utils import convert_conv2d_weight_memory_format

import glam_env  # noqa: F401  (registers the ids)


@dataclass
class Args:
    """PPO on frames of dreams.

    Attributes:
        game: the game's name.
        total_steps: dream steps to learn from.
        num_envs: dreams side by side.
        one_by_one: step them one by one, as SB3's ``make_vec_env`` does, not as one batch.
        horizon: steps after which a dream is truncated.
        num_steps: steps of a rollout.
        batch_size: steps of a gradient step.
        epochs: epochs of an update.
        learning_rate: learning rate of Adam, which falls to 0.
        gamma: discount.
        clip_range: largest change of the probability ratio.
        dreams: whole dreams in which the agent is measured, before and after.
        real_games: whole real games to play at the end.
        seed: of the dreams, the games and the agent.
    """

    game: str = "Pong"
    total_steps: int = 1_200_000
    num_envs: int = 64
    one_by_one: bool = False
    horizon: int = 128
    num_steps: int = 32
    batch_size: int = 256
    epochs: int = 3
    learning_rate: float = 5e-4
    gamma: float = 0.97
    clip_range: float = 0.1
    dreams: int = 100
    real_games: int = 20
    seed: int = 1


class Progress(BaseCallback):
    """Callback that prints the mean return of the last dreams, twenty times in all."""

    def __init__(self, total_steps: int) -> None:
        super().__init__()
        self.every = max(total_steps // 20, 1)
        self.printed = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        ended = self.model.ep_info_buffer
        if not ended or self.num_timesteps - self.printed < self.every:
            return
        self.printed = self.num_timesteps
        mean = np.mean([episode["r"] for episode in ended])
        print(f"{self.num_timesteps:>9,} steps | mean return of {len(ended)} dreams {mean:+.2f}")


def make(env_id: str, num_envs: int, seed: int, **options: Any) -> VecEnv:
    """Make envs as SB3 makes those of Atari, without its ``AtariWrapper``."""
    envs: VecEnv = make_vec_env(
        env_id,
        num_envs,
        seed=seed,
        wrapper_class=ClipRewardEnv,
        env_kwargs={"obs_type": "grayscale", **options},
    )
    return VecTransposeImage(VecFrameStack(envs, 4))


def make_batch(env_id: str, num_envs: int, seed: int, **options: Any) -> VecEnv:
    """Make the envs of :func:`make` as one batch, with frames channels first."""
    envs = make_batch_env(env_id, num_envs, seed=seed, obs_type="grayscale", **options)
    return VecFrameStack(ClippedRewards(envs), 4)


def score(model: PPO, envs: VecEnv, episodes: int) -> np.ndarray:
    """Return the unclipped returns of whole episodes, which SB3's ``Monitor`` records."""
    returns, _ = evaluate_policy(
        model, envs, episodes, deterministic=False, return_episode_rewards=True
    )
    return np.asarray(returns)


def describe(returns: np.ndarray) -> str:
    """Return the mean ± its standard error as text."""
    if len(returns) < 2:
        return f"{returns.mean():+.2f}"
    return f"{returns.mean():+.2f} ± {returns.std(ddof=1) / len(returns) ** 0.5:.2f}"


def main(args: Args) -> dict[str, np.ndarray]:
    """Learn in dreams, play the real game, and print the scores.

    Returns:
        Returns of dreams, ``before`` and ``after`` learning, and of ``real`` games.
    """
    dream = f"GLAMDream-{args.game}-v0"
    make_dreams = make if args.one_by_one else make_batch
    envs = make_dreams(dream, args.num_envs, args.seed, max_episode_steps=args.horizon)
    judge = make_dreams(dream, args.num_envs, args.seed + 1000, max_episode_steps=args.horizon)
    model = PPO(
        "CnnPolicy",
        envs,
        n_steps=args.num_steps,
        batch_size=args.batch_size,
        n_epochs=args.epochs,
        learning_rate=lambda remaining: remaining * args.learning_rate,
        gamma=args.gamma,
        clip_range=args.clip_range,
        ent_coef=0.01,
        seed=args.seed,
    )
    # Twice as fast on a CPU without AMX.
    convert_conv2d_weight_memory_format(model.policy, torch.channels_last)
    before = score(model, judge, args.dreams)
    model.learn(args.total_steps, callback=Progress(args.total_steps))
    after = score(model, judge, args.dreams)
    print(f"{args.dreams} dreams of at most {args.horizon} steps: ", end="")
    print(f"{describe(before)} -> {describe(after)}")
    games = make(f"GLAMReal-{args.game}-v0", 1, args.seed)
    real = score(model, games, args.real_games)
    print(f"{args.real_games} whole real games: {describe(real)}")
    for each in (envs, judge, games):
        each.close()
    return {"before": before, "after": after, "real": real}


if __name__ == "__main__":
    main(tyro.cli(Args))
