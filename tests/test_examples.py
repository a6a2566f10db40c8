"""Other libraries in dreams: the examples run, and the envs fit each library."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cleanrl_ppo
import gymnasium as gym
import numpy as np
import pytest
import torch
from comparison import assert_same
from echo import Echo
from gymnasium.vector import AutoresetMode

import glam_env  # noqa: F401  (registers the ids)

DREAM = "GLAMDream-Pong-v0"
E = 3
MODES = (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)  # those that TorchRL takes
SHORT = {"total_steps": 8_192, "num_envs": 32, "num_steps": 32, "horizon": 6, "device": "cpu"}
BANDIT = {"gamma": 0.0, "learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def _pong_is_tiny(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(tiny_checkpoint.parent))


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the reward of dreams by one that is easy to learn."""
    make_vec = gym.make_vec

    def make(env_id: str, **options: Any) -> Any:
        envs = make_vec(env_id, **options)
        return Echo(envs) if env_id == DREAM else envs

    monkeypatch.setattr(gym, "make_vec", make)


def make_dreams(**options: Any) -> Any:
    options = {"num_envs": E, "device": "cpu", "max_episode_steps": 5} | options
    return gym.make_vec(DREAM, **options)


# --- CleanRL -------------------------------------------------------------------------------------


@pytest.mark.emulator
def test_cleanrl_learns_in_dreams_and_plays_the_real_game(echo, capsys):
    longer = SHORT | {"total_steps": 16_384}
    returns = cleanrl_ppo.main(cleanrl_ppo.Args(**longer, **BANDIT, real_games=1))
    assert returns["before"].shape == returns["after"].shape == (32,)
    assert returns["after"].mean() > 2.5 * returns["before"].mean()
    assert -21 <= float(returns["real"]) <= 21
    out = capsys.readouterr().out
    assert "32 dreams of at most 6 steps: " in out
    assert "1 whole real games: " in out


@pytest.mark.emulator
def test_cleanrl_s_structure_takes_each_world_by_its_id():
    """One env at a time behind Gymnasium's wrappers."""
    pytest.importorskip("cv2")
    import cleanrl_ppo_atari

    short = {"total_timesteps": 64, "num_envs": 2, "num_steps": 32, "num_minibatches": 2}
    points = cleanrl_ppo_atari.main(cleanrl_ppo_atari.Args(**short))
    assert len(points) > 2
    for env_id in ("GLAMReal-Pong-v0", "ALE/Pong-v5"):
        assert cleanrl_ppo_atari.main(cleanrl_ppo_atari.Args(env_id, **short)) == []


# --- Stable-Baselines3 ---------------------------------------------------------------------------


