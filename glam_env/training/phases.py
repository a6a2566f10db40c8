"""The schedule of a training run: a list of phases, built from its settings.

A phase repeats one step of work until it is complete. Two phases may have the same name: the image
model is fine-tuned, and the sequence model adapts to it, at every moment of ``freeze.at``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import pairwise
from typing import Any, Literal

from glam_env.model.config import LossConfig
from glam_env.training.config import FreezeConfig, TrainConfig

RANDOM_PLAY = "random play"
FIRST_PLAY = "first play"
IMAGE_WARM_UP = "image warm-up"
FINE_TUNING = "image fine-tuning"
ADAPTATION = "adaptation"
END_TO_END = "end-to-end training"
MODEL_WARM_UP = "model warm-up"
JOINT_TRAINING = "joint training"

ERROR_WINDOW = 100  # updates of the image model over which its error is averaged


class Step(Enum):
    """The work that a phase repeats."""

    RANDOM_PLAY = auto()
    """One step of every game, with random actions. The end sets the game's background."""
    PLAY = auto()
    """One step of every game, played by the agent."""
    IMAGE_UPDATE = auto()
    """One update of the image model."""
    FINE_TUNING_UPDATE = auto()
    """One update of the image model, with a falling learning rate. The end freezes it."""
    MODEL_UPDATE = auto()
    """One update of the world model."""
    END_TO_END_UPDATE = auto()
    """One update of images and sequence model together, with a falling learning rate. The end
    freezes the image model."""
    JOINT = auto()
    """One step of every game, then the updates of the world model and the agent that are due."""


FREEZING = (Step.FINE_TUNING_UPDATE, Step.END_TO_END_UPDATE)
"""The steps of phases that end with frozen images."""


@dataclass(frozen=True)
class Phase:
    """One phase of a run.

    Attributes:
        name: Name in metrics and displays.
        unit: What ``total`` counts: ``steps`` of the environment since the run began, or
            ``updates`` since the phase began.
        total: The count at which the phase is complete.
        step: The work that it repeats.
        target_error: The phase is complete before, once the mean ``rare_error`` of
            ``ERROR_WINDOW`` updates is below this.
    """

    name: str
    unit: Literal["steps", "updates"]
    total: int
    step: Step
    target_error: float = 0.0

    def loss(self, config: TrainConfig, updates: int) -> LossConfig:
        """Return the weights of the losses in this phase.

        Args:
            config: The run's settings.
            updates: Updates since this phase began.
        """
        if self.step not in FREEZING:
            return config.loss
        own = config.freeze
        names = ["empty_weight", "image_entropy"]
        names += ["margin", "margin_weight"] if updates >= own.margin_from * self.total else []
        names += [name for name in ("foreground_weight", "focus") if getattr(own, name) > 0.0]
        names += ["representation"] if self.step is Step.END_TO_END_UPDATE else []
        return replace(config.loss, diversity=0.0, **{name: getattr(own, name) for name in names})

    def learning_rate(self, config: TrainConfig, env_steps: int, updates: int) -> float:
        """Return the world model's learning rate.

        Args:
            config: The run's settings.
            env_steps: Environment steps since the run began.
            updates: Updates since this phase began.
        """
        rate = config.learning_rate_at(env_steps)
        alone = self.step in (Step.IMAGE_UPDATE, Step.FINE_TUNING_UPDATE)
        if alone and config.image_learning_rate > 0.0:
            rate = config.image_learning_rate
        if self.step in FREEZING:
            start = config.freeze.decay_from * self.total
            gone = max(0.0, updates - start) / max(1.0, self.total - start)
            rate += (config.final_learning_rate - rate) * gone
        return rate


def schedule(config: TrainConfig) -> list[Phase]:
    """Build the phases of a run, in order. The last one ends with the run."""
    c, freeze = config, config.freeze
    if c.warm_start:
        phases = [Phase(FIRST_PLAY, "steps", c.random_steps, Step.PLAY)]
    else:
        phases = [Phase(RANDOM_PLAY, "steps", c.random_steps, Step.RANDOM_PLAY)]
    if c.image_warmup > 0:
        work = "updates", c.image_warmup, Step.IMAGE_UPDATE
        phases.append(Phase(IMAGE_WARM_UP, *work, c.target_error))
    played = _whole_steps(c.random_steps, c.num_envs)
    starts = [math.ceil(share * c.total_steps) for share in freeze.at]
    for start, following in pairwise([*starts, c.total_steps]):
        if start > played:
            phases.append(Phase(JOINT_TRAINING, "steps", start, Step.JOINT))
            played = _whole_steps(start, c.num_envs)
        adapt = following > played and freeze.adapt  # else the latents change again at once
        adaptation = [Phase(ADAPTATION, "updates", adapt, Step.MODEL_UPDATE)] if adapt else []
        phases += _freezing(freeze, adaptation, first=start == starts[0])
    phases.append(Phase(JOINT_TRAINING, "steps", c.total_steps, Step.JOINT))

    first_joint = [phase.step for phase in phases].index(Step.JOINT)
    if (left := c.model_warmup - adaptation_updates(phases[:first_joint])) > 0:
        phases.insert(first_joint, Phase(MODEL_WARM_UP, "updates", left, Step.MODEL_UPDATE))
    return phases


def _freezing(freeze: FreezeConfig, adaptation: list[Phase], *, first: bool) -> list[Phase]:
    """Return the phases at a freeze; each but the adaptations ends with frozen images."""
    finetune = Phase(FINE_TUNING, "updates", freeze.finetune, Step.FINE_TUNING_UPDATE)
    if freeze.end_to_end == 0:
        return [finetune, *adaptation]
    together = Phase(END_TO_END, "updates", freeze.end_to_end, Step.END_TO_END_UPDATE)
    # A prior that knows nothing yet would teach the latents to say nothing.
    return [*([finetune, *adaptation] if first else []), together, *adaptation]


def _whole_steps(steps: int, num_envs: int) -> int:
    """Round up to steps that all envs take together."""
    return math.ceil(steps / num_envs) * num_envs


def adaptation_updates(phases: Iterable[Phase]) -> int:
    """Count the updates of all adaptations in some phases."""
    return sum(phase.total for phase in phases if phase.name == ADAPTATION)


def count_freezes(phases: Iterable[Phase]) -> int:
    """Count how often the image model is frozen in some phases."""
    return sum(phase.step in FREEZING for phase in phases)


def progress(config: TrainConfig, line: Mapping[str, Any]) -> tuple[int, int, str]:
    """Look up how far a run is, for a progress display.

    Args:
        config: The run's settings.
        line: A line of metrics with a ``phase``.

    Returns:
        What is done, of what total, and its unit. Joint training counts up to the run's end.
    """
    phase = [phase for phase in schedule(config) if phase.name == line["phase"]][-1]
    done = line["env_steps"] if phase.unit == "steps" else line["phase_updates"]
    return done, phase.total, phase.unit
