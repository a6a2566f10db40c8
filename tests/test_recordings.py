"""Dreams that start from recorded real play."""

from __future__ import annotations

import lzma
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from glam_env.checkpoint.folder import Checkpoint
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.envs.recordings.contexts import read_contexts
from glam_env.envs.recordings.recording import Recording
from glam_env.errors import GlamError
from glam_env.evaluation.play.recording import record_play
from glam_env.evaluation.play.scores import RandomPolicy
from glam_env.model.distributions import sample_codes
from glam_env.model.world_model import WorldModel

L = 16


@pytest.fixture(scope="module")
def world_model(saved_checkpoint: Path) -> WorldModel:
    return Checkpoint.open(saved_checkpoint).world_model()


def episode(steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "frames": generator.integers(0, 256, (steps, 64, 64, 3), np.uint8),
        "actions": generator.integers(0, 6, steps),
    }


def batch(*episodes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.stack([each[name] for each in episodes]) for name in episodes[0]}


def assert_equal(one: Any, other: Any) -> None:
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(one.actions, other.actions)


def test_every_moment_with_enough_steps_before_it_is_a_context(world_model) -> None:
    recording = episode(20)
    contexts = read_contexts(recording, world_model, L)
    assert (contexts.count, contexts.length) == (4, L)
    assert contexts.codes.dtype == contexts.actions.dtype == torch.uint8
    for i in range(4):
        assert contexts.actions[i].tolist() == recording["actions"][i : i + L].tolist()
    for i in range(3):  # a frame has one latent, in whichever context
        assert torch.equal(contexts.codes[i, 1:], contexts.codes[i + 1, :-1])
    assert_equal(contexts, read_contexts(recording, world_model, L))


def test_latents_are_those_of_the_encoder(world_model, make_world_model) -> None:
    """A model that is certain of what it sees leaves nothing to chance."""
    sure = make_world_model()
    with torch.no_grad():
        for parameter in list(sure.encoder.parameters())[-2:]:
            parameter.mul_(1e4)
    recording = episode(20)
    log_probs = sure.encode(torch.from_numpy(recording["frames"]))
    best = sample_codes(log_probs, temperature=0.0)
    likely = log_probs.exp().amax(-1) > 0.98
    assert likely.float().mean() > 0.9
    codes = read_contexts(recording, sure, L).codes
    seen = torch.cat([codes[0], codes[1:, -1]])
    agree = (seen == best)[likely].float().mean()
    assert agree > 0.95


def test_episodes_of_all_forms_are_the_same(world_model, tmp_path) -> None:
    """Arrays or tensors, one or a batch; a file, a folder, named in order."""
    first, second, short = episode(20, 1), episode(18, 2), episode(7, 3)
    folder = tmp_path / "episodes"
    folder.mkdir()
    for name, each in (("a", first), ("b", second), ("c", short)):
        np.savez_compressed(folder / f"{name}.npz", **each, reward=np.zeros(3))
    (folder / "notes.txt").write_text("not read")
    expected = read_contexts(folder, world_model, L)
    assert expected.count == 4 + 2
    assert_equal(read_contexts(str(folder), world_model, L), expected)

    one = read_contexts(first, world_model, L)
    as_tensors = {name: torch.from_numpy(value) for name, value in first.items()}
    safetensors.numpy.save_file(first, tmp_path / "first.safetensors")
    for source in (as_tensors, folder / "a.npz", tmp_path / "first.safetensors", batch(first)):
        assert_equal(read_contexts(source, world_model, L), one)
    assert torch.equal(expected.actions[:4], one.actions)


def test_no_context_crosses_the_end_of_an_episode(world_model) -> None:
    rows = batch(episode(40, 1), episode(40, 2))
    rows["ended"] = np.zeros((2, 40), bool)
    rows["ended"][0, [19, 25]] = True
    contexts = read_contexts(rows, world_model, L)
    # 20 steps, 6 (too few) and 14 (too few); and 40 in the other row.
    assert contexts.count == 4 + 24
    assert contexts.actions[3].tolist() == rows["actions"][0, 3:19].tolist()
    assert contexts.actions[4].tolist() == rows["actions"][1, :16].tolist()


def test_a_checkpoint_s_own_contexts_are_contexts(world_model, saved_checkpoint, tmp_path) -> None:
    contexts = read_contexts(saved_checkpoint / "contexts.safetensors", world_model, L)
    stored = (saved_checkpoint / "contexts.safetensors").read_bytes()
    (tmp_path / "contexts.safetensors.xz").write_bytes(lzma.compress(stored))
    again = read_contexts(tmp_path / "contexts.safetensors.xz", world_model, L)
    assert torch.equal(again.codes, contexts.codes)
    assert_equal(contexts, Checkpoint.open(saved_checkpoint).contexts())


