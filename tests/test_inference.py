"""The laid-out step is the world model's step: same draws, same numbers up to rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from glam_env.fast.choose import make_stepper, missing
from glam_env.fast.native.stepper import suits
from glam_env.model.config import WorldModelConfig
from glam_env.model.cores.glam import GlamConfig
from glam_env.model.distributions import categorical_entropy
from glam_env.model.structures import DreamState
from glam_env.model.world_model import WorldModel

TINY = WorldModelConfig(num_actions=3, stem=4, categoricals=3, classes=5, width=16, reward_bins=41)
E = 7


def make_model(**changes) -> WorldModel:
    """Every weight drawn, so that nothing is hidden behind a zero or a one."""
    torch.manual_seed(4)
    model = WorldModel(replace(TINY, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for head in (model.reward, model.termination):
            head.layers[-1].weight.normal_(0.0, 0.5)
        model.prior.weight.normal_(0.0, 0.7)
    return model.eval().requires_grad_(False)


def start(model: WorldModel) -> DreamState:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(5, (E, 9, 3), generator=generator)
    return model.warm_up(codes, torch.randint(3, (E, 8), generator=generator))


def tensors(state: DreamState) -> list[torch.Tensor]:
    return [state.code, state.h, *state.core]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"core": GlamConfig(global_depth=2)},
        {"core": GlamConfig(local_depth=2)},
        {"core": GlamConfig(global_depth=2, local_depth=3, local_window=3)},
        {"core": GlamConfig(local_window=6, conv_width=3, state_size=5, expand=1)},
        {"unimix": 0.1, "draw_temperature": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [1.0, 0.0, 0.5, 0.25, 0.7])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_laid_out_step_is_the_models_step(changes, temperature, backend) -> None:
    model = make_model(**changes)
    if backend == "native" and (missing() or not suits(model.config)):
        pytest.skip(missing() or "sizes that the native step does not suit")
    stepper = make_stepper(model, temperature=temperature, backend=backend)
    expected_state, state = start(model), start(model)
    seen = set()
    for t in range(20):
        action = torch.arange(E).add(t) % 3
        draw = torch.rand(E, 3, generator=torch.Generator().manual_seed(t))
        before = [tensor.clone() for tensor in tensors(state)]
        step = stepper.step(state, action, draw)
        assert all(map(torch.equal, tensors(state), before))
        expected = model.step(
            expected_state,
            action,
            temperature=temperature,
            generator=torch.Generator().manual_seed(t),
        )
        assert torch.equal(step.state.code, expected.state.code)
        for one, other in zip(tensors(step.state)[1:], tensors(expected.state)[1:], strict=True):
            torch.testing.assert_close(one, other, atol=4e-5, rtol=1e-4)
        torch.testing.assert_close(step.reward, expected.reward, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(step.reward_logits, expected.reward_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            step.termination_logit, expected.termination_logit, atol=1e-4, rtol=1e-4
        )
        entropy = categorical_entropy(expected.prior_logits).sum(-1)
        torch.testing.assert_close(step.prior_entropy, entropy, atol=1e-4, rtol=1e-4)
        assert torch.equal(
            stepper.features(step.state)[:, :15], model.features(expected.state)[:, :15]
        )
        seen |= {tuple(code) for code in step.state.code.tolist()}
        state, expected_state = step.state, expected.state
    assert len(seen) > 3  # not one latent over and over


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.3])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_the_last_number_below_one_draws_a_class_that_there_is(temperature, backend) -> None:
    model = make_model(draw_temperature=1.0)
    if backend == "native" and missing():
        pytest.skip(missing())
    stepper = make_stepper(model, temperature=temperature, backend=backend)
    draw = torch.full((E, 3), 1.0 - 2.0**-24)
    code = stepper.step(start(model), torch.zeros(E, dtype=torch.int64), draw).state.code
    assert bool(((code >= 0) & (code < 5)).all())
