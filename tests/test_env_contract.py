"""The contract of the dreamt and the real vector env, since Gymnasium has no checker for those.

Every test runs in both worlds. A game of the emulator takes long to begin, so what all types of
observations and arrays and all autoreset modes have to keep is looked for in one play of each.
"""

from __future__ import annotations

import dataclasses
import gc
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from comparison import assert_same, to_numpy
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import glam_env  # noqa: F401  (registers the ids)
from glam_env.envs.atari.env import RealEnv, RealKeywords, RealOptions, RealVectorEnv
from glam_env.envs.base import PixelVectorEnv
from glam_env.envs.dream.env import DreamEnv, DreamVectorEnv
from glam_env.envs.dream.options import DreamKeywords, DreamOptions
from glam_env.errors import GlamError

E, HORIZON, STEPS, SEED = 2, 4, 7, 2
IDS = {"dream": "GLAMDream-Pong-v0", "real": "GLAMReal-Pong-v0"}
ARRAYS = ("numpy", "torch")
OBSERVATIONS = ("rgb", "grayscale", "latent")
SPACES = {
    "rgb": ((64, 64, 3), np.uint8),
    "grayscale": ((64, 64, 1), np.uint8),
    "latent": ((4 * 4 + 16,), np.float32),
}
FIRST, LAST = np.arange(E) == 0, np.arange(E) == E - 1

worlds = pytest.mark.parametrize(
    "world", ["dream", pytest.param("real", marks=pytest.mark.emulator)]
)
# Both worlds have one base class, which alone uses Gymnasium in these tests: on its oldest version,
# the dream shows what there is to see.
worlds_of_one_base = pytest.mark.parametrize(
    "world",
    ["dream", pytest.param("real", marks=[pytest.mark.emulator, pytest.mark.one_gymnasium])],
)
arrays = pytest.mark.parametrize("array_type", ARRAYS)
observations = pytest.mark.parametrize("obs_type", OBSERVATIONS)
modes = pytest.mark.parametrize("mode", [mode.name for mode in AutoresetMode])


