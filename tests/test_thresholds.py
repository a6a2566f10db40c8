"""The thresholds distinguish a good checkpoint from one with a broken head."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_game import (
    EmptyScreen,
    Jackpot,
    NoReward,
    ShuffledDecoder,
    ToyModel,
    WrongSign,
    play,
    square,
    subject,
)

from glam_env.checkpoint.folder import Checkpoint, shipped_checkpoints
from glam_env.errors import GlamError
from glam_env.evaluation.bootstrap import draw_rows
from glam_env.evaluation.measures.action_effects import BranchReport, compare_returns
from glam_env.evaluation.measures.base import Settings, Subject
from glam_env.evaluation.measures.behavior import report_behavior
from glam_env.evaluation.measures.events import EventReport
from glam_env.evaluation.measures.images import ImageReport
from glam_env.evaluation.measures.objects import DETECTORS, ObjectReport
from glam_env.evaluation.measures.ranking import RankingReport, find_agreement
from glam_env.evaluation.measures.thresholds import Thresholds, check_fidelity
from glam_env.evaluation.play.plays import Plays, cut_plays, play_dreams_from, take_contexts
from glam_env.evaluation.play.recording import record_play, window_starts
from glam_env.evaluation.play.scores import RandomPolicy

SHORT = Thresholds(reward_horizon=8, foreground_horizon=8, object_horizon=8)


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    monkeypatch.setitem(DETECTORS, "Toy", square)


def open_loop(subject):
    return [kind.measure(subject) for kind in (ImageReport, ObjectReport, EventReport)]


def behavior(dreamt):
    """The report on a policy that loses two points in four steps of the game."""
    real = np.array([[0, -1, 0, -1]], np.float32)
    sides = (Plays(r, np.zeros(r.shape, int), np.ones(r.shape, bool)) for r in (real, dreamt))
    return report_behavior(*sides, num_actions=1, context=4, seed=0)


GOOD = behavior(np.array([[-1, 0, -0.8, 0]], np.float32))


def failed(model, played=GOOD):
    checks = check_fidelity(*open_loop(subject(model, play())), played, SHORT)
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
def test_only_what_is_broken_fails(model, names):
    assert failed(model) == names


@pytest.mark.parametrize(
    ("dreamt", "names"),
    [
        ([[0, -1, 0, -0.4]], POINTS),  # 30 % too few
        ([[0, -2, 1, -1]], POINTS[1:]),  # a net as in the game, of other points
        ([[0, 0, 0, 0]], POINTS),
    ],
)
def test_a_policy_with_other_points_in_dreams_fails(dreamt, names):
    assert failed(ToyModel(), behavior(np.array(dreamt, np.float32))) == names


def test_nothing_to_measure_fails_and_short_dreams_are_refused():
    nothing = behavior(np.zeros((1, 4), np.float32))
    recording = play()
    recording.rewards[:] = 0.0
    report = open_loop(subject(ToyModel(), recording))
    (rewards, *_) = check_fidelity(*report, nothing, SHORT)
    assert (rewards.figure, rewards.passed) == (None, False)
    assert "nothing to measure" in str(rewards)
    with pytest.raises(GlamError, match="dreams of 32 steps, not 8"):
        check_fidelity(*report, nothing)
    with pytest.raises(GlamError, match=r"reward_horizon must be one of 8(, \d+)*, not 5"):
        check_fidelity(*report, nothing, replace(SHORT, reward_horizon=5))


# --- other actions, other policies ---------------------------------------------------------------

HELD = [
    "held actions, variance explained",
    "held actions, pairs ordered right",
    "held actions, points at stake lost",
]
RANKED = [
    "policies' returns to step 32, Pearson correlation",
    "policies' returns to step 32, Spearman correlation",
]


@pytest.fixture(scope="module")
def returns():
    """Of 6 actions, or policies, from 200 moments."""
    rng = np.random.default_rng(0)
    skill = 0.3 * np.arange(6)
    return (skill + rng.integers(-1, 2, size=(200, 6))).astype(np.float32)


@pytest.fixture(scope="module")
def toy():
    """Open loop of a model that knows the toy game."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DETECTORS, "Toy", square)
        return open_loop(subject(ToyModel(), play()))


def branches(real, dreamt):
    sizes = {"moments": len(real), "horizon": 16, "context": 16, "futures": 1, "seed": 0}
    return BranchReport(**sizes, **compare_returns(real, dreamt))


def ranking(real, dreamt, horizon=32):
    resamples = draw_rows(np.random.default_rng(0), len(real), 10)
    agreements = (find_agreement(horizon, real, dreamt, resamples),)
    return RankingReport(len(real), 1, 1, 0, (), agreements)


@pytest.mark.parametrize(
    ("dream", "failed"),
    [
        (lambda real: real, []),
        (lambda real: 0.8 * real + 0.1, []),
        (lambda real: 3.0 * real, HELD[:1]),  # the right order, too large
        (lambda real: real[:, [0, 4, 2, 3, 5, 1]], [*HELD, *RANKED]),
        (lambda real: 0.0 * real, [*HELD, *RANKED]),
    ],
)
def test_a_dream_that_is_wrong_about_other_actions_fails(toy, returns, dream, failed):
    dreamt = dream(returns)
    parts = {"branches": branches(returns, dreamt), "ranking": ranking(returns, dreamt)}
    checks = check_fidelity(*toy, GOOD, SHORT, **parts)
    assert [check.name for check in checks[-5:]] == [*HELD, *RANKED]
    assert [check.name for check in checks if not check.passed] == failed
    without = check_fidelity(*toy, GOOD, SHORT)
    assert without == checks[:-5]
    parts["ranking"] = ranking(returns, dreamt, horizon=16)
    assert check_fidelity(*toy, GOOD, SHORT, **parts)[-1].figure is None


def test_a_small_chance_of_many_points_is_no_event():
    """Its expected reward is 2 points."""
    found, certain = (
        EventReport.measure(subject(model, play())) for model in (Jackpot(), ToyModel())
    )
    assert found.rewards == certain.rewards
    assert found.reward_sums[0].dreamt > certain.reward_sums[0].dreamt + 8


@pytest.mark.emulator
def test_broken_heads_of_the_shipped_pong_fail_what_it_passes():
    """On random play of the real game, with the usual thresholds."""
    seed, horizon = 3, 32
    recording = record_play(RandomPolicy(6), "Pong", steps=1200, num_envs=4, seed=seed)
    starts = window_starts(recording, 16, horizon, stride=horizon)
    real = cut_plays(recording, starts[:, 0], starts[:, 1] + 16, horizon)

    def act(features, generator):
        return torch.randint(6, (len(features),), generator=generator)

    def examine(world_model):
        contexts = take_contexts(world_model, recording, starts, 16, seed)
        dreamt = play_dreams_from(world_model, act, contexts, 4, horizon, seed, (-1.0, 0.0, 1.0))
        played = report_behavior(real, dreamt, num_actions=6, context=16, seed=seed)
        settings = Settings(horizon=horizon, seed=seed)
        pong = Subject(world_model, act, "Pong", settings, recording=recording, players={})
        return {check.name: check for check in check_fidelity(*open_loop(pong), played)}

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
