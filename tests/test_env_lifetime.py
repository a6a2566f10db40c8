"""Envs at the edges: closed by another thread, copied, given options and tensors of odd kinds."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import glam_env  # noqa: F401  (registers the ids)
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.errors import GlamError
from glam_env.fast import choose

E = 3
BACKENDS = ["torch", *([] if choose.missing() else ["native"])]
WORLDS = ["Dream", pytest.param("Real", marks=pytest.mark.emulator)]


@pytest.fixture(autouse=True)
def _pong_is_tiny(saved_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(saved_checkpoint.parent))


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make_envs(world: str = "Dream", **options: Any) -> Any:
        made.append(gym.make_vec(f"GLAM{world}-Pong-v0", num_envs=E, device="cpu", **options))
        return made[-1]

    yield make_envs
    for envs in made:
        envs.close()


# --- closing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("obs_type", ["rgb", "latent"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_closing_an_env_ends_the_steps_of_another_thread_with_one_error(
    make, backend, obs_type
) -> None:
    def play(envs: Any, begun: threading.Event, errors: list[Exception]) -> None:
        envs.reset(seed=0)
        try:
            while True:
                envs.step(np.arange(E))
                begun.set()
        except Exception as error:
            errors.append(error)

    for _ in range(5):
        envs, begun = make(backend=backend, obs_type=obs_type), threading.Event()
        errors: list[Exception] = []
        thread = threading.Thread(target=play, args=(envs, begun, errors))
        thread.start()
        assert begun.wait(60)
        envs.close()
        thread.join(60)
        assert not thread.is_alive()
        assert [type(error) for error in errors] == [GlamError]
        assert "closed" in str(errors[0])


CALLS: dict[str, Callable[[Any], Any]] = {
    "reset": lambda envs: envs.reset(),
    "step": lambda envs: envs.step(np.arange(E)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("world", WORLDS)
def test_closing_in_the_midst_of_a_call_is_one_error(make, monkeypatch, world, name) -> None:
    """What the call fails with depends on how far it is; here it has just begun."""
    envs = make(world)
    envs.reset(seed=0)
    part = {"reset": "_begin", "step": "_advance"}[name]
    real = getattr(envs, part)

    def close_first(*arguments: Any) -> Any:
        envs.close()
        return real(*arguments)

    monkeypatch.setattr(envs, part, close_first)
    with pytest.raises(GlamError, match=rf"closed during {name}\(\): make a new one") as caught:
        CALLS[name](envs)
    assert "\n" not in str(caught.value)


def test_errors_of_an_open_env_are_not_called_closed(make, monkeypatch) -> None:
    envs = make()
    envs.reset(seed=0)

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(envs, "_advance", fail)
    with pytest.raises(ZeroDivisionError):
        envs.step(np.arange(E))


# --- copies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.emulator
def test_a_copy_of_real_games_is_refused_with_what_to_do(make, single, way) -> None:
    env = make("Real")
    if single:
        env = gym.make("GLAMReal-Pong-v0", device="cpu").unwrapped
    env.reset(seed=0)
    with pytest.raises(GlamError, match=r"cannot be copied or pickled, .*: make another one"):
        way(env)
    env.step(2 if single else np.arange(E))
    env.close()


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda e: pickle.loads(pickle.dumps(e)),
}


def play(env: Any, steps: int, actions: Any, seed: int | None = None) -> list[Any]:
    seen = [] if seed is None else [env.reset(seed=seed)[0]]
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(actions)
        seen += [observation, reward, terminated, truncated, info["prior_entropy"]]
        if env.metadata.get("autoreset_mode") is None and (terminated or truncated):
            seen.append(env.reset()[0])
    return seen


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("mode", ["single", "SAME_STEP", "NEXT_STEP"])
@pytest.mark.parametrize(
    "options", [{}, {"obs_type": "latent", "reward": "sample"}], ids=["rgb", "latent"]
)
def test_a_copy_goes_on_like_the_original(make, mode, way, options) -> None:
    if mode == "single":
        env: Any = gym.make("GLAMDream-Pong-v0", device="cpu", max_episode_steps=5, **options)
        env = env if way != "copy" else env.unwrapped  # a wrapper's shallow copy shares the env
    else:
        env = make(autoreset_mode=mode, max_episode_steps=5, **options)
    actions: Any = 2 if mode == "single" else np.arange(E)
    untouched = COPIES[way](env)
    assert untouched.spec.max_episode_steps == env.spec.max_episode_steps == 5
    play(env, 7, actions, seed=4)  # ends and begins again
    other = COPIES[way](env)
    assert all(map(np.array_equal, play(env, 12, actions), play(other, 12, actions)))
    assert all(map(np.array_equal, play(env, 6, actions, 8), play(untouched, 6, actions, 8)))
    for each in (other, untouched):
        each.close()
    if mode == "single":
        env.close()


def test_an_attribute_that_was_set_is_copied_and_a_closed_env_is_not(make) -> None:
    envs = make()
    envs.set_attr("note", 3)
    other = copy.deepcopy(envs)
    assert other.get_attr("note") == (3,) * E
    other.close()
    with pytest.raises(GlamError, match="closed: make a new one"):
        copy.copy(other)


PICKLED = """
import pickle, sys
import numpy as np
envs = pickle.load(open(sys.argv[1], "rb"))
print([int(envs.step(np.arange(3))[0].sum()) for _ in range(4)])
"""


def test_another_process_goes_on_from_a_pickle(make, tmp_path) -> None:
    envs = make(precision="float32")
    envs.reset(seed=1)
    envs.step(np.arange(E))
    path = tmp_path / "envs.pickle"
    path.write_bytes(pickle.dumps(envs))
    shown = subprocess.run(
        [sys.executable, "-c", "import torch; torch.set_num_threads(1)\n" + PICKLED, path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(shown) == [int(envs.step(np.arange(E))[0].sum()) for _ in range(4)]


# --- options and tensors -----------------------------------------------------------------------


@pytest.mark.parametrize("options", [5, 0, "context", ["reset_mask"], np.ones(3), True])
@pytest.mark.parametrize("single", [False, True])
def test_options_of_reset_that_are_no_dict_are_refused(make, single, options) -> None:
    env = gym.make("GLAMDream-Pong-v0", device="cpu") if single else make()
    with pytest.raises(GlamError, match=r"options of reset\(\) must be a dict or None, got"):
        env.reset(seed=0, options=options)
    env.reset(seed=0, options={})
    env.close()


ODD: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "meta": lambda x: x.to("meta"),
    "coo": lambda x: x.to_sparse(),
    "csr": lambda x: x[None].to_sparse_csr(),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_tensors_without_numbers_of_their_own_are_refused(make, kind) -> None:
    envs: DreamVectorEnv = make(autoreset_mode="DISABLED")
    envs.reset(seed=0)
    odd, actions = ODD[kind], torch.arange(E)
    expected = "must be a dense tensor with numbers"
    with pytest.raises(GlamError, match=f"actions {expected}"):
        envs.step(odd(actions))
    with pytest.raises(GlamError, match=rf"options\['context'\] {expected}"):
        envs.reset(options={"context": odd(actions)})
    with pytest.raises(GlamError, match=rf"options\['reset_mask'\] {expected}"):
        envs.reset(options={"reset_mask": odd(torch.ones(E, dtype=torch.bool))})
    single = gym.make("GLAMDream-Pong-v0", device="cpu")
    single.reset(seed=0)
    with pytest.raises(GlamError, match=f"action {expected}"):
        single.step(odd(actions[1:2]))
    single.close()


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.int8])
def test_actions_of_any_integers_are_taken(make, dtype) -> None:
    envs, other = make(), make()
    for each in (envs, other):
        each.reset(seed=0)
    taken = envs.step(torch.arange(E).to(dtype))[0]
    assert np.array_equal(taken, other.step(np.arange(E))[0])
