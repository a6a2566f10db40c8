"""The bridge to Stable-Baselines3: the whole contract of its vector envs."""

from __future__ import annotations

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
from glam_agents.sb3.algorithms import ALGORITHMS, FramePolicy, find_algorithm, find_settings
from glam_agents.sb3.env import ClippedRewards, SB3VecEnv, measure_bridge
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
def _surroundings(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(tiny_checkpoint.parent))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def make_envs() -> Iterator[Callable[..., DreamVectorEnv]]:
    """Makes vector envs whose rows end apart, by their lives and after 6 steps."""
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
    """Makes bridges to dreams."""
    return lambda frame_stack=1, **options: SB3VecEnv(make_envs(**options), frame_stack)


def draw_actions(steps: int, num_envs: int = E, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(6, size=(steps, num_envs))


def as_seen(observations: Any) -> np.ndarray:
    """What an env shows as SB3 wants it: images channels first."""
    array = np.asarray(to_numpy(observations))
    return np.moveaxis(array, -1, 1) if array.ndim == 4 else array


# --- observations, rewards, ends -----------------------------------------------------------------


@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize("array_type", ["numpy", "torch"])
@pytest.mark.parametrize("obs_type", list(SEEN))
def test_the_bridge_tells_what_the_env_tells(make_envs, obs_type, array_type, frame_stack):
    """Held against the bare env, with stacks that are kept by hand."""
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
    # Lives that ended, dreams that were cut, and dreams that went on beside them.
    assert {(True, False, False), (False, True, False), (False, False, False)} <= kinds


@pytest.mark.parametrize("obs_type", ["rgb", "latent"])
def test_arrays_and_infos_belong_to_the_caller(make_bridge, obs_type):
    """Whoever writes into what she was given changes nothing that comes."""
    untouched, scribbled = (make_bridge(2, obs_type=obs_type) for _ in range(2))
    infos_before: list[Any] = []
    for bridge in (untouched, scribbled):
        bridge.seed(1)
    assert_same(untouched.reset(), observations := scribbled.reset())
    for actions in draw_actions(15):
        observations.fill(7)
        expected = untouched.step(actions)
        got = scribbled.step(actions)
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
        rewards += 100.0  # PPO adds a value to the rewards of dreams that were cut
        dones[:] = True
        infos_before = infos
        assert all(info == {} for info in scribbled.reset_infos)


def test_the_bridge_does_as_stable_baselines3s_own(make_bridge):
    """Gymnasium's CartPole through both, seeds, auto-resets and cut episodes included."""
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
def test_the_real_game_looks_to_sb3_like_a_dream(make_envs, obs_type):
    k = 4 if obs_type == "rgb" else 1
    dream, real = (SB3VecEnv(make_envs(w, 2, obs_type=obs_type), k) for w in IDS)
    assert dream.observation_space == real.observation_space
    assert dream.action_space == real.action_space
    for bridge in (dream, real):
        bridge.seed(0)
    told = [(b.reset(), *[b.step(a) for a in draw_actions(7, 2)][-1]) for b in (dream, real)]
    for mine, other in zip(*(t[:4] for t in told), strict=True):
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)


# --- seeds and options ---------------------------------------------------------------------------


def test_a_seed_holds_for_the_next_reset_alone(make_bridge):
    bridge = make_bridge(obs_type="latent")
    assert bridge.seed(5) == [5, 6, 7, 8, 9]  # as SB3 counts them up; the first fixes all
    first = bridge.reset()
    unseeded = bridge.reset()
    assert not np.array_equal(first, unseeded)
    bridge.seed(5)
    assert_same(bridge.reset(), first)
    bridge.seed(6)
    assert not np.array_equal(bridge.reset(), first)


def test_options_hold_for_the_next_reset_alone(make_bridge):
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


def test_bad_options_are_told_and_forgotten(make_bridge):
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
    ("actions", "told"),
    [(np.full(E, 6), "0 … 5, got 6"), (np.zeros(E), "integers"), (np.zeros(E - 1, int), "shape")],
)
def test_bad_actions_move_nothing(make_bridge, actions, told):
    bridge, twin = make_bridge(obs_type="latent"), make_bridge(obs_type="latent")
    for envs in (bridge, twin):
        envs.seed(2)
        envs.reset()
    with pytest.raises(GlamError, match=told):
        bridge.step(actions)
    assert_same(bridge.step(np.zeros(E, int)), twin.step(np.zeros(E, int)))


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
        bridge.set_attr("note", "hers", indices=[0])
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


