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
)
from glam_env.games import find_game

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


def overlaps(old: int, new: int) -> np.ndarray:
    """(new, old) shares of old pixels in new ones, as area interpolation has them."""
    edges = np.arange(new + 1) * old / new
    pixels = np.arange(old)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return inside.clip(0) * new / old


@pytest.mark.emulator
@pytest.mark.parametrize("name", ["Pong", "Breakout", "Seaquest"])
def test_a_rewindable_game_follows_the_emulator_and_goes_back(name):
    """Over ends of games, and with each action tried on the way."""
    emulator = Emulator(name, 1, seed=5, noop_max=0)
    rewindable = RewindableGame(find_game(name))
    rng = np.random.default_rng(0)
    tall, wide = overlaps(210, 64), overlaps(160, 64)
    with closing(emulator):
        emulator.reset()
        rewindable.begin(emulator.episode_seed(0))
        compared = 0
        for t in range(600):
            if t % 100 == 0:
                tried = rewindable.try_each(5)
                assert tried.shape == (emulator.num_actions, 5)
                assert (rewindable.try_each(5) == tried).all()
            action = int(rng.integers(emulator.num_actions))
            step = emulator.step(np.array([action]))
            over = bool(step.terminated[0])
            compared += over or bool(step.reward[0])
            rewindable.step(action, float(step.reward[0]), over)
            if over:
                rewindable.begin(emulator.episode_seed(0))
            elif t % 50 == 0:  # the emulator's is a maximum of this and the frame before
                screen = np.einsum(
                    "yh,hwc,xw->yxc", tall, rewindable.screen().astype(float), wide, optimize=True
                )
                assert (step.frames[0] >= screen - 1.0).all()
                assert np.abs(step.frames[0] - screen).mean() < 2.0
    assert compared > 0


@pytest.mark.emulator
def test_what_is_tried_is_what_follows():
    game = find_game("Pong")
    rewindable, other = RewindableGame(game), RewindableGame(game)
    rewindable.begin(3)
    tried = rewindable.try_each(200)
    assert tried.any()
    for action, rewards in enumerate(tried):
        other.begin(3)
        for reward in rewards:
            other.step(action, float(reward), False)


@pytest.mark.emulator
def test_a_difference_from_the_emulator_is_reported():
    rewindable = RewindableGame(find_game("Pong"))
    rewindable.begin(3)
    rewindable.step(0, 0.0, False)
    with pytest.raises(GlamError, match=r"differ at step 2 .* 0 points here, 1 there"):
        rewindable.step(0, 1.0, False)


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
