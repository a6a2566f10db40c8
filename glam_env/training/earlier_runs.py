"""Reading runs of earlier versions. No other module of training has their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from glam_env.training.phases import (
    ADAPTATION,
    FINE_TUNING,
    IMAGE_WARM_UP,
    MODEL_WARM_UP,
    Phase,
    Step,
    adaptation_updates,
)

FREEZE = {"polish": "finetune", "settle": "adapt"}
"""Settings of ``freeze`` in old runs, and what they are called now."""


def upgrade_train(train: Any) -> Any:
    """Bring a run's training settings into their present form.

    What has another type than expected is left to its reader.
    """
    if not isinstance(train, Mapping) or not isinstance(train.get("freeze"), Mapping):
        return train
    freeze = {FREEZE.get(name, name): value for name, value in train["freeze"].items()}
    hold = train.get("exploration_hold", 1.0)  # a number from before each env had its own
    return {
        **train,
        "freeze": freeze,
        "exploration_hold": [hold] if isinstance(hold, int | float) else hold,
    }


def upgrade_state(state: Mapping[str, Any], phases: list[Phase]) -> dict[str, Any]:
    """Bring the checkpoint of an old run into its present form; a new one is returned as it is.

    Args:
        state: Content of a run's checkpoint.
        phases: The schedule of the run.
    """
    state = dict(state)
    if "schedule" not in state:
        counts = state["counts"]
        phase, updates = _position(phases, counts)
        state["schedule"] = {"phase": phase, "updates": updates}
        state["metrics_size"] = counts["metrics_size"]
    state.setdefault("recorded_steps", 0)  # from before recordings could be trained on
    # From before errors ended a phase, and before agents were reset.
    state["schedule"] = {"error": 0.0, "agent_resets": 0, **state["schedule"]}
    if "exploration" not in state:  # from before random actions were held
        none = torch.zeros(state["replay"]["streams"], dtype=torch.int64)
        state["exploration"] = {"action": none, "left": none}
    if "new_play" not in state:  # from before new play was compared with what was expected
        state["new_play"] = torch.zeros(state["replay"]["streams"], dtype=torch.int64)
    return state


def _position(phases: list[Phase], counts: Mapping[str, int]) -> tuple[int, int]:
    """Find the phase of an old checkpoint, and how many of its updates are done.

    The counts are ``freezes``, how often the image model was frozen, ``polished`` and ``settled``,
    the updates of the fine-tuning and the adaptation under way, and those of every checkpoint.
    """
    ends = [i + 1 for i, phase in enumerate(phases) if phase.step is Step.FINE_TUNING_UPDATE]
    index = ends[counts["freezes"] - 1] if counts["freezes"] else 0
    while True:
        phase = phases[index]
        updates = {
            IMAGE_WARM_UP: counts["image_updates"],
            FINE_TUNING: counts["polished"],
            ADAPTATION: counts["settled"],
            MODEL_WARM_UP: counts["model_updates"] - adaptation_updates(phases[:index]),
        }.get(phase.name, 0)
        done = counts["env_steps"] if phase.unit == "steps" else updates
        # A fine-tuning that is complete has frozen the image model, so `freezes` counts it.
        if phase.name == FINE_TUNING or done < phase.total or phase is phases[-1]:
            return index, updates
        index += 1
