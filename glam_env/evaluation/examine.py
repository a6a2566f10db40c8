"""The whole report on a trained game: every measure, in order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glam_env.envs.latent_filter import Act
from glam_env.envs.recordings.recording import Recording
from glam_env.errors import GlamError
from glam_env.evaluation.measures import MEASURES
from glam_env.evaluation.measures.base import Measure, OnProgress, Settings, Subject
from glam_env.evaluation.measures.open_loop import OpenLoopReport
from glam_env.evaluation.measures.thresholds import Check, CheckReport
from glam_env.evaluation.play.policies import Policy
from glam_env.evaluation.play.windows import dream_windows
from glam_env.evaluation.report.films import save_films
from glam_env.evaluation.report.plots import save_plots
from glam_env.evaluation.report.strips import save_strips
from glam_env.evaluation.report.tables import text_table
from glam_env.model.world_model import WorldModel


@dataclass(frozen=True)
class Examination:
    """Results of `examine`.

    Attributes:
        reports: Report of each measure, by its name in `MEASURES`; None if it was left out.
    """

    reports: Mapping[str, Measure | None]

    @property
    def found(self) -> dict[str, Measure]:
        """The reports of the measures that were not left out."""
        return {name: report for name, report in self.reports.items() if report is not None}

    @property
    def checks(self) -> tuple[Check, ...]:
        """The thresholds; empty for dreams too short for them."""
        reports = self.found.values()
        return tuple(
            c for report in reports if isinstance(report, CheckReport) for c in report.checks
        )

    @property
    def passed(self) -> bool:
        """Whether all checks hold."""
        return all(check.passed for check in self.checks)

    def figures(self) -> dict[str, Any]:
        """Return all figures, ready for `json.dumps`; a checkpoint stores them."""
        plain: dict[str, Any] = {}
        for name, report in self.reports.items():
            fields = None if report is None else report.as_json()
            if MEASURES[name].flat:
                plain |= fields or {}
            else:
                plain[name] = fields
        return plain

    def as_json(self) -> dict[str, Any]:
        """Return all figures, then all rows, ready for `json.dumps`."""
        rows = [
            {"measure": name, **asdict(row)}
            for name, report in self.found.items()
            for row in report.rows()
        ]
        return {**self.figures(), "rows": rows}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any], where: str = "report") -> Examination:
        """Read the JSON of `figures` or `as_json`, also of an earlier version.

        Args:
            plain: The JSON. A measure that it lacks counts as left out.
            where: Named in errors.

        Raises:
            GlamError: If the figures of a measure are incomplete or of another kind.
        """
        reports: dict[str, Measure | None] = {}
        for name, kind in MEASURES.items():
            part = plain if kind.flat and kind.held_by(plain) else plain.get(name)
            reports[name] = None if part is None else kind.from_json(part, f"{where}: {name}")
        return cls(reports)

    def check_again(self) -> Examination:
        """Return the same figures, checked again against the usual bounds.

        Figures that were not checked before stay unchecked.

        Raises:
            GlamError: If figures are missing.
        """
        if not self.checks:
            return self
        return Examination({**self.reports, "checks": CheckReport.of(self.reports.values())})

    def table(self) -> str:
        """Return the figures as plain text."""
        return text_table(self.found.values())


def examine(
    world_model: WorldModel,
    act: Act,
    game: str,
    *,
    on_progress: OnProgress | None = None,
    policies: Sequence[Policy] = (),
    recording: Recording | None = None,
    **settings: Any,
) -> tuple[Examination, Recording]:
    """Run every measure of `MEASURES`.

    Args:
        world_model: In evaluation mode.
        act: The policy.
        game: Name of the game.
        on_progress: See `OnProgress`.
        policies: Further policies to rank.
        recording: Play to dream along; None records new play.
        **settings: Fields of `Settings`.

    Returns:
        The report, and the recorded play.

    Raises:
        GlamError: For an impossible value, or too few steps for a single window.
    """
    subject = Subject(
        world_model,
        act,
        game,
        Settings(**settings),
        on_progress=on_progress,
        policies=policies,
        recording=recording,
    )
    for name, kind in MEASURES.items():
        subject.reports[name] = kind.measure(subject)
    return Examination(subject.reports), subject.recording


def examine_missing(
    known: Examination,
    world_model: WorldModel,
    act: Act,
    game: str,
    *,
    on_progress: OnProgress | None = None,
    policies: Sequence[Policy] = (),
    **settings: Any,
) -> Examination:
    """Run the measures that an earlier report lacks, such as those of a newer version.

    Args:
        known: The earlier report, of the same model, policy and settings.
        world_model, act, game, on_progress, policies, **settings: As in `examine`.

    Returns:
        The earlier report with these measures, checked again if it was checked before.

    Raises:
        GlamError: For an impossible value.
    """
    subject = Subject(
        world_model,
        act,
        game,
        Settings(**settings),
        on_progress=on_progress,
        policies=policies,
    )
    for name, kind in MEASURES.items():
        report = known.found.get(name)
        missing = report is None and kind is not CheckReport
        subject.reports[name] = kind.measure(subject) if missing else report
    return Examination(subject.reports).check_again()


def save_examination(
    folder: Path,
    examination: Examination,
    world_model: WorldModel,
    recording: Recording,
) -> list[Path]:
    """Write the report with its pictures.

    Args:
        folder: Folder of `fidelity.json`, `plots/`, `strips/` and `film.mp4`; made if missing.
        examination, recording: Results of `examine`.
        world_model: The world model that was examined.

    Returns:
        The files.

    Raises:
        GlamError: If a library for pictures is not installed, or the folder cannot be written.
    """
    (open_loop,) = (one for one in examination.found.values() if isinstance(one, OpenLoopReport))
    windows = dream_windows(
        world_model,
        recording,
        context=open_loop.context,
        horizon=open_loop.horizon,
        seed=open_loop.seed,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "fidelity.json"
        path.write_text(json.dumps(examination.as_json(), indent=2, allow_nan=False) + "\n")
        return [
            path,
            *save_plots(folder / "plots", examination.found),
            *save_strips(folder / "strips", windows),
            save_films(folder / "film.mp4", windows),
        ]
    except OSError as error:
        raise GlamError(f"cannot write {folder} ({error}); choose a writable --out") from error
