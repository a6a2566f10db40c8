"""The latents of all frames in a replay, computed once by a frozen image model.

While the image model is frozen, the sequence model learns from stored latents alone. Such an update
costs a tenth of an update with images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from glam_env.device import upload
from glam_env.model.structures import LatentBatch
from glam_env.model.world_model import WorldModel
from glam_env.training.disk_space import flush
from glam_env.training.replay import Replay, Windows

CHUNK = 256  # frames encoded at once


class LatentStore:
    """Posteriors and projected features in float16, one entry for each slot of a replay.

    The file lies beside the replay's files and follows their rule: what a checkpoint needs is not
    overwritten before the next one.

    Args:
        replay: The frames to encode.
        world_model: Its image model must be frozen.
        name: Name of the file.

    Attributes:
        encoded: Frames of each stream encoded so far, counted as ``Replay.added``.
    """

    def __init__(self, replay: Replay, world_model: WorldModel, name: str = "latents") -> None:
        self.replay, self.world_model = replay, world_model
        c = world_model.config
        self.encoded, self._name = 0, name
        self._shape = (c.categoricals, c.classes)
        self._width = c.categoricals * c.classes
        self._array = replay.open_beside(name, np.float16, (2, self._width))

    def catch_up(self) -> None:
        """Encode the frames that were added since the last call, oldest first.

        Raises:
            GlamError: The disk is full.
        """
        replay = self.replay
        device = next(self.world_model.parameters()).device
        self.encoded = max(self.encoded, replay.added - replay.capacity)
        step = max(1, CHUNK // replay.streams)
        while self.encoded < replay.added:
            slots = np.arange(self.encoded, min(self.encoded + step, replay.added)) % replay.ring
            replay.allocate(self._name, self._array, slots)
            places = np.arange(replay.streams)[:, None], slots[None]
            images = replay.take("images", places, device)
            latents = self.world_model.latents(images.flatten(0, 1))
            stored = torch.stack([part.flatten(1) for part in latents], 1).half().cpu().numpy()
            self._array[places] = stored.reshape(*images.shape[:2], 2, self._width)
            self.encoded += len(slots)

    def sample(
        self, batch: int, length: int, rng: np.random.Generator, device: torch.device | str = "cpu"
    ) -> LatentBatch:
        """Draw a batch as :meth:`Replay.sample` does; call :meth:`catch_up` first."""
        return self.read(self.replay.draw_windows(batch, length, rng), device)

    def read(self, windows: Windows, device: torch.device | str = "cpu") -> LatentBatch:
        """Read windows of the replay; call :meth:`catch_up` first."""
        stored = self._array[windows.places]
        log_probs, projected = upload(stored, device).float().unbind(2)
        rest = self.replay.read_fields(windows, LatentBatch._fields[2:], device)
        return LatentBatch(log_probs.unflatten(-1, self._shape), projected, **rest)

    def flush(self) -> None:
        """Write everything to the disk.

        Raises:
            GlamError: The disk fails.
        """
        flush(self.replay.folder / f"{self._name}.npy", self._array)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must store beside the file."""
        return {"encoded": self.encoded}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load a :meth:`state`."""
        self.encoded = int(state["encoded"])
