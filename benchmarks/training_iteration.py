"""The measuring process of `training_speed.py`: training iterations of the code it imports.

It is started once for each code base, with that code base on its path. It reads requests from
standard input and answers them on standard output, a line of JSON each. The trainer itself does the
work, so that the timing covers all that a run does: sampling, updates, imagination, metrics. Only
the experience is synthetic, and no game is played.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import glam_env.training.trainer as loop

try:
    import glam_env.training.learner as updates
except ModuleNotFoundError:  # older code has the updates beside the loop
    updates = loop
try:
    from agents.storm import AGENT_PRESETS, ActorCritic
except ModuleNotFoundError:  # older code alone has a package of this name
    from glam_agents.storm import AGENT_PRESETS, ActorCritic

from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder

FRAMES = 2048  # of synthetic experience
PHASES = ("images", "latents")


class Iterations:
    """Training iterations of a preset in one of its phases.

    Args:
        preset: Name of the preset.
        phase: `images`, as right after random play, or `latents`, as at a run's end: the longest
            horizon, and a frozen image model if the code base can freeze it.
        agent: Fields of the agent's settings that differ from the preset's.
        folder: Folder of the run.
    """

    def __init__(self, preset: str, phase: str, agent: dict[str, Any], folder: Path) -> None:
        config = replace(
            PRESETS[preset], replay_capacity=FRAMES, log_every=10**9, checkpoint_every=1000
        )
        settings = replace(AGENT_PRESETS[preset], **agent)
        run = RunFolder(folder, {"train": asdict(config)})
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.trainer = loop.Trainer(
            "Pong", config, run, lambda width, count: ActorCritic(settings, width, count), device
        )
        self.rng = np.random.default_rng(0)
        self.pieces = self.rng.integers(0, 56, (config.num_envs, 3, 2))
        for _ in range(FRAMES // config.num_envs):
            self._play()
        self.trainer.env_steps = {"images": config.random_steps, "latents": config.total_steps}[
            phase
        ]
        if phase == "latents" and _freezes_at(config) < 1.0:
            if hasattr(self.trainer, "phases"):
                self.trainer.phase_index = len(self.trainer.phases) - 1
            else:  # older code counts the freezes instead
                self.trainer.freezes = len(config.freeze.at)
            self.trainer._freeze_images()

    def _play(self) -> None:
        """Add one step of every game: small pieces that move over a plain background."""
        trainer, count = self.trainer, self.trainer.config.num_envs
        self.pieces = np.clip(self.pieces + self.rng.integers(-3, 4, self.pieces.shape), 0, 56)
        images = np.full((count, 64, 64, 3), 60, np.uint8)
        for image, pieces in zip(images, self.pieces, strict=True):
            for top, left in pieces:
                image[top : top + 6, left : left + 2] = 200
        chance = self.rng.random((4, count))
        trainer.replay.add(
            images,
            self.rng.integers(trainer.game.num_actions, size=count),
            (chance[0] < 0.02).astype(np.float32),
            chance[1] < 0.005,
            np.zeros(count, bool),
            np.zeros(count, bool),
        )

    def turn(self, agent: bool = True) -> dict[str, float]:
        """Do one iteration.

        Args:
            agent: Whether the agent learns too.

        Returns:
            Seconds of its parts. `model`: the world model's update. `imagine`: dreams from their
            start to the rollout. `agent`: learning from it.
        """
        trainer, c = self.trainer, self.trainer.config
        for _ in range(max(1, c.update_every // c.num_envs)):
            self._play()
        dreamt: list[float] = []

        def imagine(*args: Any, **settings: Any) -> Any:
            begun = now()
            rollout = untimed(*args, **settings)
            dreamt.append(now() - begun)
            return rollout

        untimed, updates.imagine = updates.imagine, imagine
        times = [now()]
        for _ in range(getattr(c, "model_updates", 1)):  # older code has none
            trainer._update_model()
        times.append(now())
        for _ in range(c.agent_updates if agent else 0):
            trainer._update_agent()
        times.append(now())
        updates.imagine = untimed
        model, learning = times[1] - times[0], times[2] - times[1] - sum(dreamt)
        if not agent:
            return {"model": model}
        return {"model": model, "imagine": sum(dreamt), "agent": learning}

    def shares(self) -> dict[str, float]:
        """Return the share of a run's iterations in each phase."""
        c = self.trainer.config
        frozen = c.total_steps * _freezes_at(c)
        images = max(0.0, frozen - c.random_steps) / (c.total_steps - c.random_steps)
        return {"images": images, "latents": 1.0 - images}

    def profile(self, turns: int, rows: int, agent: bool = True) -> dict[str, Any]:
        """Return the operators of some iterations, or the kernels of a GPU, by their own time."""
        kinds = torch.profiler.ProfilerActivity
        activities, field = [kinds.CPU], "self_cpu_time_total"
        if kinds.CUDA in torch.profiler.supported_activities():
            activities, field = [kinds.CPU, kinds.CUDA], "self_device_time_total"
        with torch.profiler.profile(activities=activities) as record:
            for _ in range(turns):
                self.turn(agent)
        events = sorted(record.key_averages(), key=lambda event: -getattr(event, field))
        times = [getattr(event, field) for event in events]
        heaviest = [
            {
                "operator": event.key,
                "ms": time / turns / 1000,
                "share": time / sum(times) if time else 0.0,
                "calls": event.count / turns,
            }
            for event, time in zip(events[:rows], times, strict=False)
        ]
        calls = sum(event.count for event in events) / turns
        return {"ms": sum(times) / turns / 1000, "calls": calls, "operators": heaviest}


def _freezes_at(config: Any) -> float:
    """Return the share of a run after which it learns from stored latents; 1 for older code."""
    return min([*config.freeze.at, 1.0]) if hasattr(config, "freeze") else 1.0


def now() -> float:
    """Return the time in seconds.

    For a GPU it is the clock's. For a CPU it is the process's time divided among its threads, so
    that other processes on the same cores count for little.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def main() -> None:
    """Answer requests until there are no more."""
    made: dict[str, Iterations] = {}
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            request = json.loads(line)
            of = {name: request[name] for name in ("preset", "phase", "agent")}
            key = json.dumps(of)
            with redirect_stdout(sys.stderr):  # standard output is for answers alone
                if key not in made:
                    made[key] = Iterations(folder=Path(folder) / str(len(made)), **of)
                iterations = made[key]
                if request["do"] == "turn":
                    answer: Any = iterations.turn(not request["model_only"])
                elif request["do"] == "shares":
                    answer = iterations.shares()
                else:
                    answer = iterations.profile(
                        request["turns"], request["rows"], not request["model_only"]
                    )
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
