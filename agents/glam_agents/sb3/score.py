"""What an agent of Stable-Baselines3 earns in dreams, and the report of a run."""

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

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

MEASURED_ENVS = 64
DREAM_SEED = 7_000


@dataclass(frozen=True)
class DreamScore:
    """What an agent earned in whole dreams.

    Attributes:
        dreams: how many.
        mean: reward of a dream; standard_error: of that mean, NaN for a single dream.
        length: steps of a dream, mean.
    """

    dreams: int
    mean: float
    standard_error: float
    length: float

    def as_json(self) -> dict[str, Any]:
        """For ``json.dumps``; what a single dream cannot tell is None."""
        error = None if math.isnan(self.standard_error) else self.standard_error
        return {**asdict(self), "standard_error": error}


def measure_dreams(
    make_envs: Callable[[int], VecEnv], choose: Callable[[np.ndarray], np.ndarray], dreams: int
) -> DreamScore:
    """What an agent earns in whole dreams, from the same moments for all agents.

    Args:
        make_envs: makes so many dreams side by side, with SB3's ``VecMonitor`` around them.
        choose: observations (E, …) to (E) actions; PyTorch's global draws are fixed in it.
        dreams: that count.
    """
    width = min(dreams, MEASURED_ENVS)
    earned: list[float] = []
    lengths: list[int] = []
    with closing(make_envs(width)) as envs, own_draws(DREAM_SEED):
        while len(earned) < dreams:
            envs.seed(DREAM_SEED + len(earned))
            seen: Any = envs.reset()
            ended: dict[int, tuple[float, int]] = {}  # the first dream of each row counts
            while len(ended) < width:
                seen, _, dones, infos = envs.step(choose(seen))
                for row in np.flatnonzero(dones):
                    episode = infos[row]["episode"]
                    ended.setdefault(int(row), (float(episode["r"]), int(episode["l"])))
            rows = sorted(ended)[: dreams - len(earned)]
            earned += [ended[row][0] for row in rows]
            lengths += [ended[row][1] for row in rows]
    error = statistics.stdev(earned) / len(earned) ** 0.5 if len(earned) > 1 else math.nan
    return DreamScore(len(earned), statistics.fmean(earned), error, statistics.fmean(lengths))


def show_report(report: dict[str, Any]) -> str:
    """A report as text: the score in dreams beside the real one."""
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
            f"({real['episodes']} whole games; random {real['random']}, human {real['human']})",
            f"saved in {report['run']}",
        )
    )


@contextlib.contextmanager
def own_draws(seed: int) -> Iterator[None]:
    """PyTorch's global draws are fixed within, and go on afterwards as if nothing had been."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
