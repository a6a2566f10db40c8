"""PPO of RLlib in dreams, in Ray workers: the engine that `glam sweep` runs on.

    pip install "ray[rllib]" glam-env
    python agents/examples/rllib_ppo.py --runners 2 --total-steps 200000

Each env runner is a Ray worker with its own batch of dreams, which RLlib uses as one vector env
(``gym_env_vectorize_mode="vector_entry_point"``). RLlib expects autoreset mode NEXT_STEP and numpy
arrays. The id names its module, so that each worker registers the ids by itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import tyro

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported

import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig


@dataclass
class Args:
    """PPO of RLlib in dreams.

    Attributes:
        game: the game's name.
        total_steps: dream steps to learn from.
        runners: Ray workers that dream; 0: the driver does.
        num_envs: dreams side by side in each of them.
        horizon: steps after which a dream is truncated.
        num_steps: steps of a rollout.
        minibatches: of an epoch.
        epochs: of an update.
        learning_rate: learning rate of Adam.
        gamma: discount.
        gae_lambda: λ of generalised advantage estimation.
        clip: largest change of the probability ratio.
        entropy: weight of the entropy bonus.
        max_grad_norm: largest norm of the gradient.
        seed: of the dreams and the agent.
        device: of the dreams: auto, cpu, cuda, …
        address: address of a Ray cluster; none: Ray is started on this machine.
    """

    game: str = "Pong"
    total_steps: int = 200_000
    runners: int = 1
    num_envs: int = 64
    horizon: int = 128
    num_steps: int = 128
    minibatches: int = 8
    epochs: int = 4
    learning_rate: float = 5e-4
    gamma: float = 0.985
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    max_grad_norm: float = 0.5
    seed: int = 1
    device: str = "cpu"
    address: str | None = None


def configure(args: Args) -> PPOConfig:
    """Return the settings of RLlib's PPO.

    The dreams of each runner are one vector env.
    """
    batch = args.num_envs * args.num_steps * max(1, args.runners)
    return (
        PPOConfig()
        .environment(
            f"glam_env:GLAMDream-{args.game}-v0",
            env_config={
                "obs_type": "latent",
                "autoreset_mode": "NEXT_STEP",
                "max_episode_steps": args.horizon,
                "device": args.device,
            },
        )
        .env_runners(
            num_env_runners=args.runners,
            num_envs_per_env_runner=args.num_envs,
            gym_env_vectorize_mode="vector_entry_point",
            rollout_fragment_length=args.num_steps,
        )
        .training(
            lr=args.learning_rate,
            gamma=args.gamma,
            lambda_=args.gae_lambda,
            clip_param=args.clip,
            entropy_coeff=args.entropy,
            grad_clip=args.max_grad_norm,
            use_kl_loss=False,
            train_batch_size_per_learner=batch,
            minibatch_size=batch // args.minibatches,
            num_epochs=args.epochs,
        )
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64]))
        .debugging(seed=args.seed)
    )


def main(args: Args) -> list[float]:
    """Learn, and return the mean return of the dreams that ended in each iteration."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if args.address is None:
        ray.init("local", num_cpus=args.runners + 1, include_dashboard=False, **quiet)
    else:
        ray.init(args.address, **quiet)
    algorithm = configure(args).build_algo()
    means: list[float] = []
    try:
        steps = 0
        while steps < args.total_steps:
            figures = algorithm.train()["env_runners"]
            steps = int(figures["num_env_steps_sampled_lifetime"])
            means.append(float(figures.get("episode_return_mean", float("nan"))))
            print(f"{steps:,} dream steps: {means[-1]:.2f} points per dream", flush=True)
    finally:
        algorithm.stop()
        ray.shutdown()
    return means


if __name__ == "__main__":
    main(tyro.cli(Args))
