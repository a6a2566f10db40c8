"""What a person sees of a training run: its progress, and TensorBoard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glam_env.console import Progress
from glam_env.errors import GlamError
from glam_env.training.config import TrainConfig
from glam_env.training.phases import progress as position

_SHOWN = {
    "recent_return": "return",
    "foreground_error": "foreground",
    "dynamics_kl": "kl",
    "new_play_kl": "kl on new play",
    "rewards_found": "rewards found",
    "new_play_rewards_found": "found on new play",
    "dream_return": "dream return",
    "entropy": "entropy",
}


def show_metrics(config: TrainConfig, progress: Progress) -> Callable[[dict[str, Any]], None]:
    """Return a listener that shows a run's metrics as progress.

    Args:
        config: Settings of the run.
        progress: The display.
    """

    def show(line: dict[str, Any]) -> None:
        if "phase" not in line:  # the end of an episode; the next line has its return
            return
        figures = [f"{label} {line[name]:.3g}" for name, label in _SHOWN.items() if name in line]
        progress(line["phase"], *position(config, line), note=" | ".join(figures))

    return show


class TensorBoardLog:
    """Write metrics for TensorBoard, over the number of updates.

    Args:
        folder: Folder of the event files.
        resumed_at: Updates already done; TensorBoard hides the events beyond.

    Raises:
        GlamError: If tensorboard is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: Path, resumed_at: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise GlamError('training needs tensorboard: pip install "glam-env[train]"') from error
        self._folder, self._hook = folder, threading.excepthook
        threading.excepthook = self._on_thread_error
        with self._one_line():
            self._writer = SummaryWriter(str(folder), purge_step=resumed_at or None)

    def __call__(self, line: dict[str, Any]) -> None:
        """Add the figures of a line.

        Raises:
            GlamError: If they cannot be written, as on a full disk.
        """
        step = line["image_updates"] + line["model_updates"]
        with self._one_line():
            for name, value in line.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is pending.

        Raises:
            GlamError: If it cannot be written.
        """
        with self._one_line():
            self._writer.close()
        threading.excepthook = self._hook

    def _on_thread_error(self, error: threading.ExceptHookArgs) -> None:
        """Pass on the error of a thread, but for TensorBoard's, which reaches the next call."""
        if not issubclass(error.exc_type, OSError):
            self._hook(error)

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            threading.excepthook = self._hook
            raise GlamError(
                f"cannot write {self._folder} ({error.strerror or error}); "
                "free disk space and --resume"
            ) from error
