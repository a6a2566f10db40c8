"""One contract for the dreamt and the real vector env, as Gymnasium has none of its own.

Every test runs in both worlds. Episodes are cut short, and one row is begun anew on its own, so
that rows end apart and together.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from comparison import assert_same, to_numpy
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import glam_env  # noqa: F401  (registers the ids)
from glam_env.errors import GlamError
from glam_env.vector_base import PixelVectorEnv

E = 3
IDS = {"dream": "GLAMDream-Pong-v0", "real": "GLAMReal-Pong-v0"}
WORLDS = [pytest.param("dream"), pytest.param("real", marks=pytest.mark.emulator)]
ARRAYS = ("numpy", "torch")
OBSERVATIONS = ("rgb", "grayscale", "latent")
MODES = tuple(AutoresetMode)
SPACES = {
    "rgb": ((64, 64, 3), np.uint8),
    "grayscale": ((64, 64, 1), np.uint8),
    "latent": ((4 * 4 + 16,), np.float32),
}

worlds = pytest.mark.parametrize("world", WORLDS)
arrays = pytest.mark.parametrize("array_type", ARRAYS)
observations_ = pytest.mark.parametrize("obs_type", OBSERVATIONS)
modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(autouse=True)
def _surroundings(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(tiny_checkpoint.parent))
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def make() -> Iterator[Callable[..., PixelVectorEnv]]:
    """Makes a world's vector env by its id and closes it in the end."""
    made: list[PixelVectorEnv] = []

    def make_envs(world: str, num_envs: int = E, **options: Any) -> PixelVectorEnv:
        options = {"device": "cpu", "max_episode_steps": 5} | options
        made.append(gym.make_vec(IDS[world], num_envs=num_envs, **options))
        return made[-1]

    yield make_envs
    for envs in made:
        envs.close()


@pytest.fixture
def make_single() -> Iterator[Callable[..., gym.Env]]:
    """Makes a world's single env by its id and closes it in the end."""
    made: list[gym.Env] = []

    def make_env(world: str, **options: Any) -> gym.Env:
        made.append(gym.make(IDS[world], device="cpu", **options))
        return made[-1]

    yield make_env
    for env in made:
        env.close()


def actions_at(t: int, num_envs: int = E) -> np.ndarray:
    return (np.arange(num_envs) * 5 + t) % 6


def play(envs: PixelVectorEnv, steps: int, seed: int | None = 0) -> list[dict[int, Any]]:
    """Everything that reset (unless the seed is None) and steps return, in numpy."""
    history = [] if seed is None else [envs.reset(seed=seed)]
    for t in range(steps):
        history.append(envs.step(actions_at(t, envs.num_envs)))
        if envs.autoreset_mode is AutoresetMode.DISABLED:
            done = history[-1][2] | history[-1][3]
            if done.any():
                history.append(envs.reset(options={"reset_mask": done}))
    return [to_numpy(dict(enumerate(parts))) for parts in history]


# --- spaces and types ----------------------------------------------------------------------------


@worlds
@observations_
@arrays
@modes
def test_spaces_shapes_and_types(make, world, array_type, obs_type, mode) -> None:
    envs = make(world, array_type=array_type, obs_type=obs_type, autoreset_mode=mode.name)
    shape, dtype = SPACES[obs_type]
    assert (envs.single_observation_space.shape, envs.single_observation_space.dtype) == (
        shape,
        dtype,
    )
    assert envs.observation_space.shape == (E, *shape)
    assert envs.single_action_space == gym.spaces.Discrete(6)
    assert envs.action_space == gym.spaces.MultiDiscrete([6] * E)
    assert envs.metadata["autoreset_mode"] is envs.autoreset_mode is mode
    kind = np.ndarray if array_type == "numpy" else torch.Tensor
    first, info = envs.reset(seed=1)
    assert isinstance(first, kind)
    assert info == {}
    assert to_numpy(first) in envs.observation_space
    parts = envs.step(actions_at(0))
    assert all(isinstance(part, kind) for part in (*parts[:4], *parts[4].values()))
    seen, rewards, terminated, truncated, info = map(to_numpy, parts)
    assert seen in envs.observation_space
    assert (rewards.dtype, rewards.shape) == (np.float32, (E,))
    for flags in (terminated, truncated):
        assert (flags.dtype, flags.shape) == (np.bool_, (E,))
    for name, value in info.items():
        if not name.startswith("_") and not isinstance(value, dict):
            assert info[f"_{name}"].dtype == np.bool_


