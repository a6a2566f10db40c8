"""A session of dream and real game, without a window."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comparison import assert_same
from play_subject import make_subject

from glam_env.envs.dream.pool import draw_frames
from glam_env.envs.latent_filter import LatentFilter
from glam_env.envs.recordings.contexts import read_contexts
from glam_env.envs.recordings.recording import load_recording
from glam_env.errors import GlamError
from glam_env.evaluation.play.policies import FramePolicy
from glam_env.games import find_game
from glam_env.model.structures import tree_tensors
from glam_env.play.session import recorder as recorder_module
from glam_env.play.session.session import Session, Subject

real_game = pytest.mark.emulator
WORLDS = [pytest.param(False, id="dream"), pytest.param(True, id="real", marks=real_game)]
ACTIONS = [0, 2, 3, 1, 5, 4, 2, 2, 3, 0, 4, 5] * 2


@pytest.fixture(scope="module")
def subject(endless_checkpoint: Path) -> Subject:
    return make_subject(endless_checkpoint)


@pytest.fixture(scope="module")
def mortal(saved_checkpoint: Path) -> Subject:
    """Its dreams end every few steps."""
    return make_subject(saved_checkpoint)


def play(session: Session, actions=ACTIONS) -> list:
    """Take steps; return all that they brought."""
    seen = []
    for action in actions:
        step = session.step(action)
        seen.append((step.action, *step.outcome, session.score, session.frame.copy()))
    return seen


# --- the two worlds ------------------------------------------------------------------------------


@pytest.mark.parametrize("real", WORLDS)
def test_a_seed_fixes_all(subject, real) -> None:
    one, same, other = (play(Session(subject, seed=seed, real=real)) for seed in (3, 3, 4))
    assert_same(one, same)
    assert any(not np.array_equal(a[-1], b[-1]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("real", WORLDS)
def test_winding_back_is_exact(subject, real) -> None:
    """Both for one's own actions and for those that the agent draws, over the seam of both."""
    session = Session(subject, real=real)
    play(session, ACTIONS[:5])
    frame, score = session.frame, session.score
    first = play(session)
    session.hand_over()
    first += play(session, [0] * 20)
    assert session.wind_back(len(first)) == len(first)
    session.hand_over()
    assert np.array_equal(session.frame, frame)
    assert session.score == score
    again = play(session)
    session.hand_over()
    again += play(session, [0] * 20)
    assert_same(first, again)
    assert len({row[0] for row in first[-20:]}) > 1
    assert session.wind_back(1000) == len(first) + 5
    assert session.wind_back() == 0


@real_game
def test_winding_back_crosses_the_ends_of_games(subject, monkeypatch) -> None:
    monkeypatch.setattr("glam_env.envs.atari.rewind.MAX_STEPS", 12)
    session = Session(subject, real=True)
    frame, seen = session.frame, play(session)
    assert [t for t, row in enumerate(seen) if row[3]] == [11, 23]
    session.wind_back(len(seen))
    assert np.array_equal(session.frame, frame)
    assert_same(play(session), seen)


def test_a_dream_that_has_ended_begins_again_and_can_be_wound_back(mortal) -> None:
    session = Session(mortal)
    seen = play(session, ACTIONS * 2)
    assert sum(row[3] for row in seen) > 3
    ended = next(t for t, row in enumerate(seen) if row[3])
    assert seen[ended][-2] == 0.0, "the score of the next dream"
    session.wind_back(len(seen))
    assert_same(play(session, ACTIONS * 2), seen)


def test_steps_beyond_the_trail_are_not_kept(subject) -> None:
    session = Session(subject, trail=7)
    play(session)
    assert len(session.steps) == 7
    assert session.wind_back(100) == 7


@real_game
def test_a_dream_goes_on_from_this_very_moment_of_the_game(subject) -> None:
    session = Session(subject, seed=2, real=True)
    play(session)
    # Another filter of the same frames and actions, with the same draws, has the same state.
    again = Session(subject, seed=2, real=True)
    draws = torch.Generator()
    draws.set_state(again.world.save().posterior)
    latents = LatentFilter(subject.world_model, 1, draws)
    latents.begin(again.world.state.code, torch.ones(1, dtype=torch.bool))
    for action in ACTIONS:
        latents.act(torch.tensor([again.step(action).action]))
        latents.see(again.frame[None], np.zeros(1, bool))
    game = session.frame
    assert session.switch() is False
    dream, filtered = map(tree_tensors, (session.world.state, latents.state))
    assert_same([each.numpy() for each in dream], [each.numpy() for each in filtered])
    drawn = draw_frames(subject.world_model, latents.state.code)[0].numpy()  # in float32
    assert np.abs(session.frame.astype(int) - drawn.astype(int)).max() <= 1
    assert session.score == 0.0
    play(session)
    assert session.switch() is True
    assert np.array_equal(session.frame, game), "the game is where it was left"
    assert len(session.steps) == len(ACTIONS), "and can be wound back"
    assert_same(play(session), play(again))


