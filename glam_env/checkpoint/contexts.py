"""Start contexts of dreams, as latent codes of real play.

A context is L known steps and the frame after them: codes z_0 … z_L and actions a_0 … a_{L−1},
a byte each, so that thousands fit in a few MB. The world model's warm-up turns a context into
the state that a dream starts from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from glam_env.errors import GlamError, printable
from glam_env.files import SHOWN
from glam_env.model.config import WorldModelConfig

CONTEXT_LENGTH = 16
"""L, the paper's context of 16 steps."""


@dataclass(frozen=True)
class Contexts:
    """N start contexts.

    Attributes:
        codes: (N, L+1, K) uint8, class indices of the latents, the last being the current one.
        actions: (N, L) uint8, the action taken at each of the first L.
    """

    codes: Tensor
    actions: Tensor

    @property
    def count(self) -> int:
        """Number N of contexts."""
        return self.codes.shape[0]

    @property
    def length(self) -> int:
        """Number L of known steps in each context."""
        return self.actions.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, as in ``contexts.safetensors``."""
        return {"codes": self.codes, "actions": self.actions}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], config: WorldModelConfig, where: str
    ) -> Contexts:
        """Make contexts from tensors, checked against the sizes of a world model.

        Args:
            tensors: ``codes`` and ``actions``.
            config: config of the world model.
            where: named in errors, such as the file.

        Raises:
            GlamError: a name, a shape, a dtype or a value does not fit.
        """
        if tensors.keys() != {"codes", "actions"}:
            names = printable(", ".join(sorted(tensors)) or "nothing", SHOWN)
            raise GlamError(f"{where}: holds {names}; contexts are exactly codes and actions")
        for name, tensor in tensors.items():
            if tensor.dtype != torch.uint8:
                raise GlamError(f"{where}: {name} has dtype {tensor.dtype}; it must be uint8")
        codes, actions = tensors["codes"], tensors["actions"]
        count, length = actions.shape if actions.ndim == 2 else (0, 0)
        if count < 1 or length < config.core.context:
            raise GlamError(
                f"{where}: actions has shape {tuple(actions.shape)}; it must be (N, L) "
                f"with N >= 1 and L >= {config.core.context}"
            )
        expected = (count, length + 1, config.categoricals)
        if tuple(codes.shape) != expected:
            raise GlamError(f"{where}: codes has shape {tuple(codes.shape)}, not {expected}")
        for name, tensor, limit in (
            ("codes", codes, config.classes),
            ("actions", actions, config.num_actions),
        ):
            if (highest := int(tensor.max())) >= limit:
                raise GlamError(f"{where}: {name} holds {highest}; it must be below {limit}")
        return cls(codes, actions)

    def to(self, device: torch.device | str) -> Contexts:
        """Copy the contexts to a device."""
        return Contexts(self.codes.to(device), self.actions.to(device))
