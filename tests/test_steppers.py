"""The stepper of cores other than ``glam``, with a toy core."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from test_inference import TINY, make_model
from torch import Tensor, nn

from glam_env.envs.dream.engine import DreamEngine
from glam_env.errors import GlamError
from glam_env.fast import choose
from glam_env.fast.choose import make_stepper
from glam_env.fast.plain import ModelStepper
from glam_env.model.cores.base import CORES, CoreConfig, CoreKind, CoreOutput, SequenceCore
from glam_env.model.distributions import categorical_entropy
from glam_env.model.structures import DreamState, tree_map, tree_tensors
from glam_env.model.world_model import WorldModel

E = 6


@dataclass(frozen=True)
class MeanConfig(CoreConfig):
    """Settings of a core that averages what it has seen."""

    name: str = "mean"


class MeanCore(SequenceCore):
    """Computes h_t by a linear layer from the mean of e_0 … e_t."""

    context = 1

    def __init__(self, width: int, config: CoreConfig) -> None:
        super().__init__()
        self.width, self.project = width, nn.Linear(width, width)

    def forward(self, e: Tensor) -> CoreOutput:
        sums = e.cumsum(1)  # (B, L, D)
        count = torch.arange(1, e.shape[1] + 1, device=e.device).float()
        return CoreOutput(self.project(sums / count[:, None]), None, (sums, count))

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> Any:
        return {
            "sum": torch.zeros(batch, self.width, device=device),
            "count": torch.zeros(batch, device=device),
        }

    def step(self, e: Tensor, state: Any, first: Tensor | None = None) -> tuple[Tensor, Any]:
        if first is not None:
            state = {name: part.clone() for name, part in state.items()}
            for part in state.values():
                part[first] = 0.0
        new = {"sum": state["sum"] + e, "count": state["count"] + 1.0}
        return self.project(new["sum"] / new["count"][:, None]), new

    def state_at(self, output: CoreOutput, rows: Tensor, positions: Tensor) -> Any:
        sums, count = output.trace
        return {"sum": sums.detach()[rows, positions], "count": count[positions]}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> WorldModel:
    monkeypatch.setitem(CORES, "mean", CoreKind(MeanConfig, MeanCore))
    return make_model(core=MeanConfig())


def start(model: WorldModel, rows: int = E) -> DreamState:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(5, (rows, 9, 3), generator=generator)
    return model.warm_up(codes, torch.randint(3, (rows, 8), generator=generator))


@pytest.mark.parametrize("temperature", [1.0, 0.0, 0.02, 0.5])
def test_steps_are_those_of_the_world_model(model, temperature) -> None:
    stepper = make_stepper(model, temperature=temperature)
    assert type(stepper) is ModelStepper
    state, expected_state = start(model), start(model)
    for t in range(10):
        action = torch.arange(E).add(t) % 3
        draw = torch.rand(E, 3, generator=torch.Generator().manual_seed(t))
        before = tree_map(torch.clone, state)
        step = stepper.step(state, action, draw, show=True)
        assert all(map(torch.equal, tree_tensors(state), tree_tensors(before)))
        expected = model.step(
            expected_state,
            action,
            temperature=temperature,
            generator=torch.Generator().manual_seed(t),
        )
        pairs = zip(tree_tensors(step.state), tree_tensors(expected.state), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
        assert torch.equal(step.reward, expected.reward)
        assert torch.equal(step.reward_logits, expected.reward_logits)
        assert torch.equal(step.termination_logit, expected.termination_logit)
        logits = model.prior_log_probs(step.state.h)
        assert torch.equal(step.prior_entropy, categorical_entropy(logits).sum(-1))
        assert torch.equal(step.features, model.features(expected.state))
        alone = stepper.go_on(state, action, draw)
        assert all(map(torch.equal, tree_tensors(alone), tree_tensors(step.state)))
        outcome = step.reward, step.reward_logits, step.termination_logit
        assert all(map(torch.equal, stepper.outcome(step.state.h), outcome))
        state, expected_state = step.state, expected.state


def test_steps_of_the_core_glam_agree_with_the_laid_out_ones() -> None:
    model = make_model()
    state = start(model)
    action, draw = torch.arange(E) % 3, torch.rand(E, 3)
    plain = ModelStepper(model).step(state, action, draw)
    fast = make_stepper(model, backend="torch").step(state, action, draw)
    for one, other in zip(tree_tensors(plain), tree_tensors(fast), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_rows_are_put_in_place(model) -> None:
    stepper, state, source = make_stepper(model), start(model), start(model, 4)
    before = tree_map(torch.clone, state)
    stepper.put(state, torch.tensor([5, 0]), source, torch.tensor([3, 1]))
    for own, old, new in zip(*map(tree_tensors, (state, before, source)), strict=True):
        assert torch.equal(own[[5, 0]], new[[3, 1]])
        assert torch.equal(own[1:5], old[1:5])


def test_auto_takes_it_silently_and_native_is_an_error(model, monkeypatch) -> None:
    monkeypatch.setattr(choose, "missing", lambda: "no compiler")
    choose.available.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for backend in ("auto", "torch"):
            assert type(make_stepper(model, backend=backend)) is ModelStepper
    choose.available.cache_clear()
    with pytest.raises(GlamError, match="the core 'glam'"):
        make_stepper(model, backend="native")


@pytest.mark.parametrize("frames", [False, True])
def test_an_engine_dreams_with_it(model, make_contexts, frames) -> None:
    contexts = make_contexts()
    contexts = type(contexts)(contexts.codes[..., :3], contexts.actions % TINY.num_actions)
    engine = DreamEngine(
        model, contexts, E, device="cpu", max_episode_steps=4, frames=frames, termination="sample"
    )
    shown = []
    for _ in range(2):
        engine.reset(seed=2)
        seen = [engine.observe()]
        for t in range(10):
            step = engine.step((torch.arange(E) + t) % 3)
            engine.reset(step.terminated | step.truncated)
            seen.append(engine.observe())
        shown.append(torch.stack(seen))
    assert torch.equal(*shown)
    assert len(shown[0].flatten(1).unique(dim=0)) > 5
