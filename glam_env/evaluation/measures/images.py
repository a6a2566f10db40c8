"""Frames beside the real ones, by horizon: what is drawn on the background, and where."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from glam_env.evaluation.measures.similarity import Statistics, ssim

FOREGROUND = 0.05  # least difference from the background, in [0, 1], over the largest channel

Detector = Callable[[np.ndarray], dict[str, np.ndarray]]
"""(N, 64, 64, 3) uint8 frames to the (N, 2) positions of each object by name, NaN where absent."""


@dataclass(frozen=True)
class ImageCurve:
    """Frames by horizon, the first of each tuple one step ahead; None where nothing was compared.

    Attributes:
        foreground_error: Squared error on the pixels in which the real frame differs from the
            game's background, relative to drawing the background only.
        union_error: The same with the pixels added in which the drawn frame differs from the
            background: what is drawn where nothing is counts too. Never less than the former.
        psnr: In dB, of the mean squared error over all pixels of all frames; 100 at most.
        ssim: Structural similarity, mean over the frames; 1 for equal ones.
    """

    foreground_error: tuple[float | None, ...]
    union_error: tuple[float | None, ...]
    psnr: tuple[float | None, ...]
    ssim: tuple[float | None, ...]


@dataclass(frozen=True)
class ObjectCurve:
    """An object by horizon; None where a share or a median is of nothing.

    Attributes:
        real: Real frames that show it.
        drawn: Drawn frames that show it.
        distance: Median distance in pixels where both frames show it.
        missed: Share of the real frames with it whose drawn frames lack it.
        spurious: Share of the drawn frames with it whose real frames lack it.
    """

    real: tuple[int, ...]
    drawn: tuple[int, ...]
    distance: tuple[float | None, ...]
    missed: tuple[float | None, ...]
    spurious: tuple[float | None, ...]


class ImageTally:
    """Gathers by horizon how far what some painters drew is from the real frames.

    Args:
        painters: Their names.
        horizon: Number of horizons `H`.
        background: (64, 64, 3) uint8, the game's background.
    """

    def __init__(self, painters: Sequence[str], horizon: int, background: np.ndarray) -> None:
        self._background = background.astype(np.int16)
        # Sums of integers, so that drawing the background only is 1.0 to the last bit.
        self._empty, self._values, self._frames = np.zeros((3, horizon), np.int64)
        self._sums = {name: np.zeros((3, horizon), np.int64) for name in painters}
        self._ssim = {name: np.zeros(horizon) for name in painters}

    def add(self, k: int, real: np.ndarray, drawn: dict[str, np.ndarray]) -> None:
        """Compares frames that lie `k + 1` steps ahead.

        Args:
            k: As said.
            real: (N, 64, 64, 3) uint8.
            drawn: The same by each painter.
        """
        real, statistics = real.astype(np.int16), Statistics(real)
        foreground = self._differs(real)
        self._empty[k] += _squares(real, self._background)[foreground].sum()
        self._values[k] += real.size
        self._frames[k] += len(real)
        for name, frames in drawn.items():
            self._ssim[name][k] += ssim(statistics, Statistics(frames)).sum(dtype=np.float64)
            frames = frames.astype(np.int16)
            error = _squares(real, frames)
            union = foreground | self._differs(frames)
            self._sums[name][:, k] += error[foreground].sum(), error[union].sum(), error.sum()

    def curves(self) -> dict[str, ImageCurve]:
        """What was gathered, by painter."""
        return {name: self._curve(name) for name in self._sums}

    def _curve(self, name: str) -> ImageCurve:
        foreground, union, everywhere = self._sums[name]
        mean = _shares(everywhere, self._values)
        return ImageCurve(
            foreground_error=_shares(foreground, self._empty),
            union_error=_shares(union, self._empty),
            psnr=tuple(m if m is None else _psnr(m / 255**2) for m in mean),
            ssim=_shares(self._ssim[name], self._frames),
        )

    def _differs(self, frames: np.ndarray) -> np.ndarray:
        difference = np.abs(frames - self._background)
        # Channel by channel: a maximum over so short an axis is slow.
        largest = np.maximum(np.maximum(difference[..., 0], difference[..., 1]), difference[..., 2])
        return largest > FOREGROUND * 255


class ObjectTally:
    """Gathers objects' positions by horizon.

    Args:
        horizon: Number of horizons `H`.
    """

    def __init__(self, horizon: int) -> None:
        self._horizon = horizon
        self._real = defaultdict(lambda: np.zeros(horizon, np.int64))
        self._drawn = defaultdict(lambda: np.zeros(horizon, np.int64))
        self._distances: dict[str, list[list[np.ndarray]]] = defaultdict(
            lambda: [[] for _ in range(horizon)]
        )

    def add(self, k: int, real: dict[str, np.ndarray], drawn: dict[str, np.ndarray]) -> None:
        """Compares what a `Detector` found in N pairs of frames that lie `k + 1` steps ahead."""
        for name, position in real.items():
            distance = np.hypot(*(position - drawn[name]).T)
            self._real[name][k] += np.isfinite(position[:, 0]).sum()
            self._drawn[name][k] += np.isfinite(drawn[name][:, 0]).sum()
            self._distances[name][k].append(distance[np.isfinite(distance)])

    def curves(self) -> dict[str, ObjectCurve]:
        """What was gathered, by object."""
        return {name: self._curve(name) for name in self._real}

    def _curve(self, name: str) -> ObjectCurve:
        real, drawn = self._real[name], self._drawn[name]
        distances = [np.concatenate([np.empty(0), *parts]) for parts in self._distances[name]]
        both = np.array([len(distance) for distance in distances])
        return ObjectCurve(
            real=tuple(real.tolist()),
            drawn=tuple(drawn.tolist()),
            distance=tuple(float(np.median(d)) if len(d) else None for d in distances),
            missed=_shares(real - both, real),
            spurious=_shares(drawn - both, drawn),
        )


def _squares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(..., 3) int16 pixels to (...) int32 squared differences, summed over the channels."""
    squares = np.square(one - other, dtype=np.int32)
    return (
        squares[..., 0] + squares[..., 1] + squares[..., 2]
    )  # a sum over so short an axis is slow


def _shares(parts: np.ndarray, wholes: np.ndarray) -> tuple[float | None, ...]:
    pairs = zip(parts.tolist(), wholes.tolist(), strict=True)
    return tuple(part / whole if whole else None for part, whole in pairs)


def _psnr(mean_squared_error: float) -> float:
    return -10.0 * math.log10(max(mean_squared_error, 1e-10))
