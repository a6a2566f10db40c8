"""`glam report`: a summary of the scores of a sweep."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from glam_env.cli.options import Protocol, folder
from glam_env.errors import GlamError

if TYPE_CHECKING:
    from glam_env.evaluation.report.ablation import RunFigures
    from glam_env.evaluation.report.benchmark import ProtocolReport
    from glam_env.sweep.collect import RunScores

Folder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SWEEP")]


@dataclass
class Report:
    """Options of `glam report`.

    Attributes:
        sweep: Folder of a `glam sweep`.
        protocol: The protocol of the scores. By default each of which there are scores.
        to: Folder for report.md, report.csv, report.json, report.tex, report.png and training.png.
        resamples: Of the bootstrap.
        json: Print the figures as JSON.
    """

    sweep: Folder
    protocol: Protocol = None
    to: Annotated[Path | None, folder("SWEEP/report")] = None
    resamples: int = 50_000
    json: bool = False

    def execute(self) -> int:
        """Read the scores, write the report, and print it."""
        from glam_env.checks import require_count
        from glam_env.evaluation.report.ablation import ablation_json, ablation_markdown
        from glam_env.evaluation.report.benchmark import as_json
        from glam_env.evaluation.report.benchmark_plot import save_benchmark_plot
        from glam_env.evaluation.report.benchmark_tables import csv_text, latex, markdown
        from glam_env.protocols import find_protocol
        from glam_env.sweep.collect import collect, figures_of

        require_count("resamples", self.resamples)
        if self.protocol is not None:
            find_protocol(self.protocol)
        runs = collect(self.sweep)
        figures = [figures_of(run) for run in runs]
        trained = [run for run in runs if _has_metrics(run)]
        reports = self._summarize(runs, required=not trained)
        found = {**as_json(reports), "runs": ablation_json(figures)}
        plain = json.dumps(found, indent=2, allow_nan=False) + "\n"
        text = markdown(self.sweep.resolve().name, reports) + ablation_markdown(figures)
        files = {"report.md": text, "report.json": plain}
        if reports:
            files |= {"report.csv": csv_text(reports), "report.tex": latex(reports)}
        to = self.to or self.sweep / "report"
        try:
            to.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (to / name).write_text(content, encoding="utf-8")
        except OSError as error:
            raise GlamError(f"cannot write {to} ({error}); choose a writable --to") from error
        if reports:
            save_benchmark_plot(to / "report.png", reports)
        if trained:
            _save_training(to / "training.png", trained, figures)
        print(plain if self.json else text, end="")
        missing = [run for run in runs if not run.scores]
        if missing:
            names = ", ".join(str(run.path.relative_to(self.sweep)) for run in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            print(f"without a score, left out: {names}{more}", file=sys.stderr)
        print(f"written to {to}", file=sys.stderr)
        return 0

    def _summarize(self, runs: Sequence[RunScores], *, required: bool) -> list[ProtocolReport]:
        """Compute the figures for each protocol.

        Raises:
            GlamError: No run has a score, and one is required.
        """
        from glam_env.evaluation.report.benchmark import GameScores, summarize
        from glam_env.protocols import PROTOCOLS

        reports = []
        for protocol in PROTOCOLS if self.protocol is None else (self.protocol,):
            variants: dict[str, dict[str, list[RunScores]]] = {}
            for run in runs:
                if protocol in run.scores:
                    variants.setdefault(run.variant, {}).setdefault(run.game, []).append(run)
            games = {
                variant: [
                    GameScores(
                        game,
                        tuple(run.seed for run in own),
                        tuple(run.scores[protocol] for run in own),
                    )
                    for game, own in by_game.items()
                ]
                for variant, by_game in variants.items()
            }
            if games:
                reports.append(summarize(protocol, games, self.resamples))
        if not reports and required:
            under = "" if self.protocol is None else f" under {self.protocol}"
            raise GlamError(
                f"no run in {self.sweep} has a score{under}; run the sweep with --then eval"
            )
        return reports


def _has_metrics(run: RunScores) -> bool:
    from glam_env.evaluation.report.history import METRICS

    file = run.path / METRICS
    return file.is_file() and file.stat().st_size > 0


def _save_training(to: Path, runs: Sequence[RunScores], figures: Sequence[RunFigures]) -> None:
    """Draw training curves with their spread over seeds.

    With several variants the losses are drawn too.
    """
    from glam_env.evaluation.report.fluctuation import Fluctuation
    from glam_env.evaluation.report.history import History, read_history
    from glam_env.evaluation.report.training_plot import save_training_plot

    histories: dict[str, dict[str, list[History]]] = {}
    for run in runs:
        seeds = histories.setdefault(run.game, {}).setdefault(run.variant, [])
        seeds.append(read_history(run.path))
    losses: dict[str, dict[str, Fluctuation]] = {}
    if len({run.variant for run in runs}) > 1:
        for run in figures:
            if run.fluctuation is not None:
                losses.setdefault(run.game, {}).setdefault(run.variant, run.fluctuation)
    save_training_plot(to, histories, losses)
