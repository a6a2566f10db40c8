"""``Recorder``: recorded play, as arrays for contexts, fidelity and training."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from glam_env.envs.recordings.archives import FILE_BYTES
from glam_env.errors import GlamError
from glam_env.play.session.worlds import WorldStep

MOST_STEPS = FILE_BYTES // (64 * 64 * 3 + 64)
"""Maximum steps of a recording, about 48 minutes; a longer one could not be read."""


class Recorder:
    """Collects the steps of a session.

    A change of the world cuts the recording, as the end of an episode does. Steps that are wound
    back are removed.

    Args:
        game: Name of the game.
    """

    def __init__(self, game: str) -> None:
        self.game = game
        self._steps: list[tuple[np.ndarray, int, WorldStep, bool]] = []
        self._cuts: set[int] = set()  # numbers of steps after which the recording is cut
        self._beyond = 0  # steps taken since the recording is full

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def full(self) -> bool:
        """Whether the recording has as many steps as a file may have."""
        return len(self) >= MOST_STEPS

    @property
    def frames(self) -> list[np.ndarray]:
        """The frames, (64, 64, 3) uint8 each."""
        return [frame for frame, *_ in self._steps]

    def add(self, frame: np.ndarray, action: int, outcome: WorldStep, *, real: bool) -> None:
        """Add a step, unless the recording is full.

        Args:
            frame: (64, 64, 3) uint8, on which the action was taken.
            action: The action.
            outcome: Its outcome.
            real: Whether this was the real game.
        """
        if self.full:
            self._beyond += 1
        else:
            self._steps.append((frame, action, outcome, real))

    def cut(self) -> None:
        """Cut the recording: the next step does not continue the last one."""
        self._cuts.add(len(self))

    def wind_back(self, count: int) -> None:
        """Remove the last steps, at most those since the last cut."""
        kept = min(self._beyond, count)
        self._beyond, count = self._beyond - kept, count - kept
        begun = max(self._cuts, default=0)
        del self._steps[max(begun, len(self) - count) :]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the steps as one stream, in the arrays that :meth:`save` writes."""
        steps = self._steps
        outcomes = [outcome for _, _, outcome, _ in steps]
        ended = [outcome.ended or t + 1 in self._cuts for t, outcome in enumerate(outcomes)]
        frames = np.array(self.frames, np.uint8).reshape(-1, 64, 64, 3)
        return {
            "frames": frames[None],
            "actions": np.array([[action for _, action, _, _ in steps]], np.int64),
            "rewards": np.array([[outcome.reward for outcome in outcomes]], np.float32),
            "life_lost": np.array([[outcome.life_lost for outcome in outcomes]], bool),
            "ended": np.array([ended], bool),
            "real": np.array([[real for *_, real in steps]], bool),
        }

    def save(self, path: Path) -> Path:
        """Write the recording as an ``.npz`` file, completely or not at all.

        Besides the arrays of a :class:`~glam_env.envs.recordings.recording.Recording`, each with a
        leading dimension 1, it holds ``real`` (1, T) bool, false for steps of a dream.

        Args:
            path: The file; its folder is made if missing.

        Raises:
            GlamError: There is no step, or the file cannot be written.
        """
        if not self._steps:
            raise GlamError("nothing was recorded: take a step between start and stop")
        partial = path.with_name(f".{path.name}.partial")
        arrays = {"game": np.array(self.game), **self.arrays()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
            partial.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):  # it may not exist
                partial.unlink()
            reason = error.strerror or error
            raise GlamError(f"cannot write {path} ({reason}); choose a writable --to") from error
        return path
