"""One policy in the game and in dreams: rates, their errors, and their common starts."""

import json

import numpy as np
import pytest
import torch

from glam_env.envs.recordings.recording import Recording
from glam_env.errors import GlamError
from glam_env.evaluation.measures.behavior import compare_behavior, report_behavior
from glam_env.evaluation.play.plays import Plays, cut_plays, play_dreams_from, take_contexts
from glam_env.evaluation.play.recording import window_starts
from glam_env.evaluation.report.tables import text_table
from glam_env.model.reward_values import RewardValues


def plays(rewards, actions=None, ends=None):
    """Make plays of given (N, H) rewards; `ends` are the numbers of their steps."""
    rewards = np.array(rewards, np.float32)
    steps = np.arange(rewards.shape[1])
    ends = np.full(len(rewards), rewards.shape[1]) if ends is None else np.array(ends)
    actions = np.zeros(rewards.shape, np.int64) if actions is None else np.array(actions)
    return Plays(rewards, actions, steps < ends[:, None])


def compare(real, dreamt):
    return report_behavior(real, dreamt, num_actions=2, context=4, seed=0)


def test_rates_count_every_reward_by_its_sign():
    real = plays([[1, 0, 0, 0, -1], [0, 0, 0, 0, -1]])
    dreamt = plays([[0.5, 0, 0, 0, -1], [0.5, 0, 0, 0, -1], [0, 0, 0, 0, -1], [0, 0, 0, 0, -0.5]])
    report = compare(real, dreamt)
    assert (report.moments, report.horizon, report.dreams_per_moment) == (2, 5, 2)
    assert (report.won.game, report.lost.game, report.net.game) == (100.0, 200.0, -100.0)
    assert (report.won.dream, report.lost.dream, report.net.dream) == (50.0, 175.0, -125.0)
    assert report.reward_rate_error == pytest.approx(0.25)
    assert report.points_error == pytest.approx(75 / 300)
    assert (report.game.points, report.dream.points) == (3, 6)
    assert (report.game.first_point, report.dream.first_point) == (3.0, (1 + 1 + 5 + 5) / 4)
    assert (report.game.rally, report.dream.rally) == (4.0, 4.0)


def test_errors_of_both_sides_cannot_cancel():
    report = compare(plays([[1, -1, -1, 0]]), plays([[3, -3, -1, 0]]))
    assert report.reward_rate_error == pytest.approx(0.0)
    assert report.points_error == pytest.approx(4 / 3)


def test_what_follows_an_end_does_not_count():
    real = plays([[0, -1, 0, 0]])
    dreamt = plays([[0, -1, -9, -9]], actions=[[0, 1, 1, 1]], ends=[2])
    report = compare(real, dreamt)
    assert report.dream.steps == 2
    assert report.lost.dream == 500.0
    assert report.dream.actions == (0.5, 0.5)
    assert report.action_distance == pytest.approx(0.5)


def test_a_game_without_points_has_no_relative_error():
    report = compare(plays([[0, 0]]), plays([[0, 0.1]]))
    assert (report.reward_rate_error, report.points_error) == (None, None)
    assert report.game.rally is None
    assert json.loads(json.dumps(report.as_json(), allow_nan=False))["game"]["pointless"] == 1.0
    assert report.won.game_interval is None  # of a single moment
    table = text_table([report])
    assert "points in 1000 steps, won, game" in table
    assert "steps from one point to the next, game" in table


def test_intervals_hold_the_rate_and_shrink_with_more_moments():
    generator = np.random.default_rng(0)

    def widths(moments):
        rewards = -(generator.random((moments, 20)) < 0.1).astype(np.float32)
        report = compare(plays(rewards), plays(np.repeat(rewards, 2, 0)))
        low, high = report.lost.game_interval
        assert low < report.lost.game < high
        assert report.points_error_interval == (0.0, 0.0)  # the same moments on both sides
        return high - low

    assert widths(400) == pytest.approx(widths(100) / 2, rel=0.25)


def test_dreams_start_from_the_moments_and_repeat(make_world_model):
    """The first dreamt rewards are drawn as the world model predicts them on the real context."""
    model, context, horizon = make_world_model(-99.0), 5, 6
    generator = np.random.default_rng(1)
    recording = Recording(
        game="Pong",
        frames=generator.integers(256, size=(2, 30, 64, 64, 3), dtype=np.uint8),
        actions=generator.integers(6, size=(2, 30)),
        rewards=generator.normal(size=(2, 30)).astype(np.float32),
        life_lost=np.zeros((2, 30), bool),
        ended=np.zeros((2, 30), bool),
    )
    recording.ended[1, 12] = True  # within the context of a window
    starts = window_starts(recording, context, horizon, stride=horizon)
    assert starts.tolist() == [[0, 0], [0, 6], [0, 12], [0, 18], [1, 0], [1, 6], [1, 18]]
    real = cut_plays(recording, starts[:, 0], starts[:, 1] + context, horizon)
    np.testing.assert_array_equal(real.rewards[1], recording.rewards[0, 11:17])
    contexts = take_contexts(model, recording, starts, context, seed=3)

    def act(features, generator):
        return torch.randint(6, (len(features),), generator=generator)

    values = RewardValues(model.reward_code, (-1.0, 0.0, 1.0))
    dreams = {"dreams_per_moment": 400, "horizon": horizon, "seed": 4}
    pays = {"reward_values": values.values.tolist()}
    dreamt = play_dreams_from(model, act, contexts, **dreams, **pays)
    assert dreamt.rewards.shape == (400 * len(starts), horizon)
    assert set(np.unique(dreamt.rewards)) == {-1.0, 0.0, 1.0}  # drawn, as the env's
    again = play_dreams_from(model, act, contexts, **dreams, **pays)
    np.testing.assert_array_equal(dreamt.rewards, again.rewards)
    for moment in range(len(starts)):
        state = model.warm_up(contexts.codes[[moment]].long(), contexts.actions[[moment]].long())
        some = slice(400 * moment, 400 * (moment + 1))
        shares = np.empty((6, 3))
        for action in range(6):
            logits = model.step(state, torch.tensor([action])).reward_logits
            shares[action] = values.log_shares(logits).softmax(-1)
        expected = shares[dreamt.actions[some, 0]].sum(0)
        found = (dreamt.rewards[some, :1] == values.values.numpy()).sum(0)
        assert (((found - expected) ** 2 / expected).sum()) < 20  # chi-squared, p = 5e-5
    with pytest.raises(GlamError, match="dreams_per_moment"):
        play_dreams_from(model, act, contexts, **dreams | {"dreams_per_moment": 0}, **pays)


@pytest.mark.emulator
def test_a_policy_is_compared_in_both_worlds(make_world_model):
    def act(features, generator):
        return torch.full((len(features),), 3)

    seen = []
    report = compare_behavior(
        make_world_model(-99.0),
        act,
        "Pong",
        steps=600,
        num_envs=2,
        horizon=16,
        dreams_per_moment=2,
        seed=1,
        on_step=seen.append,
    )
    assert seen[-1] == 300
    assert report.moments == 2 * 17
    assert report.game.actions == report.dream.actions == (0, 0, 0, 1, 0, 0)
    assert report.action_distance == 0.0
    assert report.lost.game > 5.0
    assert report.dream.steps == 2 * 34 * 16
