"""Further policies that `glam fidelity` ranks: agents of runs and checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glam_env.cli.trained import Trained, load_run, load_trained
from glam_env.errors import GlamError
from glam_env.files import shown

if TYPE_CHECKING:
    import torch

    from glam_env.evaluation.play.policies import Policy
    from glam_env.model.world_model import WorldModel

SB3, KEPT = "sb3", "kept"


def load_policies(
    specs: Sequence[str], trained: Trained, device: str, option: str = "--ranking-agents"
) -> list[Policy]:
    """Load the agents that are given by kind and path.

    Args:
        specs: `KIND:PATH` each. `sb3:RUN` is the agent of a run of `glam sb3`; `storm:PATH`, or
            another name in `glam_agents.AGENTS`, that of a checkpoint or of a run of `glam train`;
            `kept:RUN` each agent whose weights that run kept.
        trained: The game that is measured. An agent whose world model is another one acts on the
            features of its own, which filters real and drawn frames.
        device: Where the agents run.
        option: Name of the option in messages.

    Raises:
        GlamError: There is no such kind, no such agent, or it plays another game.
    """
    from glam_agents import AGENTS

    from glam_env.device import find_device

    kinds, found = (SB3, KEPT, *AGENTS), list[tuple[str, str]]()
    for spec in specs:
        kind, colon, path = spec.partition(":")
        if kind not in kinds or not colon or not path:
            raise GlamError(
                f"{option} takes KIND:PATH, where KIND is one of {', '.join(kinds)}; "
                f"got {shown(spec)}"
            )
        found.append((kind, path))
    short = [f"{kind} {Path(path).name}" for kind, path in found]
    uses, policies, where = Counter(short), list["Policy"](), find_device(device)
    for (kind, path), name in zip(found, short, strict=True):
        if uses[name] > 1:
            name = f"{kind} {path}"
        if kind == SB3:
            from glam_agents.sb3.policies import load_policy

            policies.append(load_policy(Path(path), name, trained.game, trained.weights, where))
        elif kind == KEPT:
            policies += _kept(Path(path), name, trained, where)
        else:
            policies.append(_agent(name, load_trained(path, device), trained, kind, path))
    return policies


def _kept(path: Path, name: str, trained: Trained, device: torch.device) -> list[Policy]:
    from glam_env.training.kept import list_kept
    from glam_env.training.run_folder import RunFolder

    if not (steps := list(list_kept(RunFolder(path)))):
        raise GlamError(f"{path} kept no weights; train with --keep-every")
    loaded = ((step, load_run(path, device, step)[0]) for step in steps)
    return [
        _agent(f"{name} at step {step}", one, trained, one.agent_config["class"], str(path))
        for step, one in loaded
    ]


def _agent(name: str, loaded: Trained, trained: Trained, kind: str, path: str) -> Policy:
    from glam_env.evaluation.play.policies import agent_policy, filtered_policy

    if loaded.game != trained.game:
        raise GlamError(f"{path} plays {loaded.game}, not {trained.game}; leave it out")
    if (own := loaded.agent_config["class"]) != kind:
        raise GlamError(f"the agent of {path} is {shown(own)}, not {kind}; write {own}:{path}")
    if _same(loaded.world_model, trained.world_model):
        return agent_policy(name, loaded.act())
    return filtered_policy(name, loaded.world_model, loaded.act())


def _same(one: WorldModel, other: WorldModel) -> bool:
    """Return whether two world models have the same weights."""
    import torch

    ours, theirs = one.export_state(), other.export_state()
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in ours.items()
    )
