"""The world model without ``glam_env.fast``: the same numbers, by the plain operations."""

import subprocess
import sys
from pathlib import Path

import torch

PROGRAM = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if refused and name.split(".")[:2] == ["glam_env", "fast"]:
            raise ImportError(f"{name} is not installed")

refused = sys.argv[1] == "without"
sys.meta_path.insert(0, Refuse())
import torch

from glam_env.model.cores import mamba
from glam_env.model.config import LossConfig, WorldModelConfig
from glam_env.model.structures import SequenceBatch, tree_tensors
from glam_env.model.world_model import WorldModel

if not refused:
    import glam_env.fast
torch.set_num_threads(1)
torch.manual_seed(0)
model = WorldModel(WorldModelConfig(num_actions=3, stem=4, categoricals=3, classes=5, width=16))
torch.nn.init.normal_(model.prior.weight)
batch = SequenceBatch(
    torch.randint(256, (2, 9, 64, 64, 3), dtype=torch.uint8),
    torch.randint(3, (2, 9)),
    torch.randn(2, 9),
    torch.rand(2, 9) < 0.3,
    torch.arange(9) < torch.tensor([[9], [7]]),
)
optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
torch.manual_seed(1)
loss, _, posterior = model.loss(batch, LossConfig())
loss.backward()
optimizer.step()
model.eval()
state = model.dream_starts(posterior, torch.tensor([0, 1]), torch.tensor([5, 6]))
step = model.step(state, torch.tensor([0, 2]), generator=torch.Generator().manual_seed(2))
grads = [p.grad for p in model.parameters() if p.grad is not None]
assert ("glam_env.fast" in sys.modules) != refused
home = "glam_env.model.cores.mamba" if refused else "glam_env.fast.scan"
assert {operation.__module__ for operation in mamba._operations} == {home}
torch.save([loss.detach(), *grads, *tree_tensors(step)], sys.argv[2])
"""


def test_the_model_trains_and_dreams_the_same_without_fast(tmp_path: Path) -> None:
    results = []
    for way in ("with", "without"):
        file = tmp_path / f"{way}.pt"
        subprocess.run([sys.executable, "-c", PROGRAM, way, str(file)], check=True)
        results.append(torch.load(file))
    assert len(results[0]) > 50
    for fast, plain in zip(*results, strict=True):
        # A gradient is a sum over thousands of places: what rounding leaves grows with its largest.
        largest = float(plain.double().abs().max())
        torch.testing.assert_close(fast, plain, atol=1e-5 * largest, rtol=0.0)
