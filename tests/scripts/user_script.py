"""A user's script on the public interface, which ``mypy --strict`` accepts; see test_typing.py."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from glam_env import DreamEnv, DreamOptions, DreamSnapshot, DreamVectorEnv, GlamError


def score(envs: DreamVectorEnv, steps: int) -> float:
    """Return the points of random play."""
    envs.reset(seed=0)
    points = 0.0
    for _ in range(steps):
        actions: NDArray[np.int64] = envs.action_space.sample()
        _, rewards, _, _, _ = envs.step(actions)
        points += float(np.sum(rewards))
    return points


def main() -> None:
    """Step, branch, and make an env by its id."""
    options = DreamOptions(obs_type="latent", reward="game", autoreset_mode="NEXT_STEP")
    envs = DreamVectorEnv("Pong", 8, options=options, device="cpu", max_episode_steps=50)
    print(score(envs, 100), envs.num_contexts)
    moment: DreamSnapshot = envs.get_state().rows(0)
    envs.set_state(moment.rows([0] * envs.num_envs))
    envs.close()
    env = DreamEnv("Pong", obs_type="rgb", horizon=20)
    meanings: list[str] = env.get_action_meanings()
    print(meanings)
    made: gym.Env[Any, Any] = gym.make("GLAMDream-Pong-v0", max_episode_steps=20)
    made.reset(seed=0)
    try:
        made.step(99)
    except GlamError as error:
        print(error)


if __name__ == "__main__":
    main()
