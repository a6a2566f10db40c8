"""The interface of a stepper, and the one that calls a world model's own methods."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from glam_env.errors import GlamNumberError
from glam_env.model.distributions import categorical_entropy, sample_at
from glam_env.model.structures import DreamState, Prediction, tree_tensors
from glam_env.model.world_model import WorldModel

NOT_FINITE = (
    "the dreams' numbers are not finite: these weights lead beyond the range of float32; "
    "begin the dreams again, or take another checkpoint"
)


class Stepper(Protocol):
    """What steps dreams of one world model whose weights are frozen.

    Make another stepper when the weights have changed. E is the number of dreams, K and C are the
    latent's categoricals and classes, D is the width of h.
    """

    def step(
        self,
        state: DreamState,
        action: Tensor,
        draw: Tensor,
        *,
        spend: bool = False,
        show: bool = False,
    ) -> Prediction:
        """Predict one step.

        Args:
            state: E dreams. They are not changed, unless they may be spent.
            action: (E) int64, taken on seeing z_t.
            draw: (E, K) float32 in [0, 1), the random draws for the next latent.
            spend: Allow the new state to take the memory of the old one, which is invalid then.
            show: Compute the features too.

        Returns:
            The transition, in new tensors but for what was spent.

        Raises:
            GlamNumberError: On a CPU, numbers are not finite. Elsewhere see :func:`not_finite`.
        """
        ...

    def go_on(self, state: DreamState, action: Tensor, draw: Tensor) -> DreamState:
        """Return the state of :meth:`step`, and compute nothing else."""
        ...

    def outcome(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the outcome of the transitions that led to h (M, D).

        Returns:
            ``reward``, ``reward_logits`` and ``termination_logit`` of :class:`Prediction`.
        """
        ...

    def arrange(self, state: DreamState) -> DreamState:
        """Return the same state in the memory order that :meth:`step` reads fastest."""
        ...

    def put(self, state: DreamState, rows: Tensor, source: DreamState, indices: Tensor) -> None:
        """Write rows of one state to rows of another, in place.

        Args:
            state: The state to write to.
            rows: (N) int64, rows of ``state``.
            source: The state to read from.
            indices: (N) int64, rows of ``source``.
        """
        ...

    def features(self, state: DreamState) -> Tensor:
        """Return the agent's features [z_t, h_{t−1}], (E, K·C + D) float32."""
        ...


def not_finite(step: Prediction) -> Tensor:
    """Return (E) float32: 0 where all numbers of a transition are finite, else NaN.

    No other number needs a look: a prior's logit that is not finite, or an h, makes the entropy
    NaN, and what the core reads of its state makes h so.
    """
    total = step.prior_entropy + step.reward + step.termination_logit
    return total - total


def require_finite(step: Prediction) -> Prediction:
    """Return a transition if its numbers are finite; on a CPU, where looking costs little.

    Raises:
        GlamNumberError: They are not.
    """
    if step.reward.is_cpu and bool(not_finite(step).sum() != 0.0):
        raise GlamNumberError(NOT_FINITE)
    return step


def put_rows(state: DreamState, rows: Tensor, source: DreamState, indices: Tensor) -> None:
    """Write rows of one state to rows of another; see :meth:`Stepper.put`."""
    for own, part in zip(tree_tensors(state), tree_tensors(source), strict=True):
        own.index_copy_(0, rows, part[indices])


class ModelStepper:
    """Steps dreams of any world model by its own methods; see :class:`Stepper`.

    Args:
        world_model: In eval mode.
        temperature: Of the latent's draw, times the model's own; 0 takes the likeliest classes.
    """

    def __init__(self, world_model: WorldModel, *, temperature: float = 1.0) -> None:
        self._world_model = world_model
        self._temperature = temperature * world_model.config.prior_temperature

    @torch.no_grad()
    def step(
        self,
        state: DreamState,
        action: Tensor,
        draw: Tensor,
        *,
        spend: bool = False,
        show: bool = False,
    ) -> Prediction:
        h, core, prior = self._observe(state, action)
        new = DreamState(sample_at(prior, draw, self._temperature), h, core)
        entropy = categorical_entropy(prior).sum(-1)
        features = self.features(new) if show else None
        return require_finite(Prediction(new, *self.outcome(h), entropy, features))

    @torch.no_grad()
    def go_on(self, state: DreamState, action: Tensor, draw: Tensor) -> DreamState:
        h, core, prior = self._observe(state, action)
        return DreamState(sample_at(prior, draw, self._temperature), h, core)

    def _observe(self, state: DreamState, action: Tensor):
        """Return h_t (E, D), the core's next state, and log-probabilities of z_{t+1}."""
        h, core = self._world_model.observe(state.code, action, state.core)
        return h.float(), core, self._world_model.prior_log_probs(h)

    @torch.no_grad()
    def outcome(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model = self._world_model
        logits = model.reward_code.bounded(model.reward(h))
        return model.reward_code.mean(logits), logits, model.termination(h).squeeze(-1)

    def arrange(self, state: DreamState) -> DreamState:
        return state

    def put(self, state: DreamState, rows: Tensor, source: DreamState, indices: Tensor) -> None:
        put_rows(state, rows, source, indices)

    def features(self, state: DreamState) -> Tensor:
        return self._world_model.features(state)