@pytest.fixture
def sb3_atari(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the example, in which dreams pay for an action and real games are short."""
    pytest.importorskip("stable_baselines3")
    import sb3_atari

    make_env, make_vec = gym.make, gym.make_vec

    class PaysForTwo(gym.Wrapper):
        def step(self, action):
            observation, _, *ends, info = self.env.step(action)
            return observation, float(action == 2), *ends, info

    class EachPaysForTwo(gym.vector.VectorWrapper):
        def step(self, actions):
            observations, _, *ends, info = self.env.step(actions)
            return observations, (torch.as_tensor(actions) == 2).float(), *ends, info

    def make(env_id, **options):
        env = make_env(env_id, **options)
        return PaysForTwo(env) if env_id == DREAM else gym.wrappers.TimeLimit(env, 20)

    def make_batch(env_id, **options):
        return EachPaysForTwo(make_vec(env_id, **options))

    monkeypatch.setattr(gym, "make", make)
    monkeypatch.setattr(gym, "make_vec", make_batch)
    return sb3_atari


@pytest.mark.emulator
@pytest.mark.filterwarnings("default")  # of SB3 itself
@pytest.mark.parametrize(("one_by_one", "steps", "gain"), [(True, 1024, 1.5), (False, 256, 0.1)])
def test_sb3_learns_in_dreams_and_plays_the_real_game(sb3_atari, capsys, one_by_one, steps, gain):
    few = {"total_steps": steps, "num_envs": 4, "num_steps": 64, "batch_size": 64, "horizon": 8}
    quick = {"gamma": 0.0, "learning_rate": 3e-3, "clip_range": 0.2}
    args = sb3_atari.Args(**few, **quick, one_by_one=one_by_one, dreams=8, real_games=1)
    returns = sb3_atari.main(args)
    assert returns["after"].mean() > gain * returns["before"].mean() > 0
    assert returns["real"].shape == (1,)
    out = capsys.readouterr().out
    assert f"{steps:>9,} steps | mean return of " in out
    assert "8 dreams of at most 8 steps: " in out


@pytest.mark.filterwarnings("default")
def test_sb3_sees_in_a_batch_what_it_sees_one_by_one():
    """The same moment gives the same stacked frames; ends and rewards have the same form."""
    pytest.importorskip("stable_baselines3")
    import sb3_atari

    seen = []
    for make in (sb3_atari.make, sb3_atari.make_batch):
        envs = make(DREAM, 2, seed=1, max_episode_steps=3)
        envs.set_options({"context": 2})
        first = envs.reset()
        ends = []
        for _ in range(4):
            _, rewards, dones, infos = envs.step(np.array([0, 2]))
            assert set(rewards) <= {-1.0, 0.0, 1.0}
            ends += [info for info, done in zip(infos, dones, strict=True) if done]
        assert len(ends) >= 2
        assert all(info["terminal_observation"].shape == (4, 64, 64) for info in ends)
        assert all("TimeLimit.truncated" in info for info in ends)
        seen.append((envs.observation_space, first))
        envs.close()
    assert seen[0][0] == seen[1][0]
    np.testing.assert_array_equal(seen[0][1], seen[1][1])


# --- TorchRL -------------------------------------------------------------------------------------


@pytest.fixture
def torchrl(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return torchrl.envs; it warns that it was compiled for another PyTorch."""
    monkeypatch.setenv("RL_WARNINGS", "0")
    return pytest.importorskip("torchrl.envs", reason="TorchRL is not installed")


def test_torchrl_learns_in_dreams(torchrl, echo):
    import torchrl_ppo

    means = torchrl_ppo.main(torchrl_ppo.Args(**SHORT, **BANDIT))
    assert len(means) == 8
    assert means[-1] > 2.5 * means[0]


@pytest.mark.parametrize("obs_type", ["rgb", "latent"])
@pytest.mark.parametrize("array_type", ["numpy", "torch"])
@pytest.mark.parametrize("mode", MODES)
def test_torchrl_accepts_the_specs(torchrl, mode, array_type, obs_type):
    from torchrl.envs.utils import check_env_specs

    envs = make_dreams(autoreset_mode=mode, array_type=array_type, obs_type=obs_type)
    env = torchrl.GymWrapper(envs, categorical_action_encoding=True)
    check_env_specs(env, seed=0)
    assert env.batch_size == (E,)
    assert env.action_spec.space.n == 6
    env.close()


@pytest.mark.parametrize("array_type", ["numpy", "torch"])
@pytest.mark.parametrize("mode", MODES)
def test_torchrl_records_what_the_env_returns(torchrl, mode, array_type):
    """It records what the bare env returns, at the ends and the starts of dreams too."""
    envs = make_dreams(autoreset_mode=mode, array_type=array_type, obs_type="latent")
    env = torchrl.GymWrapper(envs, categorical_action_encoding=True)
    rollout = env.rollout(
        20,
        policy=lambda td: td.set("action", td["observation"][:, :4].argmax(-1)),
        break_when_any_done=False,
        auto_reset=False,
        tensordict=env.reset(seed=3),
    )
    bare = make_dreams(obs_type="latent")
    seen, _ = bare.reset(seed=3)
    for step in range(20):
        now = rollout[:, step]
        assert_same(now["observation"].numpy(), seen)
        seen, reward, terminated, truncated, info = bare.step(seen[:, :4].argmax(-1))
        done = terminated | truncated
        last = np.where(
            done[:, None],
            np.stack(
                [
                    final if over else row
                    for final, over, row in zip(
                        info.get("final_obs", seen), done, seen, strict=True
                    )
                ]
            ),
            seen,
        )
        for name, value in {
            "observation": last,
            "reward": reward[:, None],
            "terminated": terminated[:, None],
            "truncated": truncated[:, None],
        }.items():
            assert_same(now["next", name].numpy(), value)
        if mode == AutoresetMode.SAME_STEP and done.all():
            seen, _ = bare.reset()  # as TorchRL does by itself
    assert 2 * E < int(rollout["next", "done"].sum()) < 20 * E
    env.close()
    bare.close()


def test_torchrl_refuses_next_step(torchrl):
    envs = make_dreams(autoreset_mode="NEXT_STEP")
    with pytest.raises(RuntimeError, match="SAME_STEP or DISABLED"):
        torchrl.GymWrapper(envs)
    envs.close()


def test_torchrl_makes_a_single_dream_by_its_id(torchrl):
    env = torchrl.GymEnv(DREAM, obs_type="latent", categorical_action_encoding=True)
    assert env.rollout(4)["next", "observation"].shape[1:] == (32,)
    env.close()


# --- skrl ----------------------------------------------------------------------------------------


@pytest.fixture
def wrap_env() -> Any:
    """Return skrl's function that wraps a vector env."""
    module = pytest.importorskip("skrl.envs.wrappers.torch", reason="skrl is not installed")
    return lambda envs: module.wrap_env(envs, wrapper="gymnasium", verbose=False)


def test_skrl_learns_in_dreams(wrap_env, echo, capsys):
    import skrl_ppo

    first, last = skrl_ppo.main(skrl_ppo.Args(**SHORT, **BANDIT))
    assert len(first) == len(last) == 32
    assert np.mean(last) > 2.5 * np.mean(first)
    assert "dreams of at most 6 steps" in capsys.readouterr().out


@pytest.mark.parametrize("mode", list(AutoresetMode)[:2])
@pytest.mark.parametrize("num_envs", [1, E])
def test_skrl_steps_dreams_without_a_warning(wrap_env, mode, num_envs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = {"num_envs": num_envs, "obs_type": "latent", "render_mode": "rgb_array"}
        envs, bare = (make_dreams(autoreset_mode=mode, **options) for _ in range(2))
        env = wrap_env(envs)
        assert env.device == torch.device("cpu")
        assert env.num_envs == num_envs
        env._seed = 4  # the seed of its first reset
        seen, expected = env.reset()[0], bare.reset(seed=4)[0]
        for step in range(7):
            assert_same(seen.numpy(), expected)
            actions = torch.full((num_envs, 1), step % 6)  # the shape that its models return
            seen, *flags, _ = env.step(actions)
            expected, *others, _ = bare.step(actions.flatten().numpy())
            for flag, other in zip(flags, others, strict=True):
                assert_same(flag.numpy(), other[:, None])
        assert len(env.render()) == num_envs
        env.close()
        bare.close()


# --- RLlib ---------------------------------------------------------------------------------------

RLLIB = "glam_env:GLAMDream-Pong-v0"
QUICK = {**SHORT, "num_steps": 16}


@pytest.fixture
def rllib_ppo() -> Any:
    """Return the example; RLlib pins an older Gymnasium, so it is run in its own environment."""
    pytest.importorskip(
        "ray.rllib.algorithms.ppo", reason="RLlib is not installed", exc_type=ImportError
    )
    import rllib_ppo

    return rllib_ppo


@pytest.mark.rllib
def test_rllib_dreams_in_ray_workers(rllib_ppo, capsys):
    means = rllib_ppo.main(rllib_ppo.Args(**QUICK | {"total_steps": 1_024}, runners=1))
    assert len(means) == 2
    assert np.isfinite(means).all()
    assert "dream steps: " in capsys.readouterr().out


@pytest.mark.rllib
def test_rllib_learns_in_dreams(rllib_ppo, monkeypatch):
    """The driver dreams here, so that the reward of its dreams can be replaced."""
    make_vec = gym.make_vec

    def make(env_id: str, **options: Any) -> Any:
        envs = make_vec(env_id, **options)
        return Echo(envs) if env_id == RLLIB else envs

    monkeypatch.setattr(gym, "make_vec", make)
    means = rllib_ppo.main(rllib_ppo.Args(**SHORT, **BANDIT, runners=0))
    assert len(means) == 8
    assert means[-1] > 2.5 * means[0]
