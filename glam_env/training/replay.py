"""The replay: a ring of real steps in memory-mapped files, which outlive the process.

Each stream (an env of the emulator) has a ring. Step t of a stream is a frame, the action taken on
it, the reward that followed, and whether a life or the episode ended. A sampled sequence crosses
neither the end of an episode nor the seam of the ring; what is missing of its length is padding.

Disk space is allocated block by block as the ring grows, before it is written.

The files hold more steps than the ring's capacity. The spare slots keep steps that a checkpoint
needs from being overwritten before the next checkpoint, so a killed run resumes with its replay.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from glam_env.device import upload
from glam_env.errors import GlamError
from glam_env.model.structures import SequenceBatch
from glam_env.model.vision import IMAGE_SIZE
from glam_env.training.disk_space import allocate, flush

BLOCK = 256  # slots of the ring whose disk space is allocated at once

_FIELDS: dict[str, tuple[type, tuple[int, ...]]] = {
    "images": (np.uint8, (IMAGE_SIZE, IMAGE_SIZE, 3)),
    "actions": (np.int64, ()),
    "rewards": (np.float32, ()),
    "life_lost": (np.bool_, ()),
    "terminated": (np.bool_, ()),
    "truncated": (np.bool_, ()),
}


class Windows(NamedTuple):
    """B windows of L steps of a replay.

    Attributes:
        streams: (B, 1) int64.
        slots: (B, L) int64, ring slots; padding repeats the last valid one.
        valid: (B, L) bool; padding, at the end of a window, is not.
    """

    streams: np.ndarray
    slots: np.ndarray
    valid: np.ndarray

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Streams and slots, to index an array of the replay with."""
        return self.streams, self.slots


