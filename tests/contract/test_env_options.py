"""Options of the dreamt and the real env, their specs in the registry, and env checkers."""

from __future__ import annotations

import dataclasses
import inspect
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from comparison import assert_same, to_numpy
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from worlds import (
    HORIZON,
    IDS,
    SPACES,
    E,
    actions_at,
    arrays,
    assert_equal,
    observations,
    play,
    worlds,
)

from glam_env.envs.atari.env import RealEnv, RealKeywords, RealOptions, RealVectorEnv
from glam_env.envs.dream.env import DreamEnv, DreamVectorEnv
from glam_env.envs.dream.options import DreamKeywords, DreamOptions
from glam_env.errors import GlamError


@worlds
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"array_type": "jax"}, "array_type must be one of numpy, torch"),
        ({"array_type": np.ones(2)}, "array_type must be one of numpy, torch"),
        ({"obs_type": "ram"}, "obs_type must be one of rgb, latent, grayscale"),
        ({"render_mode": "ansi"}, "render_mode must be one of None, rgb_array"),
        ({"autoreset_mode": "later"}, "NEXT_STEP, SAME_STEP, DISABLED; got 'later'"),
        ({"num_envs": 0}, "num_envs must be a whole number"),
        ({"max_episode_steps": 0}, "max_episode_steps must be a whole number"),
        ({"max_episode_steps": 2.5}, "max_episode_steps must be a whole number"),
        ({"temperature": -1}, "temperature must be a finite number >= 0"),
        ({"temperature": float("nan")}, "temperature must be a finite number >= 0"),
        ({"temperature": True}, "temperature must be a finite number >= 0"),
        ({"termination": "never"}, "termination must be one of threshold, sample"),
        ({"reward": "max"}, "reward must be one of game, sample, mean"),
        ({"max_prior_entropy": float("nan")}, "max_prior_entropy must be a number of nats >= 0"),
        ({"max_prior_entropy": -1.0}, "max_prior_entropy must be a number of nats >= 0, or None"),
        ({"backend": "numba"}, "backend must be one of"),
        ({"precision": "float8"}, "precision must be one of auto, float32"),
        ({"context": "short"}, "context must be one of recurrent, window"),
        ({"device": "tpu"}, "device 'tpu' cannot be used"),
        (
            {"obs_type": "latent", "checkpoint": "/nowhere/Pong"},
            "/nowhere/Pong is not a checkpoint",
        ),
    ],
)
def test_an_impossible_option_gets_one_line(make, world, options, says) -> None:
    with pytest.raises(GlamError, match=says) as caught:
        make(world, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_episode_steps": 27_001}, "at most 27000, where the emulator cuts a game; got 27001"),
        ({"repeat_action_probability": 1.5}, "repeat_action_probability is a chance from 0 to 1"),
        ({"noop_max": -1}, "noop_max must be a whole number of at least 0, not -1"),
    ],
)
def test_an_impossible_option_of_a_real_game_gets_one_line(make, options, says) -> None:
    with pytest.raises(GlamError, match=says):
        make("real", **options)


@pytest.mark.emulator
@pytest.mark.one_gymnasium
def test_no_ops_of_a_real_game_are_an_option() -> None:
    """Without them all games begin alike."""
    for noop_max, alike in ((0, True), (30, False)):
        envs = gym.make_vec("GLAMReal-Assault-v0", num_envs=4, noop_max=noop_max)
        frames, _ = envs.reset(seed=0)
        assert (frames == frames[:1]).all() == alike
        envs.close()


@worlds
def test_an_unknown_option_names_the_known_ones(make, make_single, world) -> None:
    for make_env in (make, make_single):
        with pytest.raises(GlamError, match="argument 'temprature'; did you mean temp") as e:
            make_env(world, temprature=0.5)
        assert isinstance(e.value, TypeError)  # as Python's own error for it
        assert "render_mode" in str(e.value)
        assert "\n" not in str(e.value)
    with pytest.raises(GlamError, match="autoreset_mode is an option of the vector env"):
        make_single(world, autoreset_mode="NEXT_STEP")


@worlds
def test_the_old_name_of_max_prior_entropy_still_works(make, make_single, world) -> None:
    for make_env in (make, make_single):
        with pytest.warns(DeprecationWarning, match="max_doubt is now max_prior_entropy"):
            env = make_env(world, max_doubt=0.0)
        env.reset(seed=0)
        ended = env.step(actions_at(0) if make_env is make else 1)[2:4]
        assert bool(np.any(ended)) == (world == "dream")
        with pytest.raises(GlamError, match="old name of max_prior_entropy"):
            make_env(world, max_doubt=0.0, max_prior_entropy=0.0)


@worlds
def test_an_options_object_is_the_same_as_keyword_arguments(make, keep, world) -> None:
    options = DreamOptions(
        device="cpu", max_episode_steps=9, obs_type="grayscale", autoreset_mode="NEXT_STEP"
    )
    envs = make(world, options=options)  # which gives max_episode_steps as well: it wins
    assert envs.max_episode_steps == HORIZON
    played = play(envs, 3)
    assert_equal(played, play(keep(world, "numpy", "grayscale", "NEXT_STEP"), 3))
    again = gym.make_vec(gym.envs.registration.EnvSpec.from_json(envs.spec.to_json()))
    assert_equal(played, play(again, 3))
    again.close()


