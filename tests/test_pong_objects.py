"""Pong's ball and paddles are found where they are, in sharp frames and in blurred ones."""

import numpy as np
import pytest

from glam_env.envs.atari import Emulator
from glam_env.evaluation.measures.pong import AGENT, BALL, OPPONENT, TABLE, find_pong_objects

FINE = 8  # sub-pixels, so that objects can lie between pixels


def table(*things):
    """Draw a (1, 64, 64, 3) frame with (color, row, column, height, width) rectangles."""
    fine = np.empty((64 * FINE, 64 * FINE, 3))
    fine[:] = TABLE
    fine[: 11 * FINE], fine[59 * FINE :] = BALL, BALL
    for color, row, column, height, width in things:
        top, left = round((row + 0.5 - height / 2) * FINE), round((column + 0.5 - width / 2) * FINE)
        fine[top : top + round(height * FINE), left : left + round(width * FINE)] = color
    frame = fine.reshape(64, FINE, 64, FINE, 3).mean((1, 3))
    return frame.round().astype(np.uint8)[None]


def ball(row, column):
    return BALL, row, column, 1.25, 1.25


def test_an_empty_table_shows_nothing():
    found = find_pong_objects(np.concatenate([table(), table()]))
    assert all(np.isnan(found[name]).all() for name in ("ball", "opponent", "agent"))
    assert {position.shape for position in found.values()} == {(2, 2)}


@pytest.mark.parametrize("row", [12, 30.25, 57.5])
@pytest.mark.parametrize("column", [1, 6.5, 31.75, 56.5, 62])
def test_the_ball_is_found_anywhere_even_before_a_paddle(row, column):
    paddles = (OPPONENT, 29, 6.5, 5.5, 1.75), (AGENT, 29, 56.5, 5, 1.75)
    found = find_pong_objects(table(*paddles, ball(row, column)))
    assert np.abs(found["ball"][0] - (row, column)).max() < 0.2


@pytest.mark.parametrize("row", [14, 33.5, 55.25])
def test_paddles_are_found_and_are_no_ball(row):
    found = find_pong_objects(
        table((OPPONENT, row, 6.5, 5.5, 1.75), (AGENT, 70 - row, 56.5, 5, 1.75))
    )
    assert found["opponent"][0] == pytest.approx((row, 6.5), abs=0.2)
    assert found["agent"][0] == pytest.approx((70 - row, 56.5), abs=0.2)
    assert np.isnan(found["ball"]).all()


def test_half_a_paddle_at_the_wall_is_found():
    found = find_pong_objects(table((AGENT, 11.5, 56.5, 2, 1.75)))
    assert found["agent"][0, 0] == pytest.approx(11.5, abs=0.2)


def test_a_blurred_ball_is_found_on_a_noisy_table():
    frame = table((AGENT, 40, 56.5, 5, 1.75)).astype(float)
    rows, columns = np.mgrid[:64, :64]
    blob = 0.5 * np.exp(-((rows - 20) ** 2 + (columns - 45) ** 2) / 2)
    frame += blob[None, ..., None] * (BALL - TABLE)
    frame += np.random.default_rng(0).normal(0, 3, frame.shape)
    found = find_pong_objects(frame.clip(0, 255).round().astype(np.uint8))
    assert np.abs(found["ball"][0] - (20, 45)).max() < 0.5
    assert found["agent"][0, 0] == pytest.approx(40, abs=0.3)


def test_noise_alone_is_no_ball():
    frames = table().repeat(50, axis=0) + np.random.default_rng(0).normal(0, 3, (50, 64, 64, 3))
    found = find_pong_objects(frames.clip(0, 255).round().astype(np.uint8))
    assert all(np.isnan(position).all() for position in found.values())


