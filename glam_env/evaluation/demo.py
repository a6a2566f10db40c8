"""Play of one agent in dreams and in the real game."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glam_env.envs.atari.emulator import Emulator
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.envs.latent_filter import Act, LatentFilter
from glam_env.errors import GlamError
from glam_env.model.world_model import WorldModel


@dataclass(frozen=True)
class DreamReport:
    """Returns of an agent in dreams, with their speed.

    Attributes:
        dreams: Number of whole dreams that count, the same for each env.
        steps: Steps of all envs together.
        mean: Mean return of a dream.
        standard_error: Standard error of that mean; 0 for a single dream.
        reward_rate: Mean reward per step, over all steps.
        steps_per_second: Dream steps per second, with the agent's time.
        env_steps_per_second: Dream steps per second, without the agent's time.
    """

    dreams: int
    steps: int
    mean: float
    standard_error: float
    reward_rate: float
    steps_per_second: float
    env_steps_per_second: float


def play_dreams(env: DreamVectorEnv, act: Act, steps: int, seed: int) -> DreamReport:
    """Let an agent play in a latent torch dream env.

    Each env counts the same number of dreams, its first ones: as many as fit into `steps` steps
    if each lasts to the horizon. Counting dreams as they finish would favour short ones.

    Args:
        env: With `obs_type="latent"` and `array_type="torch"`.
        act: The agent.
        steps: Steps of each env, at least the env's horizon.
        seed: Seed of dreams and actions.

    Raises:
        GlamError: If `steps` is less than the env's horizon.
    """
    quota = steps // env.max_episode_steps
    if not quota:
        raise GlamError(
            f"steps must be at least {env.max_episode_steps}, the longest dream's, not {steps}"
        )
    generator = torch.Generator(env.device).manual_seed(seed)
    features, _ = env.reset(seed=seed)
    running = torch.zeros(env.num_envs, device=env.device)
    due = torch.full((env.num_envs,), quota, device=env.device)
    returns, total, inside = [], 0.0, 0.0
    start = time.perf_counter()
    for _ in range(steps):
        actions = act(features, generator)
        before = time.perf_counter()
        features, reward, terminated, truncated, _ = env.step(actions)
        inside += time.perf_counter() - before
        running += reward
        total += float(reward.sum())
        done = terminated | truncated
        counts = done & (due > 0)
        returns += running[counts].tolist()
        due[counts] -= 1
        running[done] = 0.0
    seconds = time.perf_counter() - start
    count = steps * env.num_envs
    deviation = float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0
    return DreamReport(
        dreams=len(returns),
        steps=count,
        mean=float(np.mean(returns)),
        standard_error=deviation / np.sqrt(len(returns)),
        reward_rate=total / count,
        steps_per_second=count / seconds,
        env_steps_per_second=count / inside,
    )


def _to_frame(world_model: WorldModel, code: Tensor) -> np.ndarray:
    with torch.no_grad():
        image = world_model.decode(code)[0]
    return (image * 255.0).round().to(torch.uint8).cpu().numpy()


def branch_moment(
    world_model: WorldModel, act: Act, game: str, *, lead: int, steps: int, seed: int, **real: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Let an agent play the game and a dream from one real moment.

    Args:
        world_model: World model of the game.
        act: The agent.
        game: Name of the game.
        lead: Real steps before the moment, at least the model's context.
        steps: Number `T` of frames after it.
        seed: Seed of the game, the dream and the agent.
        **real: Further settings of the emulator.

    Returns:
        (T, 64, 64, 3) uint8 frames of the dream and of the game, from the moment on.
    """
    device = next(world_model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    with closing(Emulator(game, 1, seed=seed, **real)) as emulator:
        seen, first = emulator.reset(), np.ones(1, bool)
        follow = LatentFilter(world_model, 1, generator)
        dreamt, played = [], []
        dream = None
        for step in range(lead + steps):
            features = follow.see(seen, first)
            if step == lead:
                dream = follow.state  # both worlds continue from here
            if dream is not None:
                dreamt.append(_to_frame(world_model, dream.code))
                played.append(seen[0])
                action = act(world_model.features(dream), generator)
                dream = world_model.step(dream, action, generator=generator).state
            actions = act(features, generator)
            follow.act(actions)
            result = emulator.step(actions.cpu().numpy())
            seen, first = result.frames, result.terminated | result.truncated
    return np.stack(dreamt), np.stack(played)
