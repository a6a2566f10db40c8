"""The whole report on a trained game: open loop, each action tried, the policy in both worlds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glam_env.envs.latent_filter import Act, FilteredPolicy
from glam_env.errors import GlamError
from glam_env.evaluation.measures.action_effects import BranchReport, compare_branches
from glam_env.evaluation.measures.behavior import BehaviorReport, compare_behavior
from glam_env.evaluation.measures.open_loop import DETECTORS, FidelityReport, measure_fidelity
from glam_env.evaluation.measures.thresholds import Check, Thresholds, check_fidelity
from glam_env.evaluation.play.recording import Recording, add_noise, record_play
from glam_env.evaluation.play.windows import dream_windows
from glam_env.evaluation.report.films import save_films
from glam_env.evaluation.report.plots import save_plots
from glam_env.evaluation.report.strips import save_strips
from glam_env.evaluation.report.tables import behavior_table, branch_table, fidelity_table
from glam_env.model.world_model import WorldModel

PLAYERS = {
    "the agent": 0.0,
    "the agent, 1 in 4 actions random": 0.25,
    "the agent, 1 in 2 actions random": 0.5,
    "random": 1.0,
}
"""Who plays the held-out games, and the chance that an action is random."""

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Examination:
    """What `examine` found.

    Attributes:
        fidelity: Open loop.
        behavior: The policy in dreams and in the game.
        branches: Each action from one moment, in dreams and in the game; None if not tried.
        checks: The first two held to the thresholds; empty for dreams too short for them.
    """

    fidelity: FidelityReport
    behavior: BehaviorReport
    branches: BranchReport | None
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks hold."""
        return all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The figures of open loop, and the others as `behavior`, `branches` and `checks`."""
        return {
            **self.fidelity.as_json(),
            "behavior": self.behavior.as_json(),
            "branches": self.branches and self.branches.as_json(),
            "checks": [check.as_json() for check in self.checks],
        }

    def table(self) -> str:
        """The figures for people, as plain text."""
        parts = [fidelity_table(self.fidelity), behavior_table(self.behavior)]
        if self.branches is not None:
            parts.append(branch_table(self.branches))
        return "\n\n".join([*parts, "\n".join(map(str, self.checks))]).rstrip()


def examine(
    world_model: WorldModel,
    act: Act,
    game: str,
    *,
    steps: int = 8000,
    behavior_steps: int = 8192,
    branch_steps: int = 4000,
    horizon: int = 64,
    dream_horizon: int = 64,
    seed: int = 0,
    repeat_action_probability: float = 0.0,
    thresholds: Thresholds | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[Examination, Recording]:
    """Plays held-out games, dreams along them, and lets the policy play in both worlds.

    Args:
        world_model: In evaluation mode.
        act: The policy.
        game: Name of the game.
        steps: Real steps to dream along, shared by the players of `PLAYERS`.
        behavior_steps: Real steps that the policy plays by itself.
        branch_steps: Real steps at moments of which each action is tried, shared as `steps`; 0
            tries none, and none are tried in a game with sticky actions.
        horizon: Steps of open loop.
        dream_horizon: Steps that the policy's dreams last.
        seed: Of everything.
        repeat_action_probability: Chance of a sticky action in the real game.
        thresholds: The bounds; the usual ones if None.
        on_progress: See `OnProgress`.

    Returns:
        The report, and the play that was dreamt along.

    Raises:
        GlamError: For an impossible value, or too few steps for a single window.
    """
    tell = on_progress or (lambda work, done, total: None)
    thresholds = thresholds or Thresholds()
    envs = len(PLAYERS)

    def tell_steps(work: str, total: int) -> Callable[[int], None]:
        return lambda done: tell(work, min(envs * done, total), total)

    noisy = add_noise(act, world_model.config.num_actions, tuple(PLAYERS.values()))
    recording = record_play(
        FilteredPolicy(world_model, noisy),
        game,
        steps=steps,
        num_envs=envs,
        seed=seed,
        repeat_action_probability=repeat_action_probability,
        on_step=tell_steps("real play to dream along (steps)", steps),
    )
    report = measure_fidelity(
        world_model,
        recording,
        horizon=horizon,
        seed=seed,
        objects=DETECTORS.get(recording.game),
        players=tuple(PLAYERS),
        on_window=lambda done, total: tell("open loop (dreams)", done, total),
    )
    behavior = compare_behavior(
        world_model,
        act,
        game,
        steps=behavior_steps,
        num_envs=envs,
        horizon=dream_horizon,
        seed=seed + 1,  # other games than those above
        repeat_action_probability=repeat_action_probability,
        on_step=tell_steps("the agent's own real play (steps)", behavior_steps),
    )
    branches = None
    if branch_steps and not repeat_action_probability:
        branches = compare_branches(
            world_model,
            act,
            game,
            noise=tuple(PLAYERS.values()),
            steps=branch_steps,
            seed=seed + 2,
            on_step=lambda done: tell(
                "each action tried (steps)", min(done, branch_steps), branch_steps
            ),
        )
    long_enough = horizon >= thresholds.horizon
    checks = check_fidelity(report, behavior, thresholds) if long_enough else ()
    return Examination(report, behavior, branches, checks), recording


def save_examination(
    folder: Path,
    examination: Examination,
    world_model: WorldModel,
    recording: Recording,
) -> list[Path]:
    """Writes the report with its pictures.

    Args:
        folder: Made if missing: `fidelity.json`, `plots/`, `strips/` and `film.mp4`.
        examination, recording: Of `examine`.
        world_model: As examined.

    Returns:
        The files.

    Raises:
        GlamError: If what draws is not installed, or the folder cannot be written.
    """
    fidelity = examination.fidelity
    report = examination.as_json()
    windows = dream_windows(
        world_model,
        recording,
        context=fidelity.context,
        horizon=fidelity.horizon,
        seed=fidelity.seed,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "fidelity.json"
        path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
        return [
            path,
            *save_plots(folder / "plots", report),
            *save_strips(folder / "strips", windows),
            save_films(folder / "film.mp4", windows),
        ]
    except OSError as error:
        raise GlamError(f"cannot write {folder} ({error}); choose a writable --out") from error
