"""Fixtures: a world model of a few thousand random weights, and checkpoints of it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cuda_stand_in
import pytest

# NumPy reads this when it is imported, and child processes inherit it. Tests run side by side:
# threads that wait for each other on busy cores cost far more than they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if os.environ.get(cuda_stand_in.NAME) == "1":
    cuda_stand_in.install()

import torch
from tiny_checkpoint import TINY

from glam_env.checkpoint.config import CheckpointConfig, ContextsConfig, PlaySettings, Provenance
from glam_env.checkpoint.contexts import Contexts
from glam_env.checkpoint.folder import Checkpoint, save_checkpoint
from glam_env.model.world_model import WorldModel

SLOWEST = (
    "cli_game",
    "protocols",
    "cuda_stand_in",
    "sweep_runs",
    "web",
    "shipped",
    "trainer",
    "fuzz_files",
    "sweep",
    "atari",
    "known_mdp",
    "env_contract",
    "pictures",
)
"""Files whose tests take longest. They come first, or one core would wait for the last of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest files first, and leave the order otherwise as it is."""
    first = {f"test_{name}": place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: first.get(item.path.stem, len(first)))


HORIZON = 12


def _world_model(termination_bias: float = -1.0) -> WorldModel:
    """Build it without gradients; lives end about every other step at a bias of 0, never at −99."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = WorldModel(TINY)
        with torch.no_grad():  # the heads begin almost flat; here each step must differ
            model.reward.layers[-1].weight.normal_(0.0, 0.1)
            model.termination.layers[-1].weight.normal_(0.0, 1.0)
            model.termination.layers[-1].bias.fill_(1.5 + termination_bias)
            model.prior.weight.normal_(0.0, 0.3)
    return model.eval().requires_grad_(False)


def _contexts(count: int = 20, length: int = 16) -> Contexts:
    generator = torch.Generator().manual_seed(3)

    def draw(limit: int, *shape: int) -> torch.Tensor:
        return torch.randint(limit, shape, generator=generator, dtype=torch.uint8)

    return Contexts(
        draw(TINY.classes, count, length + 1, TINY.categoricals),
        draw(TINY.num_actions, count, length),
    )


def _config() -> CheckpointConfig:
    return CheckpointConfig(
        game="Pong",
        world_model=TINY,
        agent={"class": "storm", "hidden": 8},
        contexts=ContextsConfig(20, 16),
        max_episode_steps=HORIZON,
        protocol=PlaySettings(),
        provenance=Provenance("debug", 600, 30, 0.01, "a test", 0, {"torch": torch.__version__}),
        reward_values=(-1.0, 0.0, 1.0),
    )


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread: sums have one order, and small tensors are faster."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def few_contexts() -> Iterator[None]:
    """On the stand-in, read 64 contexts of a checkpoint: a CUDA pool computes all at once."""
    with pytest.MonkeyPatch.context() as patch:
        if cuda_stand_in.installed():
            read = Checkpoint.contexts

            def first(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> Contexts:
                every = read(checkpoint, device)
                return Contexts(every.codes[:64], every.actions[:64])

            patch.setattr(Checkpoint, "contexts", first)
        yield


@pytest.fixture(scope="session")
def make_world_model() -> Callable[..., WorldModel]:
    """Return a function that builds the tiny world model, see :func:`_world_model`."""
    return _world_model


@pytest.fixture(scope="session")
def make_contexts() -> Callable[..., Contexts]:
    """Return a function that builds contexts for it."""
    return _contexts


@pytest.fixture(scope="session")
def checkpoint_config() -> CheckpointConfig:
    """Return the tiny checkpoint's config, before it is saved."""
    return _config()


@pytest.fixture(scope="session")
def saved_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the tiny checkpoint, in a folder named after its game; tests only read it."""
    return save_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "Pong",
        config=_config(),
        world_model_state=_world_model().export_state(),
        agent_state={"actor.weight": torch.arange(6.0).reshape(2, 3)},
        contexts=_contexts(),
        card="# A tiny Pong\n",
    )


@pytest.fixture(scope="session")
def endless_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save one whose dreams do not end before the horizon; tests only read it."""
    return save_checkpoint(
        tmp_path_factory.mktemp("endless") / "Pong",
        config=_config(),
        world_model_state=_world_model(-99.0).export_state(),
        agent_state={},
        contexts=_contexts(),
        card="",
    )


@pytest.fixture
def tiny_checkpoint(saved_checkpoint: Path, tmp_path: Path) -> Path:
    """Copy the tiny checkpoint to ``tmp_path / "Pong"``, for tests that change it."""
    return Path(shutil.copytree(saved_checkpoint, tmp_path / "Pong"))


@pytest.fixture(scope="session")
def onnx_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the processes of a test run export each ONNX graph once: that takes many seconds."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from filelock import FileLock

    from glam_env.onnx import export

    to_onnx, folder = export.to_onnx, tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def cached(module, *rest):
        found = hashlib.sha256(str(rest[1:]).encode())
        for name, tensor in module.state_dict().items():
            found.update(name.encode() + tensor.numpy().tobytes())
        path = folder / f"{found.hexdigest()}.onnx"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                path.write_bytes(to_onnx(module, *rest).SerializeToString(deterministic=True))
        return onnx.load(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "to_onnx", cached)
        yield
