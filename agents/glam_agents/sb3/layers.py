"""Hidden layers of Stable-Baselines3's agents on the features of dreams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn


class NormalizedLayers(BaseFeaturesExtractor):
    """Linear layers, each followed by LayerNorm and SiLU.

    Args:
        observation_space: (F) features.
        sizes: outputs of each layer.
    """

    def __init__(self, observation_space: spaces.Box, sizes: Sequence[int]) -> None:
        super().__init__(observation_space, features_dim=sizes[-1])
        inputs = int(np.prod(observation_space.shape))
        layers: list[nn.Module] = []
        for size in sizes:
            layers += [nn.Linear(inputs, size), nn.LayerNorm(size), nn.SiLU()]
            inputs = size
        self.layers = nn.Sequential(*layers)

    def forward(self, observations: Tensor) -> Tensor:
        """Map (N, F) features to (N, sizes[-1])."""
        return self.layers(observations)
