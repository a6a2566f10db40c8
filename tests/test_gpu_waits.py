"""CUDA: hot paths never wait for the device.

Run them with ``pytest -m gpu``. Without such a device they are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, replace

import gymnasium as gym
import pytest
import torch
from glam_agents.storm import AGENT_PRESETS, ActorCritic, StormConfig

import glam_env  # noqa: F401  (registers the ids)
from glam_env.checkpoint.folder import Checkpoint
from glam_env.envs.dream.engine import DreamEngine
from glam_env.envs.dream.options import DreamOptions
from glam_env.fast.graphs import WARM_UPS
from glam_env.model.config import LossConfig
from glam_env.model.structures import SequenceBatch, tree_tensors
from glam_env.model.world_model import WorldModel
from glam_env.training.imagination import imagine
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

DEVICE = torch.device("cuda", 0)
E = 16


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise an error for whatever waits for the device inside."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(scope="module")
def shipped() -> WorldModel:
    return Checkpoint.open("Pong").world_model().to(DEVICE)


@pytest.fixture
def world_model(shipped) -> WorldModel:
    return deepcopy(shipped)


@pytest.mark.parametrize(
    "wait",
    [lambda x: x.sum().item(), lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: x.cpu()],
    ids=["item", "nonzero", "mask", "cpu"],
)
def test_a_wait_is_reported(wait) -> None:
    x = torch.ones(3, device=DEVICE)
    with no_waiting(), pytest.raises(RuntimeError):
        wait(x)
    wait(x)


def test_two_devices_in_one_call_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3, device=DEVICE) + torch.ones(3)


@pytest.mark.parametrize("drawn", ["threshold mean", "sample sample"])
@pytest.mark.parametrize("frames", [False, True])
def test_an_engine_steps_and_resets_without_waiting(world_model, frames, drawn) -> None:
    termination, reward = drawn.split()
    engine = DreamEngine(
        world_model,
        Checkpoint.open("Pong").contexts(),
        E,
        DreamOptions(
            device=DEVICE,
            max_episode_steps=8,
            obs_type="rgb" if frames else "latent",
            termination=termination,
            reward=reward,
        ),
    )
    engine.reset(seed=0)
    actions = torch.zeros(E, dtype=torch.int64, device=DEVICE)
    engine.step(actions)  # captures the graph
    with no_waiting():
        for _ in range(9):
            step = engine.step(actions)
            engine.reset(mask=step.terminated | step.truncated)
            shown = engine.observe()
    assert {part.device for part in [*step, shown]} == {DEVICE}
    assert shown.shape == ((E, 64, 64, 3) if frames else (E, world_model.config.feature_dim))
    assert {part.device for part in tree_tensors(engine.get_state())} == {DEVICE}


@pytest.mark.parametrize("bfloat16", [False, True])
def test_imagination_and_the_agent_s_update_do_not_wait(world_model, bfloat16) -> None:
    contexts = Checkpoint.open("Pong").contexts().to(DEVICE)
    agent = ActorCritic(StormConfig(hidden=32), world_model.config.feature_dim, 6).to(DEVICE)
    start = world_model.warm_up(contexts.codes[:E].long(), contexts.actions[:E].long())
    agent.update(imagine(world_model, agent, start, 5))  # creates the optimiser's state
    with no_waiting(), torch.autocast("cuda", torch.bfloat16, enabled=bfloat16):
        metrics = agent.update(imagine(world_model, agent, start, 5))
    assert {value.device for value in metrics.values()} == {DEVICE}
    assert all(bool(value.isfinite()) for value in metrics.values())


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_world_model_s_update_does_not_wait(world_model, bfloat16) -> None:
    world_model.requires_grad_(True).train()
    optimizer = torch.optim.Adam(world_model.parameters(), fused=True)
    batch = SequenceBatch(
        torch.randint(256, (2, 12, 64, 64, 3), dtype=torch.uint8, device=DEVICE),
        torch.randint(6, (2, 12), device=DEVICE),
        torch.zeros(2, 12, device=DEVICE),
        torch.zeros(2, 12, dtype=torch.bool, device=DEVICE),
        torch.ones(2, 12, dtype=torch.bool, device=DEVICE),
    )

    def update() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=bfloat16):
            loss, *_ = world_model.loss(batch, LossConfig())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(world_model.parameters(), 100.0)
        optimizer.step()
        return loss.detach()

    before = update()
    with no_waiting():
        losses = [update() for _ in range(4)]
    gradients = [p.grad for p in world_model.parameters() if p.grad is not None]
    assert {gradient.device for gradient in gradients} == {DEVICE}
    assert len(gradients) > 50
    assert losses[-1] < before


@pytest.mark.emulator
@pytest.mark.parametrize("graphs", [False, True])
def test_a_trainer_s_updates_do_not_wait(tmp_path, graphs) -> None:
    """Neither does the sampling of batches, from images and from stored latents."""
    few = {"total_steps": 240, "random_steps": 100}
    config = replace(PRESETS["debug"], **few, log_every=1000, graphs=graphs)
    run = RunFolder(tmp_path / "run", {"train": asdict(config)})

    def make_agent(width: int, actions: int) -> ActorCritic:
        return ActorCritic(AGENT_PRESETS["debug"], width, actions)

    trainer = Trainer("Pong", config, run, make_agent, DEVICE)
    seen = set()
    while not trainer.finished:
        phase = trainer.phase
        stored = trainer.latents is not None
        if phase.name == "joint training" and (stored not in seen):
            trainer.advance()
            for _ in range(1 + WARM_UPS):  # then its graphs are captured
                trainer._update_model()
                trainer._update_agent()
            with no_waiting():
                for _ in range(3):
                    trainer._update_model()
                    trainer._update_agent()
            seen.add(stored)
        else:
            trainer.advance()
    trainer.close()
    assert seen == {False, True}


@pytest.mark.parametrize("obs_type", ["rgb", "grayscale", "latent"])
def test_an_env_step_reads_two_flags(obs_type) -> None:
    """It reads whether all actions are valid, and whether any dream has ended."""
    envs = gym.make_vec(
        "GLAMDream-Pong-v0",
        num_envs=E,
        device=DEVICE,
        array_type="torch",
        obs_type=obs_type,
    )
    envs.reset(seed=0)
    actions = torch.zeros(E, dtype=torch.int64, device=DEVICE)
    envs.step(actions)
    read = []
    real = torch.Tensor.__bool__

    def flag(tensor: torch.Tensor) -> bool:
        torch.cuda.set_sync_debug_mode("default")
        read.append(tensor.numel())
        try:
            return real(tensor)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    with pytest.MonkeyPatch.context() as patch, no_waiting():
        patch.setattr(torch.Tensor, "__bool__", flag)
        for _ in range(3):
            envs.step(actions)
    envs.close()
    assert read == [1, 1] * 3
