"""Fluctuation of a run's losses between logged updates (paper, figure 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from glam_env.evaluation.report.history import Curve, read_lines

JOINT = "joint training"
LOSSES = ("loss", "dynamics_kl", "reward", "termination")
"""Figures whose fluctuation is taken; ``loss`` is the world model's."""


@dataclass(frozen=True)
class Fluctuation:
    """The fluctuation of a run's losses in joint training.

    Attributes:
        every: Model updates between two logged lines; each line is a mean over so many.
        deviations: By loss, the standard deviation of the differences between consecutive lines.
        means: By loss, its mean over the same lines.
        loss: The world model's loss over model updates.
    """

    every: int
    deviations: Mapping[str, float]
    means: Mapping[str, float]
    loss: Curve

    def share(self, name: str) -> float | None:
        """Return a deviation divided by its mean, to compare runs of different losses."""
        if name not in self.deviations or not self.means[name]:
            return None
        return self.deviations[name] / abs(self.means[name])


def read_fluctuation(path: Path) -> Fluctuation | None:
    """Read the fluctuation of a run from its metrics; None if it has too few lines.

    Args:
        path: The run's folder, or a metrics file.

    Raises:
        GlamError: The metrics are missing, or no metrics file.
    """
    return fluctuation(read_lines(path))


def fluctuation(lines: Sequence[Mapping[str, Any]]) -> Fluctuation | None:
    """Compute the fluctuation; see :func:`read_fluctuation`.

    The difference of two lines counts if both are of joint training, with no other phase between
    them, and if both losses have the same terms: with a frozen image model the loss lacks its
    largest term.
    """
    logged = [line for line in lines if "phase" in line]
    pairs = [
        (one, two)
        for one, two in pairwise(logged)
        if one["phase"] == two["phase"] == JOINT
        and {"loss"} <= one.keys() & two.keys()
        and ("reconstruction" in one) == ("reconstruction" in two)
    ]
    if len(pairs) < 2:
        return None
    deviations, means = {}, {}
    for name in LOSSES:
        both = [(one[name], two[name]) for one, two in pairs if name in one and name in two]
        if len(both) >= 2:
            values = np.array(both, float)
            deviations[name] = float(np.std(values[:, 1] - values[:, 0], ddof=1))
            means[name] = float(values[:, 1].mean())
    steps = [two["model_updates"] - one["model_updates"] for one, two in pairs]
    return Fluctuation(
        int(np.median(steps)),
        deviations,
        means,
        Curve(
            tuple(two["model_updates"] for _, two in pairs),
            tuple(float(two["loss"]) for _, two in pairs),
        ),
    )
