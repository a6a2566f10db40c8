"""CUDA: every sequence core dreams and learns in graphs as it does without them.

Run them with ``pytest -m gpu``. Without such a device they are skipped.
"""

import pytest
import torch

from glam_env.fast.graphs import Captured, CapturedUpdate
from glam_env.model.config import LossConfig, WorldModelConfig
from glam_env.model.cores.base import CORES
from glam_env.model.structures import LatentBatch
from glam_env.model.world_model import WorldModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def make_model(name: str) -> WorldModel:
    torch.manual_seed(0)
    core = CORES[name].config()
    return WorldModel(WorldModelConfig(6, stem=4, categoricals=4, classes=4, width=32, core=core))


@pytest.mark.parametrize("name", CORES)
@torch.no_grad()
def test_captured_steps_are_eager_ones_and_those_of_the_cpu(name: str) -> None:
    cpu, gpu = make_model(name).eval(), make_model(name).eval().cuda()
    graph = Captured(gpu.core.step)
    codes, actions = torch.randint(4, (3, 17, 4)), torch.randint(6, (3, 16))
    own = gpu.warm_up(codes.cuda(), actions.cuda()).core
    eager, expected = own, cpu.warm_up(codes, actions).core
    for t in range(80):  # beyond the transformer's ring
        e = torch.randn(3, 32, generator=torch.Generator().manual_seed(t))
        h, own = graph(e.cuda(), own)
        again, eager = gpu.core.step(e.cuda(), eager)
        right, expected = cpu.core.step(e, expected)
        assert torch.equal(h, again)
        torch.testing.assert_close(h.cpu(), right, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", CORES)
def test_a_captured_update_learns(name: str) -> None:
    model = make_model(name).cuda()  # in training mode: with dropout, if the core has any
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True, capturable=True)
    batch = LatentBatch(
        torch.randn(4, 20, 4, 4, device="cuda").mul(5.0).log_softmax(-1),
        torch.randn(4, 20, 16, device="cuda"),
        torch.randint(6, (4, 20), device="cuda"),
        torch.ones(4, 20, device="cuda"),
        torch.zeros(4, 20, dtype=torch.bool, device="cuda"),
        torch.ones(4, 20, dtype=torch.bool, device="cuda"),
    )

    def update(*parts: torch.Tensor) -> torch.Tensor:
        loss, *_ = model.latent_loss(LatentBatch(*parts), LossConfig())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    captured = CapturedUpdate(update)
    losses = [float(captured(*batch)) for _ in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@torch.no_grad()
def test_steps_of_a_window_are_captured() -> None:
    """As in a dream env of ``context="window"``, from its first step to beyond a full window."""
    window = make_model("glam").eval().cuda().windowed().memory
    graph = Captured(window.step)
    captured = eager = window.initial_state(2, "cuda")
    for t in range(20):
        e = torch.randn(2, 32, generator=torch.Generator().manual_seed(t)).cuda()
        first = torch.tensor([t == 0, t in (0, 9)], device="cuda")
        h, captured = graph(e, captured, first)
        again, eager = window.step(e, eager, first)
        assert torch.equal(h, again)
