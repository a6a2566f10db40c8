"""`glam sb3`: an agent of Stable-Baselines3, trained in dreams."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from glam_env.cli.options import Device, Game, folder


@dataclass
class Sb3:
    """Options of `glam sb3`.

    Attributes:
        game: A game's name, or the path of a checkpoint.
        algo: The algorithm: ppo, a2c, dqn, or qrdqn (of sb3-contrib).
        steps: Dream steps to learn from.
        obs: What the agent sees: latent (the bundled agent's features) or rgb (frames).
        num_envs: Dreams side by side. By default 64 for ppo, else 16.
        frame_stack: Frames that the agent sees together. By default 4; 1 with latent.
        horizon: Steps after which a dream is cut.
        seed: Seed of the weights, the dreams and the actions.
        run: The run's folder.
        resume: Continue the run in that folder. Give the settings that it was started with.
        dreams: Whole dreams in which the agent is measured, before and after.
        episodes: Whole real games to play at the end.
        device: Where dreams and agent run.
        json: Print the report as JSON.
    """

    game: Game
    algo: str = "ppo"
    steps: int = 1_000_000
    obs: str = "latent"
    num_envs: int | None = None
    frame_stack: int | None = None
    horizon: int = 128
    seed: int = 0
    run: Annotated[Path | None, folder("runs/sb3/GAME-ALGO-OBS")] = None
    resume: bool = False
    dreams: int = 256
    episodes: int = 10
    device: Device = "auto"
    json: bool = False

    def execute(self) -> int:
        """Train, measure, and print the report."""
        from glam_agents.sb3.run import sb3

        return sb3(self)
