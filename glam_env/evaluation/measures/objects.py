"""The game's objects in dreamt frames and in real ones, by horizon.

One detector finds the objects in both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from glam_env.evaluation.measures.base import Measure, Subject
from glam_env.evaluation.measures.images import shares
from glam_env.evaluation.measures.pong import find_pong_objects
from glam_env.evaluation.play.open_loop import DRAWN
from glam_env.evaluation.rows import Row, curve_rows

Positions = dict[str, np.ndarray]
"""The (N, 2) row and column of each object by name, in pixels; NaN where absent."""
Detector = Callable[[np.ndarray], Positions]
"""Finds objects in (N, 64, 64, 3) uint8 frames."""
DETECTORS: dict[str, Detector] = {"Pong": find_pong_objects}
"""By the game's name."""
TITLES = {
    "distance": "distance (pixels)",
    "missed": "share missing",
    "spurious": "share drawn where the game has none",
}


@dataclass(frozen=True)
class ObjectCurve:
    """Figures of an object by horizon; None for a share or a median of no frames.

    Attributes:
        real: Real frames that show it.
        drawn: Drawn frames that show it.
        distance: Median distance in pixels where both frames show it.
        missed: Share of the real frames with it whose drawn frames lack it.
        spurious: Share of the drawn frames with it whose real frames lack it.
    """

    real: tuple[int, ...]
    drawn: tuple[int, ...]
    distance: tuple[float | None, ...]
    missed: tuple[float | None, ...]
    spurious: tuple[float | None, ...]


@dataclass(frozen=True)
class ObjectReport(Measure):
    """Objects of open loop.

    Attributes:
        objects: By kind of drawn frames (as `ImageReport.images`), then by object; empty for a
            game without a detector.
    """

    flat: ClassVar[bool] = True

    objects: dict[str, dict[str, ObjectCurve]]

    @classmethod
    def measure(cls, subject: Subject) -> ObjectReport:
        """Find the objects in the frames of open loop."""
        dreams = subject.open_loop
        detect = DETECTORS.get(dreams.recording.game)
        if detect is None:
            return cls({})
        tallies = {name: ObjectTally(dreams.horizon) for name in DRAWN}
        last, average = detect(dreams.last_frames), detect(dreams.average_frame[None])
        for k, windows, real, dream in dreams.frames():
            seen = detect(real)
            tallies["dream"].add(k, seen, detect(dream))
            tallies["repeat"].add(k, seen, {name: at[windows] for name, at in last.items()})
            tallies["average"].add(
                k, seen, {name: at.repeat(len(real), 0) for name, at in average.items()}
            )
        return cls({name: tally.curves() for name, tally in tallies.items()})

    @property
    def about(self) -> str:
        """How to read the figures."""
        return (
            "Objects by steps ahead, found by one detector in real and drawn frames. Distances "
            "are medians, in pixels of 64."
        )

    def rows(self) -> list[Row]:
        """Return each figure of each object, of the dream and of the baselines."""
        rows: list[Row] = []
        for name, dream in self.objects.get("dream", {}).items():
            shown = name.replace("_", " ")
            rows += curve_rows(f"real frames with it, {shown}", dream.real)
            for figure, title in TITLES.items():
                for drawn, whose in DRAWN.items():
                    curve = getattr(self.objects[drawn][name], figure)
                    rows += curve_rows(f"{title}, {shown}, {whose}", curve)
        return rows


class ObjectTally:
    """Counts and distances of objects, by horizon.

    Args:
        horizon: Number of horizons `H`.
    """

    def __init__(self, horizon: int) -> None:
        self._real = defaultdict(lambda: np.zeros(horizon, np.int64))
        self._drawn = defaultdict(lambda: np.zeros(horizon, np.int64))
        self._distances: dict[str, list[list[np.ndarray]]] = defaultdict(
            lambda: [[] for _ in range(horizon)]
        )

    def add(self, k: int, real: Positions, drawn: Positions) -> None:
        """Compare objects in N pairs of frames that lie `k + 1` steps ahead.

        Args:
            k: Number of the horizon, from 0.
            real, drawn: What a `Detector` finds in the frames.
        """
        for name, position in real.items():
            distance = np.hypot(*(position - drawn[name]).T)
            self._real[name][k] += np.isfinite(position[:, 0]).sum()
            self._drawn[name][k] += np.isfinite(drawn[name][:, 0]).sum()
            self._distances[name][k].append(distance[np.isfinite(distance)])

    def curves(self) -> dict[str, ObjectCurve]:
        """Return the curves, by object."""
        return {name: self._curve(name) for name in self._real}

    def _curve(self, name: str) -> ObjectCurve:
        real, drawn = self._real[name], self._drawn[name]
        distances = [np.concatenate([np.empty(0), *parts]) for parts in self._distances[name]]
        both = np.array([len(distance) for distance in distances])
        return ObjectCurve(
            real=tuple(real.tolist()),
            drawn=tuple(drawn.tolist()),
            distance=tuple(float(np.median(d)) if len(d) else None for d in distances),
            missed=shares(real - both, real),
            spurious=shares(drawn - both, drawn),
        )