@pytest.mark.emulator
@observations_
@arrays
@modes
def test_both_worlds_have_equal_spaces_types_and_infos(make, array_type, obs_type, mode) -> None:
    """In frames the real world has no model, hence no doubt: the one key it lacks."""
    options = {"array_type": array_type, "obs_type": obs_type, "autoreset_mode": mode.name}
    dream, real = (make(world, **options) for world in IDS)
    for name in (
        "single_observation_space",
        "observation_space",
        "single_action_space",
        "action_space",
        "metadata",
    ):
        assert getattr(dream, name) == getattr(real, name)
    doubt = set() if obs_type == "latent" else {"prior_entropy", "_prior_entropy"}

    def outline(parts: tuple[Any, ...]) -> list[Any]:
        def of(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: of(item) for name, item in value.items() if name not in doubt}
            return type(value), value.dtype, tuple(value.shape)

        return [of(part) for part in parts]

    outlines: dict[str, dict[bool, Any]] = {}
    for world, envs in (("dream", dream), ("real", real)):
        assert outline(envs.reset(seed=0)) == outline(dream.reset(seed=0))
        found = outlines[world] = {}
        for t in range(5):  # no row of the tiny dreams is cut before the fifth step
            parts = envs.step(actions_at(t))
            ended = parts[2] | parts[3]
            if world == "real" and obs_type != "latent":
                assert not (doubt & parts[4].keys())
            found[bool(ended.any())] = outline(parts)
            if mode is AutoresetMode.DISABLED and ended.any():
                envs.reset(options={"reset_mask": ended})
    assert outlines["real"].keys() == {False, True}
    common = outlines["dream"].keys() & outlines["real"].keys()
    assert True in common
    for ended in common:
        assert outlines["dream"][ended] == outlines["real"][ended]


# --- seeds ---------------------------------------------------------------------------------------


@worlds
@observations_
@arrays
@modes
def test_a_seed_fixes_everything(make, world, array_type, obs_type, mode) -> None:
    options = {"array_type": array_type, "obs_type": obs_type, "autoreset_mode": mode.name}
    envs = make(world, **options, max_episode_steps=8)
    first = play(envs, 18, seed=4)
    play(envs, 3, seed=None)
    assert_same(play(envs, 18, seed=4), first)
    assert_same(play(make(world, **options, max_episode_steps=8), 18, seed=4), first)
    other = play(envs, 18, seed=5)
    assert any(
        not np.array_equal(one[0], another[0]) for one, another in zip(first, other, strict=False)
    )


@worlds
@observations_
def test_numpy_and_torch_are_one_world(make, world, obs_type) -> None:
    in_numpy, in_torch = (
        play(make(world, array_type=array_type, obs_type=obs_type, autoreset_mode="NEXT_STEP"), 12)
        for array_type in ARRAYS
    )
    assert_same(in_numpy, in_torch)


@worlds
def test_resets_without_a_seed_go_on(make, world) -> None:
    envs = make(world, obs_type="latent")
    firsts = [envs.reset(seed=3)[0], envs.reset()[0], envs.reset()[0]]
    assert not np.array_equal(firsts[0], firsts[1])
    assert_same(firsts, [envs.reset(seed=3)[0], envs.reset()[0], envs.reset()[0]])
    unseeded = [make(world, obs_type="latent").reset()[0] for _ in range(2)]
    assert not np.array_equal(*unseeded)


@worlds
@observations_
@arrays
def test_the_single_env_is_a_batch_of_one(make, make_single, world, array_type, obs_type) -> None:
    options = {"array_type": array_type, "obs_type": obs_type}
    envs = make(world, 1, **options)
    env = make_single(world, **options, max_episode_steps=5)
    assert env.observation_space == envs.single_observation_space
    assert env.action_space == envs.single_action_space
    batch, _ = envs.reset(seed=9)
    seen, _ = env.reset(seed=9)
    ends = 0
    for t in range(14):
        assert_same(to_numpy(seen), to_numpy(batch[0]))
        batch, rewards, terminated, truncated, info = envs.step(actions_at(t, 1))
        seen, *rest, own_info = env.step(int(actions_at(t, 1)[0]))
        assert rest == [rewards[0], terminated[0], truncated[0]]
        assert list(map(type, rest)) == [float, bool, bool]
        if rest[1] or rest[2]:
            ends += 1
            assert_same(to_numpy(seen), to_numpy(info["final_obs"][0]))
            info = info["final_info"]
            seen, _ = env.reset()
        assert own_info == {name: info[name][0] for name in info if not name.startswith("_")}
    assert ends >= 2