def test_wrappers_beneath_are_found(make_envs):
    bridge = SB3VecEnv(EpisodeStatistics(make_envs(obs_type="latent")))
    assert bridge.env_is_wrapped(EpisodeStatistics) == [True] * E
    assert bridge.env_is_wrapped(EpisodeStatistics, indices=[2]) == [True]
    assert bridge.env_is_wrapped(gym.Wrapper, indices=1) == [False]
    assert bridge.get_attr("episode_count", indices=[0]) == [0]
    assert bridge.get_attr("action_space", indices=[0]) == [gym.spaces.Discrete(6)]
    bridge.reset()  # and they do not get in the way
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


def test_vec_monitor_sums_up_what_was_earned(make_bridge):
    options = {"obs_type": "latent", "reward": "sample"}  # some of them large
    clipped, twin = ClippedRewards(VecMonitor(make_bridge(**options))), make_bridge(**options)
    clipped.seed(0)
    clipped.reset()
    twin.seed(0)
    twin.reset()
    earned, lived, told, unclipped = np.zeros(E, np.float32), np.zeros(E, int), 0, 0.0
    for actions in draw_actions(30):
        _, rewards, dones, infos = clipped.step(actions)
        raw = twin.step(actions)[1]
        unclipped = max(unclipped, float(np.abs(raw).max()))
        assert_same(rewards, np.clip(raw, -1.0, 1.0))
        earned, lived = earned + raw, lived + 1
        for row in np.flatnonzero(dones):
            assert infos[row]["episode"]["r"] == pytest.approx(earned[row], rel=1e-5)
            assert infos[row]["episode"]["l"] == lived[row]
            assert "terminal_observation" in infos[row]
            told += 1
        earned[dones], lived[dones] = 0.0, 0
    assert told > 2 * E
    assert unclipped > 1.0  # or nothing would have been clipped


@pytest.mark.filterwarnings("default")  # what SB3 warns of is its own affair
@pytest.mark.parametrize(
    ("name", "obs_type"),
    [*((name, "latent") for name in ALGORITHMS), ("ppo", "rgb"), ("dqn", "rgb")],
)
def test_each_algorithm_learns_and_is_saved(make_bridge, tmp_path, name, obs_type):
    """From SB3's first check of the env to a saved model that does the same again."""
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
def test_ppo_learns_what_pays_in_a_dream(make_envs):
    """What is seen, done and paid must belong together: row by row, step by step."""
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

    def pays() -> float:
        envs.seed(1)
        seen, paid = envs.reset(), []
        for _ in range(30):
            seen, rewards, *_ = envs.step(model.predict(seen, deterministic=True)[0])
            paid.append(rewards.mean())
        return float(np.mean(paid))

    before = pays()
    model.learn(8_000)
    assert before < 0.5
    assert pays() > 0.95


# --- frames of the real game, and what the bridge costs ------------------------------------------


def test_a_policy_sees_real_frames_as_it_saw_dreams(make_envs):
    """The same play, once through the bridge and once as the real game's evaluation tells it."""
    bridge, bare = SB3VecEnv(make_envs(), 3), make_envs(array_type="numpy")
    seen: list[np.ndarray] = []

    def choose(stacks: np.ndarray) -> np.ndarray:
        seen.append(stacks)
        return np.zeros(E, int)

    policy = FramePolicy(choose, 3)
    for game in range(2):  # beginning anew forgets
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


@pytest.mark.parametrize(("obs_type", "frame_stack"), [("latent", 1), ("rgb", 4)])
def test_the_cost_of_the_bridge_is_measured(obs_type, frame_stack):
    speed = measure_bridge(
        "Pong",
        num_envs=3,
        obs_type=obs_type,
        frame_stack=frame_stack,
        steps=4,
        repeats=2,
        device="cpu",
    )
    report = speed.as_json()
    assert (report["num_envs"], report["obs_type"]) == (3, obs_type)
    assert all(report[k] > 0 for k in ("bare", "bridged", "monitored", "ratio", "monitored_ratio"))
    with pytest.raises(GlamError, match="steps must be a whole number"):
        measure_bridge("Pong", num_envs=3, steps=0)


def test_without_the_library_one_line_says_so():
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
    assert done.stderr == ('glam: this needs Stable-Baselines3: pip install "glam-env[sb3]"\n')