@pytest.mark.emulator
def test_objects_of_the_real_game_move_as_played():
    emulator = Emulator("Pong", 1, seed=3, num_threads=1)
    frames, rewards = [emulator.reset()], []
    actions = [2] * 45 + [3] * 45 + [0] * 30  # up, down, stay
    for action in actions:
        step = emulator.step(np.array([action]))
        frames.append(step.frames)
        rewards.append(step.reward[0])
    emulator.close()
    found = find_pong_objects(np.concatenate(frames))

    ball = found["ball"]
    assert np.isfinite(ball[:, 0]).mean() > 0.3
    moves = np.abs(np.diff(ball, axis=0))
    moves = moves[np.isfinite(moves[:, 0])]
    assert (moves < 4).all()
    assert (moves.max(1) > 0.5).mean() > 0.9  # it never rests
    lost = np.flatnonzero(rewards)
    assert len(lost)
    for step in lost:
        seen = ball[: step + 1][np.isfinite(ball[: step + 1, 0])]
        assert seen[-1, 1] > 54  # it left past the agent

    agent = found["agent"][:, 0]
    assert np.isfinite(agent).all()
    assert agent[45] < 15
    assert agent[90] > 50
    assert np.isfinite(found["opponent"][lost[0] // 2 : lost[0], 0]).any()


# Where the game stores its objects: bytes of the console's memory, in its own units.
BALL_X, BALL_Y, OPPONENT_Y, AGENT_Y = 49, 54, 50, 51
ROW, COLUMN = 64 / 210, 64 / 160  # our pixels to one of the console's


def play_with_memory(steps):
    """Return frames, and the four bytes at the two game frames that make each of them.

    Two emulators play the same game with the same actions: ours, and one that shows its memory.
    """
    from ale_py import ALEInterface, LoggerMode, roms

    ALEInterface.setLoggerMode(LoggerMode.Error)
    memory = ALEInterface()
    memory.setFloat("repeat_action_probability", 0.0)
    memory.loadROM(roms.get_rom_path("pong"))
    memory.reset_game()
    actions = memory.getMinimalActionSet()

    def look():
        return memory.getRAM()[[BALL_X, BALL_Y, OPPONENT_Y, AGENT_Y]].astype(float)

    emulator = Emulator("Pong", 1, seed=0, num_threads=1, noop_max=0)
    generator = np.random.default_rng(0)
    emulator.reset()
    frames, bytes_ = [], []
    for _ in range(steps):
        up = memory.getRAM()[BALL_Y] < memory.getRAM()[AGENT_Y] + 8  # follows the ball, mostly
        action = (2 if up else 3) if generator.random() < 0.8 else generator.integers(6)
        step = emulator.step(np.array([action]))
        reward, looks = 0.0, []
        for _ in range(4):
            reward += memory.act(actions[action])
            looks.append(look())
        assert reward == step.reward[0]
        assert not step.terminated[0]
        frames.append(step.frames)
        bytes_.append(looks[2:])
    emulator.close()
    return np.concatenate(frames), np.array(bytes_)


@pytest.mark.emulator
def test_objects_are_where_the_games_memory_has_them():
    frames, memory = play_with_memory(900)
    found = find_pong_objects(frames)
    there = found["ball"][:, 0]

    ball_y = memory[:, :, 1]
    none, clear = (ball_y == 0).all(1), ((ball_y >= 50) & (ball_y <= 205)).all(1)
    assert none.sum() > 50
    assert clear.sum() > 500
    assert np.isnan(there[none]).all()  # no false ball
    assert np.isfinite(there[clear]).all()  # and none missed
    column, row = COLUMN * memory[clear, :, 0].mean(1), ROW * ball_y[clear].mean(1)
    for ours, theirs in ((found["ball"][clear, 1], column), (found["ball"][clear, 0], row)):
        off = ours - theirs
        off -= np.median(off)  # the place of the console's zero in our picture
        assert np.percentile(np.abs(off), 99) < 0.5
        assert np.abs(off).max() < 1.0

    for name, byte in (("opponent", 2), ("agent", 3)):
        position = memory[:, :, byte].mean(1)
        whole = (np.abs(position - 120) < 60) & (np.ptp(memory[:, :, byte], axis=1) < 20)
        off = found[name][whole, 0] - ROW * position[whole]
        assert np.isfinite(off).all()
        off -= np.median(off)
        assert np.percentile(np.abs(off), 95) < 0.8


@pytest.mark.emulator
def test_the_first_frame_with_its_other_colors_shows_nothing():
    emulator = Emulator("Pong", 1, seed=0, num_threads=1, noop_max=0)
    found = find_pong_objects(emulator.reset())
    emulator.close()
    assert all(np.isnan(position).all() for position in found.values())
