"""A dream whose reward is known, to see agents learn in seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper


class Echo(VectorWrapper):
    """Pays 1 for naming the class of the first categorical in the features, and nothing else."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.autoreset_mode = env.metadata["autoreset_mode"]

    def reset(self, **options: Any) -> Any:
        self._seen, info = self.env.reset(**options)
        return self._seen, info

    def step(self, actions: Any) -> Any:
        paid = torch.as_tensor(actions) == torch.as_tensor(self._seen)[:, :4].argmax(-1)
        self._seen, reward, *rest = self.env.step(actions)
        paid = paid.to(torch.float32)
        return self._seen, paid.numpy() if isinstance(reward, np.ndarray) else paid, *rest
