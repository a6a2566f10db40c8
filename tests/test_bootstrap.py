"""Bootstrap intervals: the ends, both ways to draw resamples, and the one rule for None."""

import numpy as np
import pytest

from glam_env.evaluation.bootstrap import count_rows, draw_counts, draw_rows, interval


def generator():
    return np.random.default_rng(0)


def test_interval_of_a_mean_agrees_with_the_normal_one():
    data = np.random.default_rng(3).normal(5.0, 2.0, 400)
    half = 1.96 * data.std(ddof=1) / np.sqrt(len(data))
    by_rows = interval(lambda rows: data[rows].mean(1), draw_rows(generator(), 400, 4000))
    by_counts = interval(lambda counts: counts @ data / 400, draw_counts(generator(), 400, 4000))
    for ends in (by_rows, by_counts):
        assert ends == pytest.approx((data.mean() - half, data.mean() + half), abs=0.03)


def test_counts_describe_the_rows():
    data = np.arange(7.0)
    rows = draw_rows(generator(), 7, 50)
    counts = count_rows(rows)
    assert counts.shape == (50, 7)
    assert (counts.sum(1) == 7).all()
    np.testing.assert_allclose(counts @ data, data[rows].sum(1))
    assert (draw_counts(generator(), 7, 50).sum(1) == 7).all()


def test_level_is_the_share_between_the_ends():
    rows = draw_rows(generator(), 2, 101)
    assert interval(lambda rows: np.arange(101.0), rows, level=80) == (10.0, 90.0)


@pytest.mark.parametrize("undefined", [np.nan, np.inf])
def test_one_undefined_resample_means_no_interval(undefined):
    rows = draw_rows(generator(), 5, 1000)
    figures = np.ones(1000)
    assert interval(lambda rows: figures, rows) == (1.0, 1.0)
    figures[17] = undefined
    assert interval(lambda rows: figures, rows) is None


def test_division_by_zero_in_a_resample_is_undefined_and_silent():
    above, below = np.array([1.0, 0.0, 1.0]), np.array([1.0, 0.0, 2.0])
    rows = draw_rows(generator(), 3, 1000)
    assert interval(lambda rows: above[rows].sum(1) / below[rows].sum(1), rows) is None


def test_one_item_has_no_interval():
    assert interval(lambda rows: np.ones(len(rows)), draw_rows(generator(), 1, 10)) is None