# --- storage -------------------------------------------------------------------------------------


@worlds
@observations_
@arrays
@modes
def test_what_is_handed_out_is_the_caller_s(make, world, array_type, obs_type, mode) -> None:
    """Overwriting it changes nothing in the env, and nothing in the env changes it later."""
    options = {"array_type": array_type, "obs_type": obs_type, "autoreset_mode": mode.name}
    options["render_mode"] = "rgb_array"
    envs, twin = make(world, **options), make(world, **options)
    kept: list[tuple[Any, np.ndarray]] = []

    def spoil(parts: tuple[Any, ...]) -> np.ndarray | None:
        done = to_numpy(parts[2] | parts[3]).copy() if len(parts) == 5 else None
        info = parts[-1]
        batches = [*parts[:-1], *info.values(), *info.get("final_info", {}).values()]
        for value in (*batches, *envs.render()):
            if not isinstance(value, dict):
                value[:] = 1
                kept.append((value, to_numpy(value).copy()))
        return done

    def compare(parts: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
        assert_same(to_numpy(dict(enumerate(parts))), to_numpy(dict(enumerate(expected))))

    parts = envs.reset(seed=0)
    compare(parts, twin.reset(seed=0))
    spoil(parts)
    for t in range(7):
        parts = envs.step(actions_at(t))
        compare(parts, twin.step(actions_at(t)))
        done = spoil(parts)
        if mode is AutoresetMode.DISABLED and done is not None and done.any():
            parts = envs.reset(options={"reset_mask": done})
            compare(parts, twin.reset(options={"reset_mask": done}))
            spoil(parts)
    for value, was in kept:
        assert_same(to_numpy(value), was)


# --- autoreset -----------------------------------------------------------------------------------


def first_observations(make: Callable[..., Any], count: int, **options: Any) -> list[Any]:
    """What each row shows first in its n-th episode, which hangs on nothing else than n."""
    envs = make(**options, autoreset_mode="DISABLED")
    return [to_numpy(envs.reset(seed=2 if n == 0 else None)[0]) for n in range(count)]


def stagger(envs: PixelVectorEnv, t: int, episodes: np.ndarray) -> None:
    """Begins the last row anew after the second step, so that it ends apart from the others."""
    if t == 1 and not to_numpy(envs._done)[-1]:
        envs.reset(options={"reset_mask": np.arange(E) == E - 1})
        episodes[-1] += 1


@worlds
@observations_
@arrays
def test_next_step_begins_a_row_in_the_step_after_its_end(
    make, world, array_type, obs_type
) -> None:
    options = {"world": world, "array_type": array_type, "obs_type": obs_type}
    firsts = first_observations(make, 16, **options)
    envs = make(**options, autoreset_mode="NEXT_STEP")
    assert_same(to_numpy(envs.reset(seed=2)[0]), firsts[0])
    episodes, waiting = np.zeros(E, int), np.zeros(E, bool)
    alone = 0
    for t in range(16):
        seen, rewards, terminated, truncated, info = map(to_numpy, envs.step(actions_at(t)))
        assert "final_obs" not in info
        assert not (terminated & truncated).any()
        episodes[waiting] += 1
        for i in waiting.nonzero()[0]:
            assert_same(seen[i], firsts[episodes[i]][i])
            assert (rewards[i], terminated[i], truncated[i]) == (0.0, False, False)
        if "prior_entropy" in info:
            assert_same(info["_prior_entropy"], ~waiting)
            assert (info["prior_entropy"][waiting] == 0).all()
        waiting = terminated | truncated
        alone += waiting.sum() == 1
        stagger(envs, t, episodes)
    assert episodes.min() >= 2
    assert alone


@worlds
@observations_
@arrays
def test_same_step_begins_a_row_at_once_and_keeps_its_end(
    make, world, array_type, obs_type
) -> None:
    options = {"world": world, "array_type": array_type, "obs_type": obs_type}
    firsts = first_observations(make, 20, **options)
    envs = make(**options, autoreset_mode="SAME_STEP")
    by_hand = make(**options, autoreset_mode="DISABLED")
    assert_same(to_numpy(envs.reset(seed=2)[0]), firsts[0])
    by_hand.reset(seed=2)
    episodes = np.zeros(E, int)
    alone = 0
    for t in range(16):
        seen, *rest, info = map(to_numpy, envs.step(actions_at(t)))
        expected, *expected_rest, expected_info = map(to_numpy, by_hand.step(actions_at(t)))
        assert_same(rest, expected_rest)
        done = rest[1] | rest[2]
        assert ("final_obs" in info) == done.any()
        if done.any():
            assert_same(info["_final_obs"], done)
            assert_same(info["_final_info"], done)
            final = info["final_info"]
            for i in done.nonzero()[0]:
                assert_same(info["final_obs"][i], expected[i])
                if "prior_entropy" in final:
                    assert final["prior_entropy"][i] == expected_info["prior_entropy"][i]
            if array_type == "numpy":
                assert all(info["final_obs"][i] is None for i in (~done).nonzero()[0])
            expected = to_numpy(by_hand.reset(options={"reset_mask": done})[0])
            episodes[done] += 1
        assert_same(seen, expected)
        for i in done.nonzero()[0]:
            assert_same(seen[i], firsts[episodes[i]][i])
        alone += done.sum() == 1
        if t == 1:
            for each in (envs, by_hand):
                each.reset(options={"reset_mask": np.arange(E) == E - 1})
            episodes[-1] += 1
    assert episodes.min() >= 2
    assert alone


@worlds
@arrays
def test_disabled_wants_ended_rows_reset(make, world, array_type) -> None:
    envs = make(world, array_type=array_type, autoreset_mode="DISABLED", max_episode_steps=1)
    envs.reset(seed=0)
    _, _, terminated, truncated, _ = envs.step(actions_at(0))
    assert (terminated | truncated).all()
    with pytest.raises(GlamError, match=r"\[0, 1, 2\] have ended"):
        envs.step(actions_at(1))
    as_mask = torch.as_tensor if array_type == "torch" else np.asarray
    envs.reset(options={"reset_mask": as_mask(np.arange(E) != 1)})
    with pytest.raises(GlamError, match=r"\[1\] have ended"):
        envs.step(actions_at(1))
    envs.reset(options={"reset_mask": as_mask(np.arange(E) == 1)})
    assert len(envs.step(actions_at(1))) == 5


# --- masks, actions, options ---------------------------------------------------------------------


@worlds
@observations_
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_mask_begins_its_rows_and_leaves_the_others(make, world, obs_type, kind) -> None:
    envs, twin = (
        make(world, obs_type=obs_type, max_episode_steps=20, autoreset_mode="NEXT_STEP")
        for _ in range(2)
    )
    play(envs, 3)
    before = play(twin, 3)[-1][0]
    options = {"reset_mask": kind(np.array([True, False, True]))}
    kept = dict(options)
    after, _ = envs.reset(options=options)
    assert options.keys() == kept.keys()
    assert options["reset_mask"] is kept["reset_mask"]
    assert options["reset_mask"].tolist() == [True, False, True]
    assert_same(after[1], before[1])
    assert not np.array_equal(after[0], before[0])
    # The row between goes on as if its neighbours had not begun anew.
    for t in range(8):
        ours, theirs = envs.step(actions_at(t)), twin.step(actions_at(t))
        assert_same(ours[0][1], theirs[0][1])
        assert_same([part[1] for part in ours[1:4]], [part[1] for part in theirs[1:4]])


def assert_unmoved(envs: PixelVectorEnv, twin: PixelVectorEnv) -> None:
    assert_same(play(envs, 8, seed=None), play(twin, 8, seed=None))
    assert_same(envs.reset()[0], twin.reset()[0])


BAD_ACTIONS = [
    np.zeros(E + 1, int),
    np.zeros((E, 1), int),
    3,
    np.zeros(E),
    np.full(E, np.nan),
    np.zeros(E, bool),
    np.full(E, 6),
    np.full(E, -1),
    np.full(E, 2**64 - 1, np.uint64),
    torch.zeros(E),
    torch.full((E,), 6),
    torch.zeros(E, dtype=torch.bool),
    torch.full((E,), float("nan")),
    ["fire"] * E,
    [[0], [1, 2], 3],
    None,
]
BAD_OPTIONS = [
    {"reset_mask": [True] * E},
    {"reset_mask": np.ones(E)},
    {"reset_mask": np.ones(E - 1, bool)},
    {"reset_mask": np.zeros(E, bool)},
    {"reset_mask": np.array([True, None, False])},
    {"reset_mask": torch.ones(E, 1, dtype=torch.bool)},
    {"reset_mask": torch.ones(E)},
    {"reset_maks": np.ones(E, bool)},
    {3: 4},
]


@worlds
def test_bad_input_is_refused_before_anything_moves(make, world) -> None:
    envs, twin = make(world, obs_type="latent"), make(world, obs_type="latent")
    with pytest.raises(GlamError, match="call reset"):
        envs.step(actions_at(0))
    with pytest.raises(GlamError, match="first reset"):
        envs.reset(options={"reset_mask": np.arange(E) == 1})
    play(envs, 3)
    play(twin, 3)
    for actions in BAD_ACTIONS:
        with pytest.raises(GlamError, match="actions must") as caught:
            envs.step(actions)
        assert "\n" not in str(caught.value)
    for options in BAD_OPTIONS:
        with pytest.raises(GlamError, match="reset_ma|unknown reset option") as caught:
            envs.reset(seed=77, options=options)
        assert "\n" not in str(caught.value)
    assert_unmoved(envs, twin)


@worlds
def test_actions_of_any_integers_do(make, world) -> None:
    envs = make(world, obs_type="latent")
    values = actions_at(3)
    results = []
    for actions in (
        values,
        values.astype(np.uint8),
        torch.from_numpy(values),
        torch.from_numpy(values).int(),
        values.tolist(),
    ):
        envs.reset(seed=6)
        results.append(envs.step(actions)[0])
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@worlds
@pytest.mark.parametrize("action", [6, -1, 1.0, "fire", None, [0, 1], np.nan, True, torch.ones(2)])
def test_a_bad_action_is_refused_by_the_single_env(make_single, world, action) -> None:
    env = make_single(world)
    env.reset(seed=0)
    with pytest.raises(GlamError):
        env.unwrapped.step(action)
    for good in (1, np.int64(1), torch.tensor(2), torch.tensor([2])):
        assert len(env.step(good)) == 5


@worlds
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"array_type": "jax"}, "array_type must be one of numpy, torch"),
        ({"obs_type": "ram"}, "obs_type must be one of rgb, latent, grayscale"),
        ({"render_mode": "ansi"}, "render_mode must be one of None, rgb_array"),
        ({"autoreset_mode": "later"}, "NEXT_STEP, SAME_STEP, DISABLED; got 'later'"),
        ({"num_envs": 0}, "num_envs must be a whole number"),
        ({"max_episode_steps": 0}, "max_episode_steps must be a whole number"),
        ({"max_episode_steps": 2.5}, "max_episode_steps must be a whole number"),
        ({"device": "tpu"}, "device 'tpu' cannot be used"),
        ({"obs_type": "latent", "checkpoint": "/nowhere/Pong"}, "/nowhere/Pong is no checkpoint"),
    ],
)
def test_an_impossible_option_gets_one_line(make, world, options, says) -> None:
    with pytest.raises(GlamError, match=says) as caught:
        make(world, **options)
    assert "\n" not in str(caught.value)


