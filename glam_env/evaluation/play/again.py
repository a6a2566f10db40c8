"""Repeated play in the game: the same actions from the same moment.

Sticky actions differ between repeats. They are the game's source of chance, so a repeat
shows what else could have happened. Without sticky actions a repeat is the same play.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from glam_env.envs.atari.emulator import FRAME_SIZE
from glam_env.envs.atari.rewind import RewindableGame
from glam_env.envs.latent_filter import Act, LatentFilter
from glam_env.evaluation.play.moments import RealMoment
from glam_env.model.world_model import WorldModel


class Play(NamedTuple):
    """`L` steps of real play, zero after the end of the episode.

    Attributes:
        actions: (L,) int64.
        rewards: (L,) float32.
        life_lost: (L,) bool.
        frames: (L, 64, 64, 3) uint8, the frame after each step.
        length: Steps up to the end of the episode, or `L`.
        ended: Whether the episode ended at the last of them.
    """

    actions: np.ndarray
    rewards: np.ndarray
    life_lost: np.ndarray
    frames: np.ndarray
    length: int
    ended: bool

    @property
    def shown(self) -> int:
        """Number of frames of the episode, without the frame of its end."""
        return self.length - self.ended


def play_from(
    world_model: WorldModel,
    act: Act,
    game: RewindableGame,
    moment: RealMoment,
    *,
    steps: int,
    seed: int,
) -> Play:
    """Let a policy play on from a moment.

    A lost life does not end the play.

    Args:
        world_model: Filters the frames.
        act: The policy.
        game: Played from the moment on.
        moment: A moment of this game.
        steps: Number of steps `L`.
        seed: Seed of sticky actions and the policy.
    """
    generator = torch.Generator(world_model.device).manual_seed(seed)
    latents = LatentFilter(world_model, 1, generator)
    latents.resume(moment.state)
    features = world_model.features(latents.state)
    game.restore(moment.game, seed=seed)
    play = _empty(steps)
    for t in range(steps):
        action = act(features, generator)
        latents.act(action)
        play.actions[t] = int(action)
        if _step(game, play, t):
            return play._replace(length=t + 1, ended=True)
        features = latents.see(play.frames[t][None], np.zeros(1, bool))
    return play


def repeat(game: RewindableGame, moment: RealMoment, actions: Sequence[int], *, seed: int) -> Play:
    """Take the same actions from a moment, with other sticky actions.

    Args:
        game: Played from the moment on.
        moment: A moment of this game.
        actions: `L` actions; those after the end of the episode are not taken.
        seed: Seed of sticky actions.
    """
    game.restore(moment.game, seed=seed)
    play = _empty(len(actions))
    for t, action in enumerate(actions):
        play.actions[t] = action
        if _step(game, play, t):
            return play._replace(length=t + 1, ended=True)
    return play


def _step(game: RewindableGame, play: Play, t: int) -> bool:
    """Take action t and store the result; return whether the episode has ended."""
    step = game.step(int(play.actions[t]))
    play.rewards[t], play.life_lost[t] = step.reward, step.life_lost
    play.frames[t] = game.frame()
    return step.terminated or step.truncated


def _empty(steps: int) -> Play:
    return Play(
        actions=np.zeros(steps, np.int64),
        rewards=np.zeros(steps, np.float32),
        life_lost=np.zeros(steps, bool),
        frames=np.zeros((steps, FRAME_SIZE, FRAME_SIZE, 3), np.uint8),
        length=steps,
        ended=False,
    )
