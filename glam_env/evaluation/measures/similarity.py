"""SSIM, the structural similarity of images.

Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE
TIP 13-4, with that paper's settings.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

WINDOW, SIGMA = 11, 1.5  # of the circular-symmetric Gaussian weights
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@lru_cache
def _smoothing(size: int) -> np.ndarray:
    """Return the weights of the window along one axis: (size, size − 10).

    There is a column for each place at which the window fits into the axis.
    """
    offset = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offset**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    matrix = np.zeros((size, size - WINDOW + 1))
    for place in range(matrix.shape[1]):
        matrix[place : place + WINDOW, place] = weights
    return matrix.astype(np.float32)


class Statistics:
    """The statistics of single frames that SSIM needs, computed once.

    Args:
        frames: (N, H, W, 3) uint8, H and W at least 11.

    Attributes:
        level: (N, 1, 1) float32, mean luminance of each frame.
        gray: (N, H, W) float32, the luminance less `level`: smaller numbers lose less precision
            where squares of means are subtracted from means of squares.
        mean, variance: (N, H − 10, W − 10) float32, of `gray` in the window around each place.
    """

    def __init__(self, frames: np.ndarray) -> None:
        luminance = frames.astype(np.float32) @ LUMINANCE
        self.level = luminance.mean((1, 2), keepdims=True)
        self.gray = luminance - self.level
        self.mean = _smooth(self.gray)
        self.variance = _smooth(np.square(self.gray)) - np.square(self.mean)


def ssim(one: Statistics, other: Statistics) -> np.ndarray:
    """Compute the mean SSIM of pairs of frames.

    Returns:
        (N,) float32, 1 where the frames are the same.
    """
    covariance = _smooth(one.gray * other.gray) - one.mean * other.mean
    means = one.mean + one.level, other.mean + other.level
    luminance = (2 * means[0] * means[1] + C1) / (np.square(means[0]) + np.square(means[1]) + C1)
    structure = (2 * covariance + C2) / (one.variance + other.variance + C2)
    return (luminance * structure).mean((1, 2))


def _smooth(images: np.ndarray) -> np.ndarray:
    """Compute the windows' weighted means of (N, H, W) images: (N, H − 10, W − 10)."""
    rows, columns = images.shape[1:]
    return _smoothing(rows).T @ (images @ _smoothing(columns))