@pytest.fixture(scope="module", autouse=True)
def _surroundings(saved_checkpoint: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLAM_CHECKPOINTS", str(saved_checkpoint.parent))
        patch.setenv("SDL_VIDEODRIVER", "dummy")
        yield


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def make() -> Iterator[Callable[..., PixelVectorEnv]]:
    """Make a world's vector env by its id and close it in the end."""
    made: list[PixelVectorEnv] = []

    def make_envs(world: str, num_envs: int = E, **options: Any) -> PixelVectorEnv:
        options = {"device": "cpu", "max_episode_steps": HORIZON} | options
        made.append(gym.make_vec(IDS[world], num_envs=num_envs, **options))
        return made[-1]

    yield make_envs
    for envs in made:
        envs.close()


@pytest.fixture
def make_single() -> Iterator[Callable[..., gym.Env]]:
    """Make a world's single env by its id and close it in the end."""
    made: list[gym.Env] = []

    def make_env(world: str, **options: Any) -> gym.Env:
        made.append(gym.make(IDS[world], device="cpu", **options))
        return made[-1]

    yield make_env
    for env in made:
        env.close()


@pytest.fixture(scope="module")
def keep(_surroundings: None) -> Iterator[Callable[..., PixelVectorEnv]]:
    """Return the module's env of a world, an array type, an observation type and a mode."""

    @cache
    def envs_of(world: str, array_type: str, obs_type: str, mode: str) -> PixelVectorEnv:
        made.append(
            gym.make_vec(
                IDS[world],
                num_envs=E,
                device="cpu",
                max_episode_steps=HORIZON,
                array_type=array_type,
                obs_type=obs_type,
                autoreset_mode=mode,
                render_mode="rgb_array",
            )
        )
        return made[-1]

    made: list[PixelVectorEnv] = []
    yield envs_of
    for envs in made:
        envs.close()


# --- plays ---------------------------------------------------------------------------------------


class Event(NamedTuple):
    """The result of a reset (2 parts) or a step (5 parts).

    ``parts`` are copies in numpy, ``outline`` holds the type, dtype and shape of each part.
    """

    parts: list[Any]
    outline: list[Any]

    @property
    def done(self) -> np.ndarray:
        return self.parts[2] | self.parts[3]


def actions_at(t: int, num_envs: int = E) -> np.ndarray:
    return (np.arange(num_envs) * 5 + t) % 6


def outline(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: outline(item) for name, item in value.items()}
    return type(value), value.dtype, tuple(value.shape)


def copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    return to_numpy(value).copy()


def play(
    envs: PixelVectorEnv,
    steps: int = STEPS,
    seed: int | None = SEED,
    taken: Callable[[tuple[Any, ...]], None] = lambda parts: None,
) -> list[Event]:
    """Reset (unless the seed is None) and step; ``taken`` is called with each result.

    The last row is reset after the second step, so that rows end at different steps; where the env
    resets none by itself, those that end are reset at once.
    """
    events = []

    def note(parts: tuple[Any, ...]) -> Event:
        events.append(Event([copied(part) for part in parts], [outline(part) for part in parts]))
        taken(parts)
        return events[-1]

    if seed is not None:
        note(envs.reset(seed=seed))
    for t in range(steps):
        done = note(envs.step(actions_at(t, envs.num_envs))).done
        if t == 1 and seed is not None and not done[-1]:
            note(envs.reset(options={"reset_mask": LAST.copy()}))
        if envs.autoreset_mode is AutoresetMode.DISABLED and done.any():
            note(envs.reset(options={"reset_mask": done.copy()}))
    return events


def assert_equal(one: list[Event], other: list[Event]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert_same(a.parts, b.parts)


@pytest.fixture(scope="module")
def firsts_of(keep: Callable[..., PixelVectorEnv]) -> Callable[..., list[np.ndarray]]:
    """Return each row's first observation in its n-th episode, which depends on n only."""

    @cache
    def first_observations(world: str, obs_type: str) -> list[np.ndarray]:
        envs = keep(world, "numpy", obs_type, "DISABLED")
        return [envs.reset(seed=SEED if n == 0 else None)[0] for n in range(3)]

    return first_observations


@pytest.fixture(scope="module")
def played(keep: Callable[..., PixelVectorEnv]) -> Callable[..., list[Event]]:
    """Play each of the module's envs while the caller overwrites what it receives."""

    @cache
    def play_of(world: str, array_type: str, obs_type: str, mode: str) -> list[Event]:
        envs = keep(world, array_type, obs_type, mode)
        taken: list[tuple[Any, np.ndarray]] = []

        def spoil(value: Any) -> None:
            if isinstance(value, dict | tuple):
                for item in value.values() if isinstance(value, dict) else value:
                    spoil(item)
            else:
                value[:] = 1
                taken.append((value, copied(value)))

        events = play(envs, taken=lambda parts: (spoil(parts), spoil(envs.render())))
        for value, was in taken:
            assert_same(to_numpy(value), was)  # nor does the env write to it later
        return events

    return play_of


# --- what every play keeps -----------------------------------------------------------------------


@worlds
@observations
@arrays
@modes
def test_spaces_shapes_and_types(keep, played, world, array_type, obs_type, mode) -> None:
    envs = keep(world, array_type, obs_type, mode)
    shape, dtype = SPACES[obs_type]
    single = envs.single_observation_space
    assert (single.shape, single.dtype) == (shape, dtype)
    assert envs.observation_space.shape == (E, *shape)
    assert envs.single_action_space == gym.spaces.Discrete(6)
    assert envs.action_space == gym.spaces.MultiDiscrete([6] * E)
    assert envs.metadata["autoreset_mode"] is envs.autoreset_mode is AutoresetMode[mode]
    kind = np.ndarray if array_type == "numpy" else torch.Tensor
    float32, flag = (np.float32, np.bool_) if kind is np.ndarray else (torch.float32, torch.bool)
    pixels = np.uint8 if kind is np.ndarray else torch.uint8
    seen = (kind, float32 if obs_type == "latent" else pixels, (E, *shape))
    for event in played(world, array_type, obs_type, mode):
        assert event.outline[0] == seen
        assert event.parts[0] in envs.observation_space
        if len(event.parts) == 2:
            assert event.parts[1] == {}
            continue
        assert event.outline[1:4] == [(kind, float32, (E,))] + [(kind, flag, (E,))] * 2
        info = event.outline[4]
        entropy = {"prior_entropy": (kind, float32, (E,)), "_prior_entropy": (kind, flag, (E,))}
        ends = {}
        if mode == "SAME_STEP" and event.done.any():
            row = seen if array_type == "torch" else (np.ndarray, np.dtype(object), (E,))
            ends = {"final_obs": row, "_final_obs": (kind, flag, (E,))}
            ends |= {"final_info": entropy, "_final_info": (kind, flag, (E,))}
        assert info == entropy | ends
        assert not (event.parts[2] & event.parts[3]).any()


@pytest.mark.emulator
@observations
@arrays
@modes
def test_both_worlds_have_equal_spaces_types_and_infos(
    keep, played, array_type, obs_type, mode
) -> None:
    dream, real = (keep(world, array_type, obs_type, mode) for world in IDS)
    for name in (
        "single_observation_space",
        "observation_space",
        "single_action_space",
        "action_space",
        "metadata",
        "num_envs",
        "max_episode_steps",
    ):
        assert getattr(dream, name) == getattr(real, name)
    outlines: dict[str, dict[Any, list[Any]]] = {}
    for world in IDS:
        found = outlines[world] = {}
        for event in played(world, array_type, obs_type, mode):
            kind = "reset" if len(event.parts) == 2 else bool(event.done.any())
            assert found.setdefault(kind, event.outline) == event.outline
    assert outlines["dream"].keys() == {"reset", False, True}
    assert outlines["dream"] == outlines["real"]


@worlds_of_one_base
@observations
@arrays
@modes
def test_a_seed_fixes_everything_whatever_the_caller_does(
    keep, played, world, array_type, obs_type, mode
) -> None:
    """It does not depend on earlier play, and another seed gives something else."""
    envs = keep(world, array_type, obs_type, mode)
    spoilt = played(world, array_type, obs_type, mode)
    assert_equal(play(envs), spoilt)
    assert not np.array_equal(copied(envs.reset(seed=SEED + 1)[0]), spoilt[0].parts[0])


@worlds
@observations
@modes
def test_numpy_and_torch_are_one_world(played, world, obs_type, mode) -> None:
    in_numpy, in_torch = (played(world, array_type, obs_type, mode) for array_type in ARRAYS)
    for one, other in zip(in_numpy, in_torch, strict=True):
        ours, theirs = one.parts, other.parts
        if "final_obs" in ours[-1]:
            ended = one.done
            assert_same(np.stack(ours[-1]["final_obs"][ended]), theirs[-1]["final_obs"][ended])
            assert all(row is None for row in ours[-1]["final_obs"][~ended])
            ours, theirs = (
                [*parts[:4], {k: v for k, v in parts[4].items() if k != "final_obs"}]
                for parts in (ours, theirs)
            )
        assert_same(ours, theirs)


@worlds
@observations
@arrays
def test_next_step_begins_a_row_in_the_step_after_its_end(
    firsts_of, played, world, array_type, obs_type
) -> None:
    firsts = firsts_of(world, obs_type)
    episodes, waiting = np.zeros(E, int), np.zeros(E, bool)
    alone = 0
    for n, event in enumerate(played(world, array_type, obs_type, "NEXT_STEP")):
        if len(event.parts) == 2:
            episodes[-1] += n > 0  # the second reset begins the last row alone
            assert_same(event.parts[0][-1], firsts[episodes[-1]][-1])
            continue
        seen, rewards, terminated, truncated, info = event.parts
        episodes[waiting] += 1
        for i in waiting.nonzero()[0]:
            assert_same(seen[i], firsts[episodes[i]][i])
            assert (rewards[i], terminated[i], truncated[i]) == (0.0, False, False)
        modelled = world == "dream" or obs_type == "latent"
        assert_same(info["_prior_entropy"], ~waiting & modelled)
        assert_same(info["prior_entropy"] > 0, info["_prior_entropy"])
        waiting = event.done
        alone += waiting.sum() == 1
    assert episodes.min() >= 1
    assert alone


@worlds
@observations
@arrays
def test_same_step_begins_a_row_at_once_and_keeps_its_end(
    played, world, array_type, obs_type
) -> None:
    """It equals DISABLED with resets by hand, bit for bit."""
    by_hand = iter(played(world, array_type, obs_type, "DISABLED"))
    alone = ends = 0
    for event in played(world, array_type, obs_type, "SAME_STEP"):
        expected = next(by_hand)
        if len(event.parts) == 2:
            assert_same(event.parts, expected.parts)
            continue
        seen, *rest, info = event.parts
        assert_same(rest, expected.parts[1:4])
        modelled = world == "dream" or obs_type == "latent"
        assert_same(info["prior_entropy"], expected.parts[4]["prior_entropy"])
        assert_same(info["_prior_entropy"], ~event.done & modelled)
        after = expected.parts[0]
        if event.done.any():
            final = info["final_info"]
            assert_same(info["_final_obs"], event.done)
            assert_same(info["_final_info"], event.done)
            assert_same(final["_prior_entropy"], event.done & modelled)
            entropy = np.where(event.done, expected.parts[4]["prior_entropy"], np.float32(0))
            assert_same(final["prior_entropy"], entropy)
            for i in event.done.nonzero()[0]:
                assert_same(info["final_obs"][i], expected.parts[0][i])
            after = next(by_hand).parts[0]
        assert_same(seen, after)
        alone, ends = alone + (event.done.sum() == 1), ends + event.done.sum()
    assert ends >= E
    assert alone


@worlds
@arrays
def test_disabled_wants_ended_rows_reset(keep, world, array_type) -> None:
    envs = keep(world, array_type, "rgb", "DISABLED")
    envs.reset(seed=0)
    done = np.zeros(E, bool)
    for t in range(HORIZON):  # together, or one after the other in a dream
        done = to_numpy(torch.logical_or(*map(torch.as_tensor, envs.step(actions_at(t))[2:4])))
        if done.any():
            break
    rows = done.nonzero()[0].tolist()
    for _ in range(2):
        with pytest.raises(
            GlamError, match=rf"{world if world == 'dream' else 'game'}s \[{rows[0]}"
        ):
            envs.step(actions_at(1))
    as_mask = torch.as_tensor if array_type == "torch" else np.asarray
    envs.reset(options={"reset_mask": as_mask(done)})
    assert len(envs.step(actions_at(1))) == 5


@worlds
@observations
@arrays
def test_the_single_env_is_a_batch_of_one(make, make_single, world, array_type, obs_type) -> None:
    options = {"array_type": array_type, "obs_type": obs_type}
    envs = make(world, 1, **options)
    env = make_single(world, **options, horizon=HORIZON)
    assert env.observation_space == envs.single_observation_space
    assert env.action_space == envs.single_action_space
    batch, _ = envs.reset(seed=9)
    seen, _ = env.reset(seed=9)
    ends = 0
    for t in range(HORIZON + 2):
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
        modelled = world == "dream" or obs_type == "latent"
        assert own_info == ({"prior_entropy": info["prior_entropy"][0]} if modelled else {})
    assert ends


@worlds_of_one_base
def test_resets_without_a_seed_go_on(make, keep, world) -> None:
    envs = keep(world, "numpy", "latent", "NEXT_STEP")
    firsts = [envs.reset(seed=3)[0], envs.reset()[0]]
    assert not np.array_equal(*firsts)
    assert_same(firsts, [envs.reset(seed=3)[0], envs.reset()[0]])
    # Eight dreams: two of them may begin at the same one of the few contexts.
    unseeded = [make(world, 8, obs_type="latent").reset()[0] for _ in range(2)]
    assert not np.array_equal(*unseeded)


# --- masks, actions, options ---------------------------------------------------------------------


@worlds_of_one_base
@observations
def test_a_mask_begins_its_rows_and_leaves_the_others(keep, firsts_of, world, obs_type) -> None:
    firsts = firsts_of(world, obs_type)
    envs = keep(world, "numpy", obs_type, "NEXT_STEP")
    other = keep(world, "torch", obs_type, "NEXT_STEP")
    for each in (envs, other):
        each.reset(seed=SEED)
        before = each.step(actions_at(0))[0]
    for episode, kind in ((1, np.asarray), (2, torch.as_tensor)):
        options = {"reset_mask": kind(FIRST.copy())}
        mask = options["reset_mask"]
        after, info = envs.reset(options=options)
        assert info == {}
        assert list(options) == ["reset_mask"]
        assert options["reset_mask"] is mask
        assert mask.tolist() == FIRST.tolist()
        assert_same(after[1:], to_numpy(before)[1:])
        assert_same(after[0], firsts[episode][0])
    # The others continue as if their neighbour had not been reset.
    for t in range(1, HORIZON):
        ours, theirs = envs.step(actions_at(t)), other.step(actions_at(t))
        assert_same(ours[0][1:], to_numpy(theirs[0])[1:])
        assert_same([part[1:] for part in ours[1:4]], [to_numpy(p)[1:] for p in theirs[1:4]])


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
    {"reset_mask": np.ones(E + 1, bool)},
    {"reset_mask": np.zeros(E, bool)},
    {"reset_mask": np.array([True, None])},
    {"reset_mask": torch.ones(E, 1, dtype=torch.bool)},
    {"reset_mask": torch.ones(E)},
    {"reset_maks": np.ones(E, bool)},
    {3: 4},
]
BAD_SEEDS = [-1, 1.5, "one", [1, 2]]


@worlds_of_one_base
def test_bad_input_is_refused_before_anything_moves(make, keep, world) -> None:
    fresh = make(world, obs_type="latent")
    with pytest.raises(GlamError, match="call reset"):
        fresh.step(actions_at(0))
    with pytest.raises(GlamError, match="first reset"):
        fresh.reset(options={"reset_mask": FIRST})
    envs, other = (keep(world, "numpy", "latent", mode) for mode in ("SAME_STEP", "NEXT_STEP"))
    for each in (envs, other):
        play(each, 1)
    for actions in BAD_ACTIONS:
        with pytest.raises(GlamError, match="actions must") as caught:
            envs.step(actions)
        assert "\n" not in str(caught.value)
    for options in BAD_OPTIONS:
        with pytest.raises(GlamError, match=r"reset_ma|unknown reset option") as caught:
            envs.reset(seed=77, options=options)
        assert "\n" not in str(caught.value)
    for seed in BAD_SEEDS:
        with pytest.raises(gym.error.Error, match=r"[Ss]eed"):
            envs.reset(seed=seed)
    ours, theirs = envs.step(actions_at(1)), other.step(actions_at(1))
    assert_same(ours[1:4], theirs[1:4])
    stayed = ~(ours[2] | ours[3])
    assert_same(ours[0][stayed], theirs[0][stayed])
    assert_same(envs.reset()[0][FIRST], other.reset()[0][FIRST])


@worlds_of_one_base
def test_actions_of_any_integers_do(keep, world) -> None:
    envs = keep(world, "numpy", "latent", "SAME_STEP")
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
def test_a_bad_action_is_refused_by_the_single_env(make_single, world) -> None:
    env = make_single(world)
    env.reset(seed=0)
    for action in (6, -1, 1.0, "fire", None, [0, 1], np.nan, True, torch.ones(2), torch.ones(1)):
        with pytest.raises(GlamError, match=r"actions? must"):
            env.unwrapped.step(action)
    with pytest.raises(GlamError, match=f"this is one {'dream' if world == 'dream' else 'game'}"):
        env.reset(options={"reset_mask": np.array([True])})
    for good in (1, np.int64(1), np.array([1]), torch.tensor(2), torch.tensor([2])):
        _, _, terminated, truncated, _ = env.step(good)
        if terminated or truncated:
            env.reset()


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


# --- rendering and closing -----------------------------------------------------------------------


@worlds_of_one_base
@pytest.mark.parametrize("obs_type", ["rgb", "latent"])
def test_frames_and_their_grid(make, world, obs_type) -> None:
    frames = make(world, 1, obs_type=obs_type, render_mode="rgb_array")
    grid = make(world, 3, obs_type=obs_type, render_mode="rgb_grid")
    with pytest.raises(GlamError, match="not begun"):
        frames.render()
    grid.reset(seed=1)
    frames.reset(seed=1)
    (frame,), picture = frames.render(), grid.render()
    assert (frame.shape, frame.dtype, picture.shape) == ((64, 64, 3), np.uint8, (128, 128, 3))
    assert frame.any()
    assert picture[:64, :64].any()
    assert picture[:64, 64:].any()
    assert picture[64:, :64].any()
    assert not picture[64:, 64:].any()
    if obs_type == "rgb":
        seen = grid.step(actions_at(0, 3))[0]
        picture = grid.render()
        assert_same(picture[:64, :64], seen[0])
        assert_same(picture[:64, 64:], seen[1])
        assert_same(picture[64:, :64], seen[2])


@worlds
def test_a_window_shows_every_step(make, make_single, world) -> None:
    pygame = pytest.importorskip("pygame")
    envs = make(world, render_mode="human", autoreset_mode="NEXT_STEP")
    seen = envs.reset(seed=0)[0]
    assert envs.render() is None

    def shown() -> np.ndarray:
        return pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)

    assert shown().shape == (512, 1024, 3)
    for t in range(2):
        assert_same(shown()[::8, ::8], np.concatenate(list(seen), 1))
        seen = envs.step(actions_at(t))[0]
    envs.close()
    assert not pygame.display.get_init()
    env = make_single(world, render_mode="human")
    seen, _ = env.reset(seed=0)
    assert env.render() is None
    assert_same(shown()[::8, ::8], seen)


