"""Open loop distinguishes a dream that follows the game from one that does not."""

import numpy as np
import pytest
import torch
from toy_game import (
    GROUND,
    DeafToActions,
    EmptyScreen,
    ExtraSquare,
    NoReward,
    ShuffledDecoder,
    ShuffledReward,
    ToyModel,
    WrongSign,
    play,
    square,
    subject,
)

from glam_env.envs.recordings.recording import Recording
from glam_env.errors import GlamError
from glam_env.evaluation.measures.events import (
    EventReport,
    match_events,
    score_events,
    sum_rewards,
)
from glam_env.evaluation.measures.images import ImageReport, find_background
from glam_env.evaluation.measures.latents import LatentReport
from glam_env.evaluation.measures.objects import DETECTORS, ObjectReport
from glam_env.evaluation.measures.open_loop import OpenLoopReport
from glam_env.evaluation.play.recording import add_noise, record_play, window_starts
from glam_env.evaluation.play.scores import RandomPolicy


def dream_images(model):
    return ImageReport.measure(subject(model, play())).images["dream"]


def events(model, recording=None):
    return EventReport.measure(subject(model, recording or play()))


def test_a_perfect_dream_has_no_error():
    toy = subject(ToyModel(), play())
    images = ImageReport.measure(toy).images
    dream = images["dream"]
    assert dream.foreground_error == dream.union_error == (0.0,) * 8
    assert dream.psnr == (100.0,) * 8
    assert dream.ssim == pytest.approx((1.0,) * 8)
    report = EventReport.measure(toy)
    (rewards,), (endings,), (points,) = report.rewards, report.endings, report.reward_sums
    assert rewards.real > 20
    assert (rewards.precision, rewards.recall, rewards.f1) == (1.0, 1.0, 1.0)
    assert endings.real > 5
    assert (endings.recall, endings.false_alarms) == (1.0, 0)
    assert points.dreamt == pytest.approx(points.real)
    assert points.correlation == pytest.approx(1.0)
    assert points.slope == pytest.approx(1.0)
    assert points.error == pytest.approx(0.0)
    assert points.never_error > points.average_error > 0.2
    assert sum(part.windows for part in points.bins) == OpenLoopReport.measure(toy).windows
    assert all(part.dreamt == pytest.approx(part.real) for part in points.bins)
    assert rewards.f1_interval == (1.0, 1.0)
    assert rewards.chance_f1 < 0.6
    kl = LatentReport.measure(toy).latent_kl
    assert kl.dream == pytest.approx(0.0, abs=1e-3)
    assert kl.repeat > kl.average > 1.0
    # The baselines are distinguished from it.
    assert min(images["repeat"].foreground_error) > 0.5
    assert min(images["average"].foreground_error) > 0.5


def test_an_empty_screen_has_an_error_of_exactly_one():
    dream = dream_images(EmptyScreen())
    assert dream.foreground_error == dream.union_error == (1.0,) * 8


def test_what_is_drawn_on_nothing_shows_in_the_union_only():
    dream = dream_images(ExtraSquare())
    assert dream.foreground_error == (0.0,) * 8
    assert min(dream.union_error) > 0.5


def test_what_the_image_model_loses_is_separated_from_what_the_dream_loses():
    def latents_error(model):
        return ImageReport.measure(subject(model, play())).latents_error

    assert latents_error(ToyModel()) == latents_error(DeafToActions()) == 0.0
    assert latents_error(EmptyScreen()) == 1.0
    assert latents_error(ShuffledDecoder()) > 0.5


@pytest.mark.parametrize("model", [ShuffledDecoder(), DeafToActions()])
def test_a_wrong_dream_has_a_large_error(model):
    assert dream_images(model).union_error[7] > 1.0


def test_a_dream_without_rewards_finds_none():
    report = events(NoReward())
    (rewards,), (points,) = report.rewards, report.reward_sums
    assert (rewards.precision, rewards.recall, rewards.f1) == (None, 0.0, 0.0)
    assert points.real != 0.0
    assert (points.dreamt, points.correlation) == (0.0, None)


@pytest.mark.parametrize(("model", "most"), [(ShuffledReward(), 0.75), (WrongSign(), 0.2)])
def test_rewards_of_another_time_or_sign_do_not_count(model, most):
    (rewards,) = events(model).rewards
    assert rewards.f1 < most


