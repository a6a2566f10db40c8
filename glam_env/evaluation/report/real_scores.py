"""A run's curves of real scores, of whole games played with its kept weights.

They are stored in ``scores.json``. The best weights are chosen on games with seeds of choice. Their
reported score is measured on other seeds, because the best of many noisy scores is too high.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glam_env.errors import GlamError
from glam_env.evaluation.play.scores import play_of
from glam_env.protocols import PlaySettings

SCORES = "scores.json"


@dataclass(frozen=True)
class ScoreCurve:
    """Scores under one protocol.

    Attributes:
        points: A `ScoreReport` as JSON for each environment step, in order, on the seeds of choice.
        reported: `ScoreReport` as JSON of the best weights, on other seeds; None before it is
            measured.
    """

    points: Mapping[int, Mapping[str, Any]]
    reported: Mapping[str, Any] | None = None

    @property
    def play(self) -> PlaySettings:
        """Settings of the games."""
        return play_of(next(iter(self.points.values())))

    @property
    def best(self) -> int:
        """The step with the highest mean; of equal ones, the latest."""
        return max(self.points, key=lambda step: (self.points[step]["mean"], step))

    def as_json(self) -> dict[str, Any]:
        """Return the curve, ready for `json.dumps`."""
        return {"best": self.best, "points": self.points, "reported": self.reported}

    def table(self) -> str:
        """Return the curve as plain text."""
        lines = [
            f"kept weights, {self.play}:",
            f"{'at step':>12}{'score':>10}   on seeds of choice",
        ]
        for step, score in self.points.items():
            mark = "   best" if step == self.best else ""
            lines.append(f"{step:12,}{_mean(score)}{mark}")
        if self.reported is not None:
            lines.append(
                f"reported: step {self.best:,}, {_mean(self.reported).strip()} in "
                f"{self.reported['episodes']} whole games on other seeds"
            )
        return "\n".join(lines)


def _mean(score: Mapping[str, Any]) -> str:
    error = score["standard_error"]
    return f"{score['mean']:10.2f}" + ("" if error is None else f" ± {error:.2f}")


def read_curves(folder: Path) -> list[ScoreCurve]:
    """Read the curves of a run; none if no kept weights were scored.

    Raises:
        GlamError: The file is no such JSON.
    """
    path = folder / SCORES
    if not path.is_file():
        return []
    try:
        return [
            ScoreCurve(
                {int(step): score for step, score in curve["points"].items()}, curve["reported"]
            )
            for curve in json.loads(path.read_text())["curves"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GlamError(f"{path} cannot be read ({error!r}); `glam eval RUN --kept`") from error


def curve_under(curves: Sequence[ScoreCurve], play: PlaySettings) -> ScoreCurve | None:
    """Find the curve of some settings."""
    return next((curve for curve in curves if curve.play == play), None)


def put_curve(folder: Path, curve: ScoreCurve) -> None:
    """Add a curve to those of a run.

    It replaces an older one under the same settings.

    Raises:
        GlamError: The folder cannot be read or written.
    """
    others = [other for other in read_curves(folder) if other.play != curve.play]
    plain = [one.as_json() for one in [*others, curve]]
    path = folder / SCORES
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_text(json.dumps({"curves": plain}, indent=2, allow_nan=False) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise GlamError(f"cannot write {path} ({error}); make the folder writable") from error
