"""Scores of a policy in the real game, under a protocol of `glam_env.protocols`.

Scores are the raw points of whole episodes. Every env plays its own quota of episodes, because
counting episodes as they finish would favour short ones.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from glam_env.envs.atari.emulator import Emulator, EmulatorStep, Episode
from glam_env.errors import GlamError
from glam_env.evaluation.bootstrap import Interval, draw_rows, interval
from glam_env.games import find_game, human_normalized_score
from glam_env.protocols import METHODS, PlaySettings

RESAMPLES = 10_000  # of the bootstrap

EVALUATION = 0x4556414C  # mixed into seeds, so that no training sees the same episodes
CHOICE = 0x43484F49  # for games that choose between weights, so that no score sees the same ones

OnStep = Callable[[EmulatorStep, list[Episode]], None]


class Policy(Protocol):
    """A policy on real frames."""

    def begin(self, num_envs: int, seed: int) -> None:
        """Prepare for `num_envs` envs; all randomness of the play comes from `seed`."""
        ...

    def act(self, frames: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Choose the actions.

        Args:
            frames: (E, 64, 64, 3) uint8, the current frames.
            first: (E,) bool, true where the frame is the first of an episode: the policy's state
                of that env belongs to the episode before.

        Returns:
            (E,) int64 actions.
        """
        ...