# --- the registry, checkers, other people's code ---------------------------------------------------


@worlds
@arrays
def test_a_spec_makes_the_same_env_again(make, world, array_type) -> None:
    envs = make(world, array_type=array_type, autoreset_mode="NEXT_STEP", max_episode_steps=4)
    again = gym.make_vec(gym.envs.registration.EnvSpec.from_json(envs.spec.to_json()))
    assert again.num_envs == E
    assert_same(play(envs, 10), play(again, 10))
    again.close()
    env = gym.make(IDS[world], device="cpu", array_type=array_type, obs_type="grayscale")
    copy = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert_same(to_numpy(env.reset(seed=1)[0]), to_numpy(copy.reset(seed=1)[0]))
    assert_same(to_numpy(env.step(2)[0]), to_numpy(copy.step(2)[0]))
    env.close()
    copy.close()


@worlds
@observations_
def test_both_checkers_pass_the_single_env(make_single, world, obs_type) -> None:
    env = make_single(world, obs_type=obs_type, render_mode="rgb_array").unwrapped
    with warnings.catch_warnings():
        if obs_type == "latent":  # h has no bounds, which check_env finds too wide
            warnings.filterwarnings("ignore", message=".*A Box observation space m.*infinity")
        # The render check makes an env of each mode, "human" too, which takes an extra.
        check_env(env, skip_render_check=find_spec("pygame") is None)
    sb3_check_env(env)


