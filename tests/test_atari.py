"""The emulator: what an agent step is, seeds, resumption, records, and bad input."""

import sys

import gymnasium
import numpy as np
import pytest

from glam_env.envs.atari import Emulator, EmulatorState, emulator
from glam_env.errors import GlamError

pytestmark = pytest.mark.emulator


@pytest.fixture
def make():
    """Make emulators on one thread and close them after the test."""
    made = []

    def make_emulator(game="Pong", num_envs=1, *, seed=0, num_threads=1, **options):
        made.append(Emulator(game, num_envs, seed=seed, num_threads=num_threads, **options))
        return made[-1]

    yield make_emulator
    for one in made:
        one.close()


def random_actions(game, steps, seed=0):
    return np.random.default_rng(seed).integers(game.num_actions, size=(steps, game.num_envs))


def assert_same_steps(left, right):
    for a, b in zip(left, right, strict=True):
        for name in ("frames", "reward", "life_lost", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert a.finished == b.finished


def test_shapes_and_types(make):
    game = make(num_envs=3)
    frames = game.reset()
    step = game.step(np.array([0, 2, 3]))
    assert frames.shape == step.frames.shape == (3, 64, 64, 3)
    assert frames.dtype == step.frames.dtype == np.uint8
    assert step.reward.dtype == np.float32
    for flags in (step.life_lost, step.terminated, step.truncated):
        assert flags.shape == (3,)
        assert flags.dtype == bool
    assert step.finished == ()


def area_weights(old, new):
    """Return the (new, old) share of each old pixel in each new one, for scaling by area."""
    edges = np.linspace(0, old, new + 1)
    left, right = np.arange(old), np.arange(1, old + 1)
    overlap = np.minimum(edges[1:, None], right) - np.maximum(edges[:-1, None], left)
    return np.clip(overlap, 0, None) * new / old


@pytest.mark.parametrize("name", ["Pong", "Breakout", "MsPacman"])
def test_an_agent_step_is_what_atari_100k_makes_of_four_raw_frames(make, name):
    import ale_py

    game = make(name, noop_max=0)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    raw = ale_py.ALEInterface()
    raw.setInt("random_seed", game._seed_of(0, 0))
    raw.setFloat("repeat_action_probability", 0.0)
    raw.loadROM(ale_py.roms.get_rom_path(game.game.ale_id))
    raw.reset_game()
    buttons = raw.getMinimalActionSet()
    rows, columns = area_weights(210, 64), area_weights(160, 64)

    def picture(screen):
        return np.einsum("ia,abc,jb->ijc", rows, screen, columns, optimize=True)

    # A half may be rounded either way.
    np.testing.assert_allclose(game.reset()[0], picture(raw.getScreenRGB()), atol=0.501)
    for action in random_actions(game, 60):
        step = game.step(action)
        reward, screens = 0, []
        for _ in range(4):
            reward += raw.act(buttons[action[0]])
            screens.append(raw.getScreenRGB())
        expected = picture(np.maximum(screens[2], screens[3]))
        np.testing.assert_allclose(step.frames[0], expected, atol=0.501)
        assert step.reward[0] == reward
    assert not raw.game_over()


def test_rewards_are_not_clipped_and_make_up_the_return(make):
    game = make("MsPacman", 2)
    game.reset()
    total, length, finished, rewards = np.zeros(2), np.zeros(2), [], []
    for action in random_actions(game, 700):
        step = game.step(action)
        total += step.reward
        length += 1
        rewards.append(step.reward)
        for episode in step.finished:
            assert step.terminated[episode.env]
            assert (episode.return_, episode.length) == (total[episode.env], length[episode.env])
            total[episode.env] = length[episode.env] = 0
            finished.append(episode)
    assert np.max(rewards) >= 10
    assert {episode.env for episode in finished} == {0, 1}
    for env in (0, 1):
        numbers = [episode.episode for episode in finished if episode.env == env]
        assert numbers == list(range(len(numbers)))
    assert len({episode.seed for episode in finished}) == len(finished)


def test_a_lost_life_is_reported_and_only_the_last_ends_the_episode(make):
    game = make("Breakout")
    game.reset()
    lost = []
    for action in random_actions(game, 600):
        step = game.step(action)
        if step.life_lost[0]:
            lost.append(bool(step.terminated[0]))
        else:
            assert not step.terminated[0]
    episodes = sum(lost)
    assert episodes >= 1
    assert lost[: 5 * episodes] == [False, False, False, False, True] * episodes


@pytest.mark.parametrize(("noop_max", "drawn"), [(0, {0}), (1, {0, 1}), (30, set(range(31)))])
def test_an_episode_opens_with_0_to_noop_max_no_ops(make, noop_max, drawn):
    game = make(num_envs=12, noop_max=noop_max)
    game.reset()
    # What the emulator itself counts: frames since its own reset.
    _, _, _, _, info = game._envs.step(np.zeros(12, np.int64))
    counts = set((info["episode_frame_number"] - 4).tolist())
    assert counts <= drawn
    assert len(counts) >= min(len(drawn), 5)


def test_a_finished_env_shows_its_next_episode_at_once(make, monkeypatch):
    monkeypatch.setattr(emulator, "MAX_FRAMES", 40)
    monkeypatch.setattr(emulator, "MAX_STEPS", 10)
    game, follower = make(num_envs=2, seed=4), make(num_envs=2, seed=4)
    game.reset()
    for number in range(10):
        step = game.step(np.array([2, 3]))
        assert step.truncated.tolist() == [number == 9] * 2
    assert not step.terminated.any()
    assert not step.life_lost.any()
    assert [(e.env, e.episode, e.length) for e in step.finished] == [(0, 0, 10), (1, 0, 10)]
    follower.reset()
    np.testing.assert_array_equal(step.frames, follower.reset())  # the start of episode 1
    assert game.state().length.tolist() == [0, 0]


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_an_episode_is_a_function_of_its_seed_and_actions(make, sticky):
    options = {"seed": 7, "repeat_action_probability": sticky}
    many, alone = make(num_envs=3, **options), make(num_envs=1, **options)
    again = make(num_envs=3, num_threads=2, **options)
    actions = np.repeat(random_actions(alone, 150), 3, axis=1)
    first = many.reset()
    np.testing.assert_array_equal(again.reset(), first)
    np.testing.assert_array_equal(alone.reset(), first[:1])
    steps = [many.step(action) for action in actions]
    assert_same_steps(steps, [again.step(action) for action in actions])
    for step, action in zip(steps, actions, strict=True):
        np.testing.assert_array_equal(alone.step(action[:1]).frames, step.frames[:1])
    last = steps[-1].frames
    assert (last[0] != last[1]).any()
    assert (last[1] != last[2]).any()


def test_other_seeds_and_sticky_actions_make_another_game(make):
    actions = random_actions(make(num_envs=2), 100)
    runs = []
    for options in ({}, {"seed": 1}, {"repeat_action_probability": 0.25}):
        game = make(num_envs=2, **options)
        game.reset()
        runs.append(np.stack([game.step(action).frames for action in actions]))
    assert (runs[0] != runs[1]).any()
    assert (runs[0] != runs[2]).any()


@pytest.mark.parametrize("name", ["Pong", "Breakout"])
def test_a_restored_emulator_goes_on_bit_for_bit(make, name):
    options = {"num_envs": 3, "seed": 2, "repeat_action_probability": 0.25}
    game = make(name, **options)
    game.reset()
    before, after = (300, 400) if name == "Breakout" else (150, 150)  # its episodes end soon
    actions = random_actions(game, before + after)
    for action in actions[:before]:
        game.step(action)
    saved = game.state()
    arrays = {key: value.copy() for key, value in vars(saved).items()}
    steps = [game.step(action) for action in actions[before:]]
    if name == "Breakout":  # the envs were at different points of different episodes
        assert len(set(arrays["length"].tolist())) == 3
        assert arrays["episode"].min() > 0
        assert sum(len(step.finished) for step in steps) >= 3

    fresh, used = make(name, **options), game
    for resumed in (fresh, used):
        frames = resumed.restore(EmulatorState(**arrays))
        np.testing.assert_array_equal(resumed.state().checksum, arrays["checksum"])
        assert frames.shape == (3, 64, 64, 3)
        assert_same_steps(steps, [resumed.step(action) for action in actions[before:]])


def test_restore_right_after_reset(make):
    game = make(num_envs=2)
    first = game.reset()
    saved = game.state()
    game.step(np.array([1, 2]))
    np.testing.assert_array_equal(game.restore(saved), first)
    assert game.state().length.tolist() == [0, 0]


def test_a_state_of_something_else_is_refused(make):
    game = make(num_envs=2, seed=1)
    game.reset()
    for action in random_actions(game, 40):
        game.step(action)
    saved = vars(game.state())
    for other in (make(num_envs=2, seed=2), make("DemonAttack", 2, seed=1)):
        with pytest.raises(GlamError, match="play differently now"):
            other.restore(EmulatorState(**saved))
        with pytest.raises(GlamError, match="reset"):
            other.step(np.array([0, 0]))
    with pytest.raises(GlamError, match="2 envs and this one has 3"):
        make(num_envs=3, seed=1).restore(EmulatorState(**saved))
    for damage in (
        {"length": saved["length"] + 1},
        {"actions": saved["actions"][:-1]},
        {"actions": saved["actions"] + np.uint8(6)},
        {"episode": np.array([-1, 0])},
    ):
        with pytest.raises(GlamError, match="damaged"):
            game.restore(EmulatorState(**{**saved, **damage}))


def test_arrays_belong_to_the_caller(make):
    game, other = make(num_envs=2), make(num_envs=2)
    kept = game.reset()
    copy = kept.copy()
    other.reset()
    for action in random_actions(game, 5):
        step = game.step(action)
        expected = other.step(action).frames
        np.testing.assert_array_equal(step.frames, expected)
        step.frames[:] = 7
        step.reward[:] = 7
    np.testing.assert_array_equal(kept, copy)
    np.testing.assert_array_equal(game.state().checksum, other.state().checksum)


@pytest.mark.parametrize(
    "actions",
    [
        np.array([0]),
        np.array([[0, 0]]),
        np.array([0.0, 1.0]),
        np.array([True, False]),
        np.array([0, 6]),
        np.array([-1, 0]),
    ],
    ids=["short", "two-dimensional", "float", "bool", "too large", "negative"],
)
def test_bad_actions_move_nothing(make, actions):
    game = make(num_envs=2)
    game.reset()
    before = game.state()
    with pytest.raises(GlamError, match="actions"):
        game.step(actions)
    after = game.state()
    np.testing.assert_array_equal(before.length, after.length)
    other = make(num_envs=2)
    other.reset()
    good = np.array([2, 3], np.int32)
    np.testing.assert_array_equal(game.step(good).frames, other.step(good).frames)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"num_envs": 1.5}, "num_envs"),
        ({"seed": -1}, "seed"),
        ({"repeat_action_probability": 1.5}, "repeat_action_probability"),
        ({"repeat_action_probability": float("nan")}, "repeat_action_probability"),
        ({"noop_max": -1}, "noop_max"),
        ({"num_threads": -1}, "num_threads"),
        ({"game": "Pnog"}, "did you mean Pong"),
    ],
)
def test_impossible_settings_are_refused(make, options, word):
    with pytest.raises(GlamError, match=word):
        make(**options)


def test_use_before_reset_and_after_close(make):
    game = make()
    with pytest.raises(GlamError, match="reset"):
        game.step(np.array([0]))
    with pytest.raises(GlamError, match="reset"):
        game.state()
    game.reset()
    game.close()
    game.close()
    with pytest.raises(GlamError, match="closed"):
        game.step(np.array([0]))
    with pytest.raises(GlamError, match="closed"):
        game.reset()


def test_without_ale_py_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    monkeypatch.setitem(sys.modules, "ale_py.vector_env", None)
    with pytest.raises(GlamError, match=r'pip install "glam-env\[atari\]"'):
        Emulator("Pong", 1, seed=0)


def test_gymnasium_own_metadata_stays_clean(make):
    before = dict(gymnasium.vector.VectorEnv.metadata)
    game = make()
    assert gymnasium.vector.VectorEnv.metadata == before
    assert game._envs.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP
