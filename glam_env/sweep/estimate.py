"""Estimates of the time that a sweep takes.

They come from finished runs of the sweep, or from iterations that are measured now.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from glam_env.bench.training import NEVER, shortened
from glam_env.console import clock
from glam_env.device import use_threads
from glam_env.sweep.matrix import RunSpec
from glam_env.sweep.status import read_status, read_tail
from glam_env.training.config import TrainConfig
from glam_env.training.learner import AgentFactory
from glam_env.training.phases import FREEZING, Phase, Step, schedule
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

SECONDS = 3.0  # for each kind of work that is measured, and at least two units of it
WARM_UPS = 2  # units before the clock starts

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Cost:
    """Training time of a run of a variant, without the commands that follow.

    Attributes:
        seconds: Seconds of a whole run.
        source: Origin of the figure, in words.
    """

    seconds: float
    source: str


def estimate(
    runs: Sequence[RunSpec],
    config: TrainConfig,
    make_agent: AgentFactory,
    device: str,
    threads: int,
    progress: OnProgress,
) -> Cost:
    """Estimate the training time of a run of a variant.

    Args:
        runs: The runs of the variant. If some are finished, the estimate is their mean time.
        config: Settings of the training.
        make_agent: Makes the agent.
        device: Where the runs train.
        threads: CPU threads of a run.
        progress: Called with reports of the measurement.
    """
    taken = []
    for run in runs:
        status = read_status(Path(run.path))
        if status is not None and status.trained and (tail := read_tail(Path(run.path))):
            taken.append(float(tail[-1]["seconds"]))
    if taken:
        count = f"{len(taken)} finished run{'s' if len(taken) > 1 else ''}"
        return Cost(sum(taken) / len(taken), f"{count} of this sweep")
    with use_threads(threads):
        units = _Units(runs[0].game, config, make_agent, torch.device(device), progress)
        seconds = sum(units.cost(phase, frozen) for phase, frozen in phases_left(config))
    return Cost(seconds, f"{units.measured} iterations measured here on {runs[0].game}, {device}")


def phases_left(config: TrainConfig) -> list[tuple[Phase, bool]]:
    """List the phases of a run, with the work of each one alone.

    The totals of a schedule in steps count from the start of the run. Here they count from the end
    of the earlier phases.

    Returns:
        Each phase, and whether images are frozen in it.
    """
    phases, frozen, played = [], False, 0
    for phase in schedule(config):
        left = phase
        if phase.unit == "steps":
            left = replace(phase, total=max(0, phase.total - played))
            played = max(played, phase.total)
        phases.append((left, frozen))
        frozen |= phase.step in FREEZING
    return phases


class _Units:
    """Measures one unit of each kind of work, when it is first needed."""

    def __init__(
        self,
        game: str,
        config: TrainConfig,
        make_agent: AgentFactory,
        device: torch.device,
        progress: OnProgress,
    ) -> None:
        self._game, self._config, self._make_agent = game, config, make_agent
        self._device, self._progress = device, progress
        self._known: dict[tuple[str, bool], float] = {}
        self.measured = 0

    def cost(self, phase: Phase, frozen: bool) -> float:
        """Return the seconds of a phase."""
        kinds = {
            Step.RANDOM_PLAY: ("play", False),
            Step.PLAY: ("play", False),
            Step.IMAGE_UPDATE: ("images", False),
            Step.FINE_TUNING_UPDATE: ("images", False),
            Step.MODEL_UPDATE: ("model", frozen),
            Step.END_TO_END_UPDATE: ("model", False),
            Step.JOINT: ("joint", frozen),
        }
        kind = kinds[phase.step]
        if phase.total and kind not in self._known:
            self._known[kind] = self._measure(*kind)
        return phase.total * self._known.get(kind, 0.0)

    def _measure(self, kind: str, frozen: bool) -> float:
        """Return the seconds of one update, or of one environment step."""
        c = shortened(self._config, frozen, NEVER if kind == "model" else 0)
        c = replace(c, warm_start="", replay_from=(), keep_every=0.0, total_steps=NEVER)
        if kind == "images":
            c = replace(c, image_warmup=NEVER, target_error=0.0)
        if kind == "play":
            c = replace(c, random_steps=NEVER)
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder(Path(folder) / "run", {"game": self._game, "train": asdict(c)})
            trainer = Trainer(self._game, c, run, self._make_agent, self._device)
            step = {
                "play": Step.RANDOM_PLAY,
                "images": Step.IMAGE_UPDATE,
                "model": Step.MODEL_UPDATE,
                "joint": Step.JOINT,
            }[kind]
            while trainer.phase.step is not step:
                trainer.advance()
            units, advances = 1, 1
            if kind == "play":
                units = c.num_envs
            if kind == "joint":  # updates are due after some steps only
                units = math.lcm(c.num_envs, c.update_every)
                advances = units // c.num_envs
            seconds = self._time(trainer, kind, advances)
            trainer.close()
        return seconds / units

    def _time(self, trainer: Trainer, kind: str, advances: int) -> float:
        def work() -> None:
            for _ in range(advances):
                trainer.advance()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)

        for _ in range(WARM_UPS):
            work()
        begin, count = time.perf_counter(), 0
        while count < 2 or time.perf_counter() - begin < SECONDS:
            work()
            count += 1
            spent = min(int(time.perf_counter() - begin), int(SECONDS))
            self._progress(f"measuring {kind}", spent, int(SECONDS))
        self.measured += count
        return (time.perf_counter() - begin) / count


def table(runs: Sequence[RunSpec], costs: Mapping[str, Cost], cpus_per_run: float) -> str:
    """List the runs and their estimated core-hours, as plain text.

    Args:
        runs: All runs of the sweep.
        costs: Cost of a whole run, by variant.
        cpus_per_run: CPUs that a run occupies.
    """
    width = max(len(run.name) for run in runs)
    lines, total, left = [f"{'run':{width}}  {'core-hours':>10}  state"], 0.0, 0.0
    for run in runs:
        hours = costs[run.variant].seconds * cpus_per_run / 3600
        status, begun = read_status(Path(run.path)), (Path(run.path) / "config.json").exists()
        trained = status is not None and status.trained
        total, left = total + hours, left + (0.0 if trained else hours)
        state = "trained" if trained else "begun" if begun else "new"
        lines.append(f"{run.name:{width}}  {hours:10.2f}  {state}")
    lines += ["", f"{len(runs)} runs: about {total:,.1f} core-hours, {left:,.1f} of them ahead"]
    for name, cost in costs.items():
        lines.append(f"{name}: {clock(cost.seconds)} a run, by {cost.source}")
    follows = dict.fromkeys(follow.step for run in runs for follow in run.then)
    if follows:
        lines.append(f"not counted: {', '.join(follows)}")
    return "\n".join(lines)