@pytest.mark.emulator
@arrays
def test_one_policy_acts_in_both_worlds(make, array_type) -> None:
    """The same lines, an id apart; it is told of nothing but observations."""
    torch.manual_seed(0)
    policy = torch.nn.Linear(SPACES["latent"][0][0], 6).requires_grad_(False)
    taken = {}
    for world in IDS:
        envs = make(world, array_type=array_type, obs_type="latent", max_episode_steps=10)
        seen, _ = envs.reset(seed=0)
        taken[world] = []
        for _ in range(12):
            actions = policy(torch.as_tensor(seen)).argmax(-1)
            actions = actions.numpy() if array_type == "numpy" else actions
            seen, rewards, terminated, truncated, info = envs.step(actions)
            assert np.isfinite(to_numpy(seen)).all()
            assert (to_numpy(info["prior_entropy"]) >= 0).all()
            taken[world] += actions.tolist()
    assert all(len(set(actions)) > 1 for actions in taken.values())


@worlds
def test_gymnasium_s_statistics_wrap_it(make, world) -> None:
    envs = gym.wrappers.vector.RecordEpisodeStatistics(make(world, autoreset_mode="NEXT_STEP"))
    envs.reset(seed=0)
    infos = [envs.step(actions_at(t))[4] for t in range(12)]
    lengths = [info["episode"]["l"][info["_episode"]] for info in infos if "episode" in info]
    assert lengths
    assert all((each <= 5).all() for each in lengths)


