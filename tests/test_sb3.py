"""The bridge to Stable-Baselines3 keeps the contract of its vector envs."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from comparison import assert_same, to_numpy
from echo import Echo
from glam_agents.sb3 import ClippedRewards, SB3VecEnv
from glam_agents.sb3.algorithms import ALGORITHMS, find_algorithm, find_settings
from glam_agents.sb3.score import FramePolicy
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import glam_env  # noqa: F401  (registers the ids)
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.envs.wrappers import EpisodeStatistics
from glam_env.errors import GlamError

E = 5
IDS = {"dream": "GLAMDream-Pong-v0", "real": "GLAMReal-Pong-v0"}
SEEN = {
    "rgb": ((3, 64, 64), np.uint8),
    "grayscale": ((1, 64, 64), np.uint8),
    "latent": ((4 * 4 + 16,), np.float32),
}


@pytest.fixture(autouse=True)
def _environment(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(tiny_checkpoint.parent))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def make_envs() -> Iterator[Callable[..., DreamVectorEnv]]:
    """Return a function that makes vector envs. Rows end at different steps, at most 6."""
    made: list[Any] = []

    def make(world: str = "dream", num_envs: int = E, **options: Any) -> Any:
        options = {"device": "cpu", "array_type": "torch", "max_episode_steps": 6} | options
        made.append(gym.make_vec(IDS[world], num_envs=num_envs, **options))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


@pytest.fixture
def make_bridge(make_envs: Callable[..., Any]) -> Callable[..., SB3VecEnv]:
    """Return a function that makes bridges to dreams."""
    return lambda frame_stack=1, **options: SB3VecEnv(make_envs(**options), frame_stack)


def draw_actions(steps: int, num_envs: int = E, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(6, size=(steps, num_envs))


def as_seen(observations: Any) -> np.ndarray:
    """Return observations as SB3 wants them: images channels first."""
    array = np.asarray(to_numpy(observations))
    return np.moveaxis(array, -1, 1) if array.ndim == 4 else array


# --- observations, rewards, ends -----------------------------------------------------------------


@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize("array_type", ["numpy", "torch"])
@pytest.mark.parametrize("obs_type", list(SEEN))
def test_bridge_equals_the_bare_env(make_envs, obs_type, array_type, frame_stack):
    """Compare with the bare env; frames are stacked by hand."""
    options = {"obs_type": obs_type, "array_type": array_type}
    bare, bridge = make_envs(**options), SB3VecEnv(make_envs(**options), frame_stack)
    (first, *rest), dtype = SEEN[obs_type]
    assert bridge.observation_space.shape == (first * frame_stack, *rest)
    assert bridge.observation_space.dtype == dtype
    assert bridge.action_space == gym.spaces.Discrete(6)

    seen, _ = bare.reset(seed=3)
    stacks = [[row] * frame_stack for row in as_seen(seen)]
    bridge.seed(3)
    observations = bridge.reset()
    kinds = set()
    for actions in draw_actions(20):
        assert observations.dtype == dtype
        assert_same(observations, np.stack([np.concatenate(stack) for stack in stacks]))
        assert bridge.observation_space.contains(observations[0])
        seen, reward, terminated, truncated, info = bare.step(actions)
        observations, rewards, dones, infos = bridge.step(actions)
        terminated, truncated = to_numpy(terminated), to_numpy(truncated)
        assert_same(rewards, to_numpy(reward))
        assert rewards.dtype == np.float32
        assert_same(dones, terminated | truncated)
        for row, now in enumerate(as_seen(seen)):
            if not dones[row]:
                assert infos[row] == {}
                stacks[row] = [*stacks[row][1:], now]
                continue
            final = as_seen(to_numpy(info["final_obs"])[row][None])[0]
            last = np.concatenate([*stacks[row][1:], final])
            assert_same(infos[row]["terminal_observation"], last)
            assert infos[row]["TimeLimit.truncated"] is bool(truncated[row])
            entropy = to_numpy(info["final_info"]["prior_entropy"])[row]
            assert infos[row]["prior_entropy"] == pytest.approx(float(entropy))
            assert set(infos[row]) == {
                "terminal_observation",
                "TimeLimit.truncated",
                "prior_entropy",
            }
            stacks[row] = [now] * frame_stack
        kinds |= {
            (bool(t), bool(c), bool(dones.all()))
            for t, c in zip(terminated, truncated, strict=True)
        }
    # Terminated, truncated, and running dreams side by side.
    assert {(True, False, False), (False, True, False), (False, False, False)} <= kinds


@pytest.mark.parametrize("obs_type", ["rgb", "latent"])
def test_caller_owns_arrays_and_infos(make_bridge, obs_type):
    """Writing into what a step returned changes no later step."""
    untouched, written = (make_bridge(2, obs_type=obs_type) for _ in range(2))
    infos_before: list[Any] = []
    for bridge in (untouched, written):
        bridge.seed(1)
    assert_same(untouched.reset(), observations := written.reset())
    for actions in draw_actions(15):
        observations.fill(7)
        expected = untouched.step(actions)
        got = written.step(actions)
        assert_same(got, expected)
        observations, rewards, dones, infos = got
        for array in (observations, rewards, dones):
            assert array.flags.writeable
            assert array.flags.c_contiguous
        assert not {id(info) for info in infos} & {id(info) for info in infos_before}
        assert len({id(info) for info in infos}) == E
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"].fill(9)
            info["mine"] = True
        rewards += 100.0  # PPO adds a value to the rewards of truncated dreams
        dones[:] = True
        infos_before = infos
        assert all(info == {} for info in written.reset_infos)


def test_bridge_equals_dummy_vec_env(make_bridge):
    """CartPole through both: seeds, automatic resets and truncated episodes are the same."""
    options = {"max_episode_steps": 12}
    mode = {"autoreset_mode": AutoresetMode.SAME_STEP}
    cartpoles = gym.make_vec(
        "CartPole-v1", E, vectorization_mode="sync", vector_kwargs=mode, **options
    )
    bridge = SB3VecEnv(cartpoles)
    theirs = DummyVecEnv([lambda: gym.make("CartPole-v1", **options)] * E)
    for envs in (bridge, theirs):
        envs.seed(11)
    assert_same(bridge.reset(), theirs.reset())
    assert bridge.reset_infos == theirs.reset_infos
    ends = set()
    for actions in np.random.default_rng(0).integers(2, size=(60, E)):
        (seen, rewards, dones, infos), expected = bridge.step(actions), theirs.step(actions)
        assert_same((seen, rewards, dones), expected[:3])
        for info, other in zip(infos, expected[3], strict=True):
            for name in ("terminal_observation", "TimeLimit.truncated"):
                assert (name in info) == ("terminal_observation" in other)
                assert_same(info.get(name), other.get(name) if name in info else None)
        ends |= {info["TimeLimit.truncated"] for info in infos if info}
    assert ends == {True, False}
    for envs in (bridge, theirs):
        assert envs.get_attr("render_mode") == [None] * E
        assert envs.has_attr("no_such_thing") is False
        envs.close()


@pytest.mark.emulator
@pytest.mark.parametrize("obs_type", ["rgb", "latent"])
def test_real_game_has_the_spaces_of_a_dream(make_envs, obs_type):
    k = 4 if obs_type == "rgb" else 1
    dream, real = (SB3VecEnv(make_envs(w, 2, obs_type=obs_type), k) for w in IDS)
    assert dream.observation_space == real.observation_space
    assert dream.action_space == real.action_space
    for bridge in (dream, real):
        bridge.seed(0)
    seen = [(b.reset(), *[b.step(a) for a in draw_actions(7, 2)][-1]) for b in (dream, real)]
    for mine, other in zip(*(s[:4] for s in seen), strict=True):
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)


# --- seeds and options ---------------------------------------------------------------------------


def test_seed_applies_to_the_next_reset_only(make_bridge):
    bridge = make_bridge(obs_type="latent")
    assert bridge.seed(5) == [5, 6, 7, 8, 9]  # SB3 counts them up; the first determines all rows
    first = bridge.reset()
    unseeded = bridge.reset()
    assert not np.array_equal(first, unseeded)
    bridge.seed(5)
    assert_same(bridge.reset(), first)
    bridge.seed(6)
    assert not np.array_equal(bridge.reset(), first)


def test_options_apply_to_the_next_reset_only(make_bridge):
    bridge = make_bridge(obs_type="rgb")
    given = {"context": 4}
    bridge.set_options(given)
    same = bridge.reset()
    assert given == {"context": 4}
    assert all(np.array_equal(row, same[0]) for row in same)
    drawn = bridge.reset()
    assert not all(np.array_equal(row, drawn[0]) for row in drawn)
    bridge.set_options([{"context": 4 if row % 2 else 7} for row in range(E)])
    mixed = bridge.reset()
    assert np.array_equal(mixed[1], same[0])
    assert np.array_equal(mixed[0], mixed[2])
    assert not np.array_equal(mixed[0], mixed[1])


def test_bad_options_are_refused_and_dropped(make_bridge):
    bridge = make_bridge(obs_type="latent")
    bridge.reset()
    bridge.set_options([{"context": 1}, *[{} for _ in range(E - 1)]])
    with pytest.raises(GlamError, match="option 'context' must be given for every row; row 1 has"):
        bridge.reset()
    bridge.set_options({"contexts": 1})
    with pytest.raises(GlamError, match="unknown reset option 'contexts'"):
        bridge.reset()
    bridge.set_options([{"reset_mask": row == 0} for row in range(E)])
    with pytest.raises(GlamError, match="leave out reset_mask"):
        bridge.reset()
    assert bridge.reset().shape == (E, 32)


@pytest.mark.parametrize(
    ("actions", "message"),
    [(np.full(E, 6), "0 … 5, got 6"), (np.zeros(E), "integers"), (np.zeros(E - 1, int), "shape")],
)
def test_bad_actions_change_nothing(make_bridge, actions, message):
    bridge, other = make_bridge(obs_type="latent"), make_bridge(obs_type="latent")
    for envs in (bridge, other):
        envs.seed(2)
        envs.reset()
    with pytest.raises(GlamError, match=message):
        bridge.step(actions)
    assert_same(bridge.step(np.zeros(E, int)), other.step(np.zeros(E, int)))


# --- the rest of the interface -------------------------------------------------------------------


def test_images_are_frames_of_each_row(make_bridge):
    bridge = make_bridge(obs_type="rgb", render_mode="rgb_array")
    seen = bridge.reset()
    assert bridge.render_mode == "rgb_array"
    images = bridge.get_images()
    assert len(images) == E
    assert_same(np.stack(images), np.moveaxis(seen, 1, -1))
    picture = bridge.render()  # SB3 tiles them itself
    assert picture.shape == (3 * 64, 2 * 64, 3)
    blind = make_bridge(obs_type="latent")
    blind.reset()
    with pytest.warns(UserWarning, match="render_mode is None"):
        assert blind.get_images() == [None] * E


def test_attributes_of_rows(make_bridge):
    bridge = make_bridge(obs_type="latent")
    assert bridge.get_attr("obs_type") == ["latent"] * E
    assert bridge.get_attr("game", indices=[0, 3]) == ["Pong", "Pong"]
    assert bridge.get_attr("action_space", indices=1) == [gym.spaces.Discrete(6)]
    assert bridge.has_attr("max_prior_entropy")
    assert not bridge.has_attr("no_such_thing")
    with pytest.raises(AttributeError, match="DreamVectorEnv has no attribute 'no_such_thing'"):
        bridge.get_attr("no_such_thing")
    bridge.set_attr("note", "mine")
    bridge.set_attr("note", "yours", indices=range(E))
    assert bridge.get_attr("note") == ["yours"] * E
    with pytest.raises(GlamError, match="one for all 5 rows"):
        bridge.set_attr("note", "theirs", indices=[0])
    with pytest.raises(GlamError, match="fixed"):
        bridge.set_attr("obs_type", "rgb")
    assert bridge.spec.id == IDS["dream"]


def test_methods_of_rows(make_bridge):
    bridge = make_bridge(obs_type="rgb", render_mode="rgb_array")
    bridge.reset()
    frames = bridge.env_method("render", indices=[1, 4])
    assert [frame.shape for frame in frames] == [(64, 64, 3)] * 2
    with pytest.raises(GlamError, match="no attribute 'action_masks'"):
        bridge.env_method("action_masks")
    with pytest.raises(GlamError, match="all dreams at once"):
        bridge.env_method("get_state")


def test_wrappers_inside_are_found(make_envs):
    bridge = SB3VecEnv(EpisodeStatistics(make_envs(obs_type="latent")))
    assert bridge.env_is_wrapped(EpisodeStatistics) == [True] * E
    assert bridge.env_is_wrapped(EpisodeStatistics, indices=[2]) == [True]
    assert bridge.env_is_wrapped(gym.Wrapper, indices=1) == [False]
    assert bridge.get_attr("episode_count", indices=[0]) == [0]
    assert bridge.get_attr("action_space", indices=[0]) == [gym.spaces.Discrete(6)]
    bridge.reset()  # and the bridge works through them
    ended = [info for a in draw_actions(6) for info in bridge.step(a)[3] if info]
    assert len(ended) >= E
    assert bridge.get_attr("episode_count") == [len(ended)] * E


def test_closing_closes_the_env(make_envs):
    envs = make_envs(obs_type="latent")
    VecMonitor(SB3VecEnv(envs)).close()
    with pytest.raises(GlamError, match="closed"):
        envs.reset()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused(make_envs, mode):
    with pytest.raises(GlamError, match=f"autoreset_mode='SAME_STEP', not {mode.name}"):
        SB3VecEnv(make_envs(autoreset_mode=mode))


def test_observations_that_are_no_arrays_are_refused():
    envs = gym.make_vec(
        "CliffWalking-v1", 2, vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    with pytest.raises(GlamError, match=r"images .* or vectors, not Discrete"):
        SB3VecEnv(envs)
    envs.close()


# --- SB3's wrappers and algorithms over it -------------------------------------------------------


def test_vec_monitor_sums_unclipped_rewards(make_bridge, tiny_checkpoint):
    config = tiny_checkpoint / "config.json"
    plain = json.loads(config.read_text()) | {"reward_values": [-3.0, 0.0, 2.0]}
    config.write_text(json.dumps(plain))
    options = {"obs_type": "latent", "reward": "sample", "checkpoint": tiny_checkpoint}
    clipped, bare = ClippedRewards(VecMonitor(make_bridge(**options))), make_bridge(**options)
    clipped.seed(0)
    clipped.reset()
    bare.seed(0)
    bare.reset()
    returns, lengths, ended, unclipped = np.zeros(E, np.float32), np.zeros(E, int), 0, 0.0
    for actions in draw_actions(30):
        _, rewards, dones, infos = clipped.step(actions)
        raw = bare.step(actions)[1]
        unclipped = max(unclipped, float(np.abs(raw).max()))
        assert_same(rewards, np.clip(raw, -1.0, 1.0))
        returns, lengths = returns + raw, lengths + 1
        for row in np.flatnonzero(dones):
            assert infos[row]["episode"]["r"] == pytest.approx(returns[row], rel=1e-5)
            assert infos[row]["episode"]["l"] == lengths[row]
            assert "terminal_observation" in infos[row]
            ended += 1
        returns[dones], lengths[dones] = 0.0, 0
    assert ended > 2 * E
    assert unclipped > 1.0  # or nothing would have been clipped


@pytest.mark.filterwarnings("default")  # warnings of SB3 itself are allowed
@pytest.mark.parametrize(
    ("name", "obs_type"),
    [*((name, "latent") for name in ALGORITHMS), ("ppo", "rgb"), ("dqn", "rgb")],
)
def test_each_algorithm_learns_and_is_saved(make_bridge, tmp_path, name, obs_type):
    """SB3 accepts the env, learns, and saves a model that acts the same when loaded."""
    if name == "qrdqn":
        pytest.importorskip("sb3_contrib", reason="qrdqn is part of sb3-contrib")
    envs = VecMonitor(make_bridge(4 if obs_type == "rgb" else 1, num_envs=4, obs_type=obs_type))
    settings = find_settings(name, envs.observation_space, 4)
    short = {
        "ppo": {"n_steps": 8, "batch_size": 16, "n_epochs": 2},
        "a2c": {"n_steps": 8},
    }.get(name, {"learning_starts": 16, "buffer_size": 200, "batch_size": 8})
    model = find_algorithm(name)(env=envs, seed=0, device="cpu", **{**settings, **short})
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(64)
    assert model.num_timesteps == 64
    assert any(
        not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True)
    )
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())
    assert len(model.ep_info_buffer) > 0
    model.save(tmp_path / "model.zip")
    again = find_algorithm(name).load(tmp_path / "model.zip", env=envs)  # checks the spaces
    envs.seed(9)
    seen = envs.reset()
    choose = [m.predict(seen, deterministic=True)[0] for m in (model, again)]
    assert_same(*choose)
    rewards, lengths = evaluate_policy(again, envs, 3, return_episode_rewards=True)
    assert len(rewards) == 3
    assert all(1 <= length <= 6 for length in lengths)


@pytest.mark.filterwarnings("default")
def test_ppo_learns_what_is_rewarded(make_envs):
    """Observation, action and reward belong together, row by row and step by step."""
    envs = VecMonitor(SB3VecEnv(Echo(make_envs(num_envs=32, obs_type="latent"))))
    model = PPO(
        "MlpPolicy",
        envs,
        seed=0,
        device="cpu",
        n_steps=16,
        batch_size=128,
        gamma=0.0,
        learning_rate=3e-3,
    )

    def mean_reward() -> float:
        envs.seed(1)
        seen, means = envs.reset(), []
        for _ in range(30):
            seen, rewards, *_ = envs.step(model.predict(seen, deterministic=True)[0])
            means.append(rewards.mean())
        return float(np.mean(means))

    before = mean_reward()
    model.learn(8_000)
    assert before < 0.5
    assert mean_reward() > 0.95


# --- frames of the real game, and the cost of the bridge -----------------------------------------


def test_frame_policy_stacks_like_the_bridge(make_envs):
    """The same play gives the same stacks through the bridge and in an evaluation."""
    bridge, bare = SB3VecEnv(make_envs(), 3), make_envs(array_type="numpy")
    seen: list[np.ndarray] = []

    def choose(stacks: np.ndarray) -> np.ndarray:
        seen.append(stacks)
        return np.zeros(E, int)

    policy = FramePolicy(choose, 3)
    for game in range(2):  # begin() forgets the frames of the last game
        policy.begin(E, seed=0)
        bridge.seed(game)
        stacks = bridge.reset()
        frames, _ = bare.reset(seed=game)
        first = np.ones(E, bool)
        for actions in draw_actions(14):
            policy.act(frames, first)
            assert_same(seen[-1], stacks)
            stacks = bridge.step(actions)[0]
            frames, _, terminated, truncated, _ = bare.step(actions)
            first = terminated | truncated


def test_bridge_benchmark_measures_both_observations(tmp_path):
    words = ["--num-envs", "3", "--steps", "4", "--repeats", "2", "--to", str(tmp_path / "to.json")]
    done = subprocess.run(
        [sys.executable, "benchmarks/bridge.py", *words],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    speeds = json.loads((tmp_path / "to.json").read_text())["bridge"]
    assert [(s["obs_type"], s["frame_stack"]) for s in speeds] == [("latent", 1), ("rgb", 4)]
    for speed in speeds:
        assert speed["num_envs"] == 3
        figures = ("bare", "bridged", "monitored", "ratio", "monitored_ratio")
        assert all(speed[name] > 0 for name in figures)


def test_the_package_is_light():
    code = (
        "import sys; from glam_agents import sb3; sb3.__all__;"
        "print(sorted({'torch', 'stable_baselines3'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_sb3_one_line_says_so():
    code = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name == "stable_baselines3":
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Absent())
from glam_env.cli.main import main
sys.exit(main(["sb3", "Pong"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == 'glam: ppo needs Stable-Baselines3: pip install "glam-env[sb3]"\n'
