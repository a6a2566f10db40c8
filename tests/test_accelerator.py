"""What a GPU must find: a device without numbers (``meta``) stands in for it.

There, whatever waits for the device, asks for a number, mixes devices or has shapes that hang on
numbers is an error. It takes the ways of an accelerator, all but CUDA's graphs and kernels.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from agents.storm import ActorCritic, AgentConfig
from glam_env.checkpoints import find_checkpoint, load_contexts, load_world_model
from glam_env.dream.engine import DreamEngine
from glam_env.model.graphs import tensors_of
from glam_env.model.structures import LossConfig, SequenceBatch
from glam_env.model.world_model import WorldModel
from glam_env.training.imagination import imagine

META = torch.device("meta")
E = 16


@pytest.fixture(autouse=True)
def _meta_does_what_cuda_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # unknown to meta


@pytest.fixture
def world_model() -> WorldModel:
    return load_world_model(find_checkpoint("Pong")).to(META)


def test_the_stand_in_can_tell() -> None:
    x = torch.zeros(3, device=META)
    with pytest.raises(RuntimeError):
        x + torch.ones(3)
    with pytest.raises(RuntimeError):
        bool((x > 0).any())
    with pytest.raises(RuntimeError):
        x.nonzero()


def make_engine(monkeypatch: pytest.MonkeyPatch, world_model: WorldModel, **options) -> DreamEngine:
    """One whose generator is the CPU's, for want of another."""
    generator = torch.Generator()
    contexts = load_contexts(find_checkpoint("Pong"))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "Generator", lambda _: generator)
        return DreamEngine(world_model, contexts, E, device=META, max_episode_steps=8, **options)


@pytest.mark.parametrize("drawn", ["threshold mean", "sample sample"])
@pytest.mark.parametrize("frames", [False, True])
def test_an_engine_steps_and_resets_without_waiting(
    monkeypatch, world_model, frames, drawn
) -> None:
    termination, reward = drawn.split()
    engine = make_engine(
        monkeypatch, world_model, frames=frames, termination=termination, reward=reward
    )
    engine.reset(seed=0)
    for _ in range(3):
        step = engine.step(torch.zeros(E, dtype=torch.int64, device=META))
        engine.reset(mask=step.terminated | step.truncated)
        shown = engine.observe()
        assert {part.device for part in [*step, shown]} == {META}
    assert shown.shape == ((E, 64, 64, 3) if frames else (E, world_model.config.feature_dim))
    assert {part.device for part in tensors_of(engine.get_state())} == {META}


def test_imagination_and_the_agent_s_update_do_not_wait(world_model) -> None:
    contexts = load_contexts(find_checkpoint("Pong")).to(META)
    agent = ActorCritic(AgentConfig(hidden=32), world_model.config.feature_dim, 6).to(META)
    start = world_model.warm_up(contexts.codes.long(), contexts.actions.long())
    metrics = agent.update(imagine(world_model, agent, start, 5))
    assert {value.device for value in metrics.values()} == {META}


def test_the_world_model_s_loss_and_gradients_do_not_wait(world_model) -> None:
    world_model.requires_grad_(True).train()

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(2, 12, *shape, dtype=dtype, device=META)

    batch = SequenceBatch(
        zeros(64, 64, 3, dtype=torch.uint8), zeros(dtype=torch.int64), zeros(), zeros(dtype=bool)
    )
    loss, *_ = world_model.loss(batch, LossConfig())
    loss.backward()
    gradients = [p.grad for p in world_model.parameters() if p.grad is not None]
    assert loss.device == META
    assert {gradient.device for gradient in gradients} == {META}
    assert len(gradients) > 50
