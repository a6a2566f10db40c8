"""Recordings of the real game, and the recording files of `glam play`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glam_env.checks import require_range
from glam_env.envs.base import FRAME_SHAPE
from glam_env.envs.recordings.archives import as_tensor, read_arrays
from glam_env.errors import GlamError
from glam_env.files import expand, shown
from glam_env.games import Game


@dataclass(frozen=True)
class Recording:
    """`E` streams of `T` steps of real play, episode after episode.

    At step `t` the frame was seen, then the action was taken; the rest is its outcome.

    Attributes:
        game: Name of the game.
        frames: (E, T, 64, 64, 3) uint8.
        actions: (E, T) int64.
        rewards: (E, T) float32, raw points.
        life_lost: (E, T) bool, a life was lost or the game was over at this step.
        ended: (E, T) bool, the episode ended at this step; the next frame begins another one.
    """

    game: str
    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    life_lost: np.ndarray
    ended: np.ndarray


_KINDS = {
    "frames": np.dtype(np.uint8),
    "actions": np.dtype(np.int64),
    "rewards": np.dtype(np.float32),
    "life_lost": np.dtype(bool),
    "ended": np.dtype(bool),
    "real": np.dtype(bool),
}


def load_recording(path: str | Path, game: Game) -> Recording:
    """Read the real steps of a recording of `glam play`; steps of dreams are left out.

    Args:
        path: An `.npz` file with `game` and `frames` (1, T, 64, 64, 3) uint8, `actions` (1, T)
            int64, `rewards` (1, T) float32, `life_lost`, `ended` and `real` (1, T) bool.
        game: The game that it must be of.

    Raises:
        GlamError: It is no such file, of another game, or has no real step.
    """
    path = expand(path)
    arrays = read_arrays(path, ("game", *_KINDS), "recording")
    if missing := [name for name in ("game", *_KINDS) if name not in arrays]:
        raise GlamError(f"{path} has no {missing[0]}; give a recording of `glam play`")
    if (name := str(np.asarray(arrays.pop("game")))) != game.name:
        raise GlamError(f"{path} is a recording of {shown(name)}, not of {game.name}")
    shape = np.shape(arrays["actions"])
    for name, dtype in _KINDS.items():
        wanted = (*shape, *FRAME_SHAPE) if name == "frames" else shape
        array = arrays[name] = np.asarray(arrays[name])
        if array.dtype != dtype or array.shape != wanted or len(shape) != 2 or shape[0] != 1:
            raise GlamError(
                f"{path}: {name} is {array.dtype} {array.shape}; give a recording of `glam play`"
            )
    if not np.isfinite(arrays["rewards"]).all():
        raise GlamError(f"{path}: rewards are not finite; record again")
    require_range(f"{path}: actions", as_tensor(arrays["actions"]), game.num_actions)
    real = arrays.pop("real")[0]
    if not real.any():
        raise GlamError(f"{path} holds dreams alone; record the real game (key r)")
    return Recording(game.name, **{name: array[:, real] for name, array in arrays.items()})
