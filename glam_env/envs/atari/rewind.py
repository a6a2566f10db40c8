"""``RewindableGame``: a real game that goes back to any moment of an episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from glam_env.envs.atari.emulator import FRAME_SIZE, FRAME_SKIP, MAX_STEPS, NOOP
from glam_env.errors import GlamError
from glam_env.games import Game
from glam_env.protocols import PlaySettings


class GameStep(NamedTuple):
    """The result of one agent step; the frame is :meth:`RewindableGame.frame`.

    Attributes:
        reward: raw points.
        life_lost: a life was lost or the game was over at this step.
        terminated: the game is over.
        truncated: the episode was cut at :data:`~glam_env.envs.atari.emulator.MAX_STEPS`.
    """

    reward: float
    life_lost: bool
    terminated: bool
    truncated: bool


@dataclass(frozen=True)
class SavedGame:
    """A moment of an episode, made by :meth:`RewindableGame.save`.

    Attributes:
        console: the emulator's state.
        last: the action that a sticky one repeats.
        steps: agent steps played in the episode.
        draws: the state of the generator of sticky actions.
        screens: the last two frames as the console shows them.
    """

    console: Any
    last: int
    steps: int
    draws: Mapping[str, Any]
    screens: tuple[np.ndarray, np.ndarray]


class RewindableGame:
    """One real game that goes back to any moment of an episode.

    It plays as an :class:`~glam_env.envs.atari.emulator.Emulator` of one env does, except for
    the random draws: the emulator's saved states lack the last action, so sticky actions and no-ops
    are drawn here.

    Args:
        game: the game to play.
        play: settings of the game; sticky actions, no-ops.

    Raises:
        GlamError: ale-py is not installed.
    """

    def __init__(self, game: Game, play: PlaySettings | None = None) -> None:
        try:
            from ale_py import ALEInterface, LoggerMode, roms
        except ModuleNotFoundError as error:
            raise GlamError('the real game needs ale-py: pip install "glam-env[atari]"') from error
        ALEInterface.setLoggerMode(LoggerMode.Error)
        rom = roms.get_rom_path(game.ale_id)
        if rom is None:
            raise GlamError(f"this ale-py has no {game.name}")
        self._ale, self._rom = ALEInterface(), str(rom)
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._game, self._play = game, play or PlaySettings()
        self._actions: list = []
        self._last, self._steps = NOOP, 0
        self._draws = np.random.default_rng(0)

    @property
    def over(self) -> bool:
        """Whether the episode has ended."""
        return self._ale.game_over() or self._steps >= MAX_STEPS

    def reset(self, seed: int) -> np.ndarray:
        """Begin an episode.

        Args:
            seed: seed of the console (its lower 31 bits), of sticky actions and no-ops.

        Returns:
            (64, 64, 3) uint8 first frame.
        """
        self._ale.setInt("random_seed", seed & 0x7FFFFFFF)
        self._ale.loadROM(self._rom)
        self._ale.reset_game()
        self._actions = self._ale.getMinimalActionSet()
        self._draws = np.random.default_rng(seed)
        self._last, self._steps = NOOP, 0
        no_ops = int(self._draws.integers(self._play.noop_max + 1))
        for _ in range(no_ops):
            self._ale.act(self._actions[NOOP])
            if self._ale.game_over():
                self._ale.reset_game()
        screen = self._ale.getScreenRGB()
        self._screens = screen, screen
        return self.frame()

    def step(self, action: int) -> GameStep:
        """Play one agent step.

        Raises:
            GlamError: the episode has ended, or there is no such action.
        """
        if not self._actions or self.over:
            raise GlamError("there is no episode to step: call reset() or restore() first")
        if not 0 <= action < len(self._actions):
            raise GlamError(
                f"{self._game.name} has actions 0 to {len(self._actions) - 1}, not {action}"
            )
        lives = self._ale.lives()
        reward = self._advance(action, shown=True)
        terminated = self._ale.game_over()
        return GameStep(
            reward,
            terminated or self._ale.lives() < lives,
            terminated,
            self._steps >= MAX_STEPS,
        )

    def frame(self) -> np.ndarray:
        """Return the current observation, (64, 64, 3) uint8.

        It is the pixelwise maximum of the last two frames, scaled by area.
        """
        screen = np.maximum(*self._screens).astype(np.float32)
        rows = _shrink(screen, FRAME_SIZE)
        return np.rint(_shrink(rows.swapaxes(0, 1), FRAME_SIZE).swapaxes(0, 1)).astype(np.uint8)

    def save(self) -> SavedGame:
        """Return the current moment."""
        return SavedGame(
            self._ale.cloneState(),
            self._last,
            self._steps,
            self._draws.bit_generator.state,
            self._screens,
        )

    def restore(self, saved: SavedGame, seed: int | None = None) -> None:
        """Go back to a moment of an episode of this game.

        Args:
            saved: from :meth:`save`.
            seed: seed of the sticky actions that follow; with None the same actions give the same
                steps again.
        """
        self._ale.restoreState(saved.console)
        self._last, self._steps, self._screens = saved.last, saved.steps, saved.screens
        if seed is None:
            self._draws.bit_generator.state = dict(saved.draws)
        else:
            self._draws = np.random.default_rng(seed)

    def try_each(self, steps: int) -> np.ndarray:
        """Hold each action for some steps, and go back after each.

        Args:
            steps: agent steps for which an action is held, or until the game is over.

        Returns:
            (A, steps) float32 raw points of each step.
        """
        here = self.save()
        rewards = np.zeros((len(self._actions), steps), np.float32)
        for action in range(len(self._actions)):
            for t in range(steps):
                if self.over:
                    break
                rewards[action, t] = self._advance(action, shown=False)
            self.restore(here)
        return rewards

    def _advance(self, action: int, *, shown: bool) -> float:
        """Play the frames of one agent step; keep the last two if they are shown."""
        points, chance = 0.0, self._play.repeat_action_probability
        for left in reversed(range(FRAME_SKIP)):
            if not (chance and self._draws.random() < chance):
                self._last = action
            points += self._ale.act(self._actions[self._last])
            over = self._ale.game_over()
            if shown and (left < 2 or over):
                self._screens = self._screens[1], self._ale.getScreenRGB()
            if over:
                break
        self._steps += 1
        return points


def _shrink(x: np.ndarray, size: int) -> np.ndarray:
    """Shrink the first dimension of a float32 array to ``size``, by area.

    Each new pixel sums the few old ones that it overlaps. A product of matrices would multiply many
    zeros, and wait for BLAS's threads.
    """
    pixels, shares = _overlaps(len(x), size)
    result = np.zeros((size, *x.shape[1:]), np.float32)
    for pixel, share in zip(pixels, shares, strict=True):
        result += x[pixel] * share[:, None, None]
    return result


@lru_cache
def _overlaps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which old pixels each new one overlaps, and their shares, which sum to 1.

    Returns:
        (most, new) int64 indices and float32 shares. A new pixel overlaps at most ``most`` old
        ones; if it overlaps fewer, the other shares are 0.
    """
    edges = np.arange(new + 1) * old / new
    most = int(np.ceil(old / new)) + 1
    pixels = np.floor(edges[:-1]).astype(np.int64) + np.arange(most)[:, None]
    inside = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    shares = (inside.clip(0) * new / old).astype(np.float32)
    return np.minimum(pixels, old - 1), shares
