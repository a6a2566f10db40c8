"""Forked children: they step dreams and real games, and never wait for threads of the parent.

Each test starts Python afresh, since what matters is which threads ran before the fork. A child
that waits for ever fails the test by its time limit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glam_env.fast import choose

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

SECONDS = 120
BACKENDS = [
    pytest.param(
        "native", marks=pytest.mark.skipif(bool(choose.missing()), reason=choose.missing())
    ),
    "torch",
]

# Wakes threads of PyTorch, of the library and of oneDNN in the parent.
PARENT = """
import os, sys, warnings
import gymnasium as gym
import numpy as np
import torch
import glam_env
from glam_env import DreamVectorEnv

warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
torch.set_num_threads(3)
BACKEND = sys.argv[1]
OPTIONS = {"device": "cpu", "backend": BACKEND}

def dream(seed, envs=None):
    envs = envs or DreamVectorEnv("Pong", 300, **OPTIONS)
    first = envs.reset(seed=seed)[0]
    seen = [envs.step(np.arange(300) % 6)[0] for _ in range(3)]
    return int(first.sum()), [int(frames.sum()) for frames in seen], torch.get_num_threads()

a = torch.rand(500, 500)
a @ a, (a * 2).sum(), torch.rand(3_000_000).exp()
expected = dream(0)
assert expected[2] == 3
"""


def run(script: str, checkpoints: Path, *words: str) -> None:
    environment = os.environ | {"GLAM_CHECKPOINTS": str(checkpoints), "OMP_NUM_THREADS": "3"}
    started = subprocess.Popen(
        [sys.executable, "-c", PARENT + script, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = started.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)  # the children too
        started.communicate()
        pytest.fail(f"a forked child still waits after {SECONDS} seconds")
    assert started.returncode == 0, errors[-4000:]
    assert out.splitlines()[-1:] == ["done"], out


@pytest.mark.parametrize("backend", BACKENDS)
def test_workers_of_pools_dream_the_parent_s_numbers_on_one_thread(
    saved_checkpoint, backend
) -> None:
    """A pool of ``multiprocessing``, and an executor; also an env that was made before the fork."""
    run(
        """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

context = multiprocessing.get_context("fork")
with context.Pool(2) as pool:
    for found in pool.map(dream, [0, 0]):
        assert found == (*expected[:2], 1), (found, expected)
with ProcessPoolExecutor(2, mp_context=context) as executor:
    for found in executor.map(dream, [0, 0]):
        assert found == (*expected[:2], 1), (found, expected)

inherited = DreamVectorEnv("Pong", 300, **OPTIONS)
child = os.fork()
if child == 0:
    found = dream(0, inherited)
    os._exit(found != (*expected[:2], 1))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert dream(0) == expected  # the parent still has its threads
print("done")
""",
        saved_checkpoint.parent,
        backend,
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_gymnasium_s_async_vector_env_dreams(saved_checkpoint, backend) -> None:
    run(
        """
envs = gym.make_vec(
    "GLAMDream-Pong-v0",
    num_envs=2,
    vectorization_mode="async",
    vector_kwargs={"context": "fork"},
    **OPTIONS,
)
first, _ = envs.reset(seed=3)
for _ in range(3):
    seen = envs.step(np.array([1, 2]))[0]
alone = gym.make("GLAMDream-Pong-v0", **OPTIONS)
assert np.array_equal(alone.reset(seed=3)[0], first[0])
assert seen.shape == (2, 64, 64, 3)
envs.close()
print("done")
""",
        saved_checkpoint.parent,
        backend,
    )


@pytest.mark.skipif(bool(choose.missing()), reason=choose.missing())
def test_a_child_may_take_more_threads_for_native_steps(saved_checkpoint) -> None:
    """The library then starts threads of its own; PyTorch's would be those of the parent."""
    run(
        """
from glam_env.fast.native.bindings import load_library
from glam_env.fast.native.stepper import NativeStepper
from glam_env.checkpoint.folder import Checkpoint

checkpoint = Checkpoint.open("Pong")
model, contexts = checkpoint.world_model(), checkpoint.contexts()
index = torch.arange(300) % contexts.count
state = model.warm_up(contexts.codes[index].long(), contexts.actions[index].long())
stepper = NativeStepper(model)
state = stepper.arrange(state)  # so that PyTorch has nothing to do in the child
action, draw = index % 6, torch.rand(300, model.config.categoricals)
expected = stepper.step(state, action, draw).state.h
for loaded_before in (True, False):
    if not loaded_before:
        load_library.cache_clear()
    child = os.fork()
    if child == 0:
        load_library()
        torch.set_num_threads(3)
        again = stepper.step(state, action, draw).state.h
        os._exit(not bool((again == expected).all()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("done")
""",
        saved_checkpoint.parent,
        "native",
    )


@pytest.mark.emulator
def test_real_games_with_latents_run_in_children(saved_checkpoint) -> None:
    """An emulator that was made before the fork is refused there, and may be freed."""
    run(
        """
import gc
from glam_env import GlamError, RealVectorEnv

def play(envs):
    first = envs.reset(seed=1)[0]
    return [first, *(envs.step(np.arange(3))[0] for _ in range(3))]

options = {**OPTIONS, "obs_type": "latent"}
envs = RealVectorEnv("Pong", 3, **options)
expected = play(envs)
child = os.fork()
if child == 0:
    try:
        envs.step(np.arange(3))
    except GlamError as error:
        assert "another process" in str(error)
    else:
        os._exit(2)
    envs.close()
    del envs
    gc.collect()
    found = play(RealVectorEnv("Pong", 3, **options))
    same = all(np.allclose(*pair, atol=1e-4) for pair in zip(found, expected))
    os._exit(not same)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

games = gym.make_vec(
    "GLAMReal-Pong-v0",
    num_envs=2,
    vectorization_mode="async",
    vector_kwargs={"context": "fork"},
    **options,
)
games.reset(seed=1)
games.step(np.array([0, 1]))
games.close()
print("done")
""",
        saved_checkpoint.parent,
        "torch",
    )
