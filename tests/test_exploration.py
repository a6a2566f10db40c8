"""Random actions that are held: their share, their length, and their state."""

import numpy as np
import pytest

from glam_env.training.exploration import Exploration

CHANCES = (0.0, 0.1, 0.5, 1.0)


def draw(exploration: Exploration, rng: np.random.Generator, steps: int, **options: bool):
    drawn = [exploration.draw(rng, **options) for _ in range(steps)]
    return np.stack([actions for actions, _ in drawn]), np.stack([taken for _, taken in drawn])


@pytest.mark.parametrize("hold", [1.0, 8.0])
def test_the_shares_are_right_and_actions_are_held(hold):
    actions, taken = draw(Exploration(CHANCES, 4, 3, (hold,)), np.random.default_rng(0), 40_000)
    np.testing.assert_allclose(taken.mean(0), CHANCES, atol=0.02)
    assert not taken[:, 0].any()
    assert taken[:, 3].all()
    # Where all actions are random, one repeats unless its hold ends and another one is drawn.
    repeats = (actions[1:, 3] == actions[:-1, 3]).mean()
    assert repeats == pytest.approx(1.0 - (1.0 / hold) * 2.0 / 3.0, abs=0.02)
    shares = np.bincount(actions[:, 3], minlength=3) / len(actions)
    np.testing.assert_allclose(shares, 1.0 / 3.0, atol=0.03)


def test_in_random_play_every_env_takes_held_actions():
    exploration, rng = Exploration(CHANCES, 4, 3, (8.0,)), np.random.default_rng(0)
    actions, taken = draw(exploration, rng, 20_000, always=True)
    assert taken.all()
    repeats = (actions[1:] == actions[:-1]).mean(0)
    np.testing.assert_allclose(repeats, 1.0 - (1.0 / 8.0) * 2.0 / 3.0, atol=0.02)
    _, taken = draw(exploration, rng, 20_000)
    np.testing.assert_allclose(taken.mean(0), CHANCES, atol=0.03)


def test_each_env_holds_for_its_own_time():
    exploration = Exploration(CHANCES, 4, 3, (1.0, 8.0))
    actions, taken = draw(exploration, np.random.default_rng(0), 40_000)
    np.testing.assert_allclose(taken.mean(0), CHANCES, atol=0.02)
    actions, _ = draw(exploration, np.random.default_rng(0), 20_000, always=True)
    repeats = (actions[1:] == actions[:-1]).mean(0)
    np.testing.assert_allclose(repeats, [1 / 3, 11 / 12, 1 / 3, 11 / 12], atol=0.02)


def test_without_a_hold_each_step_draws_again():
    """And the draws are those of runs from before actions were held."""
    actions, taken = draw(Exploration(CHANCES, 4, 3), np.random.default_rng(5), 100)
    rng = np.random.default_rng(5)
    for t in range(100):
        others, explored = rng.integers(3, size=4), rng.random(4) < np.array(CHANCES)
        assert (taken[t] == explored).all()
        assert (actions[t][explored] == others[explored]).all()


def test_it_resumes_from_its_state():
    one, other = (Exploration(CHANCES, 4, 3, (1.0, 6.0)) for _ in range(2))
    rng = np.random.default_rng(2)
    draw(one, rng, 50)
    other.load_state(one.state())
    other_rng = np.random.default_rng()
    other_rng.bit_generator.state = rng.bit_generator.state
    for a, b in zip(draw(one, rng, 50), draw(other, other_rng, 50), strict=True):
        assert (a == b).all()
