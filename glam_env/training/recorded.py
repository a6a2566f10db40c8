"""Recorded play as the first steps of a run."""

from __future__ import annotations

import numpy as np

from glam_env.envs.recordings.recording import Recording, load_recording
from glam_env.errors import GlamError
from glam_env.files import expand
from glam_env.games import Game
from glam_env.training.config import TrainConfig
from glam_env.training.replay import Replay


def read_recordings(config: TrainConfig, game: Game) -> list[Recording]:
    """Read the real steps of a run's ``replay_from``, and check that the run can begin with them.

    Nothing is written, so a command calls this before it makes the run's folder.

    Args:
        config: The run's settings.
        game: The run's game.

    Raises:
        GlamError: A file is no recording of the game, has no real step or is given twice, or the
            steps are too few or too many for the run.
    """
    recordings: list[Recording] = []
    steps, known = 0, set()
    for path in config.replay_from:
        if (file := expand(path).resolve()) in known:
            raise GlamError(f"replay_from names {path} twice; each recording counts once")
        known.add(file)
        recordings.append(load_recording(path, game))
        steps += recordings[-1].actions.shape[1]
        if steps > config.replay_capacity:  # said before more is read
            raise GlamError(
                f"replay_from has more steps than replay_capacity {config.replay_capacity:,}, so "
                "some would be forgotten at once; raise it, or give fewer recordings"
            )
        if steps >= config.total_steps:
            raise GlamError(
                f"replay_from leaves none of the run's total_steps {config.total_steps:,} to be "
                "played; raise them, or give fewer recordings"
            )
    if recordings and steps < config.num_envs:
        raise GlamError(
            f"replay_from has {steps} real steps, fewer than num_envs {config.num_envs}; "
            "record more, or lower num_envs"
        )
    return recordings


def add_recordings(recordings: list[Recording], replay: Replay) -> int:
    """Add recorded steps to a replay, as if its games had been played so.

    The recordings follow each other and are cut into S equal rows, one for each stream of the
    replay; at the end, the steps that do not fill all rows, fewer than S, are left out.
    No sequence goes on after an episode's end, after the end of a recording or after that of a row.
    An episode is ``terminated`` if its last step lost a life, as a game that is over does, and else
    ``truncated``, as are the other ends: a recording does not say more, and a model learns from
    ``life_lost`` alone.

    Args:
        recordings: Of one stream each, :func:`read_recordings`.
        replay: Of S streams.

    Returns:
        The steps that were added, over all streams.

    Raises:
        GlamError: The disk is full.
    """
    if not recordings:
        return 0
    streams = replay.streams
    frames = [frame for recording in recordings for frame in recording.frames[0]]  # views
    length = len(frames) // streams
    count = streams * length

    def rows(name: str) -> np.ndarray:
        whole = np.concatenate([getattr(recording, name)[0] for recording in recordings])
        return whole[:count].reshape(streams, length)

    actions, rewards, life_lost, ended = map(rows, ("actions", "rewards", "life_lost", "ended"))
    cut = np.zeros(len(frames), bool)
    cut[np.cumsum([recording.actions.shape[1] for recording in recordings]) - 1] = True
    cut = cut[:count].reshape(streams, length)
    cut[:, -1] = True
    terminated = ended & life_lost
    truncated = (ended | cut) & ~terminated
    for t in range(length):
        images = np.stack([frames[row * length + t] for row in range(streams)])
        outcome = rewards[:, t], life_lost[:, t], terminated[:, t], truncated[:, t]
        replay.add(images, actions[:, t], *outcome)
    return count
