"""CUDA: the modules agree with the CPU, dreams repeat, and updates learn.

Run them with ``pytest -m gpu``. Without such a device they are skipped.
"""

from dataclasses import replace

import pytest
import torch
from glam_agents.storm import ActorCritic, StormConfig

from glam_env.envs.dream.engine import DreamEngine
from glam_env.envs.dream.options import DreamOptions
from glam_env.fast.graphs import CapturedUpdate
from glam_env.model.config import LossConfig, WorldModelConfig
from glam_env.model.cores.mamba import Mamba
from glam_env.model.structures import SequenceBatch
from glam_env.model.world_model import WorldModel
from glam_env.training.imagination import imagine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CONFIG = WorldModelConfig(6, stem=8, categoricals=8, classes=8, width=64, background_residual=True)
CLOSE = {"atol": 1e-4, "rtol": 1e-3}


@pytest.fixture(autouse=True)
def full_precision():
    """Compute products in float32, not TF32, for comparisons with the CPU."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def both_devices() -> tuple[WorldModel, WorldModel]:
    torch.manual_seed(0)
    cpu = WorldModel(CONFIG).eval()
    gpu = WorldModel(CONFIG).eval()
    gpu.load_state_dict(cpu.state_dict())
    return cpu, gpu.cuda()


def contexts(count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(8, (count, 17, 8)), torch.randint(6, (count, 16))


@pytest.mark.parametrize("length", [4, 16, 64])
def test_mamba_forward_and_gradients(length):
    torch.manual_seed(0)
    cpu = Mamba(64)
    gpu = Mamba(64).cuda()
    gpu.load_state_dict(cpu.state_dict())
    u, weight = torch.randn(3, length, 64), torch.randn(3, length, 64)
    a, b = cpu(u), gpu(u.cuda())
    torch.testing.assert_close(b.cpu(), a, **CLOSE)
    (a * weight).sum().backward()
    (b * weight.cuda()).sum().backward()
    for p, q in zip(cpu.parameters(), gpu.parameters(), strict=True):
        torch.testing.assert_close(q.grad.cpu(), p.grad, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_world_model_part_by_part():
    cpu, gpu = both_devices()
    images = torch.randint(256, (6, 64, 64, 3), dtype=torch.uint8)
    torch.testing.assert_close(gpu.encode(images.cuda()).cpu(), cpu.encode(images), **CLOSE)
    codes, actions = contexts()
    decoded = gpu.decode(codes[:, 0].cuda()).cpu()
    torch.testing.assert_close(decoded, cpu.decode(codes[:, 0]), **CLOSE)
    a, b = cpu.warm_up(codes, actions), gpu.warm_up(codes.cuda(), actions.cuda())
    for t in range(64):
        action = actions[:, t % 16]
        x = cpu.step(a, action, temperature=0.0)
        y = gpu.step(b, action.cuda(), temperature=0.0)
        expected = cpu.prior_log_probs(x.state.h)
        torch.testing.assert_close(gpu.prior_log_probs(y.state.h).cpu(), expected, **CLOSE)
        torch.testing.assert_close(y.reward.cpu(), x.reward, **CLOSE)
        a, b = x.state, y.state._replace(code=x.state.code.cuda())


def test_loss_and_its_gradients():
    cpu, gpu = both_devices()
    batch = SequenceBatch(
        torch.randint(256, (2, 12, 64, 64, 3), dtype=torch.uint8),
        torch.randint(6, (2, 12)),
        torch.randn(2, 12),
        torch.zeros(2, 12, dtype=torch.bool),
        torch.ones(2, 12, dtype=torch.bool),
    )
    peaked = 20.0 * torch.randn(8 * 8)  # so that both models draw the same latents
    for model in (cpu, gpu):
        model.encoder.head.weight.data.zero_()
        model.encoder.head.bias.data.copy_(peaked)
    loss, *_ = cpu.loss(batch, LossConfig())
    other, *_ = gpu.loss(SequenceBatch(*(part.cuda() for part in batch)), LossConfig())
    torch.testing.assert_close(other.cpu(), loss, atol=1e-2, rtol=0.05)  # 1 % uniform is drawn


def test_a_seeded_dream_repeats(make_contexts, make_world_model):
    model = make_world_model().cuda()
    films = []
    for _ in range(2):
        engine = DreamEngine(
            model,
            make_contexts(),
            64,
            DreamOptions(device="cuda", max_episode_steps=12, obs_type="latent"),
        )
        engine.reset(seed=3)
        codes = []
        for _ in range(20):
            engine.step(torch.arange(64, device="cuda") % 6)
            codes.append(engine.state.code)
        films.append(torch.stack(codes))
    assert torch.equal(*films)


@pytest.mark.parametrize("frames", [False, True])
def test_a_captured_dream_is_the_eager_one(make_contexts, make_world_model, frames):
    """The results are equal to the bit; resets move the state between two replays."""
    model = make_world_model().cuda()
    engines = [
        DreamEngine(
            model,
            make_contexts(),
            16,
            DreamOptions(
                device="cuda",
                max_episode_steps=6,
                termination="sample",
                reward="sample",
                obs_type="rgb" if frames else "latent",
            ),
        )
        for _ in range(2)
    ]
    assert all(engine._graph is not None for engine in engines)
    engines[1]._graph = None
    for engine in engines:
        engine.reset(seed=5)
    for t in range(15):
        actions = (torch.arange(16, device="cuda") + t) % 6
        steps = [engine.step(actions) for engine in engines]
        for captured, eager in zip(*steps, strict=True):
            assert torch.equal(captured, eager)
        for engine, step in zip(engines, steps, strict=True):
            engine.reset(step.terminated | step.truncated)
        assert torch.equal(*(engine.observe() for engine in engines))


def test_an_agent_learns_from_a_dream_in_bfloat16():
    _, gpu = both_devices()
    agent = ActorCritic(replace(StormConfig(), hidden=32), CONFIG.feature_dim, 6).cuda()
    codes, actions = contexts(64)
    start = gpu.warm_up(codes.cuda(), actions.cuda())
    with torch.autocast("cuda", torch.bfloat16):
        rollout = imagine(gpu, agent, start, 8)
    metrics = agent.update(rollout)
    assert all(bool(value.isfinite()) for value in metrics.values())


def test_a_captured_update_runs_once_a_call():
    """It sees changes of the weights, the optimiser's state and the learning rate."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0], device="cuda"))
    rate = torch.tensor(0.5, device="cuda")
    optimizer = torch.optim.Adam([weight], lr=rate, fused=True, capturable=True)
    copy = torch.nn.Parameter(weight.detach().clone())
    plain = torch.optim.Adam([copy], lr=0.5, fused=True)

    def step(parameter, optimizer, x):
        loss = (parameter * x).square().sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"loss": loss.detach()}

    update = CapturedUpdate(lambda x: step(weight, optimizer, x))
    for call in range(9):
        if call == 6:
            rate.fill_(0.125)
            plain.param_groups[0]["lr"] = 0.125
        x = torch.tensor([1.0, call], device="cuda")
        loss = update(x)["loss"].clone()
        torch.testing.assert_close(loss, step(copy, plain, x)["loss"])
        torch.testing.assert_close(weight, copy)
    assert float(optimizer.state[weight]["step"]) == 9
