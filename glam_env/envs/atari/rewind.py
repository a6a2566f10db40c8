"""``RewindableGame``: a real game that tries each action and goes back."""

from __future__ import annotations

import numpy as np

from glam_env.envs.atari.emulator import FRAME_SKIP
from glam_env.errors import GlamError
from glam_env.games import Game


class RewindableGame:
    """One game that follows a game of an :class:`~glam_env.envs.atari.emulator.Emulator`.

    The emulator must play without no-ops (``noop_max`` 0), since it does not report how many it
    draws, and without sticky actions, since restoring a state loses the last action.

    Args:
        game: the game to play.

    Raises:
        GlamError: ale-py is not installed.
    """

    def __init__(self, game: Game) -> None:
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
        self._game, self._steps = game, 0
        self._actions: list = []

    def begin(self, seed: int) -> None:
        """Begin an episode with the seed that the emulator gave it."""
        self._ale.setInt("random_seed", seed)
        self._ale.loadROM(self._rom)
        self._ale.reset_game()
        self._actions, self._steps = self._ale.getMinimalActionSet(), 0

    def step(self, action: int, reward: float, over: bool) -> None:
        """Repeat an agent step of the emulator.

        Args:
            action: its number.
            reward: raw points that the emulator returned.
            over: whether the game was over after it.

        Raises:
            GlamError: reward or end differ from the emulator's.
        """
        own = self._play(action)
        self._steps += 1
        if own != reward or self._ale.game_over() != over:
            raise GlamError(
                f"two emulators of {self._game.name} differ at step {self._steps} of an episode: "
                f"{own:g} points here, {reward:g} there"
            )

    def screen(self) -> np.ndarray:
        """Return the last frame as the console shows it, (210, 160, 3) uint8."""
        return self._ale.getScreenRGB()

    def try_each(self, steps: int) -> np.ndarray:
        """Hold each action for some steps, and go back after each.

        Args:
            steps: agent steps for which an action is held, or until the game is over.

        Returns:
            (A, steps) float32 raw points of each step.
        """
        here = self._ale.cloneState(include_rng=True)
        rewards = np.zeros((len(self._actions), steps), np.float32)
        for action in range(len(self._actions)):
            for t in range(steps):
                if self._ale.game_over():
                    break
                rewards[action, t] = self._play(action)
            self._ale.restoreState(here)
        return rewards

    def _play(self, action: int) -> float:
        points = 0.0
        for _ in range(FRAME_SKIP):
            points += self._ale.act(self._actions[action])
            if self._ale.game_over():
                break
        return points
