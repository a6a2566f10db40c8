"""``Session``: a dream and the real game, played by hand or by an agent."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from glam_env.checkpoint.contexts import Contexts
from glam_env.checks import require_count
from glam_env.envs.atari.emulator import MAX_STEPS
from glam_env.envs.dream.engine import DreamEngine
from glam_env.envs.dream.options import DreamOptions
from glam_env.errors import GlamError
from glam_env.evaluation.play.policies import Policy
from glam_env.evaluation.play.scores import seed_apart
from glam_env.games import Game
from glam_env.model.world_model import WorldModel
from glam_env.play.session.futures import Futures
from glam_env.play.session.player import Player
from glam_env.play.session.recorder import Recorder
from glam_env.play.session.worlds import DreamWorld, RealWorld, World, WorldStep
from glam_env.protocols import PlaySettings

TRAIL = 600
"""Steps that can be wound back, 40 seconds."""

_DREAM, _REAL, _AGENT, _FUTURES = 1, 2, 3, 4  # purposes of seeds
_PURPOSE = 0x504C4159


@dataclass(frozen=True)
class Subject:
    """Game, models and settings of a session.

    Attributes:
        game: The game.
        world_model: In evaluation mode.
        contexts: Where dreams begin.
        policy: The policy of the agent.
        play: Settings of the real game.
        reward_values: The values that the game pays; empty if they are not known.
        options: How to dream. ``max_episode_steps`` is replaced: a session has no horizon.
    """

    game: Game
    world_model: WorldModel
    contexts: Contexts
    policy: Policy
    play: PlaySettings
    reward_values: Sequence[float] = ()
    options: DreamOptions = field(default_factory=DreamOptions)


class Step(NamedTuple):
    """A step of a session.

    Attributes:
        action: The action taken.
        by_agent: Whether the agent chose it.
        outcome: The outcome of the action.
    """

    action: int
    by_agent: bool
    outcome: WorldStep


class _Moment(NamedTuple):
    """The moment before a step, to which a session can return, and the step."""

    world: Any
    agent: Tensor
    score: float
    step: Step


class Session:
    """A dream and the real game, played by hand or by an agent.

    Args:
        subject: What is played.
        seed: Seed of all random draws: the same calls give the same frames.
        real: Begin in the real game instead of a dream.
        trail: Steps of each world that can be wound back.

    Attributes:
        by_agent: Whether the agent plays.

    Raises:
        GlamError: A value is impossible, or ``real`` was asked for without ale-py.
    """

    def __init__(
        self, subject: Subject, *, seed: int = 0, real: bool = False, trail: int = TRAIL
    ) -> None:
        self.subject, self.by_agent = subject, False
        self._seed, self._trail_length = seed, require_count("trail", trail)
        self._dream = DreamWorld(self._engine(1, _DREAM))
        self._game: RealWorld | None = None
        agent_seed = seed_apart(_PURPOSE, seed_apart(_AGENT, seed))
        self._player = Player(subject.policy, subject.world_model, agent_seed)
        self._trails = {name: deque[_Moment](maxlen=trail) for name in (False, True)}
        self._scores = {False: 0.0, True: 0.0}
        self._futures_engine: DreamEngine | None = None
        self._branch: Futures | None = None  # the futures of this moment
        self._recorder: Recorder | None = None
        self.real = real
        if real:
            self._game = self._begin_game()
        else:
            self._dream.begin()

    # --- what there is ---------------------------------------------------------------------------

    @property
    def world(self) -> World:
        """The current world."""
        if not self.real:
            return self._dream
        assert self._game is not None
        return self._game

    @property
    def frame(self) -> np.ndarray:
        """Current frame of the world, (64, 64, 3) uint8."""
        return self.world.frame

    @property
    def score(self) -> float:
        """Points since the episode began, or since the dream left the real game."""
        return self._scores[self.real]

    @property
    def steps(self) -> list[Step]:
        """The steps that can be wound back, the oldest first."""
        return [moment.step for moment in self._trail]

    @property
    def recorder(self) -> Recorder | None:
        """The current recording, or None."""
        return self._recorder

    @property
    def _trail(self) -> deque[_Moment]:
        return self._trails[self.real]

    # --- play ------------------------------------------------------------------------------------

    def step(self, action: int) -> Step:
        """Take a step.

        Args:
            action: Action of the player, from 0 to A − 1; not read if the agent plays.

        Raises:
            GlamError: There is no such action.
        """
        count = self.subject.game.num_actions
        if not self.by_agent and not 0 <= action < count:
            raise GlamError(f"{self.subject.game.name} has actions 0 to {count - 1}, not {action}")
        world, frame = self.world, self.world.frame
        saved, agent = world.save(), self._player.generator.get_state()
        if self.by_agent:
            (action,) = self._player.act(world.state, frame[None], [world.past])
        outcome = world.step(action)
        self._branch = None
        step = Step(action, self.by_agent, outcome)
        self._trail.append(_Moment(saved, agent, self.score, step))
        self._note(frame, step)
        if outcome.ended or not self.by_agent:
            self._player.forget()
        return step

    def hand_over(self) -> bool:
        """Let the agent play, or take over from it; return whether the agent plays now."""
        self.by_agent = not self.by_agent
        self._player.forget()
        return self.by_agent

    def switch(self) -> bool:
        """Go to the other world; return whether it is the real one.

        From the real game, a dream begins at the current moment. From a dream, the real game
        continues where it was left, or begins if it has not begun yet.

        Raises:
            GlamError: ale-py is not installed. Nothing has changed then.
        """
        if self.real:
            assert self._game is not None
            self._dream.begin_from(self._game.state, self._game.past)
            self._trails[False].clear()
            self._scores[False] = 0.0
        elif self._game is None:
            self._game = self._begin_game()
        self.real = not self.real
        self._jump()
        return self.real

    def begin(self) -> None:
        """Begin another episode in this world.

        The steps before it can no longer be wound back.
        """
        self.world.begin()
        self._trail.clear()
        self._scores[self.real] = 0.0
        self._jump()

    def wind_back(self, count: int = 1) -> int:
        """Go back some steps in this world.

        Play then repeats exactly: the same actions give the same steps, in both worlds.

        Args:
            count: Steps to go back.

        Returns:
            Number of steps gone back, at most ``count``.

        Raises:
            GlamError: ``count`` is less than 1.
        """
        count = min(require_count("count", count), len(self._trail))
        if not count:
            return 0
        for _ in range(count):
            moment = self._trail.pop()
        self.world.restore(moment.world)
        self._player.generator.set_state(moment.agent)
        self._player.forget()
        self._branch = None
        self._scores[self.real] = moment.score
        if self._recorder is not None:
            self._recorder.wind_back(count)
        return count

    # --- futures ---------------------------------------------------------------------------------

    def futures(self, count: int = 4) -> Futures:
        """Dream several futures of this moment; the session itself does not move.

        Futures differ in their random draws, within a call and between calls.

        Args:
            count: Number of futures.

        Raises:
            GlamError: ``count`` is less than 1.
        """
        engine = self._futures_engine
        if engine is None or engine.num_envs != count:
            engine = self._futures_engine = self._engine(count, _FUTURES)
        world = self.world
        self._branch = Futures(engine, world.state, world.past, self._player, self._trail_length)
        return self._branch

    def take(self, futures: Futures, row: int) -> None:
        """Continue in one of the futures, as if its steps had been taken here.

        From the real game this goes to a dream.

        Args:
            futures: Futures of this moment.
            row: Index of the future, from 0.

        Raises:
            GlamError: There is no such future, it has ended, or it is of another moment.
        """
        if futures is not self._branch:
            raise GlamError("those futures are of another moment; dream new ones")
        if not 0 <= row < len(futures):
            raise GlamError(f"there are futures 0 to {len(futures) - 1}, not {row}")
        if futures.ended[row]:
            raise GlamError("that future has ended; take another one")
        if self.real:
            self.switch()
        agent = self._player.generator.get_state()
        draws = self._dream.engine.get_draws()
        for saved, action, outcome in futures.path(row):
            step = Step(action, self.by_agent, outcome)
            here = saved._replace(draws=draws)
            self._trail.append(_Moment(here, agent, self.score, step))
            self._note(saved.frame, step)
        self._dream.begin_from(futures.state(row), futures.past(row))
        self._player.forget()
        self._branch = None

    # --- recording -------------------------------------------------------------------------------

    def record(self) -> Recorder | None:
        """Start a recording, or stop it and return it."""
        stopped = self._recorder
        self._recorder = Recorder(self.subject.game.name) if stopped is None else None
        return stopped

    def _note(self, frame: np.ndarray, step: Step) -> None:
        outcome = step.outcome
        self._scores[self.real] = 0.0 if outcome.ended else self.score + outcome.reward
        if self._recorder is not None:
            self._recorder.add(frame, step.action, outcome, real=self.real)

    def _jump(self) -> None:
        self._player.forget()
        self._branch = None
        if self._recorder is not None:
            self._recorder.cut()

    # --- making worlds ---------------------------------------------------------------------------

    def _begin_game(self) -> RealWorld:
        subject = self.subject
        seed = seed_apart(_PURPOSE, seed_apart(_REAL, self._seed))
        game = RealWorld(subject.game, subject.world_model, subject.play, seed)
        game.begin()
        return game

    def _engine(self, count: int, purpose: int) -> DreamEngine:
        subject = self.subject
        device = subject.world_model.device
        options = replace(
            subject.options, device=device, obs_type="rgb", max_episode_steps=MAX_STEPS
        )
        engine = DreamEngine(
            subject.world_model, subject.contexts, count, options, subject.reward_values
        )
        engine.seed(seed_apart(_PURPOSE, seed_apart(purpose, self._seed)))
        return engine
