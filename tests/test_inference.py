"""The laid-out steppers and the world model's own step give the same numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from glam_env.checkpoint.folder import Checkpoint
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
    """Build a model whose weights are all random, none of them 0 or 1."""
    torch.manual_seed(4)
    model = WorldModel(replace(TINY, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for head in (model.reward, model.termination):
            head.layers[-1].weight.normal_(0.0, 0.5)
        *_, last = model.prior.modules()
        last.weight.normal_(0.0, 0.7)
    model.reward_code.see(torch.tensor([-3.0, 50.0]))
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
        {"draw_temperature": 0.25, "sharp_prior": True},
        {"expected_reward": True},
        {"embed_hidden": 48},
        {"prior_hidden": 48},
        {"embed_hidden": 5, "prior_hidden": 7},
        {"embed_hidden": 32, "prior_hidden": 64, "core": GlamConfig(global_depth=2)},
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [1.0, 0.0, 0.5, 0.25, 0.7])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_laid_out_steps_are_the_models(changes, temperature, backend) -> None:
    model = make_model(**changes)
    if backend == "native" and (missing() or not suits(model.config)):
        pytest.skip(missing() or "the native step does not suit these sizes")
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
        entropy = categorical_entropy(model.prior_log_probs(expected.state.h)).sum(-1)
        torch.testing.assert_close(step.prior_entropy, entropy, atol=1e-4, rtol=1e-4)
        assert torch.equal(
            stepper.features(step.state)[:, :15], model.features(expected.state)[:, :15]
        )
        seen |= {tuple(code) for code in step.state.code.tolist()}
        state, expected_state = step.state, expected.state
    assert len(seen) > 3  # not one latent over and over


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.3])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_largest_draw_takes_a_valid_class(temperature, backend) -> None:
    model = make_model(draw_temperature=1.0)
    if backend == "native" and missing():
        pytest.skip(missing())
    stepper = make_stepper(model, temperature=temperature, backend=backend)
    draw = torch.full((E, 3), 1.0 - 2.0**-24)
    code = stepper.step(start(model), torch.zeros(E, dtype=torch.int64), draw).state.code
    assert bool(((code >= 0) & (code < 5)).all())


@pytest.mark.parametrize("temperature", [3.0, 0.7, 0.1, 0.02, 0.005, 1e-3, 1e-30])
@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("sure", [False, True])
def test_temperatures_agree_with_float64(temperature, backend, sure) -> None:
    """Each draw lies in the interval of its class, which float64 computes."""
    model = make_model(draw_temperature=1.0)
    if sure:  # some probabilities are tiny
        model.prior.weight.mul_(30.0)
    if backend == "native" and missing():
        pytest.skip(missing())
    stepper = make_stepper(model, temperature=temperature, backend=backend)
    state, drawn = start(model), set()
    for t in range(30):
        draw = torch.rand(E, 3, generator=torch.Generator().manual_seed(t))
        state = stepper.step(state, torch.arange(E).add(t) % 3, draw).state
        logits = (state.h.double() @ model.prior.weight.double().T + model.prior.bias).view(E, 3, 5)
        probs = 0.99 * logits.softmax(-1) + 0.01 / 5
        shares = ((probs.log() - probs.log().amax(-1, keepdim=True)) / temperature).softmax(-1)
        upper = shares.cumsum(-1)
        code = state.code.unsqueeze(-1)
        above = upper.gather(-1, code).squeeze(-1)
        below = above - shares.gather(-1, code).squeeze(-1)
        if temperature > 1e-4:
            assert bool(((below - 2e-3 < draw) & (draw < above + 2e-3)).all())
        else:
            assert torch.equal(state.code, probs.argmax(-1))
        drawn |= {tuple(row) for row in state.code.tolist()}
    assert len(drawn) > 3


@pytest.mark.parametrize("temperature", [1e-3, 1e-12, 1e-37])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_near_ties_at_low_temperatures(temperature, backend) -> None:
    """The two likeliest classes differ by a few units in the last place, or not at all."""
    if backend == "native" and missing():
        pytest.skip(missing())
    model = make_model(draw_temperature=1.0)
    model.prior.weight.zero_()
    bias = model.prior.bias.view(3, 5).fill_(-4.0)
    for k in range(3):
        bias[k, 1], bias[k, 3] = 1.0, 1.0 - k * 2.0**-24
    step = make_stepper(model, temperature=temperature, backend=backend).step(
        start(model), torch.zeros(E, dtype=torch.int64), torch.linspace(0, 0.99, 21).view(E, 3)
    )
    assert set(step.state.code.flatten().tolist()) <= {1, 3}


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_low_temperatures_of_the_shipped_pong(backend) -> None:
    """The prior's entropy stays close to that of a dream at temperature 0."""
    if backend == "native" and missing():
        pytest.skip(missing())
    checkpoint = Checkpoint.open("Pong")
    model, contexts = checkpoint.world_model(), checkpoint.contexts()
    begin = model.warm_up(contexts.codes[:32].long(), contexts.actions[:32].long())
    entropies = {}
    for temperature in (0.0, 1e-3, 0.02, 0.1):
        generator = torch.Generator().manual_seed(0)
        stepper = make_stepper(model, temperature=temperature, backend=backend)
        state, seen = begin, []
        for _ in range(100):
            action = torch.randint(6, (32,), generator=generator)
            draw = torch.rand(begin.code.shape, generator=generator)
            step = stepper.step(state, action, draw)
            state = step.state
            seen.append(step.prior_entropy.mean())
        entropies[temperature] = float(torch.stack(seen[-50:]).mean())
    coldest = entropies.pop(0.0)
    assert all(abs(entropy - coldest) < 0.1 * coldest for entropy in entropies.values()), entropies
