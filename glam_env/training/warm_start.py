"""Starting a run from the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from glam_env.checkpoint.config import to_json
from glam_env.checkpoint.folder import Checkpoint
from glam_env.errors import GlamError
from glam_env.training.config import TrainConfig

# Of the model's settings, those that are no sizes.
FREE = {"num_actions", "unimix", "draw_temperature", "sharp_prior", "expected_reward"}
RANGE = ".seen"  # how the name of a range of values ends, see SymlogTwoHot


def open_warm_start(
    config: TrainConfig,
    game: str,
    agent: Mapping[str, Any] | None = None,
    agent_sizes: Sequence[str] = (),
) -> Checkpoint:
    """Open the checkpoint of a warm start, and check that the run can take its weights.

    Nothing is written, so a command calls this before it makes the run's folder.

    Args:
        config: The run's settings, with a ``warm_start``.
        game: The run's game.
        agent: The run's agent, as its ``config.json`` stores it; None leaves it unchecked.
        agent_sizes: The fields of it that determine the shapes of the agent's weights.

    Raises:
        GlamError: There is no such checkpoint, or it is of another game or of other sizes.
    """
    checkpoint = Checkpoint.open(config.warm_start)
    where, stored = f"warm_start {checkpoint.path}", checkpoint.config
    if stored.game != game:
        raise GlamError(f"{where} is of {stored.game}; {game} needs one of its own")
    sizes, own = dict(_flat(stored.world_model, "model")), dict(_flat(config.model, "model"))
    if agent is not None:
        for name in ("class", *agent_sizes):
            own[f"agent.{name}"] = agent[name]
            sizes[f"agent.{name}"] = stored.agent.get(name, agent[name])  # absent: its default
    for name in {**own, **sizes}:
        if sizes.get(name) != own.get(name):
            raise GlamError(
                f"{where} has {name} {sizes.get(name)}, this run {own.get(name)}; "
                "they must be equal, so leave out what sets it"
            )
    return checkpoint


def with_own_ranges(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return exported weights with the ranges of values that a run has, and no others.

    Only expected values have such a range. Whether values are expected ones may differ between a
    checkpoint and a run; a range that is new widens as the run sees rewards and returns.

    Args:
        state: Of the checkpoint, an ``export_state()``.
        own: Of the run, which gives the ranges that the checkpoint lacks.
    """
    ranges = {name: value for name, value in own.items() if name.endswith(RANGE)}
    weights = {
        name: value for name, value in state.items() if name in own or not name.endswith(RANGE)
    }
    return ranges | weights


def _flat(settings: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the sizes in nested settings, by their full names."""
    for name, value in to_json(settings).items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}.{name}")
        elif name not in FREE:
            yield f"{prefix}.{name}", value