class Replay:
    """A ring of the last ``capacity`` steps of each of ``streams`` streams.

    Args:
        folder: Where the files are; made if missing. Files of the same shape are opened with
            their content; it counts once :meth:`load_state` is called.
        streams: Number of parallel streams.
        capacity: Steps kept of each stream.
        spare: Steps per stream that can be added without overwriting what the older of the last
            two checkpoints needs.
        writable: False opens the files read-only; a training may be adding to them.

    Raises:
        GlamError: The files have another shape, or cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        streams: int,
        capacity: int,
        spare: int = 0,
        *,
        writable: bool = True,
    ) -> None:
        if streams < 1 or capacity < 2 or spare < 0:
            raise ValueError(f"impossible replay: {streams=}, {capacity=}, {spare=}")
        self.folder, self.writable = folder, writable
        self.streams, self.capacity, self.ring = streams, capacity, capacity + spare
        self.added = 0  # steps ever added to each stream
        self._known_segments: np.ndarray | None = None  # dropped by add
        self._allocated: dict[str, set[int]] = {}  # blocks with disk space, by file
        self._arrays = {
            name: self.open_beside(name, dtype, shape) for name, (dtype, shape) in _FIELDS.items()
        }

    def open_beside(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
        """Open another file with one entry for each slot, (streams, ring, *shape).

        Raises:
            GlamError: The file has another shape or type, or cannot be made.
        """
        whole = (self.streams, self.ring, *shape)
        self._allocated[name] = set()
        return self._open(self.folder / f"{name}.npy", dtype, whole, self.writable)

    def remove_beside(self, name: str) -> None:
        """Remove a file of :meth:`open_beside`, if it exists."""
        (self.folder / f"{name}.npy").unlink(missing_ok=True)

    def allocate(self, name: str, array: np.memmap, slots: np.ndarray) -> None:
        """Allocate the disk space of slots of :meth:`open_beside` that are about to be written.

        Raises:
            GlamError: The disk is full. Nothing has been written.
        """
        slot_bytes = array[0, 0].nbytes
        for block in {slot // BLOCK for slot in slots.tolist()} - self._allocated[name]:
            count = min(BLOCK, self.ring - block * BLOCK)
            firsts = np.arange(self.streams) * self.ring + block * BLOCK
            parts = [(array.offset + int(i) * slot_bytes, count * slot_bytes) for i in firsts]
            allocate(self.folder / f"{name}.npy", parts)
            self._allocated[name].add(block)

    @staticmethod
    def _open(path: Path, dtype: type, shape: tuple[int, ...], writable: bool) -> np.memmap:
        partial = path.with_name(f".{path.name}.partial")
        try:
            if writable and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
                os.replace(partial, path)  # a full disk leaves no half of a file
            elif not path.is_file():
                raise ValueError("it is missing or no regular file")
            array = np.lib.format.open_memmap(
                path, mode="r"
            )  # r refuses a shortened file; r+ would pad it
            if writable:
                array = np.lib.format.open_memmap(path, mode="r+")
        except (OSError, ValueError) as error:
            if writable:
                with contextlib.suppress(OSError):  # as where its folder is none
                    partial.unlink()
            raise GlamError(
                f"replay file {path} cannot be opened ({error}); "
                "free disk space, or start a run in a new folder"
            ) from error
        if array.shape != shape or array.dtype != dtype:
            raise GlamError(
                f"replay file {path} holds {array.shape} {array.dtype}, this run needs "
                f"{shape} {np.dtype(dtype)}; resume with the run's own settings"
            )
        return array

    def __len__(self) -> int:
        """Return the number of steps that can be sampled, over all streams."""
        return self.streams * min(self.added, self.capacity)

    @property
    def rewards(self) -> np.ndarray:
        """Rewards of the steps that can be sampled, (streams, steps) float32, oldest first."""
        return self._arrays["rewards"][:, self._order()]

    def usual_reward(self) -> float:
        """Return the mean size of the rewards other than 0; 1 while there are none."""
        sizes = np.abs(self.rewards)
        count = np.count_nonzero(sizes)
        return float(sizes.sum(dtype=np.float64) / count) if count else 1.0

    def add(
        self,
        images: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        life_lost: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        """Add one step of each of S streams: (S, 64, 64, 3) uint8 images, the rest (S).

        Raises:
            GlamError: The disk is full; nothing has been added.
        """
        slot = self.added % self.ring
        values = (images, actions, rewards, life_lost, terminated, truncated)
        if slot // BLOCK not in self._allocated[next(reversed(_FIELDS))]:
            for name, array in self._arrays.items():
                self.allocate(name, array, np.array([slot]))
        for array, value in zip(self._arrays.values(), values, strict=True):
            array[:, slot] = value
        self.added += 1
        self._known_segments = None

    def _order(self) -> np.ndarray:
        """Return the ring slots of the steps that count, oldest first."""
        count = min(self.added, self.capacity)
        return np.arange(self.added - count, self.added) % self.ring

    def _segments(self) -> np.ndarray:
        """List the runs of steps that no end and no seam interrupts.

        Returns:
            (N, 3) int64: stream, age of the first step, and age after the last one; age 0 is the
            oldest step.
        """
        if self._known_segments is None:
            order = self._order()
            ends = (self._arrays["terminated"] | self._arrays["truncated"])[:, order]
            ends[:, -1:] = True
            stream, last = np.nonzero(ends)
            first = np.roll(last, 1) + 1
            first[np.diff(stream, prepend=-1) > 0] = 0
            self._known_segments = np.stack([stream, first, last + 1], 1)
        return self._known_segments

    def draw_windows(self, batch: int, length: int, rng: np.random.Generator) -> Windows:
        """Draw windows such that every step lies in as many of them as any other.

        A window may begin up to ``length`` − 1 steps before the first step of an episode, or end
        as far after its last one: with equal chances for all places where it overlaps an episode,
        every step is in a window with the same probability. Only the overlap is valid; the other
        places, moved to the end of the window, are padding.

        Args:
            batch: B windows.
            length: L steps in each.
            rng: The caller's generator, which a resumed run restores.

        Raises:
            GlamError: The replay is empty.
        """
        if len(self) == 0:
            raise GlamError("the replay is empty; collect more random steps first")
        stream, first, end = self._segments().T
        places = np.cumsum(end - first + length - 1)
        place = rng.integers(places[-1], size=batch)
        chosen = np.searchsorted(places, place, side="right")
        stream, first, end = stream[chosen], first[chosen], end[chosen]
        begin = end - places[chosen] + place  # from first − length + 1 to end − 1
        age = np.maximum(begin, first)
        count = np.minimum(begin + length, end) - age
        steps = np.arange(length)
        valid = steps < count[:, None]  # (B, L)
        ages = age[:, None] + np.minimum(steps, count[:, None] - 1)
        return Windows(stream[:, None], self._order()[ages], valid)

    def draw_whole(self, batch: int, length: int, rng: np.random.Generator) -> Windows:
        """Draw windows without padding, uniformly from all places where one fits.

        Steps near the ends of an episode lie in fewer of them. See :meth:`draw_windows`.

        Raises:
            GlamError: No window of this length lies in one episode.
        """
        stream, first, end = self._segments().T
        places = np.cumsum(np.maximum(end - first - length + 1, 0))
        if len(places) == 0 or places[-1] == 0:
            raise GlamError(
                f"no {length} steps in a row lie within one episode of the {len(self)} recorded; "
                "collect more random steps first or shorten the context"
            )
        place = rng.integers(places[-1], size=batch)
        chosen = np.searchsorted(places, place, side="right")
        age = end[chosen] - length + 1 - places[chosen] + place
        slots = self._order()[age[:, None] + np.arange(length)]
        return Windows(stream[chosen][:, None], slots, np.ones(slots.shape, bool))

    def take(
        self, name: str, places: tuple[np.ndarray, np.ndarray], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Read one field at given streams and slots: (B, L, ...)."""
        return upload(self._arrays[name][places], device)

    def read(self, windows: Windows, device: torch.device | str = "cpu") -> SequenceBatch:
        """Read the steps of drawn windows."""
        return SequenceBatch(**self.read_fields(windows, SequenceBatch._fields, device))

    def read_fields(
        self, windows: Windows, names: Iterable[str], device: torch.device | str = "cpu"
    ) -> dict[str, torch.Tensor]:
        """Read some fields of drawn windows, by name; ``valid`` is the windows' own."""
        return {
            name: upload(windows.valid, device)
            if name == "valid"
            else self.take(name, windows.places, device)
            for name in names
        }

    def sample(
        self,
        batch: int,
        length: int,
        rng: np.random.Generator,
        device: torch.device | str = "cpu",
    ) -> SequenceBatch:
        """Draw a batch of ``batch`` sequences of ``length`` steps; see :meth:`draw_windows`."""
        return self.read(self.draw_windows(batch, length, rng), device)

    def sample_images(
        self, count: int, rng: np.random.Generator, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Draw (count, 64, 64, 3) uint8 frames, independently and uniformly."""
        order = self._order()
        stream = rng.integers(self.streams, size=count)
        slots = order[rng.integers(len(order), size=count)]
        return upload(self._arrays["images"][stream, slots], device)

    def flush(self) -> None:
        """Write everything to the disk.

        Raises:
            GlamError: The disk fails.
        """
        for name, array in self._arrays.items():
            flush(self.folder / f"{name}.npy", array)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must store beside the files."""
        return {"added": self.added, "streams": self.streams, "ring": self.ring}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load a :meth:`state`: steps added after it count no more."""
        if (state["streams"], state["ring"]) != (self.streams, self.ring):
            raise GlamError(
                f"the checkpoint's replay has {state['streams']} streams of {state['ring']} steps, "
                f"this one {self.streams} of {self.ring}; resume with the run's own settings"
            )
        self.added = int(state["added"])
        self._known_segments = None
