"""Strips, films, GIFs and plots show what they should and are written where they should be."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from toy_game import GROUND, PICTURES, ToyModel, play

from glam_env.errors import GlamError
from glam_env.evaluation.measures.objects import ObjectReport
from glam_env.evaluation.play.windows import Window, dream_windows
from glam_env.evaluation.report.films import film, save_films
from glam_env.evaluation.report.plots import save_plots
from glam_env.evaluation.report.strips import HEAD, MARGIN, save_strips, side_by_side_gif, strip


def window(length=8, seen=3):
    """Make black real frames and a dream of 9s; the third step loses a point in the game."""
    real = np.zeros((length, 64, 64, 3), np.uint8)
    reward = np.zeros(length, np.float32)
    reward[2] = -1.0
    known = np.full((seen, 64, 64, 3), 50, np.uint8)
    dream = np.full_like(real, 9)
    return Window(1, 23, known, known + 2, real, dream, reward, np.zeros_like(reward))


def test_windows_hold_frames_and_rewards():
    recording = play()
    windows = dream_windows(ToyModel(), recording, count=5, context=4, horizon=8)
    assert len(windows) == 5
    for one in windows:
        frames = recording.frames[one.env]
        np.testing.assert_array_equal(one.seen, frames[one.step - 4 : one.step + 1])
        np.testing.assert_array_equal(one.real, frames[one.step + 1 : one.step + 9])
        np.testing.assert_array_equal(one.dream, one.real)  # the model knows the game
        np.testing.assert_array_equal(one.seen_drawn, one.seen)
        rewards = recording.rewards[one.env, one.step : one.step + 8]
        np.testing.assert_array_equal(one.real_reward, rewards)
        np.testing.assert_allclose(one.dream_reward, rewards, atol=1e-4)  # by the code's bins
        assert rewards[:4].any()  # there is something to see


def test_windows_of_a_game_without_points_are_spread_over_it():
    recording = play()
    recording.rewards[:] = 0.0
    windows = dream_windows(ToyModel(), recording, count=4, context=4, horizon=8)
    assert [one.env for one in windows] == [0, 0, 1, 1]
    with pytest.raises(GlamError, match="holds no window"):
        dream_windows(ToyModel(), play(steps=10), context=4, horizon=8)
    ends = replace(recording, ended=np.ones_like(recording.ended))
    ends.ended[:, ::6] = False
    with pytest.raises(GlamError, match=r"holds no window|of one episode"):
        dream_windows(ToyModel(), ends, context=1, horizon=8)


def test_a_strip_shows_real_dream_and_difference():
    image = strip(window(), steps_ahead=(1, 4, 8, 16))
    assert image.shape == (HEAD + 3 * (256 + 8 + 4), MARGIN + 3 * (256 + 4), 3)
    middles = image[HEAD + 128 :: 268, MARGIN + 128 :: 260]
    np.testing.assert_array_equal(middles[:, :, 0], [[0] * 3, [9] * 3, [18] * 3])
    marks = image[HEAD + 256 + 5 :: 268, MARGIN + 128 :: 260, 0] > 200
    assert marks.tolist() == [[False, True, False], [False] * 3, [False] * 3]


def test_a_film_shows_both_worlds_and_when_points_fell():
    pictures = list(film(window()))
    assert len(pictures) == 3 + 8
    assert all(picture.shape == (304, 784, 3) for picture in pictures)
    middles = [[picture[128, 128 + 264 * i, 0] for i in range(3)] for picture in pictures]
    assert middles == [[50, 52, 4]] * 3 + [[0, 9, 18]] * 8
    red = [(picture[-20:, :256] == (235, 60, 60)).all(-1).any() for picture in pictures]
    assert red == [False] * 5 + [True] * 6  # from the third step of the dream on
    assert not any((picture[-20:, 264:] == (235, 60, 60)).all(-1).any() for picture in pictures)


def test_pictures_are_written(tmp_path):
    recording = play()
    windows = dream_windows(ToyModel(), recording, count=3, context=4, horizon=8)
    paths = save_strips(tmp_path / "new", windows)
    assert len(paths) == 3
    assert all(path.stat().st_size > 1000 for path in paths)

    gif = tmp_path / "films" / "walk.gif"
    side_by_side_gif(gif, recording.frames[0, :10], recording.frames[1, :10])
    with Image.open(gif) as shown:
        assert (shown.n_frames, shown.size) == (10, (2 * 256 + 4, 256 + 16))
        pixels = np.array(shown.convert("RGB"))[16::4, :256:4].astype(int)
    assert np.abs(pixels - recording.frames[0, 0]).max() < 30


def test_a_film_can_be_played(tmp_path):
    from imageio_ffmpeg import read_frames

    path = save_films(tmp_path / "new" / "film.mp4", [window(), window()])
    reader = read_frames(str(path))
    about = next(reader)
    assert about["size"] == (784, 304)
    pictures = [np.frombuffer(data, np.uint8).reshape(304, 784, 3) for data in reader]
    assert len(pictures) == 2 * (3 + 8 + 6)
    assert np.abs(pictures[4][100:200, 300:400].astype(int) - 9).max() < 12
    assert np.abs(pictures[0][100:200, 50:100].astype(int) - 50).max() < 12


def test_pictures_of_the_toy_game():
    assert PICTURES.shape == (20, 64, 64, 3)
    assert set(np.unique(PICTURES)) == {GROUND, 200}


@pytest.mark.emulator
def test_an_examination_is_saved_with_all_its_pictures(tmp_path, make_world_model, monkeypatch):
    from glam_env.evaluation.examine import Examination, examine, save_examination
    from glam_env.evaluation.measures import ranking

    standard = ranking.standard_policies
    monkeypatch.setattr(ranking, "standard_policies", lambda *given: standard(*given)[::4])

    def act(features, generator):
        return features[:, 0].long() * 0 + 2

    calls = []
    examination, recording = examine(
        make_world_model(-99.0),
        act,
        "Pong",
        steps=400,
        behavior_steps=400,
        branch_steps=120,
        ranking_moments=2,
        ceiling_moments=4,
        horizon=32,
        dream_horizon=16,
        seed=0,
        on_progress=lambda *progress: calls.append(progress),
    )
    last = {work: done == total for work, done, total in calls}
    assert len(last) == 10
    assert all(last.values())
    assert len(examination.checks) == 14
    assert not examination.passed
    paths = save_examination(tmp_path / "out", examination, make_world_model(-99.0), recording)
    names = {str(path.relative_to(tmp_path / "out")) for path in paths}
    assert {"fidelity.json", "film.mp4"} <= names
    plots = ("images", "events", "points", "policies", "calibration", "reliability", "ceiling")
    assert {f"plots/{name}.png" for name in plots} <= names
    assert sum(name.startswith("strips/") for name in names) == 8
    assert all(path.stat().st_size > 1000 for path in paths)
    report = json.loads((tmp_path / "out" / "fidelity.json").read_text())
    assert report == json.loads(json.dumps(examination.as_json()))
    assert Examination.from_json(report) == examination
    for words in ("SSIM", "played by random", "points in 1000 steps", "fail", "by chance"):
        assert words in examination.table(), words

    fewer = save_plots(tmp_path / "fewer", {"objects": ObjectReport({})})  # no detector, no plot
    assert fewer == []
    (tmp_path / "file").write_text("mine")
    with pytest.raises(GlamError, match="writable --out"):
        save_examination(tmp_path / "file", examination, make_world_model(-99.0), recording)
