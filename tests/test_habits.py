"""What code for Gymnasium and Atari expects of an env: actions, keys, wrappers, horizons, names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import glam_env
from glam_env.errors import GlamError
from glam_env.games import GAMES, find_game

WORLDS = ["Dream", pytest.param("Real", marks=pytest.mark.emulator)]


@pytest.fixture(autouse=True)
def _pong_is_tiny(endless_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(endless_checkpoint.parent))


def make(world: str = "Dream", **options: Any) -> gym.Env:
    return gym.make(f"GLAM{world}-Pong-v0", device="cpu", **options)


def make_vec(world: str = "Dream", **options: Any) -> Any:
    return gym.make_vec(f"GLAM{world}-Pong-v0", num_envs=3, device="cpu", **options)


# --- actions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
def test_actions_have_meanings_and_keys(world) -> None:
    env, envs = make(world), make_vec(world)
    meanings = env.get_wrapper_attr("get_action_meanings")()
    assert meanings == ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]
    assert envs.get_action_meanings() == meanings
    assert envs.call("get_action_meanings") == (meanings,) * 3
    keys = env.unwrapped.get_keys_to_action()
    assert keys[("e",)] == 0
    assert keys[("a",)] == 3
    assert keys[(" ", "d")] == 4
    assert sorted(keys.values()) == list(range(6))
    env.close(), envs.close()


@pytest.mark.emulator
def test_meanings_and_keys_are_those_of_ale_py() -> None:
    ale_py = pytest.importorskip("ale_py")
    gym.register_envs(ale_py)
    for game in ("Pong", "Alien", "KungFuMaster"):
        theirs = gym.make(f"ALE/{game}-v5").unwrapped
        ours = glam_env.RealEnv(game)
        assert ours.get_action_meanings() == theirs.get_action_meanings()
        keys = {tuple(sorted(key)): int(a) for key, a in theirs.get_keys_to_action().items()}
        assert ours.get_keys_to_action() == keys
        ours.close(), theirs.close()


@pytest.mark.parametrize("world", WORLDS)
def test_play_needs_no_arguments(world, monkeypatch) -> None:
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    from gymnasium.utils.play import PlayableGame, play

    steps: list[int] = []

    def count(*transition: Any) -> None:
        steps.append(transition[2])
        event = pygame.KEYDOWN if len(steps) == 1 else pygame.QUIT
        pygame.event.post(pygame.event.Event(event, key=ord("d")))

    env = make(world, render_mode="rgb_array")
    assert PlayableGame.__name__
    play(env, callback=count, fps=1000)
    assert steps == [0, 2]  # nothing is pressed, then RIGHT
    env.close()


# --- the emulator's wrappers -----------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
def test_there_is_no_emulator_to_ask(world) -> None:
    env = make(world)
    assert not hasattr(env.unwrapped, "ale")
    with pytest.raises(
        AttributeError, match=r"already skipped, maximised and resized .* leave out"
    ):
        _ = env.unwrapped.ale
    env.close()


@pytest.mark.parametrize("world", WORLDS)
def test_atari_preprocessing_is_refused_in_one_line(world) -> None:
    pytest.importorskip("cv2")
    env = make(world)
    with pytest.raises(GlamError, match=r"already skipped.*: leave the wrapper AtariPreprocessing"):
        gym.wrappers.AtariPreprocessing(env)
    env.close()


@pytest.mark.parametrize("world", WORLDS)
def test_no_wrapper_skips_frames_a_second_time(world) -> None:
    env = gym.wrappers.MaxAndSkipObservation(make(world), skip=4)
    with pytest.raises(GlamError, match="leave the wrapper MaxAndSkipObservation out") as caught:
        env.reset(seed=0)
    assert "\n" not in str(caught.value)
    env.close()


@pytest.mark.parametrize("wrapper_kwargs", [{}, {"terminal_on_life_loss": False}])
def test_sb3_atari_env_is_refused_in_one_line(wrapper_kwargs) -> None:
    env_util = pytest.importorskip("stable_baselines3.common.env_util")
    pytest.importorskip("cv2")
    envs = env_util.make_atari_env("GLAMDream-Pong-v0", 2, wrapper_kwargs=wrapper_kwargs)
    with pytest.raises(GlamError, match="leave the wrapper MaxAndSkipEnv out"):
        envs.reset()
    envs.close()


def test_sb3_atari_wrapper_without_skips_works() -> None:
    """No-ops, FIRE, 84 x 84 in grey and clipped rewards, on the dream's own steps."""
    wrappers = pytest.importorskip("stable_baselines3.common.atari_wrappers")
    pytest.importorskip("cv2")
    env = wrappers.AtariWrapper(make(), noop_max=3, frame_skip=1, terminal_on_life_loss=False)
    assert env.reset(seed=0)[0].shape == (84, 84, 1)
    assert env.step(0)[1] in (-1.0, 0.0, 1.0)
    env.close()


