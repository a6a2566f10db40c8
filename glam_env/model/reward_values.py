"""Rewards that are a game's own: the distribution of the reward head over the values it pays.

The reward head is a distribution over bins, of which most stand for rewards that the game never
pays: its mean in Pong is 1e-4 where nothing happens, not 0, and so the sign of a mean says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from glam_env.model.distributions import SymlogTwoHot, sample_at
from glam_env.model.structures import Prediction

MOST_VALUES = 128
"""Values of a game that are kept at most; between 0 and 10,000 the head has 59 bins."""
LARGEST_VALUE = 4.8e8
"""The largest absolute reward that the head's bins reach."""

REWARDS = ("game", "sample", "mean")
"""How an env makes a reward of the head's distribution."""


def seen_values(rewards: np.ndarray, known: Sequence[float] = ()) -> tuple[float, ...]:
    """Return the reward values of a game, in ascending order.

    Of more than :data:`MOST_VALUES`, kept are 0, the known ones, the least, the largest, and then
    the most frequent. Where the head predicts another value, an env gives the nearest of these.

    Args:
        rewards: Of any shape, in the game's points.
        known: Values that belong to the result whether they occur or not, at most
            :data:`MOST_VALUES` − 3 of them.
    """
    found, counts = np.unique(np.asarray(rewards, np.float64), return_counts=True)
    kept = dict.fromkeys([0.0, *known])
    if len(found):
        kept |= dict.fromkeys([float(found[0]), float(found[-1])])
    for value in found[np.argsort(-counts, kind="stable")].tolist():
        if len(kept) >= MOST_VALUES:
            break
        kept[value] = None
    return tuple(sorted(value + 0.0 for value in kept))  # a −0 becomes 0


def whole_values(code: SymlogTwoHot) -> tuple[float, ...]:
    """Return the whole numbers nearest to the bins, for a game whose values are not known."""
    return tuple(code.values.double().round().unique().tolist())


class RewardValues:
    """The distribution of a reward head over a set of values.

    The head learns the two bins around each value, with the weights w of the two-hot code. The
    share of value v in its distribution p is exp(−KL(w(v) ‖ p)), normalised over the set. If p is
    a mixture of the codes of values that share no bin, the shares are exactly those of the mixture.
    Of values that lie between the same two bins, the one whose weights are p's has the largest
    share; adding up the nearest bins, in contrast, cannot tell them apart.

    Args:
        code: Of the head.
        values: V values that the game pays; empty for :func:`whole_values`.

    Attributes:
        known: Whether there were values.
        values: (V) float32, ascending, on the code's device.
    """

    def __init__(self, code: SymlogTwoHot, values: Sequence[float] = ()) -> None:
        device = code.centers.device
        self.known = len(values) > 0
        self.values = torch.tensor(
            sorted(values or whole_values(code)), dtype=torch.float32, device=device
        )
        weights = code.encode(self.values)  # (V, bins)
        self._weights = weights.T.contiguous()
        self._entropies = torch.special.entr(weights).sum(-1)  # (V)

    def log_shares(self, logits: Tensor) -> Tensor:
        """Map (..., bins) logits to (..., V) logits of the values' shares."""
        with torch.autocast(logits.device.type, enabled=False):
            return logits.float() @ self._weights + self._entropies

    def reward(self, form: str, step: Prediction, draw: Tensor) -> Tensor:
        """Return the rewards of E transitions, (E) float32.

        Args:
            form: One of :data:`REWARDS`.
            step: The transitions.
            draw: (E) in [0, 1), for the form ``"sample"``.
        """
        if form == "game":
            return self.likeliest(step.reward_logits)
        if form == "sample":
            return self.sample(step.reward_logits, draw)
        # Over whole_values, improbable bins of 5e8 would decide the expected value.
        return self.mean(step.reward_logits) if self.known else step.reward

    def likeliest(self, logits: Tensor) -> Tensor:
        """Return the value of the largest share, (...) float32."""
        return self.values[self.log_shares(logits).argmax(-1)]

    def sample(self, logits: Tensor, draw: Tensor) -> Tensor:
        """Return the values, (...) float32, that draws (...) in [0, 1) select by their shares."""
        return self.values[sample_at(self.log_shares(logits), draw)]

    def mean(self, logits: Tensor) -> Tensor:
        """Return the expected values, (...) float32."""
        return self.log_shares(logits).softmax(-1) @ self.values
