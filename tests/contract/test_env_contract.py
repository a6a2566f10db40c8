"""The contract of the dreamt and the real vector env, since Gymnasium has no checker for those.

Every test runs in both worlds. A game of the emulator takes long to begin, so what all types of
observations and arrays and all autoreset modes have to keep is looked for in one play of each.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from comparison import assert_same, to_numpy
from gymnasium.vector import AutoresetMode
from worlds import (
    ARRAYS,
    FIRST,
    HORIZON,
    IDS,
    SEED,
    SPACES,
    E,
    actions_at,
    arrays,
    assert_equal,
    copied,
    modes,
    observations,
    play,
    worlds,
    worlds_of_one_base,
)

from glam_env.errors import GlamError


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
@modes
def test_a_seed_fixes_everything_whatever_the_caller_does(
    keep, played, world, obs_type, mode
) -> None:
    """It does not depend on earlier play, and another seed gives something else.

    The plays in PyTorch, overwritten too, are compared with these below.
    """
    envs = keep(world, "numpy", obs_type, mode)
    spoilt = played(world, "numpy", obs_type, mode)
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


# --- masks and actions ---------------------------------------------------------------------------


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