@pytest.mark.parametrize("world", WORLDS)
def test_reward_clipping_is_that_of_the_game(world) -> None:
    wrappers = pytest.importorskip("stable_baselines3.common.atari_wrappers")
    env = wrappers.ClipRewardEnv(make(world))
    env.reset(seed=0)
    assert {env.step(0)[1] for _ in range(5)} <= {-1.0, 0.0, 1.0}
    env.close()


# --- the horizon -----------------------------------------------------------------------------


def length(env: Any) -> int:
    """Steps until the first truncation."""
    env.reset(seed=0)
    for step in range(1, 1000):
        terminated, truncated = (
            np.asarray(flag).flatten()[0] for flag in env.step(env.action_space.sample())[2:4]
        )
        assert not terminated
        if truncated:
            return step
    raise AssertionError("it has no end")


@pytest.mark.parametrize(
    ("world", "steps"),
    [("Dream", 5), ("Dream", 40), pytest.param("Real", 20, marks=pytest.mark.emulator)],
)
def test_max_episode_steps_is_the_horizon(world, steps) -> None:
    """The checkpoint's own is 12."""
    for env in (
        make(world, max_episode_steps=steps),
        make(world, horizon=steps),
        make(world, horizon=7, max_episode_steps=steps),
        make_vec(world, max_episode_steps=steps),
        make_vec(world, horizon=steps),
        make_vec(world, horizon=steps, vectorization_mode="sync"),
        make_vec(world, max_episode_steps=steps, vectorization_mode="sync"),
    ):
        assert length(env) == steps
        env.close()


def test_the_spec_says_the_horizon_and_makes_it_again() -> None:
    for env, says, steps in (
        (make(), None, 12),
        (make(max_episode_steps=30), 30, 30),
        (make(horizon=20), None, 20),  # among the kwargs
        (make(max_episode_steps=-1), None, 12),  # no TimeLimit; the dream keeps its own horizon
    ):
        assert env.spec.max_episode_steps == env.unwrapped.spec.max_episode_steps == says
        again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
        assert again.spec == env.spec
        assert again.unwrapped.max_episode_steps == length(again) == length(env) == steps
        shorter = gym.make(env.spec, max_episode_steps=4)
        assert length(shorter) == shorter.spec.max_episode_steps == 4
    envs = make_vec(horizon=9)
    assert envs.spec.max_episode_steps == 9
    assert length(gym.make_vec(envs.spec)) == 9


def test_two_horizons_are_refused() -> None:
    with pytest.raises(GlamError, match="one option: give only one"):
        make_vec(horizon=9, max_episode_steps=8)
    with pytest.raises(GlamError, match="whole number"):
        make_vec(horizon=0)


@pytest.mark.emulator
def test_a_real_game_has_no_longer_horizon_than_the_emulator() -> None:
    with pytest.raises(GlamError, match="at most 27000"):
        make("Real", max_episode_steps=30_000)


