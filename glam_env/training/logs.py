"""What a person sees of a training run: its progress, and TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glam_env.console import Progress, clock  # noqa: F401  (read by glam_agents.progress)
from glam_env.errors import GlamError
from glam_env.training.presets import TrainConfig

_SHOWN = {
    "recent_return": "return",
    "foreground_error": "foreground",
    "dynamics_kl": "kl",
    "rewards_found": "rewards found",
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
        progress(line["phase"], *_position(config, line), note=" | ".join(figures))

    return show


def _position(config: TrainConfig, line: Mapping[str, Any]) -> tuple[int, int, str]:
    """Return how much of a line's phase is done, how much there is, and the unit."""
    c, phase = config, line["phase"]
    if phase == "image warm-up":
        return line["image_updates"], c.image_warmup, "updates"
    if phase == "image polish":
        return line["polished"], c.freeze.polish, "updates"
    if phase == "settling":
        return line["settled"], c.freeze.settle, "updates"
    if phase == "model warm-up":
        return line["model_updates"], c.model_warmup, "updates"
    return line["env_steps"], c.total_steps, "steps"


class TensorBoardLog:
    """Write metrics for TensorBoard, over the number of updates.

    Args:
        folder: Folder of the event files.
        resumed_at: Updates already done; TensorBoard hides the events beyond.

    Raises:
        GlamError: If tensorboard is not installed.
    """

    def __init__(self, folder: Path, resumed_at: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise GlamError('training needs tensorboard: pip install "glam-env[train]"') from error
        self._writer = SummaryWriter(str(folder), purge_step=resumed_at or None)

    def __call__(self, line: dict[str, Any]) -> None:
        """Add the figures of a line."""
        step = line["image_updates"] + line["model_updates"]
        for name, value in line.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()
