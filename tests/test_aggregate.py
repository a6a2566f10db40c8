"""Figures over many games, and their intervals, against rliable on the same data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from glam_env.evaluation import aggregate as own
from glam_env.evaluation.bootstrap import ends

RUNS, GAMES, RESAMPLES = 5, 26, 400


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    """Synthetic scores, (runs, games), heavy in the tail as those of Atari are."""
    generator = np.random.default_rng(8)
    return generator.lognormal(generator.normal(-1.0, 1.0, GAMES), 0.5, (RUNS, GAMES)) - 0.05


@pytest.fixture(scope="module")
def rliable() -> Any:
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed")
    library = pytest.importorskip("rliable.library", reason="rliable is not installed")
    return metrics, library


def strata(scores: np.ndarray) -> list[np.ndarray]:
    return list(scores.T)


def same_draws(scores: np.ndarray, seed: int) -> list[np.ndarray]:
    """Resample as rliable does after `np.random.seed(seed)`; (resamples, runs) for each game."""
    np.random.seed(seed)  # noqa: NPY002 (rliable draws from the global generator)
    rows = [np.random.choice(RUNS, (RUNS, GAMES), replace=True) for _ in range(RESAMPLES)]  # noqa: NPY002
    drawn = np.stack([scores[index, np.arange(GAMES)] for index in rows])
    return [drawn[:, :, game] for game in range(GAMES)]


FIGURES = {
    "mean": "aggregate_mean",
    "median": "aggregate_median",
    "iqm": "aggregate_iqm",
    "optimality_gap": "aggregate_optimality_gap",
}


def test_all_figures_are_compared() -> None:
    assert FIGURES.keys() == own.AGGREGATES.keys()


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(("runs", "games"), [(5, 26), (3, 7), (2, 1), (4, 3)])
def test_figures_are_those_of_rliable(rliable, scores, name, runs, games) -> None:
    part = scores[:runs, :games]
    expected = getattr(rliable[0], FIGURES[name])(part)
    assert float(own.AGGREGATES[name](strata(part))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", FIGURES)
def test_intervals_of_the_same_resamples_are_those_of_rliable(rliable, scores, name) -> None:
    metrics, library = rliable
    figure = getattr(metrics, FIGURES[name])
    np.random.seed(3)  # noqa: NPY002
    _, expected = library.get_interval_estimates(
        {"own": scores}, lambda x: np.array([figure(x)]), reps=RESAMPLES
    )
    found = ends(own.AGGREGATES[name](same_draws(scores, 3)))
    assert found == pytest.approx(expected["own"][:, 0].tolist(), rel=1e-12)


@pytest.mark.parametrize("name", FIGURES)
def test_our_own_resamples_give_nearly_the_same_interval(rliable, scores, name) -> None:
    """Two sets of resamples of the same data differ by the noise of the bootstrap alone."""
    expected = ends(own.AGGREGATES[name](same_draws(scores, 3)))
    found = own.aggregate(strata(scores), resamples=20_000)[name].interval
    assert expected is not None
    width = expected[1] - expected[0]
    assert found == pytest.approx(expected, abs=0.15 * width)


def test_profiles_of_the_same_resamples_are_those_of_rliable(rliable, scores) -> None:
    levels = np.linspace(0.0, 2.0, 9)
    np.random.seed(4)  # noqa: NPY002
    shares, intervals = rliable[1].create_performance_profile(
        {"own": scores}, levels, reps=RESAMPLES
    )
    drawn = same_draws(scores, 4)
    np.testing.assert_allclose(own.share_above(strata(scores), levels), shares["own"])
    found = np.percentile(own.share_above(drawn, levels), [2.5, 97.5], axis=0)
    np.testing.assert_allclose(found, intervals["own"])
    whole = own.profile(strata(scores), levels)
    assert whole.low is not None
    assert whole.high is not None
    assert (whole.low <= whole.share).all()
    assert (whole.share <= whole.high).all()
    np.testing.assert_allclose([whole.low, whole.high], intervals["own"], atol=0.03)


def test_improvement_is_that_of_rliable(rliable, scores) -> None:
    others = np.round(np.random.default_rng(2).lognormal(-0.9, 1.0, (3, GAMES)), 1)
    ours = np.round(scores, 1)  # ties
    expected = rliable[0].probability_of_improvement(ours, others)
    assert float(own.improvement(strata(ours), strata(others))) == pytest.approx(expected)
    published = scores.mean(0, keepdims=True) * 1.1  # one run: the mean of a table
    expected = rliable[0].probability_of_improvement(scores, published)
    found = own.improvement_over(strata(scores), strata(published))
    assert found.value == pytest.approx(expected)
    _, ends_of = rliable[1].get_interval_estimates(
        {"own": [scores, published]},
        lambda x, y: np.array([rliable[0].probability_of_improvement(x, y)]),
        reps=200,
    )
    assert found.interval == pytest.approx(ends_of["own"][:, 0].tolist(), abs=0.02)


def test_games_may_have_different_numbers_of_runs(scores) -> None:
    ragged = [runs[: 2 + game % 4] for game, runs in enumerate(strata(scores))]
    found = own.aggregate(ragged, resamples=500)
    assert found["mean"].value == pytest.approx(np.mean([runs.mean() for runs in ragged]))
    for one in found.values():
        assert one.interval is not None
        assert one.interval[0] <= one.value <= one.interval[1]


def test_a_game_with_one_run_leaves_no_interval(scores) -> None:
    parts = strata(scores)
    parts[3] = parts[3][:1]
    assert all(one.interval is None for one in own.aggregate(parts, resamples=10).values())
    assert own.profile(parts, np.array([0.0, 1.0])).low is None
    assert own.improvement_over(parts, strata(scores)).interval is None


def test_the_same_scores_give_the_same_intervals(scores) -> None:
    first, second = (own.aggregate(strata(scores), resamples=300) for _ in range(2))
    assert first == second
