"""The real game, through ale-py."""

from glam_env.envs.atari.emulator import Emulator, EmulatorState, EmulatorStep, Episode

__all__ = ["Emulator", "EmulatorState", "EmulatorStep", "Episode"]
