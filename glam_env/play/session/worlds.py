"""The two worlds of a session: a dream and the real game, each of one row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from glam_env.checkpoint.contexts import CONTEXT_LENGTH
from glam_env.envs.atari.rewind import RewindableGame, SavedGame
from glam_env.envs.dream.engine import DreamEngine, EngineDraws, EngineState
from glam_env.envs.latent_filter import LatentFilter
from glam_env.errors import GlamNumberError
from glam_env.evaluation.play.policies import History
from glam_env.fast.plain import NOT_FINITE
from glam_env.games import Game
from glam_env.model.distributions import categorical_entropy
from glam_env.model.structures import DreamState
from glam_env.model.world_model import WorldModel
from glam_env.protocols import PlaySettings

Past = tuple[tuple[np.ndarray, int], ...]
"""The last frames of an episode, before the current one, each with the action taken on it."""


class WorldStep(NamedTuple):
    """The outcome of one action.

    Attributes:
        reward: Points of the game.
        life_lost: A life was lost or the episode ended.
        ended: The episode ended; the world shows the first frame of the next one.
        entropy: Entropy of the model's prediction of this step, in nats.
    """

    reward: float
    life_lost: bool
    ended: bool
    entropy: float


class World(ABC):
    """A dream or a real game; a finished one begins again within the same step.

    Attributes:
        frame: (64, 64, 3) uint8, the current frame.
        past: The last steps of the episode before the frame, at most
            :data:`~glam_env.checkpoint.contexts.CONTEXT_LENGTH`.
    """

    frame: np.ndarray
    past: Past = ()

    @property
    @abstractmethod
    def state(self) -> DreamState:
        """The world model's state after seeing the frame, one row; read-only."""

    @abstractmethod
    def begin(self) -> None:
        """Begin another episode."""

    @abstractmethod
    def _play(self, action: int) -> WorldStep:
        """Take an action and update the frame."""

    @abstractmethod
    def save(self) -> Any:
        """Return the current moment, for :meth:`restore`."""

    @abstractmethod
    def restore(self, saved: Any) -> None:
        """Go back to a moment; the same actions then give the same steps, bit for bit."""

    def step(self, action: int) -> WorldStep:
        """Take an action, from 0 to A − 1."""
        past = longer_past(self.past, self.frame, action)
        step = self._play(action)
        self.past = () if step.ended else past
        return step


class SavedDream(NamedTuple):
    """A moment of a :class:`DreamWorld`."""

    engine: EngineState
    draws: EngineDraws
    frame: np.ndarray
    past: Past


class DreamWorld(World):
    """One dream, which begins at a context or at any moment of a world.

    Args:
        engine: Engine of one dream, with frames. Its seed fixes all draws.
    """

    def __init__(self, engine: DreamEngine) -> None:
        self.engine = engine

    @property
    def state(self) -> DreamState:
        return self.engine.state

    def begin(self) -> None:
        self.engine.reset()
        self.past = ()
        self._show()

    def begin_from(self, state: DreamState, past: Past) -> None:
        """Begin at a moment.

        Args:
            state: State of one row, which is copied.
            past: The steps before it.
        """
        self.engine.set_state(EngineState(state, one(0, self.engine.device)))
        self.past = past
        self._show()

    def _play(self, action: int) -> WorldStep:
        step = self.engine.step(one(action, self.engine.device))
        terminated = bool(step.terminated)
        ended = terminated or bool(step.truncated)
        entropy = finite(float(step.prior_entropy))
        if ended:
            self.engine.reset()
        self._show()
        return WorldStep(float(step.reward), terminated, ended, entropy)

    def _show(self) -> None:
        self.frame = self.engine.observe()[0].cpu().numpy()

    def save(self) -> SavedDream:
        return SavedDream(self.engine.get_state(), self.engine.get_draws(), self.frame, self.past)

    def restore(self, saved: SavedDream) -> None:
        self.engine.set_state(saved.engine)
        self.engine.set_draws(saved.draws)
        self.frame, self.past = saved.frame, saved.past


class SavedReal(NamedTuple):
    """A moment of a :class:`RealWorld`."""

    game: SavedGame
    state: DreamState
    first: bool
    posterior: Tensor  # state of the generator
    episodes: Any  # state of the generator
    frame: np.ndarray
    past: Past


class RealWorld(World):
    """The real game, whose frames the world model follows.

    Args:
        game: The game.
        world_model: In evaluation mode.
        play: Settings of the game.
        seed: Seed of the episodes, and of the posterior's draws.

    Raises:
        GlamError: ale-py is not installed.
    """

    def __init__(self, game: Game, world_model: WorldModel, play: PlaySettings, seed: int) -> None:
        self.game = RewindableGame(game, play)
        device = world_model.device
        self._posterior = torch.Generator(device).manual_seed(seed)
        self._episodes = np.random.default_rng(seed)
        self.filter = LatentFilter(world_model, 1, self._posterior)
        self._first = True

    @property
    def state(self) -> DreamState:
        return self.filter.state

    def begin(self) -> None:
        self.past = ()
        self._see(self.game.reset(int(self._episodes.integers(2**31))), first=True)

    def _see(self, frame: np.ndarray, *, first: bool) -> None:
        self.frame, self._first = frame, first
        self.filter.see(frame[None], np.array([first]))

    def _play(self, action: int) -> WorldStep:
        latents = self.filter
        latents.act(one(action, self._posterior.device))
        prior = latents.world_model.prior_log_probs(latents.state.h)
        entropy = finite(float(categorical_entropy(prior).sum()))
        step = self.game.step(action)
        ended = step.terminated or step.truncated
        if ended:
            self.begin()
        else:
            self._see(self.game.frame(), first=False)
        return WorldStep(step.reward, step.life_lost, ended, entropy)

    def save(self) -> SavedReal:
        return SavedReal(
            self.game.save(),
            self.filter.state,
            self._first,
            self._posterior.get_state(),
            self._episodes.bit_generator.state,
            self.frame,
            self.past,
        )

    def restore(self, saved: SavedReal) -> None:
        self.game.restore(saved.game)
        self.filter.resume(saved.state)
        if saved.first:
            self.filter.begin(
                saved.state.code, torch.ones_like(saved.state.code[:, 0], dtype=torch.bool)
            )
        self._posterior.set_state(saved.posterior)
        self._episodes.bit_generator.state = saved.episodes
        self.frame, self.past, self._first = saved.frame, saved.past, saved.first


def one(value: int, device: torch.device) -> Tensor:
    """Return a number as a batch of one, (1) int64."""
    return torch.tensor([value], device=device)


def finite(entropy: float) -> float:
    """Check that an entropy is finite, and return it.

    Raises:
        GlamNumberError: It is not finite, since the world model's numbers are not.
    """
    if not np.isfinite(entropy):
        raise GlamNumberError(NOT_FINITE)
    return entropy


def longer_past(past: Past, frame: np.ndarray, action: int) -> Past:
    """Return a past with one more step, at most :data:`CONTEXT_LENGTH` in all."""
    return (*past, (frame, action))[-CONTEXT_LENGTH:]


def as_history(pasts: list[Past]) -> History:
    """Convert N pasts of one length to the history of a policy on frames."""
    shape = (len(pasts), len(pasts[0]))
    frames = np.array([[frame for frame, _ in past] for past in pasts], np.uint8)
    actions = np.array([[action for _, action in past] for past in pasts], np.int64)
    return History(frames.reshape(*shape, 64, 64, 3), actions.reshape(shape))