def test_where_there_is_no_display_the_cure_is_named(make, monkeypatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "no-such-driver")
    envs = make("dream", render_mode="human")
    with pytest.raises(
        GlamError, match=r'no window can be opened here .*use render_mode="rgb_array"'
    ):
        envs.reset(seed=0)


@worlds
def test_a_window_without_pygame_names_the_extra(make, world, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(GlamError, match=r"glam-env\[human\]"):
        make(world, render_mode="human")


@worlds
def test_render_without_a_mode_warns(make, world) -> None:
    envs = make(world, 1)
    with pytest.warns(UserWarning, match="render_mode"):
        assert envs.render() is None


def tensor_bytes() -> int:
    """Return the bytes behind all live tensors; packed numbers count as a byte each."""
    tensors = [value for value in gc.get_objects() if issubclass(type(value), torch.Tensor)]
    plain = [t for t in tensors if t.device.type != "meta" and t.layout == torch.strided]
    storages = {t.untyped_storage().data_ptr(): t for t in plain}
    packed = sum(t.numel() for t in tensors if t.layout != torch.strided)
    return packed + sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


@worlds_of_one_base
@observations
def test_a_closed_env_has_let_go_of_every_tensor(make, make_single, world, obs_type) -> None:
    gc.collect()
    gc.disable()  # memory must be freed without the collector of cycles
    try:
        before = tensor_bytes()
        for single in (True, False):
            options = {"obs_type": obs_type, "render_mode": "rgb_array"}
            env = make_single(world, **options) if single else make(world, 1, **options)
            env.reset(seed=0)
            env.step(1 if single else actions_at(0, 1))
            env.render()
            assert tensor_bytes() > before
            env.close()
            env.close()
            assert tensor_bytes() == before
    finally:
        gc.enable()
    for use in (env.reset, env.render, lambda: env.step(actions_at(0, 1))):
        with pytest.raises(GlamError, match="closed"):
            use()
