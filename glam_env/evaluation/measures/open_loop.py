"""Settings of open loop, shared by the measures of images, objects and events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from glam_env.evaluation.measures.base import Measure, Subject
from glam_env.evaluation.rows import Row


@dataclass(frozen=True)
class OpenLoopReport(Measure):
    """Dreams along held-out play.

    Attributes:
        game: Name of the game.
        windows: Windows compared.
        context, horizon, stride, seed, temperature: Settings of the dreams.
    """

    flat: ClassVar[bool] = True

    game: str
    windows: int
    context: int
    horizon: int
    stride: int
    seed: int
    temperature: float

    @classmethod
    def measure(cls, subject: Subject) -> OpenLoopReport:
        """Dream along the recording."""
        dreams = subject.open_loop
        return cls(
            game=dreams.recording.game,
            windows=len(dreams.env),
            context=dreams.context,
            horizon=dreams.horizon,
            stride=dreams.stride,
            seed=dreams.seed,
            temperature=dreams.temperature,
        )

    @property
    def about(self) -> str:
        """How the dreams were made."""
        return (
            f"{self.game}, open loop: each dream starts after {self.context} steps of held-out "
            f"play and takes the {self.horizon} real actions that follow."
        )

    def rows(self) -> list[Row]:
        """Return the number of windows."""
        return [Row("windows compared", self.windows)]
