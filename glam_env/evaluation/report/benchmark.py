"""Figures of a benchmark: several runs of many games, and the published ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from glam_env.evaluation import aggregate as figures
from glam_env.evaluation.aggregate import Estimate, Profile
from glam_env.games import GAMES, find_game, human_normalized_score
from glam_env.protocols import METHODS

PROFILE_POINTS = 101
PROFILE_LEAST, PROFILE_MOST = 2.0, 8.0  # normalised scores to which a profile reaches


@dataclass(frozen=True)
class GameScores:
    """The runs of one game.

    Attributes:
        game: Name of the game.
        seeds: Seeds of the runs.
        scores: Mean score of each, in points of the game.
    """

    game: str
    seeds: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the runs."""
        return float(np.mean(self.scores))

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean over the runs; None for a single one."""
        if len(self.scores) < 2:
            return None
        return float(np.std(self.scores, ddof=1) / math.sqrt(len(self.scores)))

    @property
    def normalized(self) -> np.ndarray:
        """(runs,) scores on the scale where random play is 0 and the human tester 1."""
        game = find_game(self.game)
        return np.array([human_normalized_score(game, score) for score in self.scores])


@dataclass(frozen=True)
class Improvement:
    """The probability that a run beats another agent in a game, averaged over games.

    Attributes:
        over: A published method, or another variant of the sweep.
        estimate: The probability and its interval.
        games: Games that both have.
        protocol: The other's protocol; empty if it is not known.
    """

    over: str
    estimate: Estimate
    games: int
    protocol: str


@dataclass(frozen=True)
class VariantReport:
    """One variant under one protocol.

    Attributes:
        name: Name of the variant.
        games: Its games, in the order of the published table.
        aggregates: Figures over all games, by name.
        profile: Share of runs above each normalised score.
        improvements: Over the published methods, then over the other variants.
    """

    name: str
    games: tuple[GameScores, ...]
    aggregates: Mapping[str, Estimate]
    profile: Profile
    improvements: tuple[Improvement, ...]


@dataclass(frozen=True)
class Method:
    """A published method in the games of a report.

    Attributes:
        name: Name of the method.
        protocol: How its own code plays; empty if it is not known.
        scores: By game.
        mean, median: Mean and median of its normalised scores over these games.
    """

    name: str
    protocol: str
    scores: Mapping[str, float]
    mean: float
    median: float


@dataclass(frozen=True)
class ProtocolReport:
    """All variants under one protocol, and the published methods in the same games."""

    protocol: str
    variants: tuple[VariantReport, ...]
    methods: tuple[Method, ...]

    @property
    def games(self) -> tuple[str, ...]:
        """All games, in the order of the published table."""
        found = {each.game for variant in self.variants for each in variant.games}
        return tuple(game for game in GAMES if game in found)


def summarize(
    protocol: str,
    variants: Mapping[str, Sequence[GameScores]],
    resamples: int = figures.RESAMPLES,
) -> ProtocolReport:
    """Compute the figures of all variants under one protocol.

    Args:
        protocol: Its name.
        variants: The games of each variant.
        resamples: Number of resamples for the aggregates.
    """
    order = {game: place for place, game in enumerate(GAMES)}
    sorted_games = {
        name: tuple(sorted(games, key=lambda each: order[each.game]))
        for name, games in variants.items()
    }
    reports = []
    for name, games in sorted_games.items():
        strata = [each.normalized for each in games]
        reach = float(np.max(np.concatenate(strata)))
        most = min(PROFILE_MOST, max(PROFILE_LEAST, math.ceil(reach)))
        levels = np.linspace(0.0, most, PROFILE_POINTS)
        reports.append(
            VariantReport(
                name,
                games,
                figures.aggregate(strata, resamples),
                figures.profile(strata, levels),
                (*_over_methods(games), *_over_variants(name, sorted_games)),
            )
        )
    found = {each.game for games in sorted_games.values() for each in games}
    return ProtocolReport(protocol, tuple(reports), _methods([g for g in GAMES if g in found]))


def _protocol_of(method: str) -> str:
    play = METHODS.get(method)
    return "" if play is None else play.protocol or play.no_ops


def _published(game: str) -> Mapping[str, float]:
    return find_game(game).published


def _methods(games: Sequence[str]) -> tuple[Method, ...]:
    """Return the published methods, each in those games of which it has a score."""
    found = []
    for name in dict.fromkeys(name for game in games for name in _published(game)):
        scores = {game: _published(game)[name] for game in games if name in _published(game)}
        own = [human_normalized_score(find_game(game), score) for game, score in scores.items()]
        mean, median = float(np.mean(own)), float(np.median(own))
        found.append(Method(name, _protocol_of(name), scores, mean, median))
    return tuple(found)


def _over_methods(games: Sequence[GameScores]) -> list[Improvement]:
    """Compare runs with the published means, in the games of which there is one."""
    found = []
    for name in dict.fromkeys(name for each in games for name in _published(each.game)):
        shared = [each for each in games if name in _published(each.game)]
        ours = [np.array(each.scores) for each in shared]
        theirs = [np.array([_published(each.game)[name]]) for each in shared]
        estimate = figures.improvement_over(ours, theirs)
        found.append(Improvement(name, estimate, len(shared), _protocol_of(name)))
    return found


def _over_variants(name: str, variants: Mapping[str, Sequence[GameScores]]) -> list[Improvement]:
    """Compare the runs of a variant with those of the other variants in shared games."""
    found, own = [], {each.game: np.array(each.scores) for each in variants[name]}
    for other, games in variants.items():
        theirs = {each.game: np.array(each.scores) for each in games}
        shared = [game for game in own if game in theirs]
        if other != name and shared:
            pair = [own[game] for game in shared], [theirs[game] for game in shared]
            estimate = figures.improvement_over(*pair)
            found.append(Improvement(other, estimate, len(shared), "as here"))
    return found


def as_json(reports: Sequence[ProtocolReport]) -> dict[str, Any]:
    """Return all figures, ready for `json.dumps`."""
    return {report.protocol: _protocol_json(report) for report in reports}


def _protocol_json(report: ProtocolReport) -> dict[str, Any]:
    variants = {}
    for variant in report.variants:
        profile = variant.profile
        variants[variant.name] = {
            "games": {
                each.game: {
                    "seeds": each.seeds,
                    "scores": each.scores,
                    "mean": each.mean,
                    "standard_error": each.standard_error,
                    "human_normalized": each.normalized.tolist(),
                }
                for each in variant.games
            },
            "aggregates": {name: asdict(one) for name, one in variant.aggregates.items()},
            "profile": {
                "score": profile.scores.tolist(),
                "share": profile.share.tolist(),
                "low": None if profile.low is None else profile.low.tolist(),
                "high": None if profile.high is None else profile.high.tolist(),
            },
            "improvements": [asdict(one) for one in variant.improvements],
        }
    return {"variants": variants, "published": [asdict(one) for one in report.methods]}
