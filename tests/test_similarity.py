"""SSIM beside the definition of Wang et al. 2004, window by window in float64."""

import numpy as np
import pytest

from glam_env.evaluation.measures.similarity import Statistics, ssim


def reference(one, other):
    """Compute the mean SSIM of two frames with an 11 × 11 Gaussian of σ 1.5 at every place."""
    gray = [frame.astype(np.float64) @ [0.299, 0.587, 0.114] for frame in (one, other)]
    y, x = np.mgrid[-5:6, -5:6]
    weights = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(one.shape[0] - 10):
        for left in range(one.shape[1] - 10):
            a, b = (g[top : top + 11, left : left + 11] for g in gray)
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a = (weights * (a - mean_a) ** 2).sum()
            var_b = (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + c1)
                * (2 * covariance + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return np.mean(values)


def frames(kind):
    generator = np.random.default_rng(0)
    if kind == "noise":
        return generator.integers(256, size=(2, 64, 64, 3), dtype=np.uint8)
    one = np.full((64, 64, 3), 200 if kind == "bright" else 3, np.uint8)
    other = one + generator.integers(3, size=one.shape, dtype=np.uint8)
    other[20:24, 30:40] = 90
    return np.stack([one, other])


@pytest.mark.parametrize("kind", ["noise", "bright", "dark"])
def test_ssim_is_that_of_the_paper(kind):
    one, other = frames(kind)
    ours = ssim(Statistics(one[None]), Statistics(other[None]))
    assert ours.shape == (1,)
    assert ours[0] == pytest.approx(reference(one, other), abs=2e-5)
    assert ours[0] < 0.99


def test_ssim_is_one_for_equal_frames_and_symmetric():
    pair = Statistics(frames("noise"))
    np.testing.assert_allclose(ssim(pair, pair), 1.0, atol=1e-5)
    swapped = Statistics(frames("noise")[::-1])
    np.testing.assert_allclose(ssim(pair, swapped), ssim(swapped, pair), atol=1e-6)
