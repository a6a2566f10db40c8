"""Dreamt frames compared with the real ones, by horizon.

Errors are those on the foreground, where frames differ from the game's background, and those over
the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from glam_env.envs.dream.pool import draw_frames
from glam_env.evaluation.measures.base import Measure, Subject
from glam_env.evaluation.measures.similarity import Statistics, ssim
from glam_env.evaluation.play.open_loop import DRAWN
from glam_env.evaluation.rows import Row, curve_rows

FOREGROUND = 0.05  # least difference from the background, in [0, 1], over the largest channel
BACKGROUND_FRAMES = 1000  # that the background is the median of
TITLES = {
    "foreground_error": "foreground error",
    "union_error": "union error",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
}


@dataclass(frozen=True)
class ImageCurve:
    """Figures of drawn frames by horizon.

    The first of each tuple is one step ahead. Values are None where nothing was compared.

    Attributes:
        foreground_error: Squared error on the pixels in which the real frame differs from the
            game's background, relative to drawing the background only.
        union_error: The same with the pixels added in which the drawn frame differs from the
            background, so that drawings in empty places count too. Never less than the former.
        psnr: In dB, of the mean squared error over all pixels of all frames; 100 at most.
        ssim: Structural similarity, mean over the frames; 1 for equal ones.
    """

    foreground_error: tuple[float | None, ...]
    union_error: tuple[float | None, ...]
    psnr: tuple[float | None, ...]
    ssim: tuple[float | None, ...]


@dataclass(frozen=True)
class ImageReport(Measure):
    """Images of open loop.

    Attributes:
        images: The curves of `dream` and of the baselines, `repeat` (the last real frame) and
            `average` (the mean frame).
        latents_error: Foreground error of the real frames one step ahead, drawn from their own
            latents: what the image model loses, without any dream. None in older reports.
    """

    flat: ClassVar[bool] = True

    images: dict[str, ImageCurve]
    latents_error: float | None = None

    @classmethod
    def measure(cls, subject: Subject) -> ImageReport:
        """Compare the frames of open loop."""
        dreams = subject.open_loop
        background = find_background(dreams.recording.frames)
        tally = ImageTally(list(DRAWN), dreams.horizon, background)
        own = ImageTally(["latents"], 1, background)
        for frames in dreams.frames():
            if frames.k == 0:
                codes = dreams.codes_at(frames.windows, frames.k)
                seen = draw_frames(subject.world_model, codes).cpu().numpy()
                own.add(0, frames.real, {"latents": seen})
            drawn = {
                "dream": frames.dream,
                "repeat": dreams.last_frames[frames.windows],
                "average": np.broadcast_to(dreams.average_frame, frames.real.shape),
            }
            tally.add(frames.k, frames.real, drawn)
        (latents_error,) = own.curves()["latents"].foreground_error
        return cls(tally.curves(), latents_error)

    @property
    def about(self) -> str:
        """How to read the figures."""
        return (
            "Images by steps ahead, of the dream, of the last real frame repeated and of the "
            "average real frame. Errors are squared errors on the foreground, the pixels that "
            "differ from the game's background, where drawing the background alone has an error "
            "of 1; the union adds the pixels in which the drawn frame differs from it. PSNR and "
            "SSIM are over the whole image, where an empty screen does well already."
        )

    def rows(self) -> list[Row]:
        """Return each figure of the dream and of the baselines."""
        rows = [
            row
            for figure, title in TITLES.items()
            for name, whose in DRAWN.items()
            for row in curve_rows(f"{title}, {whose}", getattr(self.images[name], figure))
        ]
        if self.latents_error is not None:
            title = "foreground error, real frames drawn from their own latents"
            rows.append(Row(title, self.latents_error))
        return rows


class ImageTally:
    """Sums of the differences between drawn and real frames, by horizon.

    Args:
        names: Names of the kinds of drawn frames.
        horizon: Number of horizons `H`.
        background: (64, 64, 3) uint8, the game's background.
    """

    def __init__(self, names: Sequence[str], horizon: int, background: np.ndarray) -> None:
        self._background = background.astype(np.int16)
        # Sums of integers, so that drawing the background only is 1.0 to the last bit.
        self._empty, self._values, self._frames = np.zeros((3, horizon), np.int64)
        self._sums = {name: np.zeros((3, horizon), np.int64) for name in names}
        self._ssim = {name: np.zeros(horizon) for name in names}

    def add(self, k: int, real: np.ndarray, drawn: dict[str, np.ndarray]) -> None:
        """Compare frames that lie `k + 1` steps ahead.

        Args:
            k: Number of the horizon, from 0.
            real: (N, 64, 64, 3) uint8.
            drawn: The same by name.
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
        """Return the curves, by name."""
        return {name: self._curve(name) for name in self._sums}

    def _curve(self, name: str) -> ImageCurve:
        foreground, union, everywhere = self._sums[name]
        mean = shares(everywhere, self._values)
        return ImageCurve(
            foreground_error=shares(foreground, self._empty),
            union_error=shares(union, self._empty),
            psnr=tuple(m if m is None else _psnr(m / 255**2) for m in mean),
            ssim=shares(self._ssim[name], self._frames),
        )

    def _differs(self, frames: np.ndarray) -> np.ndarray:
        return _differs(frames, self._background)


def foreground_errors(real: np.ndarray, drawn: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return the foreground error of each frame; see `ImageCurve`.

    Args:
        real, drawn: (N, 64, 64, 3) uint8.
        background: (64, 64, 3) uint8.

    Returns:
        (N) float64; 0 where nothing differs from the background.
    """
    real, drawn, background = (part.astype(np.int16) for part in (real, drawn, background))
    foreground = _differs(real, background)
    error, empty = (
        (_squares(real, part) * foreground).sum((1, 2), dtype=np.int64)
        for part in (drawn, background)
    )
    return error / np.maximum(empty, 1)


def find_background(frames: np.ndarray) -> np.ndarray:
    """Return the per-pixel median of a sample of frames.

    Args:
        frames: (E, T, 64, 64, 3) uint8.

    Returns:
        (64, 64, 3) uint8.
    """
    frames = frames.reshape(-1, *frames.shape[2:])
    some = frames[:: -(-len(frames) // BACKGROUND_FRAMES)]
    return np.percentile(some, 50, axis=0, method="lower").astype(np.uint8)


def shares(parts: np.ndarray, wholes: np.ndarray) -> tuple[float | None, ...]:
    """Divide element by element; None where the whole is 0."""
    pairs = zip(parts.tolist(), wholes.tolist(), strict=True)
    return tuple(part / whole if whole else None for part, whole in pairs)


def _differs(frames: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Map (..., 3) int16 pixels to (...) bool, those of the foreground."""
    difference = np.abs(frames - background)
    # Channel by channel: a maximum over so short an axis is slow.
    largest = np.maximum(np.maximum(difference[..., 0], difference[..., 1]), difference[..., 2])
    return largest > FOREGROUND * 255


def _squares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return squared differences of pixels, summed over the channels.

    (..., 3) int16 pixels give (...) int32 sums.
    """
    squares = np.square(one - other, dtype=np.int32)
    # Channel by channel: a sum over so short an axis is slow.
    return squares[..., 0] + squares[..., 1] + squares[..., 2]


def _psnr(mean_squared_error: float) -> float:
    return -10.0 * math.log10(max(mean_squared_error, 1e-10))