def test_a_zeroed_reward_head_of_a_real_world_model_is_detected(make_world_model):
    recording, model = play(steps=40), make_world_model()
    (before,) = events(model, recording).rewards
    for parameter in model.reward.layers[-1].parameters():
        parameter.zero_()
    (after,) = events(model, recording).rewards
    assert before.dreamt > 0
    assert (after.dreamt, after.recall, after.f1) == (0, 0.0, 0.0)


def test_the_same_seed_gives_the_same_report(make_world_model):
    recording, model = play(steps=40), make_world_model()

    def measured(seed):
        toy = subject(model, recording, seed=seed)
        return [kind.measure(toy) for kind in (ImageReport, EventReport, LatentReport)]

    assert measured(1) == measured(1)
    assert all(one != other for one, other in zip(measured(1), measured(2), strict=True))


def test_rewards_are_scored_for_each_player():
    toy = subject(ToyModel(), play())
    toy.players = {"one": 0.0, "other": 1.0}
    report = EventReport.measure(toy)
    assert list(report.player_rewards) == ["one", "other"]
    counts = [score.real for score in report.player_rewards.values()]
    assert min(counts) > 5
    assert sum(counts) == report.rewards[0].real


def test_objects_are_compared_with_the_real_ones(monkeypatch):
    monkeypatch.setitem(DETECTORS, "Toy", square)
    objects = ObjectReport.measure(subject(EmptyScreen(), play(steps=60))).objects
    dream, repeat = objects["dream"]["square"], objects["repeat"]["square"]
    assert (dream.missed, dream.spurious, dream.distance) == ((1.0,) * 8, (None,) * 8, (None,) * 8)
    assert repeat.missed == (0.0,) * 8
    assert min(repeat.distance) > 0.5
    perfect = ObjectReport.measure(subject(ToyModel(), play(steps=60))).objects["dream"]["square"]
    assert (perfect.missed, perfect.distance) == ((0.0,) * 8, (0.0,) * 8)


def test_a_game_without_a_detector_has_no_objects():
    report = ObjectReport.measure(subject(ToyModel(), play(steps=60)))
    assert report.objects == {}
    assert report.rows() == []


def test_windows_keep_to_one_episode():
    recording = play()
    starts = window_starts(recording, context=4, horizon=8, stride=1)
    assert len(starts) > 100
    for env, start in starts:
        assert not recording.ended[env, start : start + 4].any()
        assert start + 4 + 8 < recording.ended.shape[1]
    # Some are cut short by an end, or endings could never be seen.
    cut = [recording.ended[env, start + 4 : start + 12].any() for env, start in starts]
    assert any(cut)
    whole = window_starts(recording, context=4, horizon=8, stride=1, whole=True)
    assert np.array_equal(whole, starts[~np.array(cut)])


def test_nothing_beyond_an_end_counts():
    recording = play(envs=1)
    end = int(np.flatnonzero(recording.ended[0])[3])
    start = end - 4 - 3  # four known steps, then the end comes with the fourth one dreamt
    alone = Recording(
        "Toy", *(array[:, start:].copy() for array in list(vars(recording).values())[1:])
    )
    toy = subject(ToyModel(), alone, stride=10_000)
    report, images = EventReport.measure(toy), ImageReport.measure(toy).images
    assert OpenLoopReport.measure(toy).windows == 1
    assert images["dream"].foreground_error == (0.0,) * 3 + (None,) * 5
    assert (report.endings[0].steps, report.endings[0].real, report.endings[0].found) == (4, 1, 1)
    alone.rewards[:, 8:] = 9.0
    alone.frames[:, 8:] = 255 - alone.frames[:, 8:]
    toy = subject(ToyModel(), alone, stride=10_000)
    assert EventReport.measure(toy).rewards == report.rewards
    assert ImageReport.measure(toy).images["dream"].foreground_error[:3] == (0.0,) * 3


def test_a_short_recording_is_refused():
    with pytest.raises(GlamError, match="holds no window of 14 steps"):
        OpenLoopReport.measure(subject(ToyModel(), play(steps=13)))
    with pytest.raises(GlamError, match="at least 1"):
        OpenLoopReport.measure(subject(ToyModel(), play(), horizon=0))


