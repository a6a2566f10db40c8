"""Episode statistics, and Gymnasium's wrappers as docs/wrappers.md lists them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from comparison import assert_same, to_numpy
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import vector as theirs

from glam_env.envs.wrappers import EpisodeStatistics, FrameStacker
from glam_env.errors import GlamError

E = 4
MODES = [mode.name for mode in AutoresetMode]
DOCUMENT = (Path(__file__).parents[1] / "docs" / "wrappers.md").read_text()


@pytest.fixture(autouse=True)
def _surroundings(saved_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(saved_checkpoint.parent))
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def dreams(**options: Any) -> VectorEnv:
    options = {"num_envs": E, "device": "cpu", "max_episode_steps": 5} | options
    return gym.make_vec("GLAMDream-Pong-v0", **options)


def actions_at(t: int) -> np.ndarray:
    return (np.arange(E) * 5 + t) % 6


def steps(envs: VectorEnv, count: int, begin: bool = True) -> Iterator[tuple[Any, ...]]:
    """Reset and step; rows that the env does not reset are reset by hand."""
    mode = envs.metadata["autoreset_mode"]
    if begin:
        envs.reset(seed=0)
    for t in range(count):
        parts = envs.step(torch.from_numpy(actions_at(t)))
        yield parts
        done = parts[2] | parts[3]
        if mode is AutoresetMode.DISABLED and done.any():
            envs.reset(options={"reset_mask": done})


# --- statistics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_statistics_are_gymnasium_s(mode) -> None:
    """On numpy, to the precision of float32, also where rows are reset by hand."""
    if mode == "SAME_STEP" and gym.__version__ < "1.3":
        pytest.skip("Gymnasium 1.2 leaves out the first reward after an end in SAME_STEP")
    ours = EpisodeStatistics(dreams(autoreset_mode=mode))
    others = theirs.RecordEpisodeStatistics(dreams(autoreset_mode=mode))
    ends = 0
    for begin in (True, False):
        for one, other in zip(steps(ours, 13, begin), steps(others, 13, begin), strict=True):
            assert_same(one[:4], other[:4])
            assert one[4].keys() == other[4].keys()
            if "episode" in one[4]:
                mine, yours = one[4]["episode"], other[4]["episode"]
                assert mine.keys() == yours.keys()
                np.testing.assert_allclose(mine["r"], yours["r"], rtol=1e-5)
                assert_same(mine["l"], yours["l"])
                assert_same(one[4]["_episode"], other[4]["_episode"])
                assert (mine["t"][one[4]["_episode"]] > 0).all()
                assert (mine["t"][~one[4]["_episode"]] == 0).all()
                assert [mine[name].dtype for name in "rlt"] == [np.float32, np.int64, np.float32]
                ends += 1
        mask = np.arange(E) < 2
        options = {"reset_mask": mask}
        ours.reset(options=options)
        assert options["reset_mask"] is mask
        others.reset(options={"reset_mask": mask.copy()})
    assert ends > 4
    np.testing.assert_allclose(list(ours.return_queue), list(others.return_queue), rtol=1e-5)
    assert list(ours.length_queue) == list(others.length_queue)
    assert len(ours.time_queue) == len(others.time_queue)
    assert ours.episode_count == others.episode_count == len(ours.length_queue)
    ours.close()
    others.close()


@pytest.mark.parametrize("mode", MODES)
def test_statistics_of_tensors_are_tensors_of_one_s_own(mode) -> None:
    in_torch = EpisodeStatistics(dreams(autoreset_mode=mode, array_type="torch"))
    in_numpy = EpisodeStatistics(dreams(autoreset_mode=mode))
    kept = []
    for one, other in zip(steps(in_torch, 16), steps(in_numpy, 16), strict=True):
        if "episode" in one[4]:
            episode, mask = one[4]["episode"], one[4]["_episode"]
            assert all(type(value) is torch.Tensor for value in (*episode.values(), mask))
            for name in "rl":
                assert_same(to_numpy(episode[name]), other[4]["episode"][name])
            assert_same(to_numpy(mask), other[4]["_episode"])
            for value in (*episode.values(), mask):
                value.fill_(1)
                kept.append(value)
    assert kept
    assert all((value == 1).all() for value in kept)
    assert list(in_torch.return_queue) == list(in_numpy.return_queue)
    in_torch.close()
    in_numpy.close()


def test_queues_hold_the_last_episodes() -> None:
    envs = EpisodeStatistics(dreams(), buffer_length=3, stats_key="stats")
    infos = [parts[4] for parts in steps(envs, 12)]
    assert envs.episode_count > 3
    assert len(envs.return_queue) == len(envs.length_queue) == len(envs.time_queue) == 3
    assert any("stats" in info for info in infos)
    envs.close()


def test_mistakes_in_the_chain_are_named() -> None:
    envs = dreams()
    with pytest.raises(GlamError, match="buffer_length must be a whole number"):
        EpisodeStatistics(envs, buffer_length=0)
    envs = dreams()  # Gymnasium 1.2 closes the first one with the wrapper that was not made
    twice = EpisodeStatistics(EpisodeStatistics(envs))
    twice.reset(seed=0)
    with pytest.raises(GlamError, match="another stats_key"):
        list(steps(twice, 6))
    envs.metadata["autoreset_mode"] = "SameStep"
    with pytest.raises(GlamError, match="needs metadata"):
        EpisodeStatistics(envs)
    envs.close()


# --- stacked frames ------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, 3, 4, 4)), (-1, (2, 4, 4, 3)), (1, (2, 5))])
def test_stacks_hold_the_last_observations_of_one_episode(axis, shape) -> None:
    stacker = FrameStacker(3, axis)
    seen = [torch.full(shape, float(t)) for t in range(5)]
    begun = torch.ones(2, dtype=torch.bool)
    stacks = []
    for t, observations in enumerate(seen):
        if t == 3:
            begun = torch.tensor([False, True])
        stacks.append(stacker.push(observations, begun))
        begun = torch.zeros(2, dtype=torch.bool)
        observations.fill_(-1.0)  # the caller's own
    for row, expected in (
        (0, [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]),
        (1, [[0, 0, 0], [0, 0, 1], [0, 1, 2], [3, 3, 3], [3, 3, 4]]),
    ):
        parts = [stack[row : row + 1].chunk(3, axis) for stack in stacks]
        assert [[int(part.flatten()[0]) for part in stack] for stack in parts] == expected
    rows = torch.tensor([1])
    peeked = stacker.peek(torch.full((1, *shape[1:]), 9.0), rows)
    assert [int(part.flatten()[0]) for part in peeked.chunk(3, axis)] == [3, 4, 9]


# --- the document --------------------------------------------------------------------------------

CHAINS = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in DOCUMENT.splitlines()
    if line.startswith("| `")
][1:]
CLAIMS = {
    name: (numpy.startswith("yes"), tensors.startswith("yes"), modes)
    for names, numpy, tensors, modes in ROWS
    for name in re.findall(r"`(\w+)`", names)
}
SCALED = gym.spaces.Box(0.0, 1.0, (64, 64, 3), np.float32)
WRAPPERS: dict[str, Callable[[VectorEnv, Path], VectorEnv]] = {
    "EpisodeStatistics": lambda envs, _: EpisodeStatistics(envs),
    "TransformReward": lambda envs, _: theirs.TransformReward(envs, lambda reward: 2 * reward),
    "TransformAction": lambda envs, _: theirs.TransformAction(
        envs, lambda actions: 5 - actions, single_action_space=envs.single_action_space
    ),
    "TransformObservation": lambda envs, _: theirs.TransformObservation(
        envs, lambda seen: seen / 255, single_observation_space=SCALED
    ),
    "ClipReward": lambda envs, _: theirs.ClipReward(envs, -1.0, 1.0),
    "RescaleObservation": lambda envs, _: theirs.RescaleObservation(envs, 0.0, 1.0),
    "ReshapeObservation": lambda envs, _: theirs.ReshapeObservation(envs, (64 * 64, 3)),
    "DtypeObservation": lambda envs, _: theirs.DtypeObservation(envs, np.float32),
    "RecordVideo": lambda envs, folder: theirs.RecordVideo(
        envs, str(folder / "videos"), episode_trigger=lambda episode: True
    ),
}


@pytest.mark.parametrize("code", CHAINS)
@pytest.mark.parametrize("world", ["Dream", pytest.param("Real", marks=pytest.mark.emulator)])
def test_each_documented_chain_runs(code, world) -> None:
    space: dict[str, Any] = {}
    exec(compile(code.replace("Dream", world), "WRAPPERS.md", "exec"), space)
    envs = space["envs"]
    observations, _ = envs.reset(seed=0)
    kind = torch.Tensor if 'array_type="torch"' in code else np.ndarray
    for _ in range(14 if world == "Dream" else 2):
        observations, rewards, *flags, info = envs.step(envs.action_space.sample())
        assert to_numpy(observations) in envs.observation_space
        assert all(isinstance(part, kind) for part in (observations, rewards, *flags))
        if "episode" in info:
            break
    else:
        assert world == "Real"
    envs.close()


def test_the_document_says_what_there_is() -> None:
    assert len(CHAINS) == 4
    assert len(CLAIMS) == 16
    unknown = CLAIMS.keys() - set(dir(theirs)) - {"EpisodeStatistics"}
    assert not unknown


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("array_type", ["numpy", "torch"])
@pytest.mark.parametrize("name", CLAIMS)
def test_each_row_of_the_table_holds(name, array_type, mode, tmp_path) -> None:
    """What it lists as working works, and the rest does not."""
    others = {"HumanRendering": "cv2", "RecordVideo": "moviepy"}
    if name in others and find_spec(others[name]) is None:
        pytest.skip(f"{name} needs {others[name]}, of gymnasium[other]")
    in_numpy, in_torch, modes = CLAIMS[name]
    claimed = in_numpy if array_type == "numpy" else in_torch
    claimed = claimed and ("any" in modes or mode in modes)
    envs = dreams(num_envs=2, array_type=array_type, autoreset_mode=mode, render_mode="rgb_array")
    kind = np.ndarray if array_type == "numpy" else torch.Tensor
    if claimed:
        assert kinds_through(name, envs, tmp_path) == {kind}
        assert name != "RecordVideo" or list(tmp_path.glob("videos/*.mp4"))
        return
    try:
        kinds = kinds_through(name, envs, tmp_path)
    except GlamError:
        raise
    except Exception:
        return  # numpy's, torch's or Gymnasium's own, of whatever type
    assert kinds != {kind}


def kinds_through(name: str, envs: VectorEnv, folder: Path) -> set[type]:
    """Run a wrapper through some episodes; return the types of observations, rewards, flags."""
    make = WRAPPERS.get(name, lambda envs, _: getattr(theirs, name)(envs))
    mode = envs.metadata["autoreset_mode"]
    kinds = set()
    with closing(envs):
        wrapped = make(envs, folder)
        wrapped.reset(seed=0)
        for _ in range(6):
            *parts, _ = wrapped.step(np.ones(2, int))
            kinds |= set(map(type, parts))
            done = parts[2] | parts[3]
            if mode is AutoresetMode.DISABLED and done.any():
                wrapped.reset(options={"reset_mask": to_numpy(done)})
        wrapped.close()
    return kinds
