"""Snapshots: continuing, branching, moving to other envs; and what is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import branching
import numpy as np
import pytest
import torch
from comparison import assert_same, to_numpy
from PIL import Image

from glam_env.checkpoint.folder import save_checkpoint
from glam_env.envs.dream.env import DreamEnv, DreamVectorEnv
from glam_env.errors import GlamError
from glam_env.games import GAMES

E = 4
OBSERVATIONS = ("rgb", "grayscale", "latent")


@pytest.fixture(autouse=True)
def _pong_is_tiny(saved_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(saved_checkpoint.parent))


@pytest.fixture
def make_envs() -> Iterator[Callable[..., DreamVectorEnv]]:
    made: list[DreamVectorEnv] = []

    def make(num_envs: int = E, **options: Any) -> DreamVectorEnv:
        made.append(DreamVectorEnv("Pong", num_envs, **({"device": "cpu"} | options)))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


def go_on(envs: DreamVectorEnv, steps: int = 14) -> list[Any]:
    """Step past the first ends, then reset once without a seed."""
    acts = [(np.arange(envs.num_envs) * 5 + t) % 6 for t in range(steps)]
    history = [to_numpy(dict(enumerate(envs.step(actions)))) for actions in acts]
    return [*history, to_numpy(envs.reset()[0])]


@pytest.mark.parametrize("array_type", ["numpy", "torch"])
@pytest.mark.parametrize("obs_type", OBSERVATIONS)
@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP"])
def test_a_whole_snapshot_goes_on_to_the_bit_wherever_it_is_put(
    make_envs, mode, obs_type, array_type
) -> None:
    options = {"array_type": array_type, "obs_type": obs_type, "autoreset_mode": mode}
    envs = make_envs(**options, termination="sample", reward="sample")
    envs.reset(seed=3)
    for t in range(3):
        seen = envs.step(np.full(E, t))[0]
    state = envs.get_state()
    first = go_on(envs)
    assert_same(to_numpy(envs.set_state(state)), to_numpy(seen))
    assert_same(go_on(envs), first)
    other = make_envs(**options, termination="sample", reward="sample")
    assert_same(to_numpy(other.set_state(state)), to_numpy(seen))  # without a reset before
    assert_same(go_on(other), first)
    kept = pickle.loads(pickle.dumps(state))
    other.set_state(kept)
    assert_same(go_on(other), first)


def test_a_snapshot_is_a_copy_both_ways(make_envs) -> None:
    envs = make_envs()
    envs.reset(seed=0)
    envs.step(np.zeros(E, int))
    state = envs.get_state()
    before = copy.deepcopy(state)
    shown = envs.set_state(state)
    shown[:] = 7
    go_on(envs)
    for own, was in zip(tensors_of(state), tensors_of(before), strict=True):
        assert torch.equal(own, was)
    selection = state.rows([1, 1])
    for tensor in tensors_of(selection):
        tensor.fill_(1)
    for own, was in zip(tensors_of(state), tensors_of(before), strict=True):
        assert torch.equal(own, was)


def tensors_of(state: Any) -> list[torch.Tensor]:
    dream = state.engine.dream
    parts = [dream.code, dream.h, *dream.core, state.engine.steps, state.done, state.frames]
    return parts if state.draws is None else [*parts, state.draws.generator]


def test_one_moment_branches_into_as_many_futures_as_there_are_dreams(make_envs) -> None:
    trunk = make_envs(obs_type="latent")
    trunk.reset(seed=1)
    here = trunk.step(np.ones(E, int))[0]
    envs = make_envs(64, obs_type="latent", autoreset_mode="DISABLED", reward="game")
    envs.reset(seed=5)
    moment = trunk.get_state().rows([2] * 64)
    assert_same(envs.set_state(moment), np.stack([here[2]] * 64))
    futures = envs.step(np.full(64, 3))
    assert len(np.unique(futures[0], axis=0)) > 32
    # Their prediction is the same: they differ from the draw of the next latent on.
    assert (futures[1] == futures[1][0]).all()
    assert (futures[4]["prior_entropy"] == futures[4]["prior_entropy"][0]).all()
    # The seed of the reset before it fixes the futures.
    for seed, same in ((5, True), (6, False)):
        envs.reset(seed=seed)
        envs.set_state(moment)
        assert np.array_equal(envs.step(np.full(64, 3))[0], futures[0]) is same


def test_steps_lived_are_part_of_a_dream(make_envs, endless_checkpoint) -> None:
    """A branch ends after the steps that remain to the horizon."""
    options = {"obs_type": "latent", "checkpoint": endless_checkpoint, "max_episode_steps": 6}
    envs, branches = make_envs(**options), make_envs(2, **options)
    envs.reset(seed=0)
    for _ in range(4):
        assert not envs.step(np.zeros(E, int))[3].any()
    branches.set_state(envs.get_state().rows([0, 0]))
    assert not branches.step(np.zeros(2, int))[3].any()
    assert branches.step(np.zeros(2, int))[3].all()


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (2, [2]),
        ([3, 0, 3], [3, 0, 3]),
        (np.array([1, 2], np.uint8), [1, 2]),
        (torch.tensor([0]), [0]),
        (np.array([True, False, False, True]), [0, 3]),
        (torch.tensor([False, True, False, False]), [1]),
    ],
)
def test_rows_are_chosen_by_numbers_or_a_mask(make_envs, index, rows) -> None:
    envs = make_envs(obs_type="latent")
    seen, _ = envs.reset(seed=4)
    state = envs.get_state()
    chosen = state.rows(index)
    assert (state.num_envs, chosen.num_envs, chosen.draws) == (E, len(rows), None)
    few = make_envs(len(rows), obs_type="latent")
    assert_same(few.set_state(chosen), seen[rows])
    assert state.without_draws().draws is None


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (4, r"dreams 0 … 3; got \[4\]"),
        (-1, r"dreams 0 … 3; got \[-1\]"),
        ([], "integers of shape"),
        ([0.5], "integers of shape"),
        ([[0, 1]], "integers of shape"),
        (np.ones(3, bool), "integers of shape"),
        ("first", "integers"),
        (None, "integers"),
    ],
)
def test_rows_that_are_not_there_are_refused(make_envs, index, says) -> None:
    envs = make_envs(obs_type="latent")
    envs.reset(seed=4)
    with pytest.raises(GlamError, match=says):
        envs.get_state().rows(index)


@pytest.mark.parametrize("mode", ["NEXT_STEP", "DISABLED"])
def test_ended_dreams_are_kept_as_ended(make_envs, mode) -> None:
    envs = make_envs(obs_type="latent", max_episode_steps=1, autoreset_mode=mode)
    envs.reset(seed=0)
    envs.step(np.zeros(E, int))
    state = envs.get_state()
    assert state.done.all()
    envs.reset()
    envs.set_state(state)
    if mode == "DISABLED":
        with pytest.raises(GlamError, match="have ended"):
            envs.step(np.zeros(E, int))
    else:
        assert (envs.step(np.zeros(E, int))[4]["prior_entropy"] == 0).all()
    same_step = make_envs(obs_type="latent")
    same_step.reset(seed=1)
    with pytest.raises(GlamError, match=r"dreams \[0, 1, 2, 3\] of the snapshot have ended"):
        same_step.set_state(state)
    assert len(same_step.step(np.zeros(E, int))) == 5


def test_latents_are_drawn_where_frames_are_wanted(make_envs) -> None:
    """A snapshot of a latent env has no frames; another batch size may round a pixel."""
    latent, rgb = make_envs(obs_type="latent"), make_envs(obs_type="rgb")
    latent.reset(seed=2)
    expected, _ = rgb.reset(seed=2)
    rgb.reset(seed=3)
    state = latent.get_state()
    assert state.frames is None
    difference = rgb.set_state(state).astype(int) - expected
    assert np.abs(difference).max() <= 1


def test_a_single_dream_branches_too() -> None:
    env = DreamEnv(device="cpu", obs_type="latent")
    env.reset(seed=0, options={"context": 6})
    seen = env.step(2)[0]
    state = env.get_state()
    future = [env.step(1) for _ in range(1)]
    assert_same(env.set_state(state), seen)
    assert_same([env.step(1) for _ in range(1)], future)
    others = []
    for _ in range(8):
        env.set_state(state.without_draws())
        others.append(env.step(1)[0])
    assert len(np.unique(others, axis=0)) > 2
    env.close()


def test_a_snapshot_that_does_not_fit_is_refused_and_nothing_moves(
    make_envs, tmp_path, checkpoint_config, make_world_model, make_contexts
) -> None:
    elsewhere = save_checkpoint(
        tmp_path / "elsewhere",
        config=checkpoint_config,
        world_model_state=make_world_model(-2.0).export_state(),
        agent_state={},
        contexts=make_contexts(),
        card="",
    )
    envs, other = make_envs(), make_envs()
    foreign = make_envs(checkpoint=elsewhere)
    for each in (envs, other, foreign):
        each.reset(seed=0)
    state = envs.get_state()
    on_gpu = state.draws._replace(starts_drawn=state.draws.starts_drawn.to("meta"))
    for wrong, says in (
        (foreign.get_state(), "of another world model"),
        (state.rows([0]), "holds 1 dreams and this env 4: select that many with its rows"),
        (None, "takes a DreamSnapshot of get_state"),
        (replace(state, draws=on_gpu), "draws on meta, this env on cpu"),
    ):
        with pytest.raises(GlamError, match=says) as caught:
            envs.set_state(wrong)
        assert "\n" not in str(caught.value)
    assert_same(go_on(envs), go_on(other))


def test_there_is_no_snapshot_before_the_beginning_or_after_the_end(make_envs) -> None:
    envs = make_envs()
    with pytest.raises(GlamError, match="have not begun"):
        envs.get_state()
    envs.reset(seed=0)
    state = envs.get_state()
    envs.close()
    with pytest.raises(GlamError, match="closed"):
        envs.get_state()
    with pytest.raises(GlamError, match="closed"):
        envs.set_state(state)


# --- the example ---------------------------------------------------------------------------------


def test_the_example_draws_all_actions_from_one_moment(tmp_path, capsys) -> None:
    args = branching.Args(futures=2, steps=3, picture=tmp_path / "futures.png", device="cpu")
    found = branching.main(args)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines[:6]] == list(GAMES["Pong"].action_meanings)
    context = int(lines[6].split("context ")[1].split(",")[0])
    assert found.seen.shape == (3, 12, 64, 64, 3)
    with Image.open(args.picture) as image:
        assert image.format == "PNG"
        assert image.width > image.height > 300

    # The same by hand: a batch that starts there.
    envs = DreamVectorEnv("Pong", 12, device="cpu", max_episode_steps=4, autoreset_mode="NEXT_STEP")
    first, _ = envs.reset(seed=args.seed, options={"context": context})
    assert_same(found.moment, first[0])
    seen, *_ = envs.step(np.repeat(np.arange(6), 2))
    assert_same(found.seen[0], seen)
    assert not np.array_equal(seen[0], seen[1])  # two futures of one action
    again = branching.branch(
        *(branching.make(args, count, "latent") for count in (1, 12)), context, args
    )
    assert_same(again.returns, found.returns)
    assert_same(again.entropies, found.entropies)
    envs.close()


def test_a_dream_that_ends_stays_at_its_last_frame_in_the_example() -> None:
    args = branching.Args(steps=8, device="cpu")
    for seed in range(4):
        args.seed = seed
        pair = [branching.make(args, count, "latent") for count in (1, 6)]
        found = branching.branch(*pair, 3, args)
        still = (found.seen[-1] == found.seen[-2]).all(1)
        if still.any():
            break
    assert still.any()
    assert np.isfinite(found.entropies).all()


def test_trails_show_what_moved_over_what_stood_still() -> None:
    frames = np.full((5, 1, 8, 8, 3), 100, np.uint8)
    for t in range(5):
        frames[t, 0, 4, t] = 200  # a ball that flies to the right
    row = branching.trails(frames)[0, 4, :, 0].astype(int)
    assert row[4] == 200
    assert 100 < row[0] < row[1] < row[2] < row[3] < 200
    assert (row[5:] == 100).all()
