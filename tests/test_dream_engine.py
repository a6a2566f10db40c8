"""The dream engine: dreams start, continue and end independently of each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from glam_env.device import find_device
from glam_env.envs.dream.engine import DreamEngine, _split_mix
from glam_env.envs.dream.options import DreamOptions
from glam_env.envs.dream.pool import ContextPool, draw_frames
from glam_env.errors import GlamError
from glam_env.model.reward_values import RewardValues
from glam_env.model.structures import DreamState

CPU = torch.device("cpu")
NEVER = -99.0  # a termination bias at which no life ends
E = 5


@pytest.fixture
def make_engine(make_world_model, make_contexts) -> Callable[..., DreamEngine]:
    """Make engines of the tiny model whose dreams end at the horizon only."""

    def make(num_envs: int = E, bias: float = NEVER, **options: Any) -> DreamEngine:
        settings: dict[str, Any] = {
            "device": "cpu",
            "max_episode_steps": 1000,
            "obs_type": "latent",
        } | options
        settings = DreamOptions(**settings)
        return DreamEngine(make_world_model(bias), make_contexts(), num_envs, settings)

    return make


def actions_at(t: int, num_envs: int = E) -> Tensor:
    return (torch.arange(num_envs) + t) % 6


def parts(state: DreamState) -> list[Tensor]:
    return [state.code, state.h, *state.core]


def step_once(engine: DreamEngine, t: int) -> list[Tensor]:
    """Run one step and return all its results."""
    step = engine.step(actions_at(t, engine.num_envs))
    return [*(part.clone() for part in parts(engine.state)), *step]


def run(engine: DreamEngine, steps: int) -> list[list[Tensor]]:
    return [step_once(engine, t) for t in range(steps)]


def same(a: list[list[Tensor]], b: list[list[Tensor]], rows: Any = slice(None)) -> bool:
    return all(
        torch.equal(x[rows], y[rows])
        for one, other in zip(a, b, strict=True)
        for x, y in zip(one, other, strict=True)
    )


# --- seeds and random numbers --------------------------------------------------------------------


@pytest.mark.parametrize("sampled", [False, True])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(make_engine, sampled) -> None:
    options = {"termination": "sample", "reward": "sample"} if sampled else {}
    histories = []
    for seed in (11, 11, 12):
        engine = make_engine(**options)
        starts = engine.reset(seed=seed)
        histories.append([[starts, *parts(engine.state)], *run(engine, 20)])
    assert same(histories[0], histories[1])
    assert not same(histories[0], histories[2])


def test_reseeding_repeats_the_dreams(make_engine) -> None:
    engine = make_engine()
    engine.reset(seed=3)
    first = run(engine, 6)
    engine.reset(torch.arange(E) < 2)
    run(engine, 3)
    engine.reset(seed=3)
    assert same(run(engine, 6), first)


def test_without_a_seed_no_two_engines_agree(make_engine) -> None:
    starts = [make_engine(num_envs=16).reset() for _ in range(2)]
    assert not torch.equal(*starts)


@pytest.mark.parametrize("kind", [torch.arange, np.arange], ids=["torch", "numpy"])
@pytest.mark.parametrize("key", [0, 1, 123456789, 2**63 - 1, 2**64 - 5])
def test_the_hash_of_starts_is_splitmix64(kind, key) -> None:
    """In torch (GPU) and in numpy (CPU); int64 wraps around in both."""

    def split_mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    found = [x % 2**64 for x in _split_mix(kind(1, 400), key).tolist()]
    assert found == [split_mix((x * 0x9E3779B97F4A7C15 + key) % 2**64) for x in range(1, 400)]


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 2**64 + 5])
def test_starts_are_spread_over_all_contexts(make_engine, seed) -> None:
    engine = make_engine(num_envs=50)
    engine.seed(seed)
    counts = torch.zeros(20)
    for _ in range(40):
        counts += torch.bincount(engine.reset(), minlength=20)
    # 2000 draws over 20 contexts: 100 each, within 5 standard deviations.
    assert counts.min() > 50
    assert counts.max() < 150


def test_dreams_from_one_moment_have_different_futures(make_engine) -> None:
    engine = make_engine(num_envs=64)
    engine.reset(indices=torch.full((64,), 4), seed=0)
    assert len(engine.state.code.unique(dim=0)) == 1
    for _ in range(4):
        engine.step(torch.zeros(64, dtype=torch.int64))
    assert len(engine.state.code.unique(dim=0)) > 32


def test_temperature_zero_dreams_the_mode(make_engine) -> None:
    engine = make_engine(temperature=0.0)
    engine.reset(indices=torch.full((E,), 4), seed=0)
    for _ in range(4):
        engine.step(torch.zeros(E, dtype=torch.int64))
    assert len(engine.state.code.unique(dim=0)) == 1


# --- dreams are independent -----------------------------------------------------------------------


def test_a_reset_leaves_the_others_bit_for_bit(make_engine) -> None:
    engine = make_engine()
    engine.reset(seed=0)
    run(engine, 7)
    before = engine.get_state()
    mask = torch.tensor([True, False, False, True, False])
    engine.reset(mask)
    after = engine.get_state()
    assert same([[*parts(before.dream), before.steps]], [[*parts(after.dream), after.steps]], ~mask)
    assert after.steps[mask].tolist() == [0, 0]
    for row in mask.nonzero().flatten():
        assert not torch.equal(after.dream.h[row], before.dream.h[row])


def test_a_reset_does_not_change_the_future_of_others(make_engine) -> None:
    """Neither their steps nor the contexts that they will start from."""
    mask = torch.tensor([True, False, False, True, False])
    quiet, busy = make_engine(), make_engine()
    quiet.reset(seed=5)
    busy.reset(seed=5)
    histories: tuple[list[Any], list[Any]] = ([], [])
    for t in range(9):
        histories[0].append(step_once(quiet, t))
        histories[1].append(step_once(busy, t))
        busy.reset(mask)
    assert same(*histories, rows=~mask)
    assert torch.equal(quiet.reset()[~mask], busy.reset()[~mask])
    assert same(run(quiet, 3), run(busy, 3), rows=~mask)


def test_a_reset_dream_is_as_fresh_as_a_new_one(make_engine) -> None:
    indices = torch.tensor([3, 1, 4, 1, 5])
    used, new = make_engine(), make_engine()
    used.reset(seed=0)
    run(used, 13)
    used.reset(torch.arange(E) == 2, indices)
    new.reset(indices=indices)
    state, fresh = used.get_state(), new.get_state()
    assert same([[*parts(state.dream), state.steps]], [[*parts(fresh.dream), fresh.steps]], rows=2)
    used.reset(indices=indices, seed=8)
    new.reset(indices=indices, seed=8)
    assert same(run(used, 5), run(new, 5))


def test_the_first_reset_must_start_every_dream(make_engine) -> None:
    engine = make_engine()
    with pytest.raises(GlamError, match="have not begun"):
        engine.step(actions_at(0))
    with pytest.raises(GlamError, match="first reset"):
        engine.reset(torch.arange(E) == 2)


# --- one transition ------------------------------------------------------------------------------


@pytest.mark.parametrize("sampled", [False, True])
def test_frame_reward_and_end_come_from_one_transition(
    make_engine, make_world_model, make_contexts, sampled
) -> None:
    """The engine agrees with the world model stepped by hand, with the same seed.

    They part by rounding: the engine's weights are laid out otherwise.
    """
    kind = "sample" if sampled else None
    engine = make_engine(
        bias=0.0,
        reward=kind or "mean",
        termination=kind or "threshold",
        temperature=0.7,
        precision="float32",
    )
    starts = engine.reset(seed=21)
    model, contexts = make_world_model(0.0), make_contexts()
    generator = torch.Generator().manual_seed(21)
    rows = [  # each context by itself, as in the pool
        model.warm_up(contexts.codes[i : i + 1].long(), contexts.actions[i : i + 1].long())
        for i in starts.tolist()
    ]
    state = DreamState(
        torch.cat([row.code for row in rows]),
        torch.cat([row.h for row in rows]),
        type(rows[0].core)(*map(torch.cat, zip(*(row.core for row in rows), strict=True))),
    )
    ends = []
    for t in range(12):
        step = engine.step(actions_at(t))
        expected = model.step(state, actions_at(t), temperature=0.7, generator=generator)
        assert torch.equal(engine.state.code, expected.state.code)
        for part, other in zip(parts(engine.state), parts(expected.state), strict=True):
            torch.testing.assert_close(part, other, atol=1e-5, rtol=1e-5)
        probability = expected.termination_logit.sigmoid()
        if sampled:
            draw = torch.rand(E, generator=generator)
            reward = RewardValues(model.reward_code).sample(expected.reward_logits, draw)
            ended = torch.rand(E, generator=generator) < probability
            assert torch.equal(reward, reward.round())
        else:
            reward, ended = expected.reward, probability > 0.5
        torch.testing.assert_close(step.reward, reward, atol=1e-5, rtol=1e-5)
        assert torch.equal(step.terminated, ended)
        prior = model.prior_log_probs(expected.state.h)
        torch.testing.assert_close(step.prior_entropy, -(prior.exp() * prior).sum((1, 2)))
        ends.append(ended)
        state = expected.state
    assert 0 < int(torch.stack(ends).sum()) < 12 * E


def test_types_and_devices(make_engine) -> None:
    engine = make_engine()
    engine.reset(seed=0)
    step = engine.step(actions_at(0))
    assert [t.dtype for t in step] == [torch.float32, torch.bool, torch.bool, torch.float32]
    assert all(t.shape == (E,) and not t.is_inference() for t in step)
    assert not any(t.requires_grad for t in step)


def test_a_dream_is_truncated_at_the_horizon_and_not_before(make_engine) -> None:
    engine = make_engine(max_episode_steps=6)
    engine.reset(seed=0)
    run(engine, 2)
    engine.reset(torch.arange(E) == 1)
    truncated = torch.stack([engine.step(actions_at(t)).truncated for t in range(6)])
    late = torch.arange(E) == 1
    assert truncated[:, ~late].sum(0).tolist() == [3, 3, 3, 3]  # from the 6th step on
    assert truncated[:, ~late].int().argmax(0).tolist() == [3, 3, 3, 3]
    assert truncated[:, late].flatten().tolist() == [False] * 5 + [True]


def test_what_ends_at_the_horizon_by_itself_is_not_truncated(make_engine) -> None:
    engine = make_engine(bias=99.0, max_episode_steps=1)
    engine.reset(seed=0)
    step = engine.step(actions_at(0))
    assert bool(step.terminated.all())
    assert not bool(step.truncated.any())


# --- copies --------------------------------------------------------------------------------------


def test_a_state_is_a_copy_both_ways(make_engine) -> None:
    engine = make_engine(max_episode_steps=10)
    engine.reset(seed=0)
    run(engine, 4)
    saved = engine.get_state()
    engine.seed(9)
    first = run(engine, 6)
    engine.set_state(saved)
    engine.seed(9)
    assert same(run(engine, 6), first)  # truncations included
    engine.set_state(saved)
    for tensor in (*parts(saved.dream), saved.steps):
        tensor.zero_()
    engine.seed(9)
    assert same(run(engine, 6), first)


def test_returned_tensors_are_never_written_again(make_engine) -> None:
    engine = make_engine()
    engine.reset(seed=0)
    steps = [engine.step(actions_at(t)) for t in range(3)]
    copies = [[t.clone() for t in step] for step in steps]
    engine.reset(torch.arange(E) < 3)
    run(engine, 3)
    assert same([list(step) for step in steps], copies)


# --- start contexts ------------------------------------------------------------------------------


def test_a_start_has_the_same_bits_in_every_order(make_world_model, make_contexts) -> None:
    model, contexts = make_world_model(), make_contexts()
    everyone = torch.ones(20, dtype=torch.bool)
    at_once = ContextPool(model, contexts, CPU, frames=True)
    one_by_one = ContextPool(model, contexts, CPU, frames=True)
    states = at_once.states(torch.arange(20), everyone)
    frames = at_once.frames(torch.arange(20), everyone)
    for i in reversed(range(20)):
        index, mask = torch.tensor([i]), torch.tensor([True])
        assert same([parts(one_by_one.states(index, mask))], [[p[[i]] for p in parts(states)]])
        assert torch.equal(one_by_one.frames(index, mask), frames[[i]])
    # A batched pass of the world model gives the same, up to rounding.
    expected = model.warm_up(contexts.codes.long(), contexts.actions.long())
    for own, part in zip(parts(states), parts(expected), strict=True):
        torch.testing.assert_close(own, part)
    drawn = draw_frames(model, contexts.codes[:, -1].long())
    assert (drawn.int() - frames.int()).abs().max() <= 1


def test_starts_are_copies(make_world_model, make_contexts) -> None:
    pool = ContextPool(make_world_model(), make_contexts(), CPU)
    index, mask = torch.tensor([2]), torch.tensor([True])
    before = [part.clone() for part in parts(pool.states(index, mask))]
    for part in parts(pool.states(index, mask)):
        part.zero_()
    assert same([parts(pool.states(index, mask))], [before])


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"num_envs": 2.0}, "num_envs"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"max_episode_steps": True}, "max_episode_steps"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"termination": "never"}, "one of threshold, sample"),
        ({"reward": "median"}, "one of game, sample, mean"),
    ],
)
def test_impossible_options_are_refused(make_engine, options, says) -> None:
    with pytest.raises(GlamError, match=says):
        make_engine(**options)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta!"])
def test_a_device_that_is_not_there_is_refused(name) -> None:
    with pytest.raises(GlamError, match="cannot be used"):
        find_device(name)


def test_auto_is_a_device_that_works() -> None:
    assert torch.zeros(1, device=find_device("auto")).item() == 0.0
