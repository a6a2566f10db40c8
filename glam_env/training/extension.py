"""More steps for a run that has begun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glam_env.errors import GlamError
from glam_env.training.config import TrainConfig
from glam_env.training.phases import schedule
from glam_env.training.run_folder import RunFolder

EXTENDED = "extended"  # key in config.json: what was planned before, oldest first


def extend(config: TrainConfig, total_steps: int) -> TrainConfig:
    """Return a run's settings with more steps.

    What is a share of the run, such as ``decay_from`` and ``freeze.at``, becomes a share of the new
    total. What the run has done already is not repeated.

    Raises:
        GlamError: ``total_steps`` is not greater than before, or the schedule would have other
            phases.
    """
    if total_steps <= config.total_steps:
        raise GlamError(
            f"a resumed run can have more steps, not fewer: it has --total-steps "
            f"{config.total_steps}, not {total_steps}"
        )
    longer = replace(config, total_steps=total_steps)
    longer.validate()
    before, after = ([phase.name for phase in schedule(c)] for c in (config, longer))
    if before != after:
        raise GlamError(
            f"with --total-steps {total_steps} the run would have other phases "
            f"({', '.join(after)}) than it began with ({', '.join(before)}); start a new run"
        )
    return longer


def store_extension(run: RunFolder, total_steps: int, at: int) -> None:
    """Write a run's new number of steps to its ``config.json``, beside the one before.

    Args:
        run: The run's folder, locked.
        total_steps: The new number.
        at: Environment steps that the run has done.

    Raises:
        GlamError: The file cannot be written; the old one is unchanged.
    """
    train = run.settings["train"]
    earlier = {"total_steps": train["total_steps"], "at": at}
    run.replace_settings(
        {
            **run.settings,
            "train": {**train, "total_steps": total_steps},
            EXTENDED: [*run.settings.get(EXTENDED, []), earlier],
        }
    )


def describe_extensions(settings: Mapping[str, Any]) -> str:
    """Describe in a sentence for the card how a run was extended; empty if it was not."""
    plans = settings.get(EXTENDED, [])
    if not plans:
        return ""
    totals = [plan["total_steps"] for plan in plans[1:]] + [settings["train"]["total_steps"]]
    steps = (
        f"to {total:,} at step {plan['at']:,}" for plan, total in zip(plans, totals, strict=True)
    )
    return (
        f"The run began with {plans[0]['total_steps']:,} steps planned and was extended "
        f"{', then '.join(steps)}, which changes when its learning rates fall."
    )
