"""Recordings of real play, from a moment on, to show beside a dream."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
import torch

from glam_env.envs.atari.rewind import RewindableGame
from glam_env.envs.latent_filter import Act, LatentFilter
from glam_env.errors import GlamError
from glam_env.games import GAMES
from glam_env.model.structures import DreamState
from glam_env.model.world_model import WorldModel
from glam_env.protocols import PlaySettings

COLUMNS = 16  # frames in a row of a sheet
MOST_GAMES = 100  # that may end before the moment


class Recording(NamedTuple):
    """Real play from a moment on.

    Attributes:
        state: The filter's state at the moment, from which a dream can continue.
        actions: (T) int64.
        rewards: (T) float32, the game's points.
        frames: (T+1, 64, 64, 3) uint8; the first is that of the moment.
    """

    state: DreamState
    actions: np.ndarray
    rewards: np.ndarray
    frames: np.ndarray


def record(
    world_model: WorldModel,
    act: Act,
    game: str,
    play: PlaySettings,
    *,
    lead: int,
    steps: int,
    seed: int,
) -> Recording:
    """Let the agent play the real game, and record a part.

    Args:
        world_model: World model of the game, on the CPU.
        act: The agent.
        game: Name of the game.
        play: How the game is played.
        lead: Steps before the moment, at least the model's context.
        steps: Number T of recorded steps. There are fewer if the game ends before.
        seed: Seed of the game and the agent.

    Raises:
        GlamError: ale-py is missing, or the games end before the moment.
    """
    generator = torch.Generator().manual_seed(seed)
    real, follow = RewindableGame(GAMES[game], play), LatentFilter(world_model, 1, generator)
    frame, first, at = real.reset(seed), True, 0
    games, state = 0, None  # games that ended before the moment, and the state at it
    frames: list[np.ndarray] = []
    actions: list[int] = []
    rewards: list[float] = []
    while len(actions) < steps:
        features = follow.see(frame[None], np.array([first]))
        if at == lead:
            state, frames = follow.state, [frame]
        chosen = act(features, generator)
        follow.act(chosen)
        step = real.step(int(chosen))
        frame, first, at = real.frame(), False, at + 1
        if state is not None:
            actions.append(int(chosen))
            rewards.append(step.reward)
            frames.append(frame)
        if real.over:
            if state is not None:
                break
            games += 1
            if games == MOST_GAMES:
                raise GlamError(f"{MOST_GAMES} games of {game} were over within {lead} steps")
            frame, first, at = real.reset(seed + games), True, 0
    assert state is not None
    return Recording(state, np.array(actions), np.array(rewards, np.float32), np.stack(frames))


def sheet(frames: np.ndarray) -> bytes:
    """Return frames as a PNG, row by row in :data:`COLUMNS` columns.

    Args:
        frames: (N, 64, 64, 3) uint8.
    """
    from PIL import Image

    rows = -(-len(frames) // COLUMNS)
    filled = np.zeros((rows * COLUMNS, *frames.shape[1:]), np.uint8)
    filled[: len(frames)] = frames
    tall, wide = frames.shape[1:3]
    grid = filled.reshape(rows, COLUMNS, tall, wide, 3).swapaxes(1, 2)
    buffer = io.BytesIO()
    Image.fromarray(grid.reshape(rows * tall, COLUMNS * wide, 3)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def describe(recording: Recording, name: str) -> dict[str, Any]:
    """Return the data of a recording for the page.

    Args:
        recording: The recording.
        name: File name of its sheet.
    """
    return {
        "sheet": name,
        "columns": COLUMNS,
        "actions": recording.actions.tolist(),
        "rewards": recording.rewards.tolist(),
    }
