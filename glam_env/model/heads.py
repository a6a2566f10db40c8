"""The multi-layer perceptron that predicts rewards and terminations, and acts."""

from __future__ import annotations

from torch import Tensor, nn


def make_prior(inputs: int, hidden: int, outputs: int) -> nn.Module:
    """Make the prior's layers: a linear one, behind a hidden one unless ``hidden`` is 0."""
    if not hidden:
        return nn.Linear(inputs, outputs)
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False),
        nn.LayerNorm(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs),
    )


class Head(nn.Module):
    """Two hidden layers (linear without bias, LayerNorm, ReLU), then a linear layer.

    Args:
        inputs: Width of the input.
        hidden: Width of the hidden layers.
        outputs: Width of the output.
        zero: Whether the last layer starts at zero.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, *, zero: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden, bias=False),
            nn.LayerNorm(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden, bias=False),
            nn.LayerNorm(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, outputs),
        )
        if zero:
            for parameter in self.layers[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs) float32."""
        return self.layers(x).float()

    def after_first(self, x: Tensor) -> Tensor:
        """Run all but the first layer, on its output (..., hidden)."""
        for layer in list(self.layers)[1:]:
            x = layer(x)
        return x.float()
