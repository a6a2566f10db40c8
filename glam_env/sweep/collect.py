"""The scores and other figures of a sweep's runs, read from its folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from glam_env.errors import GlamError
from glam_env.evaluation.play.scores import play_of, stored_scores
from glam_env.evaluation.report.ablation import RunFigures, fidelity_figures, row_of
from glam_env.evaluation.report.fluctuation import read_fluctuation
from glam_env.evaluation.report.history import METRICS
from glam_env.files import read_json, reading
from glam_env.games import find_game
from glam_env.sweep.matrix import CHECKPOINT, RESULTS

CURE = "measure the run again with `glam sweep --then eval`"
_RUN = re.compile(r"(?P<variant>.+)-seed(?P<seed>\d{1,19})")


@dataclass(frozen=True)
class RunScores:
    """The scores of one run.

    Attributes:
        game: Name of the game.
        variant: Name of the variant.
        seed: Seed of the run.
        path: Folder of the run.
        scores: Mean of whole games, by protocol; empty if the run has not been measured.
    """

    game: str
    variant: str
    seed: int
    path: Path
    scores: dict[str, float]


def collect(folder: Path) -> list[RunScores]:
    """Read the scores of all runs of a sweep.

    A score that `eval` measured is preferred to that of the exported checkpoint.

    Raises:
        GlamError: There is no run in the folder, or a file of scores cannot be read.
    """
    runs = []
    for path in sorted(folder.glob("*/*-seed*")):
        match = _RUN.fullmatch(path.name)
        if match is None or not (path / "config.json").is_file():
            continue
        game = find_game(path.parent.name).name
        scores = dict(_stored(path)) | dict(_measured(path))
        runs.append(RunScores(game, match["variant"], int(match["seed"]), path, scores))
    if not runs:
        raise GlamError(f"{folder} holds no runs of a sweep; give the folder of a `glam sweep`")
    return sorted(runs, key=lambda run: (run.variant, run.game, run.seed))


def figures_of(run: RunScores) -> RunFigures:
    """Read the figures of a run for a report.

    In addition to the scores, they are its row of table 2, its fidelity and its fluctuation.

    Raises:
        GlamError: One of its files cannot be read.
    """
    file = run.path / "config.json"
    settings = read_json(file, CURE)
    with reading(file, CURE):
        train = settings.get("train") or {}
        core = train.get("model", {}).get("core", {}).get("name", "")
        row = row_of(core, float(train.get("loss", {}).get("variation", 0.1)))
    measured = run.path / RESULTS / "fidelity.json"
    exported = run.path / CHECKPOINT / "config.json"
    plain, where = {}, exported
    if measured.is_file():
        plain, where = read_json(measured, CURE), measured
    elif exported.is_file():
        plain = read_json(exported, CURE).get("results", {}).get("fidelity", {})
    with reading(where, CURE):
        fidelity = fidelity_figures(plain)
    metrics = run.path / METRICS
    fluctuation = read_fluctuation(metrics) if metrics.is_file() else None
    return RunFigures(run.game, run.variant, run.seed, row, run.scores, fidelity, fluctuation)


def _measured(path: Path) -> Iterator[tuple[str, float]]:
    """Yield the scores that `glam eval` has measured."""
    for file in sorted((path / RESULTS).glob("eval-*.json")):
        score = read_json(file, CURE)
        with reading(file, CURE):
            if (protocol := play_of(score).protocol) is not None:
                yield protocol, float(score["mean"])


def _stored(path: Path) -> Iterator[tuple[str, float]]:
    """Yield the scores in the run's exported checkpoint."""
    file = path / CHECKPOINT / "config.json"
    if file.is_file():
        config = read_json(file, CURE)
        with reading(file, CURE):
            for score in stored_scores(config["results"]):
                if (protocol := play_of(score).protocol) is not None:
                    yield protocol, float(score["mean"])
