"""Plays from given moments: those of a recording, and dreams of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from glam_env.checkpoint.contexts import Contexts
from glam_env.envs.dream.engine import DreamEngine
from glam_env.envs.dream.options import DreamOptions
from glam_env.envs.latent_filter import Act
from glam_env.envs.recordings.recording import Recording
from glam_env.errors import GlamError
from glam_env.model.distributions import sample_codes
from glam_env.model.world_model import WorldModel

ENCODE_BATCH = 16  # contexts encoded at once


@dataclass(frozen=True)
class Plays:
    """`N` plays of at most `H` steps.

    Attributes:
        rewards: (N, H) float32.
        actions: (N, H) int64.
        alive: (N, H) bool, the play had not ended when the step began. Steps after its end have
            no meaning.
    """

    rewards: np.ndarray
    actions: np.ndarray
    alive: np.ndarray


def cut_plays(recording: Recording, env: np.ndarray, step: np.ndarray, horizon: int) -> Plays:
    """Cut the plays of a recording that begin at the (N,) given envs and steps."""
    rows, columns = env[:, None], step[:, None] + np.arange(horizon)
    ended = (recording.life_lost | recording.ended)[rows, columns]  # a dream ends with a lost life
    return Plays(
        rewards=recording.rewards[rows, columns],
        actions=recording.actions[rows, columns],
        alive=(ended.cumsum(1) - ended) == 0,
    )


@torch.no_grad()
def take_contexts(
    world_model: WorldModel, recording: Recording, starts: np.ndarray, context: int, seed: int
) -> Contexts:
    """Encode moments of real play as start contexts of dreams.

    Args:
        world_model: In evaluation mode.
        recording: The play.
        starts: (N, 2) int64, env and first step of each context.
        context: Steps before the moment.
        seed: Seed of the posterior's draws.
    """
    device = world_model.device
    generator = torch.Generator(device).manual_seed(seed)
    env, step = starts[:, :1], starts[:, 1:] + np.arange(context + 1)
    codes = []
    for begin in range(0, len(starts), ENCODE_BATCH):
        some = slice(begin, begin + ENCODE_BATCH)
        frames = torch.from_numpy(recording.frames[env[some], step[some]]).to(device)
        codes.append(sample_codes(world_model.encode(frames), generator=generator))
    actions = torch.from_numpy(recording.actions[env, step[:, :-1]])
    return Contexts(torch.cat(codes).to(torch.uint8), actions.to(torch.uint8))


@torch.no_grad()
def play_dreams_from(
    world_model: WorldModel,
    act: Act,
    contexts: Contexts,
    dreams_per_moment: int,
    horizon: int,
    seed: int,
    reward_values: Sequence[float] = (),
) -> Plays:
    """Let a policy play dreams from contexts, with rewards drawn as in the env.

    Args:
        world_model: In evaluation mode.
        act: The policy.
        contexts: Start contexts of the dreams.
        dreams_per_moment: Dreams from each context, at least 1.
        horizon: Steps of a dream.
        seed: Seed of the dreams and the policy.
        reward_values: The values that the game pays.

    Returns:
        The plays, those from one context next to each other.

    Raises:
        GlamError: For an impossible value.
    """
    device = world_model.device
    if dreams_per_moment < 1:
        raise GlamError(f"dreams_per_moment must be at least 1, not {dreams_per_moment}")
    indices = torch.arange(contexts.count, device=device).repeat_interleave(dreams_per_moment)
    engine = DreamEngine(
        world_model,
        contexts,
        len(indices),
        DreamOptions(
            device=device,
            obs_type="latent",
            max_episode_steps=horizon,
            precision="float32",  # the same figures on every CPU
            reward="sample",  # a chance of a point is not a point
        ),
        reward_values,
    )
    engine.reset(indices=indices, seed=seed)
    generator = torch.Generator(device).manual_seed(seed)
    rewards, actions, alive = [], [], [torch.ones(len(indices), dtype=torch.bool, device=device)]
    for _ in range(horizon):
        actions.append(act(world_model.features(engine.state), generator))
        step = engine.step(actions[-1])
        rewards.append(step.reward)
        alive.append(alive[-1] & ~step.terminated)
    return Plays(
        *(torch.stack(part, 1).cpu().numpy() for part in (rewards, actions, alive[:horizon]))
    )
