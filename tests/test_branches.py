"""Each action from one moment: a game that is rewound, dreams of it, and the figures."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
import torch

from glam_env.envs.atari.emulator import Emulator
from glam_env.envs.atari.rewind import RewindableGame
from glam_env.errors import GlamError
from glam_env.evaluation.measures.action_effects import (
    Moments,
    compare_branches,
    compare_returns,
    dream_branches,
    usual_stride,
)
from glam_env.games import find_game
from glam_env.protocols import PROTOCOLS, PlaySettings

REAL = np.array([[0, 0, -1], [1, 1, 1], [0, 1, 1], [-1, -1, -1], [0, 0, 0]], np.float32)


# --- figures -------------------------------------------------------------------------------------


def test_dreams_like_the_game_are_perfect_whatever_the_level():
    shift = np.arange(5, dtype=np.float32)[:, None]  # the value of a moment does not count
    figures = compare_returns(REAL, REAL + shift)
    assert figures["decided"] == 2
    assert figures["pairs"] == 4
    assert figures["right"] == figures["explained"] == 1.0
    assert figures["regret"] == 0.0
    assert figures["false_difference"] == 0.0
    assert figures["true_difference"] == figures["dreamt_difference"] == 1.0
    assert figures["right_interval"] is None  # some resamples hold no moment that matters
    many = np.tile(REAL, (20, 1))
    assert compare_returns(many, many)["right_interval"] == (1.0, 1.0)


def test_dreams_in_which_no_action_matters_explain_nothing():
    figures = compare_returns(REAL, np.zeros_like(REAL))
    assert figures["right"] == 0.5
    assert figures["explained"] == pytest.approx(0.0, abs=1e-6)


def test_dreams_with_effects_reversed_are_worse_than_none():
    figures = compare_returns(REAL, -REAL)
    assert figures["right"] == 0.0
    assert figures["explained"] == pytest.approx(-3.0)
    assert figures["regret"] > 1.0


def test_a_difference_where_there_is_none_counts_against_dreams():
    dreamt = REAL.copy()
    dreamt[1] = [1, 0, 1]
    figures = compare_returns(REAL, dreamt)
    assert figures["right"] == 1.0
    assert figures["explained"] == pytest.approx(1.0 - 0.5)  # 2/3 of 2 · 2/3
    assert figures["false_difference"] == pytest.approx(1.0 / 3.0)


def test_without_a_moment_that_matters_there_is_no_figure():
    figures = compare_returns(REAL[[1, 3]], REAL[[1, 3]])
    assert figures["decided"] == figures["pairs"] == 0
    assert figures["right"] is figures["explained"] is figures["regret"] is None
    assert figures["right_interval"] is figures["true_difference"] is None


# --- the game ------------------------------------------------------------------------------------


@pytest.mark.emulator
@pytest.mark.parametrize("name", ["Pong", "Breakout", "Seaquest"])
def test_a_rewindable_game_plays_as_the_emulator_and_goes_back(name):
    """Frame by frame, over ends of games, and with each action tried on the way."""
    emulator = Emulator(name, 1, seed=5, noop_max=0)
    game = RewindableGame(find_game(name), PlaySettings(noop_max=0))
    rng = np.random.default_rng(0)
    with closing(emulator):
        frames = emulator.reset()
        assert np.array_equal(game.reset(emulator.episode_seed(0)), frames[0])
        events = 0
        for t in range(600):
            if t % 100 == 0:
                tried = game.try_each(5)
                assert tried.shape == (emulator.num_actions, 5)
                assert (game.try_each(5) == tried).all()
            action = int(rng.integers(emulator.num_actions))
            step = emulator.step(np.array([action]))
            own = game.step(action)
            assert own == (
                step.reward[0],
                step.life_lost[0],
                step.terminated[0],
                step.truncated[0],
            )
            events += own.reward != 0 or own.terminated
            frame = game.reset(emulator.episode_seed(0)) if own.terminated else game.frame()
            assert np.array_equal(frame, step.frames[0])
    assert events > 0


STICKY = PROTOCOLS["published"]


@pytest.mark.emulator
@pytest.mark.parametrize("play", [PlaySettings(), STICKY], ids=["plain", "sticky"])
def test_a_restored_game_goes_on_as_it_did(play):
    game = RewindableGame(find_game("Breakout"), play)
    rng = np.random.default_rng(1)
    game.reset(3)
    for _ in range(50):
        game.step(int(rng.integers(4)))
    here, actions = game.save(), rng.integers(4, size=60)

    def run() -> tuple[list[float], np.ndarray]:
        rewards, frames = [], []
        for action in actions:
            rewards.append(game.step(int(action)).reward)
            frames.append(game.frame())
        return rewards, np.stack(frames)

    first, frames = run()
    game.step(1)
    game.restore(here)
    assert np.array_equal(game.frame(), game.frame())
    again, same = run()
    assert again == first
    assert np.array_equal(same, frames)
    game.restore(here, seed=8)  # other sticky actions
    _, others = run()
    assert np.array_equal(others, frames) is (not play.repeat_action_probability)


@pytest.mark.emulator
def test_sticky_actions_are_as_frequent_as_they_should_be():
    """Count the frames of a game that repeat the action before, while the action alternates."""
    game = RewindableGame(find_game("Pong"), STICKY)
    game.reset(0)
    taken: list[int] = []
    act, numbers = game._ale.act, list(game._actions)

    class Spy:
        def __getattr__(self, name):
            return getattr(game_ale, name)

        def act(self, action):
            taken.append(numbers.index(action))
            return act(action)

    game_ale, game._ale = game._ale, Spy()
    late = []
    for t in range(800):
        action = 2 + t % 2
        before = len(taken)
        game.step(action)
        late.append(next(n for n, a in enumerate([*taken[before:], action]) if a == action))
    share = np.bincount(late, minlength=5) / len(late)
    assert share[0] == pytest.approx(0.75, abs=0.05)
    assert share[1] == pytest.approx(0.25 * 0.75, abs=0.05)


@pytest.mark.emulator
def test_what_is_tried_is_what_follows():
    game = find_game("Pong")
    rewindable, other = (RewindableGame(game, STICKY) for _ in range(2))
    rewindable.reset(3)
    tried = rewindable.try_each(200)
    assert tried.any()
    for action, rewards in enumerate(tried):
        other.reset(3)
        for reward in rewards:
            assert other.step(action).reward == reward


@pytest.mark.emulator
def test_no_ops_begin_an_episode():
    def frames(noop_max: int, seed: int) -> int:
        game = RewindableGame(find_game("Pong"), PlaySettings(noop_max=noop_max))
        game.reset(seed)
        return game._ale.getEpisodeFrameNumber()

    drawn = {frames(30, seed) - frames(0, seed) for seed in range(20)}
    assert len(drawn) > 5
    assert min(drawn) >= 0
    assert max(drawn) <= 30


@pytest.mark.emulator
def test_a_rewindable_game_refuses_what_it_cannot_play():
    game = RewindableGame(find_game("Pong"))
    with pytest.raises(GlamError, match="call reset"):
        game.step(0)
    game.reset(3)
    with pytest.raises(GlamError, match="actions 0 to 5, not 6"):
        game.step(6)


# --- dreams --------------------------------------------------------------------------------------


def make_moments(count: int) -> Moments:
    rng = np.random.default_rng(1)
    return Moments(
        rng.integers(256, size=(count, 17, 64, 64, 3), dtype=np.uint8),
        rng.integers(6, size=(count, 16)),
        np.zeros((count, 6), np.float32),
    )


def test_where_actions_do_nothing_chance_makes_no_difference(make_world_model):
    """The futures of all actions use the same random draws."""
    model = make_world_model(-99.0)
    returns = dream_branches(model, make_moments(40), 5, 3, 0)
    assert returns.shape == (40, 6)
    assert (np.ptp(returns, 1) > 0).all()
    again = dream_branches(model, make_moments(40), 5, 3, 0)
    assert (again == returns).all()

    model.feature_encoder[0].weight[:, -6:] = 0.0  # the action is not seen
    blind = dream_branches(model, make_moments(40), 5, 3, 0)
    assert (np.ptp(blind, 1) == 0).all()
    assert np.ptp(blind[:, 0]) > 0


def test_games_with_many_actions_take_no_longer_than_others():
    strides = [usual_stride(count) for count in (3, 4, 6, 9, 14, 18)]
    assert strides == [4, 4, 4, 6, 9, 12]


@pytest.mark.emulator
def test_the_report_is_whole(make_world_model):
    def act(features, generator):
        return torch.randint(6, (len(features),), generator=generator)

    steps = []
    report = compare_branches(
        make_world_model(-99.0),
        act,
        "Pong",
        noise=(0.0, 1.0),
        steps=240,
        stride=4,
        horizon=16,
        futures=2,
        seed=4,
        on_step=steps.append,
    )
    assert steps == list(range(1, 241))
    assert 20 < report.moments <= 2 * 26
    assert 0 <= report.decided <= report.moments
    assert report.as_json()["horizon"] == 16
    with pytest.raises(GlamError, match="no moment with 16 steps before it"):
        compare_branches(make_world_model(), act, "Pong", steps=10)
    with pytest.raises(GlamError, match="at least 1"):
        compare_branches(make_world_model(), act, "Pong", stride=0)
