"""One agent, two worlds: dreams and whole real games, their scores and speeds, and a picture."""

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
from glam_env.model.world_model import WorldModel


@dataclass(frozen=True)
class DreamReport:
    """What an agent earned in dreams.

    Attributes:
        dreams: dreams that ran to their end.
        steps: of all dreams together.
        mean: reward of a dream, mean; standard_error: of that mean.
        reward_rate: reward a step.
        steps_per_second: dream steps, the agent's part included.
        env_steps_per_second: the same without the agent's part.
    """

    dreams: int
    steps: int
    mean: float
    standard_error: float
    reward_rate: float
    steps_per_second: float
    env_steps_per_second: float


def play_dreams(env: DreamVectorEnv, act: Act, steps: int, seed: int) -> DreamReport:
    """Lets an agent play in a latent torch dream env.

    Args:
        env: with ``obs_type="latent"`` and ``array_type="torch"``.
        act: the agent.
        steps: vector steps.
        seed: of dreams and actions.
    """
    generator = torch.Generator(env.device).manual_seed(seed)
    features, _ = env.reset(seed=seed)
    running = torch.zeros(env.num_envs, device=env.device)
    finished, total, inside = [], 0.0, 0.0
    start = time.perf_counter()
    for _ in range(steps):
        actions = act(features, generator)
        before = time.perf_counter()
        features, reward, terminated, truncated, _ = env.step(actions)
        inside += time.perf_counter() - before
        running += reward
        total += float(reward.sum())
        done = terminated | truncated
        finished += running[done].tolist()
        running[done] = 0.0
    seconds = time.perf_counter() - start
    count = steps * env.num_envs
    error = float(np.std(finished, ddof=1) / np.sqrt(len(finished))) if len(finished) > 1 else 0.0
    return DreamReport(
        dreams=len(finished),
        steps=count,
        mean=float(np.mean(finished)) if finished else 0.0,
        standard_error=error,
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
    """From one real moment, the game goes on and so does a dream, each under the agent.

    Args:
        world_model: of the game.
        act: the agent, in both.
        game: its name.
        lead: real steps before the moment, at least the model's context.
        steps: T frames after it.
        seed: of the game, the dream and the agent.
        real: further settings of the emulator.

    Returns:
        (T, 64, 64, 3) uint8 frames of the dream and of the game; they part at the first.
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
                dream = follow.state  # the moment: both go on from here
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
