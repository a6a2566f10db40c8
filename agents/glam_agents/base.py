"""Base class of agents that are written in PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from glam_env.errors import GlamError, line_of
from glam_env.model.distributions import one_hot
from glam_env.training.imagination import Player, Rollout


class ModuleAgent(nn.Module, ABC):
    """Base class of an agent that is a module with one optimizer.

    It implements :class:`~glam_env.training.imagination.Agent`, except for :meth:`act`,
    :meth:`update` and :meth:`make_optimizer`.
    """

    _optimizer: torch.optim.Optimizer | None = None
    _stored: dict[str, Any] | None = None  # state for the optimizer, once it is made

    @abstractmethod
    def make_optimizer(self) -> torch.optim.Optimizer:
        """Make the optimizer of the agent's parameters."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, made when it is first used.

        Acting needs none, and making one loads PyTorch's compiler, which takes seconds.
        """
        if self._optimizer is None:
            made, stored = self.make_optimizer(), self._stored
            if stored is not None:
                made.load_state_dict(stored)
            self._optimizer, self._stored = made, None
        return self._optimizer

    @abstractmethod
    def act(
        self,
        features: Tensor,
        *,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Choose actions.

        Args:
            features: (E, F) float32, [one-hot z_t, h_{t−1}].
            greedy: take the most probable action instead of a random draw.
            generator: generator of the random draws.

        Returns:
            (E) int64 actions.
        """

    @abstractmethod
    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """Learn from imagined dreams; return detached scalars for the log."""

    def player(self, one_hot_width: int) -> Player:
        """Return :meth:`act` as a function of codes z_t and h_{t−1}.

        Args:
            one_hot_width: K·C, the number of features that are the one-hot vectors of the codes.
        """

        @torch.no_grad()
        def act(code: Tensor, h: Tensor, generator: torch.Generator | None) -> Tensor:
            z = one_hot(code, one_hot_width // code.shape[-1]).flatten(-2)  # (E, K·C)
            return self.act(torch.cat([z, h], -1), generator=generator)

        return act

    def learner_state(self) -> dict[str, Any]:
        """Return the weights, the buffers and the state of the optimizer."""
        return {"agent": self.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_learner_state(self, state: dict[str, Any]) -> None:
        """Load a :meth:`learner_state`."""
        self.load_state_dict(state["agent"])
        if self._optimizer is None:
            self._stored = state["optimizer"]
        else:
            self._optimizer.load_state_dict(state["optimizer"])

    def export_state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint stores; all of them, by default."""
        return self.state_dict()

    def load_exported(self, state: Mapping[str, Tensor]) -> None:
        """Load an :meth:`export_state`; all other tensors keep their values.

        Raises:
            GlamError: a tensor is missing, unknown or of another shape.
        """
        exported = self.export_state()
        kept = {name: value for name, value in self.state_dict().items() if name not in exported}
        try:
            self.load_state_dict({**kept, **state})
        except RuntimeError as error:
            raise GlamError(
                f"the checkpoint's agent does not fit: {line_of(error, -1)}; export it again"
            ) from error
