"""What a world model remembers of a sequence while it steps."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from torch import nn

from glam_env.model.config import WorldModelConfig
from glam_env.model.cores.base import SequenceCore
from glam_env.model.cores.window import WINDOW_STEPS, WindowCore

if TYPE_CHECKING:
    from typing_extensions import Self


class Memory(nn.Module):
    """A module with a sequence core, whose steps carry its state on or compute it again.

    Attributes:
        config: Sizes.
        core: The sequence core, as losses run it.
    """

    config: WorldModelConfig
    core: SequenceCore

    def __init__(self) -> None:
        super().__init__()
        self._window: tuple[WindowCore, ...] = ()  # one or none; no module, which would be stored

    @property
    def memory(self) -> SequenceCore:
        """What observes step by step: the sequence core, or a window over it."""
        return self._window[0] if self._window else self.core

    @property
    def recomputes(self) -> bool:
        """Whether each step computes the core again over the last steps, see :meth:`recompute`."""
        return bool(self._window)

    def recompute(self, steps: int = WINDOW_STEPS) -> None:
        """Compute the core again over the last steps at each step, as the paper's imagination does.

        It concerns whatever steps, or starts dreams, and no loss.

        Raises:
            ValueError: The core needs more than ``steps`` for its first output.
        """
        self._window = (WindowCore(self.core, self.config.width, steps),)

    def windowed(self, steps: int = WINDOW_STEPS) -> Self:
        """Return the same model, which is in evaluation mode, of the same weights, recomputing.

        Raises:
            ValueError: As :meth:`recompute`.
        """
        other = copy(self)
        other.recompute(steps)
        return other
