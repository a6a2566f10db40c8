"""The thresholds tell a good checkpoint from one with a broken head."""

import json

import numpy as np
import pytest
import torch
from toy_game import EmptyScreen, NoReward, ShuffledDecoder, ToyModel, WrongSign, play

from glam_env.checkpoint.folder import Checkpoint, shipped_checkpoints
from glam_env.errors import GlamError
from glam_env.evaluation.measures.behavior import report_behavior
from glam_env.evaluation.measures.open_loop import DETECTORS, measure_fidelity
from glam_env.evaluation.measures.thresholds import Thresholds, check_fidelity
from glam_env.evaluation.play.plays import Plays, cut_plays, play_dreams_from, take_contexts
from glam_env.evaluation.play.recording import record_play, window_starts
from glam_env.evaluation.play.scores import RandomPolicy

SHORT = Thresholds(reward_horizon=8, foreground_horizon=8, object_horizon=8)


def square(frames):
    """Finds the toy's square by its brightness."""
    bright = frames[:, 31, 1::3, 0] > 125
    column = np.where(bright.any(1), bright.argmax(1), np.nan)
    return {"square": np.stack([np.where(np.isnan(column), np.nan, 31.0), column], 1)}


def behavior(dreamt):
    """Of a policy that loses two points in four steps of the game."""
    real = np.array([[0, -1, 0, -1]], np.float32)
    sides = (Plays(r, np.zeros(r.shape, int), np.ones(r.shape, bool)) for r in (real, dreamt))
    return report_behavior(*sides, num_actions=1, context=4, seed=0)


GOOD = behavior(np.array([[-1, 0, -0.8, 0]], np.float32))


def failed(model, played=GOOD):
    report = measure_fidelity(model, play(), context=4, horizon=8, stride=5, objects=square)
    checks = check_fidelity(report, played, SHORT)
    assert json.loads(json.dumps([check.as_json() for check in checks], allow_nan=False))
    return [check.name for check in checks if not check.passed]


REWARD = ["reward F1 to step 8"]
IMAGES = [
    "foreground error, 1 step ahead",
    "foreground error over the last frame's, largest to step 8",
    "foreground error over the average frame's, largest to step 8",
]
POINTS = [
    "policy's points in dreams and in the game, net, relative error",
    "policy's points in dreams and in the game, won and lost, relative error",
]


def test_a_model_that_knows_the_game_passes():
    assert failed(ToyModel()) == []


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (NoReward(), REWARD),
        (WrongSign(), REWARD),
        (ShuffledDecoder(), IMAGES),
        (
            EmptyScreen(),
            [*IMAGES, "square drawn where the game shows one, least share to step 8"],
        ),
    ],
)
def test_what_is_broken_fails_and_nothing_else(model, names):
    assert failed(model) == names


@pytest.mark.parametrize(
    ("dreamt", "names"),
    [
        ([[0, -1, 0, -0.4]], POINTS),  # 30 % too few
        ([[0, -2, 1, -1]], POINTS[1:]),  # a net as in the game, of other points
        ([[0, 0, 0, 0]], POINTS),
    ],
)
def test_a_policy_that_fares_otherwise_in_dreams_fails(dreamt, names):
    assert failed(ToyModel(), behavior(np.array(dreamt, np.float32))) == names


def test_nothing_to_measure_fails_and_short_dreams_are_refused():
    nothing = behavior(np.zeros((1, 4), np.float32))
    recording = play()
    recording.rewards[:] = 0.0
    report = measure_fidelity(ToyModel(), recording, context=4, horizon=8, stride=3)
    (rewards, *_) = check_fidelity(report, nothing, SHORT)
    assert (rewards.figure, rewards.passed) == (None, False)
    assert "nothing to measure" in str(rewards)
    with pytest.raises(GlamError, match="dreams of 32 steps, not 8"):
        check_fidelity(report, nothing)


@pytest.mark.emulator
def test_broken_heads_of_the_shipped_pong_fail_what_it_passes():
    """On random play of the real game, with the thresholds as they are."""
    seed, horizon = 3, 32
    recording = record_play(RandomPolicy(6), "Pong", steps=1200, num_envs=4, seed=seed)
    starts = window_starts(recording, 16, horizon, stride=horizon)
    real = cut_plays(recording, starts[:, 0], starts[:, 1] + 16, horizon)

    def act(features, generator):
        return torch.randint(6, (len(features),), generator=generator)

    def examine(world_model):
        contexts = take_contexts(world_model, recording, starts, 16, seed)
        dreamt = play_dreams_from(world_model, act, contexts, 4, horizon, seed)
        played = report_behavior(real, dreamt, num_actions=6, context=16, seed=seed)
        report = measure_fidelity(
            world_model, recording, horizon=horizon, seed=seed, objects=DETECTORS["Pong"]
        )
        return {check.name: check for check in check_fidelity(report, played)}

    def load():
        return Checkpoint.open(shipped_checkpoints()["Pong"]).world_model()

    def passed(checks):
        return {name for name, check in checks.items() if check.passed}

    rewards = "reward F1 to step 16"
    images = {
        "foreground error, 1 step ahead",
        "foreground error over the last frame's, largest to step 32",
    }
    ball = "ball drawn where the game shows one, least share to step 16"

    intact = examine(load())
    assert passed(intact) >= {rewards, *images}
    no_rewards = load()
    for parameter in no_rewards.reward.layers[-1].parameters():
        parameter.zero_()
    mute = examine(no_rewards)
    assert rewards not in passed(mute)
    assert passed(mute) >= images
    assert intact[POINTS[1]].figure < 0.5 < 0.99 < mute[POINTS[1]].figure

    shuffled = load()
    weight = shuffled.decoder.project.weight  # one column for each class of each categorical
    order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(0))
    weight.copy_(weight[:, order])
    blind = examine(shuffled)
    assert not passed(blind) & images
    assert rewards in passed(blind)
    assert intact[ball].figure > 0.8 > 0.5 > blind[ball].figure
    assert blind[POINTS[1]] == intact[POINTS[1]]