class RandomPolicy:
    """A policy that plays every action with the same probability."""

    def __init__(self, num_actions: int) -> None:
        self.num_actions = num_actions

    def begin(self, num_envs: int, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def act(self, frames: np.ndarray, first: np.ndarray) -> np.ndarray:
        return self._generator.integers(self.num_actions, size=len(frames))


@dataclass(frozen=True)
class ScoreReport:
    """Scores of whole episodes, in raw points, with their statistics.

    Attributes:
        game: Name of the game.
        play: Settings of the real game.
        seed: Seed of the evaluation.
        num_envs: Envs side by side.
        scores: Return of each episode, sorted by env and then by time.
        lengths: Agent steps of each episode.
        seconds: Wall time of the play.
    """

    game: str
    play: PlaySettings
    seed: int
    num_envs: int
    scores: tuple[float, ...]
    lengths: tuple[int, ...]
    seconds: float

    @property
    def episodes(self) -> int:
        return len(self.scores)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def std(self) -> float:
        """Sample standard deviation over episodes; NaN for a single one."""
        return statistics.stdev(self.scores) if self.episodes > 1 else math.nan

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN for a single episode."""
        return self.std / math.sqrt(self.episodes)

    @property
    def interval(self) -> Interval | None:
        """95 % bootstrap interval of the mean; None for a single episode.

        The seed of the resamples is fixed: the same scores give the same interval.
        """
        scores = np.array(self.scores)
        rows = draw_rows(np.random.default_rng(0), self.episodes, RESAMPLES)
        return interval(lambda rows: scores[rows].mean(1), rows)

    @property
    def random(self) -> float:
        """Published score of random play."""
        return find_game(self.game).random

    @property
    def human(self) -> float:
        """Published score of the human tester."""
        return find_game(self.game).human

    @property
    def published(self) -> dict[str, float]:
        """Published scores of methods at 100k agent steps, by name."""
        return dict(find_game(self.game).published)

    @property
    def human_normalized(self) -> float:
        """The mean on a scale on which random play is 0 and the human tester 1."""
        return human_normalized_score(find_game(self.game), self.mean)

    @property
    def agent_steps(self) -> int:
        """Agent steps of the episodes that count."""
        return sum(self.lengths)

    @property
    def steps_per_second(self) -> float:
        return self.agent_steps / self.seconds

    def table(self) -> str:
        """Return the figures as plain text, with the published ones."""
        spread = ""
        if ends := self.interval:
            low, high = ends
            spread = f" ± {self.standard_error:.2f} (95 %: {low:.2f} to {high:.2f})"
        rows = {"random play": self.random, "human": self.human, **self.published}
        game = find_game(self.game)
        return "\n".join(
            [
                f"{self.game}: {self.mean:.2f}{spread}, mean of {self.episodes} whole games; "
                f"human-normalised {100 * self.human_normalized:.1f} %",
                f"games: {' '.join(f'{score:g}' for score in self.scores)}",
                f"{self.agent_steps:,} agent steps, {self.steps_per_second:.0f}/s; seed "
                f"{self.seed}",
                f"protocol: {self.play}",
                "",
                f"{'published':12}{'score':>10}{'human-normalised':>18}   protocol",
                *(
                    f"{name:12}{score:10.1f}{100 * human_normalized_score(game, score):16.1f} %"
                    f"   {METHODS.get(name, '')}".rstrip()
                    for name, score in rows.items()
                ),
                f"{'here':12}{self.mean:10.1f}{100 * self.human_normalized:16.1f} %   {self.play}",
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """Return all figures, ready for `json.dumps`.

        Figures that need two episodes are None for a single one.
        """
        low, high = self.interval or (None, None)
        report = {
            "game": self.game,
            "episodes": self.episodes,
            "mean": self.mean,
            "std": self.std,
            "standard_error": self.standard_error,
            "interval_low": low,
            "interval_high": high,
            "human_normalized": self.human_normalized,
            "random": self.random,
            "human": self.human,
            "published": self.published,
            "protocol": self.play.protocol,
            "repeat_action_probability": self.play.repeat_action_probability,
            "noop_max": self.play.noop_max,
            "seed": self.seed,
            "num_envs": self.num_envs,
            "agent_steps": self.agent_steps,
            "seconds": self.seconds,
            "steps_per_second": self.steps_per_second,
        }
        known = {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in report.items()
        }
        return {**known, "scores": list(self.scores), "lengths": list(self.lengths)}


def stored_scores(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the scores among a checkpoint's results.

    There is a `ScoreReport` as JSON for each protocol. Version 0.1 stored a single one, as `score`.
    """
    if "score" in results:
        return [results["score"]]
    return list(results.get("scores", []))


def play_of(score: Mapping[str, Any]) -> PlaySettings:
    """Return the settings under which a `ScoreReport`, as JSON, was played.

    Version 0.1 stored no `noop_max`; it always played up to 30.
    """
    names = ("repeat_action_probability", "noop_max")
    return replace(PlaySettings(), **{name: score[name] for name in names if name in score})


def seed_apart(purpose: int, seed: int) -> int:
    """Derive a seed for one purpose that differs from the seeds of all others.

    Raises:
        GlamError: If `seed` is not an integer of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise GlamError(f"seed must be an integer of at least 0, not {seed!r}")
    return int(np.random.SeedSequence((purpose, int(seed))).generate_state(1)[0])


def evaluate_policy(
    policy: Policy,
    game: str,
    *,
    episodes: int = 20,
    num_envs: int = 4,
    seed: int,
    play: PlaySettings | None = None,
    purpose: int = EVALUATION,
    num_threads: int = 0,
    on_step: OnStep | None = None,
) -> ScoreReport:
    """Play whole episodes of the real game and report their scores.

    Args:
        policy: The policy that plays.
        game: Name of the game.
        episodes: Episodes that count, over all envs.
        num_envs: Envs side by side; no more than `episodes` are used.
        seed: Together with the number of envs and the policy it fixes the scores.
        play: Settings of the real game; those of Atari 100k if None.
        purpose: Mixed into the seed of the games, so that those of two purposes differ.
        num_threads: Threads that run the games; 0 takes one per env, up to the number of cores.
        on_step: Called after every step with its result and the episodes that count so far.

    Raises:
        GlamError: For an unknown game or an impossible value.
    """
    play = play or PlaySettings()
    emulator = Emulator(
        game,
        min(num_envs, max(episodes, 1)),
        seed=seed_apart(purpose, seed),
        **play.emulator,
        num_threads=num_threads,
    )
    with closing(emulator):
        start = time.perf_counter()
        played = play_episodes(policy, emulator, episodes, seed=seed, on_step=on_step)
        seconds = time.perf_counter() - start
    return ScoreReport(
        game=emulator.game.name,
        play=play,
        seed=seed,
        num_envs=emulator.num_envs,
        scores=tuple(episode.return_ for episode in played),
        lengths=tuple(episode.length for episode in played),
        seconds=seconds,
    )


def play_episodes(
    policy: Policy,
    emulator: Emulator,
    episodes: int,
    *,
    seed: int,
    on_step: OnStep | None = None,
) -> list[Episode]:
    """Play `episodes` whole episodes, each env its own share of them.

    Shares differ by one at most; the first envs have the larger ones. An env that has played its
    share goes on, uncounted, until the last one is done.

    Args:
        policy: The policy that plays.
        emulator: The games; each begins a new episode.
        episodes: Episodes that count, over all envs.
        seed: The policy's seed.
        on_step: Called after every step with its result and the episodes that count so far.

    Returns:
        The episodes that count, sorted by env and then by time.

    Raises:
        GlamError: If `episodes` is not positive.
    """
    if episodes < 1:
        raise GlamError(f"episodes must be at least 1, not {episodes}")
    share, rest = divmod(episodes, emulator.num_envs)
    due = [share + (env < rest) for env in range(emulator.num_envs)]
    counted: list[Episode] = []
    policy.begin(emulator.num_envs, seed)
    frames = emulator.reset()
    first = np.ones(emulator.num_envs, bool)
    while len(counted) < episodes:
        step = emulator.step(policy.act(frames, first))
        frames, first = step.frames, step.terminated | step.truncated
        for episode in step.finished:
            if due[episode.env]:
                due[episode.env] -= 1
                counted.append(episode)
        if on_step is not None:
            on_step(step, counted)
    return sorted(counted, key=lambda episode: (episode.env, episode.episode))
