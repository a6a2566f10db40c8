"""What a person sees of a run: a line of progress, and TensorBoard."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, TextIO

from glam_env.errors import GlamError
from glam_env.training.phases import progress
from glam_env.training.presets import TrainConfig

_SHOWN = {
    "recent_return": "return",
    "foreground_error": "foreground",
    "dynamics_kl": "kl",
    "rewards_found": "rewards found",
    "dream_return": "dream return",
    "entropy": "entropy",
}


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


class ProgressLine:
    """Turns lines of metrics into lines of progress: how far, how fast, how long, how well.

    On a terminal the line is drawn over, elsewhere each is printed.

    Args:
        config: of the run.
        stream: where to.
    """

    def __init__(self, config: TrainConfig, stream: TextIO | None = None) -> None:
        self._config, self._stream = config, stream or sys.stdout
        self._mark: tuple[str, int, float] | None = None  # phase, work done, and when

    def __call__(self, line: dict[str, Any]) -> None:
        """Shows a line that :class:`~glam_env.training.trainer.Trainer` logs."""
        if "phase" not in line:  # the end of an episode: the next line tells its return
            return
        phase = line["phase"]
        done, total, unit = progress(self._config, line)
        parts = [f"{phase} {done:,}/{total:,} {unit}"]
        now = time.perf_counter()
        if self._mark is None or self._mark[0] != phase:
            self._mark = (phase, done, now)
        elif done > self._mark[1]:
            rate = (done - self._mark[1]) / (now - self._mark[2])
            parts.append(f"{rate:.1f} {unit}/s, {clock((total - done) / rate)} left")
        parts += [f"{label} {line[name]:.3g}" for name, label in _SHOWN.items() if name in line]
        text = " | ".join(parts)
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[2K{text}")
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


class TensorBoardLog:
    """Writes metrics for TensorBoard, over the number of updates.

    Args:
        folder: for the event files.
        resumed_at: updates already done; events beyond are dropped from the display.

    Raises:
        GlamError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, resumed_at: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise GlamError('training needs tensorboard: pip install "glam-env[train]"') from error
        self._writer = SummaryWriter(str(folder), purge_step=resumed_at or None)

    def __call__(self, line: dict[str, Any]) -> None:
        """Adds the figures of a line."""
        step = line["image_updates"] + line["model_updates"]
        for name, value in line.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is pending."""
        self._writer.close()
