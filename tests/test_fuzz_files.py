"""Thousands of hostile checkpoints and recordings: each is read, or refused by a GlamError.

None may crash or hang the process, take a gigabyte, or raise anything else. `GLAM_FUZZ_CASES` sets
the number of cases; then they are other ones in each run.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from glam_agents import load_agent
from glam_agents.storm import ActorCritic, StormConfig
from hostile_files import HostileCheckpoints, recordings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import limits

from glam_env.checkpoint.config import CheckpointConfig
from glam_env.checkpoint.folder import Checkpoint, save_checkpoint
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.envs.recordings.contexts import read_contexts
from glam_env.errors import GlamError

CASES = 1000  # of each kind
SECONDS = 20  # of a case at most, on a busy machine too


def run_cases(count: int, strategy: Any, load: Callable[[Any], None]) -> Counter:
    """Load as many cases, within limits, and count what becomes of them."""
    asked, counts = os.environ.get("GLAM_FUZZ_CASES"), Counter()

    @settings(
        max_examples=int(asked or count),
        derandomize=asked is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(case: Any) -> None:
        with limits(seconds=SECONDS):
            try:
                load(case)
            except GlamError as error:
                message = str(error)
                assert message.isprintable()
                assert 0 < len(message) <= 1000
                counts["refused"] += 1
            else:
                counts["read"] += 1

    run()
    print(f"{dict(counts)} of {sum(counts.values())} cases")
    return counts


@pytest.fixture(scope="module")
def whole_checkpoint(
    tmp_path_factory, checkpoint_config: CheckpointConfig, make_world_model, make_contexts
) -> Path:
    """Save a checkpoint with an agent of the class that its config names."""
    sizes = checkpoint_config.world_model
    torch.manual_seed(0)
    agent = ActorCritic(StormConfig(hidden=8), sizes.feature_dim, sizes.num_actions)
    return save_checkpoint(
        tmp_path_factory.mktemp("fuzz") / "Pong",
        config=checkpoint_config,
        world_model_state=make_world_model().export_state(),
        agent_state=agent.export_state(),
        contexts=make_contexts(),
        card="",
    )


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory where there is one; the disk is slower."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


def use(folder: Path) -> None:
    """Load all parts of a checkpoint, and dream and act in it."""
    checkpoint = Checkpoint.open(folder)
    checkpoint.verify()
    config = checkpoint.config
    sizes = config.world_model
    agent: Any = load_agent(
        config.agent, checkpoint.agent_state(), sizes.feature_dim, sizes.num_actions
    )
    envs = DreamVectorEnv("Pong", 2, checkpoint=checkpoint, device="cpu", obs_type="latent")
    features, _ = envs.reset(seed=0)
    for _ in range(2):
        actions = agent.act(torch.as_tensor(features))
        features, *_ = envs.step(np.asarray(actions))
    envs.close()


def test_hostile_checkpoints_are_read_or_refused(
    whole_checkpoint: Path, memory_folder: Path
) -> None:
    use(whole_checkpoint)
    hostile = HostileCheckpoints(whole_checkpoint)
    folder = memory_folder / "Pong"
    folder.mkdir()

    def load(files: dict[str, bytes]) -> None:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        use(folder)

    counts = run_cases(CASES, st.composite(hostile.draw)(), load)
    assert counts["read"] > sum(counts.values()) / 100  # most cases are refused, not all
    assert counts["refused"] > sum(counts.values()) / 2


@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional header")
def test_hostile_recordings_are_read_or_refused(
    whole_checkpoint: Path, memory_folder: Path
) -> None:
    world_model = Checkpoint.open(whole_checkpoint).world_model()

    def load(case: tuple[str, bytes]) -> None:
        ending, data = case
        path = memory_folder / f"recording{ending}"
        path.write_bytes(data)
        contexts = read_contexts(path, world_model, 16)
        assert int(contexts.codes.max()) < world_model.config.classes
        assert int(contexts.actions.max()) < world_model.config.num_actions

    counts = run_cases(CASES, recordings(), load)
    assert counts["read"] > sum(counts.values()) / 100  # most cases are refused, not all
    assert counts["refused"] > sum(counts.values()) / 2
