"""Settings of a run of Stable-Baselines3, the options of ``glam sb3``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import tyro

from glam_agents.sb3.algorithms import ALGORITHMS
from glam_env.checks import require_choice, require_count
from glam_env.envs.dream.options import Reward
from glam_env.errors import GlamError
from glam_env.model.reward_values import REWARDS

OBSERVATIONS = ("latent", "rgb")

S = TypeVar("S", bound="Sb3Settings")


@dataclass(frozen=True)
class Sb3Settings:
    """Train an agent of Stable-Baselines3 in dreams, then play the real game with it.

    Attributes:
        game: a game's name, or the path of a checkpoint.
        algo: ppo, a2c, dqn, or qrdqn (of sb3-contrib).
        steps: dream steps to learn from.
        obs: latent (the agent's features) or rgb (frames).
        num_envs: dreams side by side (default: 64 for ppo, else 16).
        frame_stack: frames that are seen together (default: 4; 1 with latent).
        horizon: steps after which a dream is truncated.
        reward: rewards of the dreams: sample, a draw of the values that the game pays; game, the
            most likely of them; or mean, the expected value. Agents learn from them clipped to
            [−1, 1].
        seed: seed of the weights, the dreams and the actions.
        run: the run's folder (default: runs/sb3/GAME-ALGO-OBS).
        resume: continue the run in that folder; give the settings that it was started with.
        dreams: whole dreams in which the agent is measured, before and after.
        episodes: whole real games, played at the end.
        device: where the dreams and the agent are: auto, cpu, cuda, …
    """

    game: tyro.conf.Positional[str]
    algo: str = "ppo"
    steps: int = 1_000_000
    obs: str = "latent"
    num_envs: int | None = None
    frame_stack: int | None = None
    horizon: int = 64
    reward: Reward = "sample"
    seed: int = 0
    run: Path | None = None
    resume: bool = False
    dreams: int = 256
    episodes: int = 10
    device: str = "auto"

    def complete(self: S) -> S:
        """Return the settings with ``num_envs`` and ``frame_stack`` filled in.

        Raises:
            GlamError: an impossible value.
        """
        require_choice("algo", self.algo, ALGORITHMS)
        require_choice("obs", self.obs, OBSERVATIONS)
        require_choice("reward", self.reward, REWARDS)
        chosen: dict[str, Any] = {}
        if self.num_envs is None:
            # The updates of PPO are few and large; the other algorithms make more, smaller ones.
            chosen["num_envs"] = 64 if self.algo == "ppo" else 16
        if self.frame_stack is None:
            chosen["frame_stack"] = 1 if self.obs == "latent" else 4
        complete = replace(self, **chosen)
        for name in ("steps", "num_envs", "frame_stack", "horizon", "dreams", "episodes"):
            require_count(name, getattr(complete, name))
        if complete.obs == "latent" and complete.frame_stack != 1:
            raise GlamError(
                "features hold the past already: leave out frame_stack with obs latent, "
                f"got {complete.frame_stack}"
            )
        if not 0 <= self.seed < 2**31:
            raise GlamError(f"seed must lie in 0 … 2^31 − 1, got {self.seed}")
        return complete