def test_the_background_is_the_median():
    np.testing.assert_array_equal(find_background(play().frames), np.full((64, 64, 3), GROUND))


@pytest.mark.parametrize(
    ("real", "dreamt", "found", "true"),
    [
        ("...+....", ".....+..", [3], [5]),  # two steps off
        ("...+....", "......+.", [], []),  # three
        ("...+....", "...-....", [], []),  # of the other sign
        ("...+....", "..+++...", [3], [2]),  # one event, not three
        ("..+++...", "...+....", [2], [3]),
        ("..+.+...", "+.+.....", [2, 4], [0, 2]),  # greedy by nearness would pair only one
        ("-..+..-.", ".-.+...-", [0, 3, 6], [1, 3, 7]),
    ],
)
def test_events_are_matched_one_to_one(real, dreamt, found, true):
    def kinds(text):
        return np.array([[".+-".index(mark) for mark in text]], np.int8)

    matched = match_events(kinds(real), kinds(dreamt))
    assert [np.flatnonzero(row[0]).tolist() for row in matched] == [found, true]


def test_events_beyond_the_horizon_are_partners_but_do_not_count():
    real, dreamt = np.zeros((2, 1, 10), np.int8)
    real[0, [2, 8]], dreamt[0, [3, 7]] = 1, 1
    score = score_events(real, dreamt, np.ones((1, 10), bool), horizon=8)
    assert (score.real, score.dreamt, score.found, score.false_alarms) == (1, 2, 1, 0)


def test_points_of_windows_are_compared_while_the_episode_lasts():
    real = np.array([[1.0, 5.0], [0.0, 0.0]], np.float32)
    dreamt = np.array([[0.5, 0.0], [0.1, 0.2]], np.float32)
    alive = np.array([[True, False], [True, True]])
    points = sum_rewards(real, dreamt, alive, horizon=2)
    assert (points.real, points.dreamt) == pytest.approx((0.5, 0.4))
    assert points.correlation == pytest.approx(1.0)


@pytest.mark.emulator
def test_a_recording_keeps_what_was_seen_done_and_earned():
    def record(**changes):
        settings = {"steps": 400, "num_envs": 2, "seed": 5, "num_threads": 1} | changes
        return record_play(RandomPolicy(6), "Pong", **settings)

    recording = record()
    assert recording.frames.shape == (2, 200, 64, 64, 3)
    assert recording.actions.shape == recording.ended.shape == (2, 200)
    env, step = np.nonzero(recording.rewards[:, 1:-2])
    assert len(env) > 3
    score_board = recording.frames[:, :, :9]
    changed = (score_board[:, 1:] != score_board[:, :-1]).any((2, 3, 4))
    # A point is on the board at once, or one frame later; never before.
    assert (changed[env, step + 1] | changed[env, step + 2]).all()
    assert not changed[env, step].any()
    played = np.random.default_rng(5).integers(6, size=(200, 2)).T  # RandomPolicy with seed 5
    np.testing.assert_array_equal(recording.actions, played)
    np.testing.assert_array_equal(record().frames, recording.frames)
    assert (record(seed=6, steps=100).frames != recording.frames[:, :50]).any()


@pytest.mark.parametrize("noise", [(), (0.5, 1.1)])
def test_noise_must_be_chances(noise):
    with pytest.raises(GlamError, match="chances from 0 to 1"):
        add_noise(lambda features, generator: features[:, 0].long(), 6, noise)


def test_noise_replaces_actions_by_its_chance_in_each_env():
    act = add_noise(lambda features, generator: features[:, 0].long(), 6, (0.0, 0.5, 1.0))
    generator = torch.Generator().manual_seed(0)
    asked = torch.full((6, 1), 7.0)  # an action that chance never draws
    actions = torch.stack([act(asked, generator) for _ in range(1000)])
    kept = (actions == 7).float().mean(0)
    torch.testing.assert_close(kept, torch.tensor([1.0, 0.5, 0.0] * 2), atol=0.06, rtol=0)
    assert sorted(set(actions.flatten().tolist())) == [0, 1, 2, 3, 4, 5, 7]
