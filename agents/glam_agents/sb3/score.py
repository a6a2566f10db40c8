"""Scores of an SB3 agent in dreams and in the real game, and a run's report."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from glam_env.envs.latent_filter import FilteredPolicy
from glam_env.envs.wrappers import FrameStacker
from glam_env.evaluation.play.scores import Policy, ScoreReport, evaluate_policy, play_of

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv
    from torch import Tensor

    from glam_env.checkpoint.folder import Checkpoint
    from glam_env.envs.atari.emulator import EmulatorStep, Episode

MEASURED_ENVS = 64
DREAM_SEED = 7_000
REAL_SEED = 1_000  # as `glam eval` has it

Choose = Callable[[np.ndarray], np.ndarray]
"""(E, …) observations, as SB3 sees them, to (E) actions."""


@dataclass(frozen=True)
class DreamScore:
    """Returns of whole dreams.

    Attributes:
        dreams: number of dreams.
        mean: mean return.
        standard_error: standard error of the mean; NaN for a single dream.
        length: mean length, in steps.
    """

    dreams: int
    mean: float
    standard_error: float
    length: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields for ``json.dumps``; an undefined standard error is None."""
        error = None if math.isnan(self.standard_error) else self.standard_error
        return {**asdict(self), "standard_error": error}


def measure_dreams(make_envs: Callable[[int], VecEnv], choose: Choose, dreams: int) -> DreamScore:
    """Play whole dreams, which start from the same moments for every agent.

    Args:
        make_envs: makes E parallel dreams, within SB3's ``VecMonitor``.
        choose: the agent. PyTorch's global random state is fixed while it is called.
        dreams: number of dreams.
    """
    width = min(dreams, MEASURED_ENVS)
    returns: list[float] = []
    lengths: list[int] = []
    with closing(make_envs(width)) as envs, fixed_draws(DREAM_SEED):
        while len(returns) < dreams:
            envs.seed(DREAM_SEED + len(returns))
            seen: Any = envs.reset()
            ended: dict[int, tuple[float, int]] = {}  # the first dream of each row counts
            while len(ended) < width:
                seen, _, dones, infos = envs.step(choose(seen))
                for row in np.flatnonzero(dones):
                    episode = infos[row]["episode"]
                    ended.setdefault(int(row), (float(episode["r"]), int(episode["l"])))
            rows = sorted(ended)[: dreams - len(returns)]
            returns += [ended[row][0] for row in rows]
            lengths += [ended[row][1] for row in rows]
    error = statistics.stdev(returns) / len(returns) ** 0.5 if len(returns) > 1 else math.nan
    return DreamScore(len(returns), statistics.fmean(returns), error, statistics.fmean(lengths))


def measure_real(
    choose: Choose,
    checkpoint: Checkpoint,
    *,
    obs: str,
    frame_stack: int,
    episodes: int,
    device: torch.device,
    on_progress: Callable[..., None],
) -> ScoreReport:
    """Play whole real games, with the settings of the checkpoint's training.

    Args:
        choose: the agent. PyTorch's global random state is fixed while it is called.
        checkpoint: its world model turns frames into features.
        obs: what the agent sees, ``"latent"`` or ``"rgb"``.
        frame_stack: k, the number of stacked frames.
        episodes: number of games.
        device: device of the world model.
        on_progress: called with the name of the work, the games done, and the number of all games.
    """

    def act(features: Tensor, _generator: torch.Generator) -> Tensor:
        return torch.from_numpy(choose(features.cpu().numpy())).to(features.device)

    def show(_step: EmulatorStep, counted: list[Episode]) -> None:
        on_progress("real games", len(counted), episodes)

    if obs == "latent":
        policy: Policy = FilteredPolicy(checkpoint.world_model(device), act)
    else:
        policy = FramePolicy(choose, frame_stack)
    with fixed_draws(REAL_SEED):
        return evaluate_policy(
            policy,
            checkpoint.config.game,
            episodes=episodes,
            seed=REAL_SEED,
            play=checkpoint.config.protocol,
            on_step=show,
        )


class FramePolicy:
    """Policy of an agent that sees stacked frames of the real game.

    Args:
        choose: (E, 3·k, 64, 64) uint8 to (E) actions.
        frame_stack: k.
    """

    def __init__(self, choose: Choose, frame_stack: int) -> None:
        self._choose, self._frame_stack = choose, frame_stack

    def begin(self, num_envs: int, seed: int) -> None:
        """Forget all frames. Random draws are up to ``choose``."""
        self._stacker = FrameStacker(self._frame_stack)

    def act(self, frames: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Choose actions.

        Args:
            frames: (E, 64, 64, 3) uint8.
            first: (E) bool, whether a frame starts an episode.

        Returns:
            (E) actions.
        """
        seen = torch.from_numpy(frames).movedim(-1, 1)
        stack = self._stacker.push(seen, torch.from_numpy(first))
        return self._choose(stack.contiguous().numpy())


@contextlib.contextmanager
def fixed_draws(seed: int) -> Iterator[None]:
    """Seed PyTorch's global random state inside; restore it afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def show_report(report: dict[str, Any]) -> str:
    """Return a report as text, the score in dreams above the real one."""
    first, last, real = report["dream_first"], report["dream_last"], report["real"]

    def score(mean: float, error: float | None) -> str:
        return f"{mean:+.2f}" if error is None else f"{mean:+.2f} ± {error:.2f}"

    def dream(of: dict[str, Any]) -> str:
        return score(of["mean"], of["standard_error"])

    gain = last["mean"] - first["mean"]
    if first["standard_error"] is None:
        error = None
    else:
        error = math.hypot(first["standard_error"], last["standard_error"])
    return "\n".join(
        (
            f"{report['game']}: {report['algo']} on {report['obs']}, "
            f"{report['steps']:,} dream steps",
            f"  dream  {dream(first)} -> {dream(last)} points a dream of at most "
            f"{report['horizon']} steps: {score(gain, error)} "
            f"({last['dreams']} dreams before and after)",
            f"  real   {score(real['mean'], real['standard_error'])} points a game "
            f"({real['episodes']} whole games, {play_of(real)}; random {real['random']}, "
            f"human {real['human']})",
            f"saved in {report['run']}",
        )
    )