@worlds
def test_attributes_are_asked_for_as_of_a_sync_vector_env(make, world) -> None:
    envs = make(world, render_mode="rgb_array")
    envs.reset(seed=0)
    assert envs.get_attr("obs_type") == ("rgb",) * E
    assert envs.get_attr("action_space") == (gym.spaces.Discrete(6),) * E
    assert envs.call("observation_space") == (envs.single_observation_space,) * E
    assert_same(envs.call("render"), envs.render())
    envs.set_attr("note", 3)
    envs.set_attr("note", [4] * E)
    assert envs.get_attr("note") == (4,) * E
    for use in (
        lambda: envs.get_attr("nothing"),
        lambda: envs.call("step", 3),
        lambda: envs.set_attr("num_envs", 7),
        lambda: envs.set_attr("note", [1, 2, 3]),
        lambda: envs.set_attr("note", [4]),
    ):
        with pytest.raises(GlamError):
            use()
    assert envs.num_envs == E
    assert envs.note == 4


# --- rendering and closing -----------------------------------------------------------------------


@worlds
@pytest.mark.parametrize("obs_type", ["rgb", "latent"])
def test_frames_and_their_grid(make, world, obs_type) -> None:
    frames = make(world, obs_type=obs_type, render_mode="rgb_array")
    grid = make(world, obs_type=obs_type, render_mode="rgb_grid")
    with pytest.raises(GlamError, match="not begun"):
        frames.render()
    play(frames, 2)
    play(grid, 2)
    parts, picture = frames.render(), grid.render()
    assert isinstance(parts, tuple)
    assert all(part.shape == (64, 64, 3) and part.dtype == np.uint8 for part in parts)
    assert picture.shape == (128, 128, 3)
    assert_same(picture[:64, :64], parts[0])
    assert_same(picture[:64, 64:], parts[1])
    assert_same(picture[64:, :64], parts[2])
    assert not picture[64:, 64:].any()
    assert parts[0].any()


@worlds
def test_a_window_shows_every_step(make, make_single, world) -> None:
    pygame = pytest.importorskip("pygame")
    envs = make(world, render_mode="human")
    envs.reset(seed=0)
    assert envs.render() is None
    before = pygame.surfarray.array3d(pygame.display.get_surface())
    assert before.shape == (512, 512, 3)
    twin = make(world, render_mode="rgb_grid")
    play(twin, 2)
    for t in range(2):
        envs.step(actions_at(t))
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    assert_same(shown[::4, ::4], twin.render())
    envs.close()
    assert not pygame.display.get_init()
    env = make_single(world, render_mode="human")
    env.reset(seed=0)
    env.step(0)
    assert env.render() is None
    assert pygame.display.get_surface().get_size() == (512, 512)


@worlds
def test_a_window_without_pygame_names_the_extra(make, world, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(GlamError, match=r"glam-env\[human\]"):
        make(world, render_mode="human")


@worlds
def test_a_closed_env_says_so(make, world) -> None:
    envs = make(world, obs_type="latent", render_mode="rgb_array")
    envs.reset(seed=0)
    envs.close()
    envs.close()
    for use in (envs.reset, envs.render, lambda: envs.step(actions_at(0))):
        with pytest.raises(GlamError, match="closed"):
            use()
