"""Calibration has the known answers of cases that are right or wrong by construction."""

import math

import numpy as np
import pytest
from toy_game import GROUND, NoReward, ToyModel, WrongSign, picture, play, subject

from glam_env.evaluation.measures import entropy as entropy_measure
from glam_env.evaluation.measures.calibration import CalibrationReport
from glam_env.evaluation.measures.entropy import find_limit, link_entropy
from glam_env.evaluation.measures.images import ImageTally, foreground_errors
from glam_env.evaluation.measures.ranking import ranks
from glam_env.evaluation.measures.reliability import reliability

WINDOWS, STEPS = 400, 50
EVERYWHERE = np.ones((WINDOWS, STEPS), bool)


@pytest.fixture(scope="module")
def calibrated():
    """Probabilities, uniform from 0 to 1, and events that happen with them."""
    rng = np.random.default_rng(0)
    chances = rng.random((WINDOWS, STEPS))
    return chances, rng.random(chances.shape) < chances


def measured(predicted, happened, counted=EVERYWHERE):
    return reliability(predicted, happened, counted, horizon=16, seed=0)


# --- reliability ---------------------------------------------------------------------------------


def test_frequencies_as_probabilities_are_calibrated(calibrated):
    found = measured(*calibrated)
    assert found.error < 0.01
    assert found.error_interval[0] <= found.error_interval[1] < 0.02
    assert found.never_error == pytest.approx(0.5, abs=0.02)
    assert found.skill == pytest.approx(1 / 3, abs=0.02)  # 1 − (1/6) / (1/4)
    assert found.skill_interval[0] < 1 / 3 < found.skill_interval[1]
    assert [part.happened for part in found.bins] == pytest.approx(
        np.arange(0.05, 1.0, 0.1), abs=0.04
    )
    assert sum(part.steps for part in found.bins) == found.steps == WINDOWS * STEPS


@pytest.mark.parametrize(
    ("distort", "error"),
    [
        (np.square, 1 / 6),  # E|p² − p|
        (np.round, 1 / 4),  # certain of what is likelier than not
        (lambda p: 1.0 - p, 1 / 2),
        (np.zeros_like, 1 / 2),  # never
    ],
)
def test_other_probabilities_are_not(calibrated, distort, error):
    chances, happened = calibrated
    found = measured(distort(chances), happened)
    assert found.error == pytest.approx(error, abs=0.02)
    assert found.error_interval[0] > 0.1
    assert found.skill < 1 / 3


def test_the_base_rate_is_calibrated_and_has_no_skill(calibrated):
    _, happened = calibrated
    found = measured(np.full(happened.shape, happened.mean()), happened)
    assert found.error == pytest.approx(0.0, abs=1e-9)
    assert found.skill == pytest.approx(0.0, abs=1e-9)


def test_steps_that_do_not_count_are_left_out(calibrated):
    chances, happened = calibrated
    counted = EVERYWHERE.copy()
    counted[:, 5:] = False
    half = measured(chances, happened, counted)
    assert half == measured(chances[:, :5], happened[:, :5], counted[:, :5])
    assert half.steps == 5 * WINDOWS


def test_without_events_there_is_no_skill():
    found = measured(np.zeros(EVERYWHERE.shape), ~EVERYWHERE)
    assert (found.error, found.events, found.skill, found.skill_interval) == (0.0, 0, None, None)


# --- entropy -------------------------------------------------------------------------------------


def test_entropy_is_linked_with_errors_by_rank():
    rng = np.random.default_rng(1)
    entropy = np.repeat(rng.random((60, 1)), 8, 1)
    wrong = entropy > 0.7
    counted = np.ones(entropy.shape, bool)
    counted[:10, 4:] = False  # their episodes have ended
    link = link_entropy(entropy, np.exp(entropy), wrong, counted, 8, seed=0)
    assert link.image == pytest.approx(1.0)
    assert link.image_interval == pytest.approx((1.0, 1.0))
    assert 0.5 < link.reward < 1.0
    assert link_entropy(entropy, -entropy, wrong, counted, 8, seed=0).image == pytest.approx(-1.0)
    constant = link_entropy(np.ones_like(entropy), entropy, wrong, counted, 8, seed=0)
    assert constant.image is constant.reward is constant.image_interval is None


def test_ranks_are_those_of_the_ranking():
    x = np.random.default_rng(4).integers(5, size=40).astype(float)
    assert entropy_measure._ranks(x) == pytest.approx(ranks(x))


def dreams_that_go_wrong(rng, says_so):
    """Errors of 1 from a random step on, and of 0.1 before; the entropy rises there, or at random.

    Returns:
        (200, 20) entropies and errors.
    """
    start = rng.integers(2, 40, size=(200, 1))
    wrong = np.arange(20) >= start
    at = wrong if says_so else np.arange(20) >= rng.permutation(start)
    return 1.0 + 5.0 * at + 0.1 * rng.random(at.shape), np.where(wrong, 1.0, 0.1)


def test_a_limit_is_found_where_entropy_predicts_errors():
    entropy, errors = dreams_that_go_wrong(np.random.default_rng(2), says_so=True)
    limit = find_limit(entropy, errors, np.ones(entropy.shape, bool), seed=0)
    assert 1.0 < limit.limit < 6.1
    assert limit.gain_interval[0] > 0.2
    assert limit.error < limit.horizon_error
    assert 0.5 <= limit.kept < 1.0


def test_no_limit_is_better_where_entropy_says_nothing():
    rng = np.random.default_rng(3)
    entropy, errors = dreams_that_go_wrong(rng, says_so=False)
    limit = find_limit(entropy, errors, np.ones(entropy.shape, bool), seed=0)
    assert limit.gain_interval[0] < 0.0
    counted = np.ones(entropy.shape, bool)
    assert find_limit(np.ones_like(entropy), errors, counted, seed=0) is None
    assert find_limit(entropy, np.zeros_like(errors), counted, seed=0) is None


def test_errors_by_frame_are_those_of_the_tally():
    frames = np.stack([picture(3), picture(7)])
    ground = np.full((64, 64, 3), GROUND, np.uint8)
    drawn = np.stack([picture(3), ground])
    assert foreground_errors(frames, drawn, ground).tolist() == [0.0, 1.0]
    blurred = ((frames[:1].astype(int) + GROUND) // 2).astype(np.uint8)
    tally = ImageTally(["dream"], 1, ground)
    tally.add(0, frames[:1], {"dream": blurred})
    (error,) = tally.curves()["dream"].foreground_error
    assert foreground_errors(frames[:1], blurred, ground).tolist() == pytest.approx([error])


# --- the whole -----------------------------------------------------------------------------------


def test_a_model_that_knows_the_game_is_calibrated():
    report = CalibrationReport.measure(subject(ToyModel(), play()))
    (rewards,), (endings,) = report.rewards, report.endings
    assert rewards.error < 0.01
    assert rewards.skill > 0.99
    assert endings.error == pytest.approx(1 / (1 + math.exp(0.5)))  # its logits are ± 0.5
    assert report.limit is report.max_prior_entropy is None
    assert CalibrationReport.from_json(report.as_json()) == report
    titles = [row.title for row in report.rows()]
    assert "calibration error to step 8, rewards" in titles
    assert titles[-1] == "recommended max_prior_entropy (nats)"


@pytest.mark.parametrize("model", [NoReward(), WrongSign()])
def test_a_model_without_the_rewards_is_not(model):
    (rewards,) = CalibrationReport.measure(subject(model, play())).rewards
    assert rewards.error >= 0.9 * rewards.never_error
    assert rewards.skill < 0.0