@pytest.mark.parametrize("env", [DreamEnv, DreamVectorEnv, RealEnv, RealVectorEnv])
def test_help_shows_every_option(env) -> None:
    shown = inspect.signature(env).parameters
    kind = DreamOptions if env in (DreamEnv, DreamVectorEnv) else RealOptions
    for field in dataclasses.fields(kind):
        if field.name == "autoreset_mode" and env in (DreamEnv, RealEnv):
            assert field.name not in shown
        else:
            assert shown[field.name].default is field.default
    assert not any(p.kind is p.VAR_KEYWORD for p in shown.values())


@pytest.mark.parametrize(
    ("options", "keywords"), [(DreamOptions, DreamKeywords), (RealOptions, RealKeywords)]
)
def test_type_checkers_know_every_option(options, keywords) -> None:
    assert {field.name: field.type for field in dataclasses.fields(options)} == {
        name: kind.__forward_arg__ for name, kind in keywords.__annotations__.items()
    }


@pytest.mark.emulator
def test_a_real_game_starts_at_no_given_moment(keep) -> None:
    with pytest.raises(GlamError, match="context is an option of dreams"):
        keep("real", "numpy", "rgb", "DISABLED").reset(options={"context": 3})


@pytest.mark.emulator
def test_a_dream_s_options_are_taken_by_the_real_game(keep, make) -> None:
    """They make no difference, so that changing the id is enough."""
    options = {
        "temperature": np.float32(0.5),
        "termination": "sample",
        "reward": "sample",
        "max_prior_entropy": 0.0,
        "backend": "torch",
        "precision": "float32",
        "contexts": {"frames": np.zeros(0), "actions": np.zeros(0)},
        "context": "window",
        "autoreset_mode": "DISABLED",
    }
    envs = make("real", **options)
    other = keep("real", "numpy", "rgb", "DISABLED")
    assert_equal(play(envs, 2), play(other, 2))


# --- the registry, checkers, other people's code -------------------------------------------------


@worlds
def test_a_spec_makes_the_same_env_again(make, make_single, world) -> None:
    """This holds for values that JSON has no type for, too."""
    envs = make(
        world,
        np.int64(E),
        device=torch.device("cpu"),
        max_episode_steps=np.int64(3),
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    again = gym.make_vec(gym.envs.registration.EnvSpec.from_json(envs.spec.to_json()))
    assert (again.num_envs, again.autoreset_mode) == (E, AutoresetMode.NEXT_STEP)
    assert_equal(play(envs, 3), play(again, 3))
    again.close()
    env = make_single(world, array_type="torch", obs_type="grayscale", horizon=2)
    copy = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert_same(to_numpy(env.reset(seed=1)[0]), to_numpy(copy.reset(seed=1)[0]))
    for _ in range(2):
        ours, theirs = env.step(2), copy.step(2)
        assert_same(to_numpy(ours[0]), to_numpy(theirs[0]))
        assert ours[1:] == theirs[1:]
        if ours[2]:
            break
    else:
        assert ours[3]
    copy.close()


@worlds
@observations
def test_both_checkers_pass_the_single_env(make_single, world, obs_type) -> None:
    env = make_single(world, obs_type=obs_type, render_mode="rgb_array").unwrapped
    with warnings.catch_warnings():
        if obs_type == "latent":  # h has no bounds, which check_env finds too wide
            warnings.filterwarnings("ignore", message=".*A Box observation space m.*infinity")
        check_env(env)
    sb3_check_env(env)


@pytest.mark.emulator
@arrays
def test_one_policy_acts_in_both_worlds(make, array_type) -> None:
    """The same lines run with another id; the policy sees only observations."""
    torch.manual_seed(0)
    policy = torch.nn.Linear(SPACES["latent"][0][0], 6).requires_grad_(False)
    options = {"array_type": array_type, "obs_type": "latent", "max_episode_steps": 10}
    for world in IDS:
        envs = make(world, temperature=0.5, **options)
        seen, _ = envs.reset(seed=0)
        taken = []
        for _ in range(12):
            actions = policy(torch.as_tensor(seen)).argmax(-1)
            actions = actions.numpy() if array_type == "numpy" else actions
            seen, *_, info = envs.step(actions)
            assert np.isfinite(to_numpy(seen)).all()
            assert (to_numpy(info["prior_entropy"]) > 0).all()
            taken += actions.tolist()
        assert len(set(taken)) > 1


@worlds
def test_attributes_are_asked_for_as_of_a_sync_vector_env(keep, world) -> None:
    envs = keep(world, "numpy", "rgb", "SAME_STEP")
    envs.reset(seed=0)
    assert envs.get_attr("obs_type") == ("rgb",) * E
    assert envs.get_attr("action_space") == (gym.spaces.Discrete(6),) * E
    assert envs.call("observation_space") == (envs.single_observation_space,) * E
    assert_same(envs.call("render"), envs.render())
    assert not envs.has_attr("note")
    envs.set_attr("note", 3)
    envs.set_attr("note", [4] * E)
    assert envs.get_attr("note") == (4,) * E
    assert envs.has_attr("note")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        envs.get_attr("nothing")
    for use in (
        lambda: envs.get_attr("nothing"),
        lambda: envs.call("step", 3),
        lambda: envs.set_attr("num_envs", 7),
        lambda: envs.set_attr("note", [1, 2]),
        lambda: envs.set_attr("note", [4]),
    ):
        with pytest.raises(GlamError):
            use()
    assert envs.num_envs == E
    assert envs.note == 4