@real_game
def test_a_dream_from_the_game_knows_what_was_seen_before(subject) -> None:
    """An agent on frames takes over with the last 16 frames, of both worlds."""
    histories = []

    def begin(history, generator):
        histories.append(history)
        return lambda frames: torch.tensor([2])

    session = Session(replace(subject, policy=FramePolicy("on frames", begin)), real=True)
    frames = [session.frame]
    for action in ACTIONS[:12]:
        session.step(action)
        frames.append(session.frame)
    session.switch()
    frames[-1] = session.frame  # as the decoder draws it
    for action in ACTIONS[12:18]:
        session.step(action)
        frames.append(session.frame)
    session.hand_over()
    assert [session.step(0).action for _ in range(3)] == [2, 2, 2]
    assert len(histories) == 1, "it follows the play by itself from there"
    assert np.array_equal(histories[0].frames[0], np.stack(frames[2:18]))
    assert histories[0].actions.tolist() == [ACTIONS[2:18]]
    session.wind_back(1)
    session.step(0)
    assert len(histories) == 2


def test_without_ale_py_there_is_the_dream_alone(subject, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ale_py", None)
    session = Session(subject)
    before = session.frame
    with pytest.raises(GlamError, match=r'pip install "glam-env\[atari\]"'):
        session.switch()
    assert not session.real
    assert np.array_equal(session.frame, before)


def test_there_is_no_such_action(subject) -> None:
    session = Session(subject)
    with pytest.raises(GlamError, match="Pong has actions 0 to 5, not 6"):
        session.step(6)


# --- futures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("real", WORLDS)
def test_futures_differ_and_leave_the_session_alone(subject, real) -> None:
    session, alone = (Session(subject, real=real) for _ in range(2))
    play(session)
    play(alone)
    futures = session.futures(4)
    begun = futures.frames.copy()
    assert all(np.array_equal(frame, begun[0]) for frame in begun)
    for action in ACTIONS:
        futures.step(action)
    different = {frame.tobytes() for frame in futures.frames}
    assert len(different) > 1
    session.futures(4)
    assert_same(play(session), play(alone))


def test_the_agent_plays_in_each_future(subject) -> None:
    session = Session(subject)
    futures = session.futures(3)
    for _ in range(6):
        futures.step(None)
    assert any(len(set(step.actions)) > 1 for step in futures.steps)


def test_an_ended_future_keeps_its_last_frame(mortal) -> None:
    futures = Session(mortal).futures(8)
    while not futures.ended.any():
        futures.step(0)
    row = int(futures.ended.argmax())
    frame, points = futures.frames[row].copy(), futures.points[row]
    for _ in range(3):
        assert futures.step(1)[row] == (0.0, False, False, 0.0)
    assert np.array_equal(futures.frames[row], frame)
    assert futures.points[row] == points


@pytest.mark.parametrize("real", WORLDS)
def test_a_future_is_taken_and_can_be_wound_back(subject, real) -> None:
    session = Session(subject, real=real)
    play(session, ACTIONS[:6])
    score, futures, frames = session.score, session.futures(4), []
    for action in ACTIONS[:8]:
        frames.append(futures.frames[2].copy())
        futures.step(action)
    last = futures.frames[2].copy()
    session.take(futures, 2)
    assert not session.real
    assert np.array_equal(session.frame, last)
    assert session.score == futures.points[2] + (0.0 if real else score)
    for frame in reversed(frames):
        assert session.wind_back(1) == 1
        assert np.array_equal(session.frame, frame)
    assert len(session.steps) == (0 if real else 6)
    with pytest.raises(GlamError, match="another moment"):
        session.take(futures, 2)
    futures = session.futures(4)
    with pytest.raises(GlamError, match="futures 0 to 3, not 4"):
        session.take(futures, 4)


# --- recordings ----------------------------------------------------------------------------------


@real_game
def test_a_recording_has_what_was_played_and_starts_dreams(subject, tmp_path) -> None:
    session = Session(subject, real=True)
    play(session, ACTIONS[:4])
    assert session.record() is None
    frames = []
    for action in ACTIONS:
        frames.append(session.frame)
        session.step(action)
    session.wind_back(6)
    session.step(1)
    session.switch()
    play(session, ACTIONS[:3])
    session.switch()
    play(session, ACTIONS[:20])
    recorder = session.record()
    assert recorder is not None
    assert session.recorder is None
    arrays = recorder.arrays()
    kept = len(ACTIONS) - 6
    assert np.array_equal(arrays["frames"][0, :kept], np.stack(frames[:kept]))
    assert arrays["actions"][0].tolist() == [*ACTIONS[:kept], 1, *ACTIONS[:3], *ACTIONS[:20]]
    assert np.flatnonzero(~arrays["real"][0]).tolist() == [kept + 1, kept + 2, kept + 3]
    assert np.flatnonzero(arrays["ended"][0]).tolist() == [kept, kept + 3], "the changes of world"
    path = recorder.save(tmp_path / "deep" / "played.npz")
    contexts = read_contexts(path, subject.world_model, 16)
    assert len(contexts.codes) == (kept + 1 - 16) + (20 - 16)
    Session(replace(subject, contexts=contexts))
    held_out = load_recording(path, subject.game)
    real = arrays["real"][0]
    assert np.array_equal(held_out.frames[0], arrays["frames"][0, real])
    assert np.flatnonzero(held_out.ended[0]).tolist() == [kept]
    with pytest.raises(GlamError, match="is a recording of 'Pong', not of Boxing"):
        load_recording(path, find_game("Boxing"))
    assert [each.name for each in path.parent.iterdir()] == ["played.npz"]


def test_what_is_no_recording_of_the_game_gets_one_line(subject, tmp_path) -> None:
    session = Session(subject)
    session.record()
    play(session, ACTIONS[:3])
    recorder = session.record()
    assert recorder is not None
    path, good = tmp_path / "dream.npz", recorder.arrays()
    recorder.save(path)
    with pytest.raises(GlamError, match="holds dreams alone"):
        load_recording(path, subject.game)
    good |= {"game": np.array("Pong"), "real": np.ones((1, 3), bool)}
    bad = {
        "has no real": {name: good[name] for name in good if name != "real"},
        "rewards is float64": {**good, "rewards": np.zeros((1, 3))},
        "ended is bool": {**good, "ended": np.zeros((1, 4), bool)},
        "actions must": {**good, "actions": np.full((1, 3), 6)},
        "not finite": {**good, "rewards": np.full((1, 3), np.nan, np.float32)},
    }
    for says, arrays in bad.items():
        np.savez(path, **arrays)
        with pytest.raises(GlamError, match=says):
            load_recording(path, subject.game)
    path.write_bytes(b"nothing")
    with pytest.raises(GlamError, match=r"recording: .* cannot be read"):
        load_recording(path, subject.game)


def test_winding_back_before_a_recording_leaves_it_continuous(subject) -> None:
    session = Session(subject)
    play(session, ACTIONS[:9])
    session.record()
    play(session, ACTIONS[:3])
    session.wind_back(8)
    frame = session.frame
    session.step(5)
    recorder = session.record()
    assert recorder is not None
    assert len(recorder) == 1
    assert np.array_equal(recorder.frames[0], frame)


def test_a_full_recording_takes_no_more_and_stays_continuous(subject, monkeypatch) -> None:
    monkeypatch.setattr(recorder_module, "MOST_STEPS", 5)
    session = Session(subject)
    session.record()
    play(session, ACTIONS[:8])
    assert session.recorder is not None
    assert session.recorder.full
    session.wind_back(4)
    session.step(5)
    recorder = session.record()
    assert recorder is not None
    assert recorder.arrays()["actions"][0].tolist() == [*ACTIONS[:4], 5]


def test_an_empty_recording_and_an_unwritable_folder_get_one_line(subject, tmp_path) -> None:
    session = Session(subject)
    session.record()
    recorder = session.record()
    assert recorder is not None
    with pytest.raises(GlamError, match="nothing was recorded"):
        recorder.save(tmp_path / "none.npz")
    session.record()
    session.step(0)
    (tmp_path / "file").write_text("not a folder")
    recorder = session.record()
    assert recorder is not None
    with pytest.raises(GlamError, match="cannot write"):
        recorder.save(tmp_path / "file" / "none.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
