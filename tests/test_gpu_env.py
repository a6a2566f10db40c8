"""CUDA: envs keep their tensors on the device, and free its memory.

Run them with ``pytest -m gpu``. Without such a device they are skipped.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from comparison import assert_same

import glam_env  # noqa: F401  (registers the ids)
from glam_env.envs.wrappers import EpisodeStatistics
from glam_env.errors import GlamError, GlamNumberError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

DEVICE = "cuda"
E = 4


@pytest.fixture(autouse=True)
def _pong_is_tiny(saved_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(saved_checkpoint.parent))


def make(world: str = "Dream", **options: Any) -> Any:
    options = {"num_envs": E, "device": DEVICE, "array_type": "torch"} | options
    return gym.make_vec(f"GLAM{world}-Pong-v0", **options)


def to_host(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: to_host(item) for name, item in value.items()}
    return value.cpu().numpy()


def devices(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(devices, value.values()))
    return {value.device.type}


def play(envs: Any, steps: int) -> list[Any]:
    actions = torch.arange(E, device=DEVICE)
    return [to_host(dict(enumerate(envs.step((actions + t) % 6)))) for t in range(steps)]


@pytest.mark.parametrize("obs_type", ["rgb", "grayscale", "latent"])
@pytest.mark.parametrize("world", ["Dream", pytest.param("Real", marks=pytest.mark.emulator)])
def test_tensors_stay_on_the_device(world, obs_type) -> None:
    envs = EpisodeStatistics(make(world, obs_type=obs_type, max_episode_steps=3))
    observations, _ = envs.reset(seed=0)
    assert devices(observations) == {DEVICE}
    ends = 0
    for t in range(4):
        actions = torch.full((E,), t, device=DEVICE if t % 2 else "cpu")
        *parts, info = envs.step(actions if t else actions.numpy())
        assert set().union(*map(devices, parts)) == devices(info) == {DEVICE}
        ends += "episode" in info
    assert ends
    for device in ("cpu", DEVICE):
        envs.reset(options={"reset_mask": torch.arange(E, device=device) == 1})
    envs.close()


def test_a_seed_repeats_in_numpy_and_torch() -> None:
    envs, others = make(termination="sample", reward="sample"), make(array_type="numpy")
    envs.reset(seed=3)
    first = play(envs, 20)
    envs.reset(seed=3)
    assert_same(play(envs, 20), first)
    assert all(isinstance(part, np.ndarray) for part in others.reset(seed=3)[:1])
    envs.close()
    others.close()


def test_a_snapshot_continues_and_moves_to_the_cpu() -> None:
    envs, elsewhere = make(obs_type="latent"), make(obs_type="latent", device="cpu")
    envs.reset(seed=1)
    play(envs, 3)
    state = envs.get_state()
    first = play(envs, 15)
    seen = envs.set_state(state)
    assert_same(play(envs, 15), first)
    if DEVICE != "cpu":
        with pytest.raises(GlamError, match=f"draws on {DEVICE}, this env on cpu"):
            elsewhere.set_state(state)
    moved = elsewhere.set_state(state.without_draws())
    assert moved.device.type == "cpu"
    assert torch.equal(moved, seen.cpu())
    envs.close()
    elsewhere.close()


@pytest.mark.parametrize("obs_type", ["rgb", "latent"])
@pytest.mark.parametrize("world", ["Dream", pytest.param("Real", marks=pytest.mark.emulator)])
def test_close_frees_the_memory(world, obs_type) -> None:
    """The first env allocates the libraries' workspaces; the second leaves nothing."""
    left = []
    gc.collect()  # what other tests have left must not go meanwhile
    for _ in range(2):
        envs = make(world, obs_type=obs_type)
        envs.reset(seed=0)
        envs.step(torch.zeros(E, dtype=torch.int64, device=DEVICE))
        held = torch.cuda.memory_allocated()
        envs.close()
        left.append(torch.cuda.memory_allocated())
        assert left[-1] < held
    assert left[0] == left[1]


@pytest.mark.parametrize("array_type", ["numpy", "torch"])
@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP", "DISABLED"])
def test_numbers_that_are_not_finite_are_an_error(monkeypatch, mode, array_type) -> None:
    """Of the step itself, or of the next one where rows that ended are looked at then."""
    envs = make(obs_type="latent", autoreset_mode=mode, array_type=array_type)
    envs.reset(seed=0)
    envs.unwrapped.engine.world_model.termination.layers[-1].weight.fill_(3e38)
    spoiled = envs.unwrapped.engine.world_model
    monkeypatch.setattr("glam_env.checkpoint.folder.Checkpoint.world_model", lambda *_: spoiled)
    wrong = make(obs_type="latent", autoreset_mode=mode, array_type=array_type)
    wrong.reset(seed=0)
    actions = torch.arange(E, device=DEVICE)
    if mode != "SAME_STEP":
        info = wrong.step(actions)[4]
        assert bool(torch.as_tensor(info["prior_entropy"]).isnan().all())
    with pytest.raises(GlamNumberError, match="not finite"):
        wrong.step(actions)
    wrong.close()
    envs.close()
