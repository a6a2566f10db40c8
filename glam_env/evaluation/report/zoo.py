"""The table of all games: their checkpoints, scores, and fidelity of dreams.

Everything is read from the checkpoints' own results; nothing is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glam_env.checkpoint.folder import Checkpoint, shipped_checkpoints
from glam_env.errors import GlamError
from glam_env.evaluation.aggregate import AGGREGATES, Estimate, draw_strata
from glam_env.evaluation.bootstrap import ends
from glam_env.evaluation.examine import Examination
from glam_env.evaluation.measures.behavior import BehaviorReport
from glam_env.evaluation.measures.ceiling import CeilingReport
from glam_env.evaluation.measures.events import EventReport
from glam_env.evaluation.measures.images import ImageReport
from glam_env.evaluation.measures.latents import LatentReport
from glam_env.evaluation.play.scores import play_of, stored_scores
from glam_env.evaluation.report.benchmark_tables import TITLES, percent
from glam_env.evaluation.report.tables import NONE, markdown
from glam_env.files import reading
from glam_env.games import GAMES, find_game, human_normalized_score
from glam_env.protocols import PROTOCOLS

METHODS = ("GLAM", "STORM")  # published results that the table shows
REWARD_HORIZON = 16  # steps to which the F1 of rewards is shown
RESAMPLES = 20_000  # of the bootstrap over episodes


@dataclass(frozen=True)
class ZooScore:
    """The score of a checkpoint's agent in the real game.

    Attributes:
        mean, standard_error: Mean of whole games and its standard error, in points.
        human_normalized: 0 for random play, 1 for human play.
        scores: Points of each game.
    """

    mean: float
    standard_error: float | None
    human_normalized: float
    scores: tuple[float, ...]


@dataclass(frozen=True)
class ZooEntry:
    """A game, and its checkpoint if there is one.

    Attributes:
        game: Its name.
        path: Folder of the checkpoint; None if there is none.
        problem: Why the checkpoint cannot be read; empty if it can.
        scores: By protocol; empty if none was measured.
        reward_f1: F1 of the rewards of open-loop dreams to step `REWARD_HORIZON`.
        reward_ceiling: The same of what is usual when the game itself is played again.
        foreground_error: Squared error on the foreground, one step ahead, relative to drawing the
            background only.
        latents_error: The same for real frames drawn from their own latents, without a dream.
        latent_kl: KL divergence of the next frame's latents from the prediction, in nats.
        net_points: Points in 1000 steps of the agent, in dreams and in the game, from the same
            moments.
        failed: Names of the thresholds that the dream misses.
        real_steps: Steps of the real game that the model has seen in all its runs.
        hours: Duration of all these runs.
        hardware: Hardware of the last run.
        bytes: Size of the tensor files.
    """

    game: str
    path: str | None = None
    problem: str = ""
    scores: Mapping[str, ZooScore] = field(default_factory=dict)
    reward_f1: float | None = None
    reward_ceiling: float | None = None
    foreground_error: float | None = None
    latents_error: float | None = None
    latent_kl: float | None = None
    net_points: tuple[float, float] | None = None
    failed: tuple[str, ...] = ()
    real_steps: int | None = None
    hours: float | None = None
    hardware: str = ""
    bytes: int | None = None

    @property
    def trained(self) -> bool:
        """Whether there is a checkpoint that can be read."""
        return self.path is not None and not self.problem


def read_zoo() -> list[ZooEntry]:
    """Read the checkpoints of all games, in alphabetical order of the games.

    They are found as `gym.make` finds them. A checkpoint that cannot be read is an entry with a
    problem.
    """
    folders = shipped_checkpoints()
    return [_read(game, folders.get(game)) for game in sorted(GAMES)]


def read_others(folders: Mapping[str, str | Path]) -> dict[str, ZooEntry]:
    """Read checkpoints other than the games' own.

    Args:
        folders: By the name that a command would take, such as a path or an address.

    Returns:
        Entries by that name. One that cannot be read has a problem, and may have no game.
    """
    entries = {}
    for name, folder in folders.items():
        try:
            checkpoint = Checkpoint.open(folder)
        except GlamError as error:
            entries[name] = ZooEntry("", str(folder), problem=str(error))
        else:
            entries[name] = _read(checkpoint.config.game, checkpoint.path)
    return entries


def _read(game: str, folder: Path | None) -> ZooEntry:
    if folder is None:
        return ZooEntry(game)
    try:
        return _read_checkpoint(game, folder)
    except GlamError as error:
        return ZooEntry(game, str(folder), problem=str(error))


def _read_checkpoint(game: str, folder: Path) -> ZooEntry:
    """Read an entry.

    Raises:
        GlamError: The checkpoint is damaged, or of another game.
    """
    config = Checkpoint.open(folder, game).config
    origin = config.provenance
    f1 = ceiling = error = latents_error = kl = net = None
    failed: tuple[str, ...] = ()
    with reading(f"{folder}: results", "measure them again with `glam card`"):
        scores = {
            play_of(score).protocol or str(play_of(score)): ZooScore(
                score["mean"],
                score["standard_error"],
                score["human_normalized"],
                tuple(score["scores"]),
            )
            for score in stored_scores(config.results)
        }
        if "fidelity" in config.results:
            found = Examination.from_json(config.results["fidelity"], "results.fidelity")
            failed = tuple(check.name for check in found.checks if not check.passed)
            for report in found.found.values():
                if isinstance(report, EventReport):
                    f1 = next((s.f1 for s in report.rewards if s.horizon == REWARD_HORIZON), None)
                if isinstance(report, CeilingReport):
                    ceiling = report.usual_reward_f1(REWARD_HORIZON)
                if isinstance(report, ImageReport):
                    error = report.images["dream"].foreground_error[0]
                    latents_error = report.latents_error
                if isinstance(report, LatentReport):
                    kl = report.latent_kl.dream
                if isinstance(report, BehaviorReport):
                    net = report.net.dream, report.net.game
    return ZooEntry(
        game,
        str(folder),
        scores=scores,
        reward_f1=f1,
        reward_ceiling=ceiling,
        foreground_error=error,
        latents_error=latents_error,
        latent_kl=kl,
        net_points=net,
        failed=failed,
        real_steps=origin.real_steps,
        hours=origin.all_hours,
        hardware=origin.hardware,
        bytes=sum(record.bytes for record in config.files.values()),
    )


def aggregates(entries: Iterable[ZooEntry], protocol: str) -> dict[str, Estimate]:
    """Compute the human-normalised figures over the games that have a score.

    A game counts with the mean of its episodes. The intervals resample the episodes of each game:
    they say how well these agents were measured, not how other seeds of the training would do.

    Args:
        entries: Entries of `read_zoo`.
        protocol: Name of the protocol of the scores.

    Returns:
        By the name of the figure; empty without any score.
    """
    episodes = [
        np.array(
            [
                human_normalized_score(find_game(entry.game), score)
                for score in entry.scores[protocol].scores
            ]
        )
        for entry in entries
        if protocol in entry.scores
    ]
    if not episodes:
        return {}
    means = [runs.mean(keepdims=True) for runs in episodes]
    points = {name: float(figure(means)) for name, figure in AGGREGATES.items()}
    if min(map(len, episodes)) < 2:
        return {name: Estimate(value, None) for name, value in points.items()}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in AGGREGATES}
    for chunk in draw_strata(np.random.default_rng(0), episodes, RESAMPLES):
        resampled = [runs.mean(-1, keepdims=True) for runs in chunk]
        for name, figure in AGGREGATES.items():
            drawn[name].append(figure(resampled))
    return {name: Estimate(v, ends(np.concatenate(drawn[name]))) for name, v in points.items()}


def as_json(entries: Sequence[ZooEntry]) -> dict[str, Any]:
    """Return entries and figures over all games, ready for `json.dumps`."""
    return {
        "games": [
            {**asdict(entry), "published": dict(find_game(entry.game).published)}
            for entry in entries
        ],
        "human_normalized": {
            protocol: {
                name: {"value": estimate.value, "interval": estimate.interval}
                for name, estimate in aggregates(entries, protocol).items()
            }
            for protocol in PROTOCOLS
        },
    }


HEAD = (
    *("game", *PROTOCOLS, *METHODS, "human = 100 %"),
    *("reward F1", "foreground error", "real steps", "hours", "MB"),
)


PARTS_HEAD = (
    "game",
    "image model: error of own latents",
    "sequence model: error of the first step",
    "KL",
    "reward F1",
    "its noise ceiling",
    "agent: points in dreams",
    "in the game",
)


def lines(entries: Iterable[ZooEntry]) -> list[list[str]]:
    """Return the table of the games, a line each, under `HEAD`."""
    return [_line(entry) for entry in entries]


def _line(entry: ZooEntry) -> list[str]:
    published = find_game(entry.game).published
    scores = entry.scores
    normalized = next(
        (scores[name].human_normalized for name in reversed(tuple(PROTOCOLS)) if name in scores),
        None,
    )
    return [
        entry.game,
        *(_score(scores.get(protocol)) for protocol in PROTOCOLS),
        *(_points(published[method], 0) if method in published else NONE for method in METHODS),
        NONE if normalized is None else f"{100 * normalized:.0f} %".replace("-", "−"),
        _figure(entry.reward_f1, 2),
        _figure(entry.foreground_error, 2),
        NONE if entry.real_steps is None else f"{entry.real_steps:,}",
        NONE if entry.hours is None else f"{entry.hours:.1f}",
        NONE if entry.bytes is None else f"{entry.bytes / 1e6:.1f}",
    ]


def _score(score: ZooScore | None) -> str:
    if score is None:
        return NONE
    error = score.standard_error
    if not error:
        return _points(score.mean, 0)
    decimals = min(max(1 - math.floor(math.log10(error)), 0), 2)  # two digits of the error
    return f"{_points(score.mean, decimals)} ± {_points(error, decimals)}"


def count_games(count: int) -> str:
    """Write a number of games in words.

    >>> count_games(1), count_games(26)
    ('1 game', '26 games')
    """
    return f"{count} game{'' if count == 1 else 's'}"


def _points(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace("-", "−")


def over_all_games(entries: Sequence[ZooEntry]) -> list[list[str]]:
    """Return the figures over all games that have a score.

    There is a line for each figure, with a column for each protocol.
    """
    columns = [aggregates(entries, protocol) for protocol in PROTOCOLS]
    return [
        [title, *(percent(column[name]) if column else NONE for column in columns)]
        for name, title in TITLES.items()
    ]


def page(entries: Sequence[ZooEntry]) -> str:
    """Write the table as a Markdown page."""
    trained = [entry for entry in entries if entry.trained]
    scored = sum(bool(entry.scores) for entry in entries)
    missing = [entry for entry in trained if entry.failed]
    shortfalls = [f"- **{entry.game}** misses: {'; '.join(entry.failed)}." for entry in missing]
    return "\n".join(
        [
            "# The games",
            "",
            "<!-- Written by `glam list --to docs/zoo.md` from the results of the checkpoints. -->",
            "",
            f"{len(trained)} of {count_games(len(entries))} have a trained dream here. A score is "
            "the mean of whole real games ± its standard error, under each protocol "
            "([protocols](protocol.md)); GLAM and STORM are the published scores, which belong to "
            "`published`. *Human = 100 %* is the score under `published` between random play (0) "
            f"and human play. *Reward F1* is that of open-loop dreams to step {REWARD_HORIZON}, "
            "*foreground error* that of the first step (0: perfect, 1: only the background). *Real "
            "steps* and *hours* count all runs that lead to the weights; the published methods "
            "have seen 100,000 steps.",
            "",
            *markdown(HEAD, lines(entries)),
            "",
            f"Human-normalised, over {count_games(scored)} with a score. The intervals (95 %) "
            "resample the played games: another seed of a training may differ by more.",
            "",
            *markdown(["", *PROTOCOLS], over_all_games(entries)),
            "",
            *(
                ["## Thresholds that are missed", "", *shortfalls, "", *_parts(missing)]
                if missing
                else []
            ),
        ]
    )


def _parts(entries: Iterable[ZooEntry]) -> list[str]:
    """Return a table that shows which part of each game fails."""
    rows = [
        [
            entry.game,
            _figure(entry.latents_error, 2),
            _figure(entry.foreground_error, 2),
            _figure(entry.latent_kl, 1),
            _figure(entry.reward_f1, 2),
            _figure(entry.reward_ceiling, 2),
            *(_figure(points, 1) for points in entry.net_points or (None, None)),
        ]
        for entry in entries
    ]
    return [
        "Which part fails? The image model loses what real frames drawn from their own latents "
        "lose. The sequence model adds what the dream's first step loses beyond that; its KL "
        "divergence (nats a step) and its reward F1 say how well it predicts; the KL of a prior "
        "that learns sharpened latents (`sharp_prior`) is larger and does not compare with that "
        "of another. The noise ceiling is the reward F1 of a dream that knew the game's whole "
        "state: what it lacks to 1 is chance. The agent has used the model's errors where it wins "
        "far more in dreams than in the game (points in 1,000 steps from the same moments).",
        "",
        *markdown(PARTS_HEAD, rows),
        "",
    ]


def _figure(value: float | None, decimals: int) -> str:
    return NONE if value is None else _points(value, decimals)