@pytest.mark.parametrize("as_folder", [False, True])
def test_dreams_start_there(saved_checkpoint, tmp_path, world_model, as_folder) -> None:
    recording: Any = episode(19, 5)
    contexts = read_contexts(recording, world_model, L)
    if as_folder:
        np.savez(tmp_path / "episode.npz", **recording)
        recording = tmp_path
    envs = DreamVectorEnv(
        "Pong",
        3,
        device="cpu",
        checkpoint=saved_checkpoint,
        contexts=recording,
        obs_type="latent",
        array_type="torch",
    )
    observations, _ = envs.reset(options={"context": np.arange(3)})
    one_hot = torch.nn.functional.one_hot(contexts.codes[:, -1].long(), 4).flatten(1).float()
    assert torch.equal(observations[:, :16], one_hot)
    with pytest.raises(GlamError, match="0 … 2, got 3"):
        envs.reset(options={"context": 3})
    envs.reset(seed=1)
    envs.step(np.zeros(3, int))
    envs.close()


@pytest.mark.emulator
def test_recorded_play_is_a_source(saved_checkpoint) -> None:
    recording = record_play(RandomPolicy(6), "Pong", steps=40, num_envs=2, seed=0)
    assert isinstance(recording, Recording)
    envs = DreamVectorEnv(
        "Pong", 2, device="cpu", checkpoint=saved_checkpoint, contexts=vars(recording)
    )
    observations, _ = envs.reset(seed=0, options={"context": 7})
    assert observations.shape == (2, 64, 64, 3)
    envs.close()


def spoilt(**changes: Any) -> dict[str, Any]:
    return {k: v for k, v in (episode(20) | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (episode(16), "longest recorded episode has 16 steps; one of at least 17"),
        ({}, "actions is missing; a recording has frames"),
        (spoilt(frames=None), "frames is missing"),
        (spoilt(actions=None), "actions is missing"),
        (spoilt(actions=np.full(20, 6)), "actions must be in 0 … 5, got 6"),
        (spoilt(actions=np.zeros(20)), "actions must be integers"),
        (spoilt(actions=np.zeros(19, int)), "frames must be uint8 of shape"),
        (spoilt(frames=np.zeros((20, 84, 84, 3), np.uint8)), "frames must be uint8 of shape"),
        (spoilt(frames=np.zeros((20, 64, 64, 3))), "frames must be uint8 of shape"),
        (spoilt(frames=[[1], [2, 3]]), "frames is not an array of numbers"),
        (spoilt(frames=["a"]), "frames is not an array of numbers"),
        (spoilt(ended=np.zeros(3, bool)), "ended must be bool"),
        (spoilt(ended=np.zeros(20)), "ended must be bool"),
        ([1, 2], "must be a path or a mapping of arrays, got list"),
        (7, "must be a path or a mapping of arrays, got int"),
        ("/nowhere/at/all", "is not a folder, a .npz or a .safetensors file"),
        ("/nowhere/at/all.npz", "cannot be read"),
    ],
)
def test_what_is_no_recording_gets_one_line(world_model, source, says) -> None:
    with pytest.raises(GlamError, match=says) as caught:
        read_contexts(source, world_model, L)
    assert "\n" not in str(caught.value)


def test_damaged_files_get_one_line(world_model, tmp_path) -> None:
    np.savez_compressed(tmp_path / "good.npz", **episode(20))
    safetensors.numpy.save_file(episode(20), tmp_path / "good.safetensors")
    zipped = (tmp_path / "good.npz").read_bytes()
    flipped = bytearray(zipped)
    flipped[3000:3100] = bytes(100)
    damaged = {
        "cut.npz": zipped[:5000],
        "flipped.npz": bytes(flipped),
        "empty.npz": b"",
        "text.npz": b"frames, actions\n",
        "cut.safetensors": (tmp_path / "good.safetensors").read_bytes()[:5000],
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    np.savez(tmp_path / "objects.npz", frames=np.array([None]), actions=np.array([1]))
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("frames.npy", b"no array")
    for name in (*damaged, "array.npz", "objects.npz", "other.npz"):
        with pytest.raises(GlamError, match=rf"{name} (cannot be read|is not)") as caught:
            read_contexts(tmp_path / name, world_model, L)
        assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(GlamError, match=r"holds no \.npz files"):
        read_contexts(tmp_path / "empty", world_model, L)