# --- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"obs_type": "latnet"}, "did you mean latent?"),
        ({"array_type": "pytorch"}, "did you mean torch?"),
        ({"autoreset_mode": "NEXTSTEP"}, "did you mean NEXT_STEP?"),
        ({"reward": "gam"}, "did you mean game?"),
        ({"obstype": "rgb"}, "did you mean obs_type?"),
    ],
)
def test_a_mistyped_option_suggests_the_right_one(options, says) -> None:
    with pytest.raises((GlamError, TypeError)) as caught:
        make_vec(**options)
    assert says in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_check_env_on_tensors_says_what_it_is() -> None:
    check_env(make(horizon=50).unwrapped, skip_render_check=True)
    with pytest.raises(GlamError, match="check the env with array_type='numpy'"):
        check_env(make(array_type="torch").unwrapped, skip_render_check=True)


def test_states_are_reached_through_wrappers() -> None:
    env = gym.wrappers.TimeAwareObservation(
        gym.wrappers.RecordEpisodeStatistics(make(max_episode_steps=9))
    )
    env.reset(seed=0)
    moment = env.get_wrapper_attr("get_state")()
    first = env.step(2)[1]
    env.get_wrapper_attr("set_state")(moment)
    assert env.step(2)[1] == first
    envs = RecordEpisodeStatistics(make_vec(reward="sample"))
    envs.reset(seed=0)
    moments = envs.unwrapped.get_state()  # wrappers of vector envs pass no methods on
    rewards = envs.step(np.arange(3))[1]
    envs.unwrapped.set_state(moments)
    np.testing.assert_array_equal(envs.step(np.arange(3))[1], rewards)


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_async_dreams_are_the_same_in_every_start_method(context) -> None:
    """Each process has a dream of its own, and its numbers are those of this process."""
    options = {"num_envs": 2, "device": "cpu", "precision": "float32", "max_episode_steps": 20}
    envs = gym.make_vec(
        "GLAMDream-Pong-v0",
        vectorization_mode="async",
        vector_kwargs={"context": context, "shared_memory": context != "spawn"},
        **options,
    )
    here = gym.make_vec("GLAMDream-Pong-v0", vectorization_mode="sync", **options)
    assert np.array_equal(envs.reset(seed=3)[0], here.reset(seed=3)[0])
    for _ in range(3):
        for ours, theirs in zip(envs.step([1, 2])[:4], here.step([1, 2])[:4], strict=True):
            assert np.array_equal(ours, theirs)
    envs.close(), here.close()


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "game"),
    [
        ("ALE/Pong-v5", "Pong"),
        ("PongNoFrameskip-v4", "Pong"),
        ("PongDeterministic-v0", "Pong"),
        ("Pong-v4", "Pong"),
        ("ALE/MsPacman-v5", "MsPacman"),
        ("GLAMReal-KungFuMaster-v0", "KungFuMaster"),
        ("ms_pacman", "MsPacman"),
    ],
)
def test_ids_of_atari_lead_to_the_game(name, game) -> None:
    assert find_game(name).name == game


def test_every_id_of_every_game_leads_to_it() -> None:
    for game in GAMES:
        for name in (f"ALE/{game}-v5", f"{game}NoFrameskip-v4", f"GLAMDream-{game}-v0"):
            assert find_game(name).name == game


def test_such_an_id_opens_the_checkpoint() -> None:
    for name in ("ALE/Pong-v5", "PongNoFrameskip-v4"):
        assert glam_env.Checkpoint.open(name).config.game == "Pong"
        glam_env.DreamEnv(name, device="cpu").close()


# --- Stable-Baselines3 -----------------------------------------------------------------------


def test_one_call_makes_an_env_of_sb3() -> None:
    pytest.importorskip("stable_baselines3")
    from glam_agents.sb3 import make_vec_env

    envs = make_vec_env("Pong", 3, seed=1, frame_stack=2, device="cpu")
    seen = envs.reset()
    assert seen.shape == (3, 6, 64, 64)
    other = make_vec_env("GLAMDream-Pong-v0", 3, seed=1, frame_stack=2, device="cpu")
    assert np.array_equal(seen, other.reset())
    ended: list[Any] = []
    while not ended:
        ended = [info["episode"] for info in envs.step(np.zeros(3, int))[3] if info]
    assert ended[0]["l"] == 12
    envs.close(), other.close()
