"""The noise ceiling: what a dream could reach if it knew the game perfectly.

Under sticky actions a game is partly chance, so no dream along real actions finds every reward. The
limit is measured on the game itself: it is restored at a moment, and the same actions are taken
again with other sticky actions. A repeat is a sample of what a perfect dream would predict. A dream
may do better by predicting what usually happens: the repeat that agrees best with the others, or
their mean.

The whole state of the game is restored. A dream cannot know the parts of it that frames do not
show, such as the timers of an opponent, so it may not be able to reach the ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np

from glam_env.envs.atari.rewind import RewindableGame
from glam_env.evaluation.measures.action_effects import LATE, compare_returns
from glam_env.evaluation.measures.base import Measure, Subject
from glam_env.evaluation.measures.events import TOLERANCE, match_events, score_events
from glam_env.evaluation.measures.images import ImageTally, find_background
from glam_env.evaluation.play.again import Play, play_from, repeat
from glam_env.evaluation.play.moments import RealMoment, find_moments
from glam_env.evaluation.play.recording import add_noise, reward_events
from glam_env.evaluation.play.scores import seed_apart
from glam_env.evaluation.rows import Row, curve_rows
from glam_env.games import find_game

REPEATS = 8  # of each play
STRIDE = 32  # steps from one moment to the next
HORIZON = 32  # steps of a play
EVENT_HORIZONS = (16, 32)
HOLD = 16  # steps for which an action is held
HOLDS_A_MOMENT = 6  # actions held, on average: with many actions, at fewer moments


@dataclass(frozen=True)
class EventCeiling:
    """F1 of the events of the first `horizon` steps, as in an `EventScore`.

    Attributes:
        horizon: In steps.
        real: Number of events in the plays.
        again: F1 of a repeat, the mean over the repeats; None without events.
        usual: F1 of the repeat that agrees best with the others of its moment; None without
            events.
    """

    horizon: int
    real: int
    again: float | None
    usual: float | None


@dataclass(frozen=True)
class CeilingReport(Measure):
    """The game compared with itself, as dreams are compared with it.

    Attributes:
        moments, repeats, horizon, seed: Settings of the measurement.
        rewards, endings: By growing horizon.
        error_again, error_usual: Foreground error by horizon, the first one step ahead, of a repeat
            and of the mean frame of the repeats.
        decided: Moments at which it matters which action is held.
        right, explained, regret: As in a `BranchReport`, for the mean return of the repeats; None
            where no action matters.
    """

    moments: int
    repeats: int
    horizon: int
    seed: int
    rewards: tuple[EventCeiling, ...]
    endings: tuple[EventCeiling, ...]
    error_again: tuple[float | None, ...]
    error_usual: tuple[float | None, ...]
    decided: int
    right: float | None
    explained: float | None
    regret: float | None

    @classmethod
    def measure(cls, subject: Subject) -> CeilingReport | None:
        """Play the game again; None if the settings take no moments.

        Raises:
            GlamError: Episodes are too short for moments.
        """
        settings = subject.settings
        if not settings.ceiling_moments:
            return None
        seed = settings.seed + 4
        game = RewindableGame(find_game(subject.game), settings.play)
        game.reset(0)
        found = _find_plays(game, seed, subject)
        returns = _hold_at_moments(game, [moment for moment, _ in found], seed, subject)
        compared = _compare(game, found, seed, subject)
        figures = (
            compare_returns(returns[:, 0], returns[:, 1:].mean(1), seed) if len(returns) else {}
        )
        return cls(
            moments=len(found),
            repeats=REPEATS,
            horizon=HORIZON,
            seed=seed,
            rewards=event_ceilings(*compared.rewards),
            endings=event_ceilings(*compared.endings),
            error_again=compared.error_again,
            error_usual=compared.error_usual,
            decided=figures.get("decided", 0),
            right=figures.get("right"),
            explained=figures.get("explained"),
            regret=figures.get("regret"),
        )

    def usual_reward_f1(self, horizon: int) -> float | None:
        """Return the F1 of rewards of what is usual, up to a horizon.

        It is None if it was not measured.
        """
        return next((score.usual for score in self.rewards if score.horizon == horizon), None)

    @property
    def about(self) -> str:
        """How to read the figures."""
        return (
            f"Noise ceiling: the game played again from {self.moments} moments of held-out play, "
            f"{self.repeats} times with the same actions and other sticky ones, and compared with "
            "itself as dreams are. A repeat is what a perfect dream would draw; what is usual is "
            "the repeat that agrees best with the others, or their mean. The game goes back to its "
            "whole state; what frames do not show of it lowers what a dream can reach. Without "
            "sticky actions a repeat is the play itself."
        )

    def rows(self) -> list[Row]:
        """Return the figures of a repeat and of what is usual."""
        named = ("rewards", self.rewards), ("ends of life", self.endings)
        rows = [
            Row(f"{title}, {name}", getattr(score, figure), horizon=score.horizon)
            for name, scores in named
            for figure, title in (
                ("real", "real events"),
                ("again", "F1 of a repeat"),
                ("usual", "F1 of what is usual"),
            )
            for score in scores
        ]
        rows += curve_rows("foreground error, of a repeat", self.error_again)
        rows += curve_rows("foreground error, of what is usual", self.error_usual)
        rows += [
            Row("moments at which it matters which action is held", self.decided),
            Row("pairs of held actions ordered right by what is usual", self.right),
            Row("variance of effects explained by what is usual", self.explained),
            Row("points at stake lost by the action that is usually best", self.regret),
        ]
        return rows


def _find_plays(game: RewindableGame, seed: int, subject: Subject) -> list[tuple[RealMoment, Play]]:
    """Find moments of held-out play with each chance of noise, and play on from each."""
    settings, world_model = subject.settings, subject.world_model
    noise, num_actions = tuple(subject.players.values()), world_model.config.num_actions
    share = -(-settings.ceiling_moments // len(noise))
    played = RewindableGame(find_game(subject.game), settings.play)
    found: list[tuple[RealMoment, Play]] = []
    for number, chance in enumerate(noise):
        act = add_noise(subject.act, num_actions, (chance,))
        moments = find_moments(
            world_model,
            act,
            played,
            count=share,
            stride=STRIDE,
            context=settings.context,
            seed=seed + number,
            on_moment=lambda done, before=number * share: subject.on_progress(
                "moments to play again from", before + done, share * len(noise)
            ),
        )
        for moment in moments:
            play = play_from(
                world_model,
                act,
                game,
                moment,
                steps=HORIZON + TOLERANCE,
                seed=seed_apart(seed, len(found)),
            )
            found.append((moment, play))
    return found


def _hold_at_moments(
    game: RewindableGame, moments: Sequence[RealMoment], seed: int, subject: Subject
) -> np.ndarray:
    """Hold each action at some of the moments.

    With many actions, fewer of the moments are used.

    Returns:
        (M, 1 + REPEATS, A) float32 returns as from `hold_each`, of the M moments that count.
    """
    work, num_actions = "each action held again (moments)", subject.world_model.config.num_actions
    every = max(1, round(num_actions / HOLDS_A_MOMENT))
    held = []
    for place, moment in enumerate(moments[::every]):
        returns = hold_each(game, moment, seed_apart(seed, place))
        held += [] if returns is None else [returns]
        subject.on_progress(work, place * every + 1, len(moments))
    subject.on_progress(work, len(moments), len(moments))
    return np.array(held, np.float32).reshape(len(held), 1 + REPEATS, num_actions)


class _Compared(NamedTuple):
    """Events of plays and repeats, and foreground errors by horizon.

    The events are the arguments of `event_ceilings`.
    """

    rewards: tuple[np.ndarray, np.ndarray, np.ndarray]
    endings: tuple[np.ndarray, np.ndarray, np.ndarray]
    error_again: tuple[float | None, ...]
    error_usual: tuple[float | None, ...]


def _compare(
    game: RewindableGame, found: Sequence[tuple[RealMoment, Play]], seed: int, subject: Subject
) -> _Compared:
    """Repeat each play, and gather events and errors."""
    frames = np.concatenate([play.frames[: play.length] for _, play in found])
    tally = ImageTally(["again", "usual"], HORIZON, find_background(frames))
    rewards, endings = [], []
    for place, (moment, play) in enumerate(found):
        repeats = [
            repeat(
                game,
                moment,
                play.actions[: play.length].tolist(),
                seed=seed_apart(seed, len(found) + place * REPEATS + number),
            )
            for number in range(REPEATS)
        ]
        for k in range(min(play.shown, HORIZON)):
            drawn = np.stack([_last_shown(one, k) for one in repeats])
            usual = drawn.mean(0).round().astype(np.uint8)
            tally.add(k, play.frames[k][None], {"again": drawn[:1], "usual": usual[None]})
        rewards.append([_padded(one.rewards) for one in repeats])
        endings.append([_padded(one.life_lost) for one in repeats])
        subject.on_progress("the game played again (moments)", place + 1, len(found))
    curves = tally.curves()
    alive = np.stack([np.arange(HORIZON + TOLERANCE) < play.length for _, play in found])
    return _Compared(
        (
            reward_events(np.stack([play.rewards for _, play in found])),
            reward_events(np.array(rewards)),
            alive,
        ),
        (
            np.stack([play.life_lost for _, play in found]).astype(np.int8),
            np.array(endings).astype(np.int8),
            alive,
        ),
        curves["again"].foreground_error,
        curves["usual"].foreground_error,
    )


def _last_shown(play: Play, k: int) -> np.ndarray:
    """Return the frame k + 1 steps ahead, or the last frame of an ended episode."""
    return play.frames[min(k, play.length - 1)]


def _padded(steps: np.ndarray) -> np.ndarray:
    return np.pad(steps, (0, HORIZON + TOLERANCE - len(steps)))


def hold_each(game: RewindableGame, moment: RealMoment, seed: int) -> np.ndarray | None:
    """Hold each action from a moment, repeatedly with other sticky actions.

    Sticky actions are the same for each action that is held.

    Args:
        game: Played from the moment on.
        moment: A moment of this game.
        seed: Seed of sticky actions.

    Returns:
        (1 + REPEATS, A) float32 returns, the first of them the game's as in a `BranchReport`; None
        if it would leave the moment out, because there are rewards in the last steps.
    """
    game.restore(moment.game, seed=seed_apart(seed, 0))
    rewards = game.try_each(HOLD + LATE)
    if rewards[:, -2 * LATE :].any():
        return None
    returns = [rewards.sum(1)]
    for number in range(REPEATS):
        game.restore(moment.game, seed=seed_apart(seed, 1 + number))
        returns.append(game.try_each(HOLD).sum(1))
    return np.stack(returns)


def event_ceilings(
    real: np.ndarray, again: np.ndarray, alive: np.ndarray
) -> tuple[EventCeiling, ...]:
    """Score repeats of plays as if they were dreams.

    Args:
        real: (W, L) int8, the kind of event at each step of each play, 0 for none.
        again: (W, K, L) int8, the same of K repeats.
        alive: (W, L) bool, the play's episode was going on when the step began.
    """
    ceilings = []
    for horizon in EVENT_HORIZONS:
        usual = again[np.arange(len(again)), find_usual(again, horizon)]
        score = score_events(real, usual, alive, horizon)
        each = [score_events(real, again[:, k], alive, horizon).f1 for k in range(again.shape[1])]
        known = [f1 for f1 in each if f1 is not None]
        ceilings.append(
            EventCeiling(
                horizon=horizon,
                real=score.real,
                again=float(np.mean(known)) if known else None,
                usual=score.f1,
            )
        )
    return tuple(ceilings)


def find_usual(again: np.ndarray, horizon: int) -> np.ndarray:
    """Find the repeat of each window that agrees best with the others.

    Agreement is the F1 of the events.

    Args:
        again: (W, K, L) int8 as for `event_ceilings`.
        horizon: Steps that count.

    Returns:
        (W,) int64, the number of the best repeat; of equal ones, the first.
    """
    windows, repeats, _ = again.shape
    events = (again[:, :, :horizon] != 0).sum(-1)
    agreement = np.zeros((windows, repeats))
    for one, other in permutations(range(repeats), 2):
        pairs = match_events(again[:, other], again[:, one])
        matched = sum(part[:, :horizon].sum(1) for part in pairs)
        both = events[:, one] + events[:, other]
        agreement[:, one] += np.where(both > 0, matched / np.maximum(both, 1), 1.0)
    return agreement.argmax(1)
