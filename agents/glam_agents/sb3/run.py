"""The run of ``glam sb3``.

An SB3 agent learns in dreams and then plays the real game.

A run's folder holds ``config.json`` (settings), ``first.json`` (the score in dreams before
learning), ``model.zip`` (SB3's own format, saved during the run), ``metrics.jsonl`` and, at the
end, ``report.json``.
"""

from __future__ import annotations

import json
import statistics
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glam_agents.sb3.algorithms import find_algorithm, find_settings, is_off_policy
from glam_agents.sb3.score import DreamScore, measure_dreams, measure_real
from glam_agents.sb3.settings import Sb3Settings
from glam_env.checkpoint.config import WORLD_MODEL
from glam_env.checkpoint.folder import Checkpoint
from glam_env.console import StopRequest
from glam_env.device import find_device
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.errors import GlamError, line_of
from glam_env.training.run_folder import RunFolder, write_whole

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

FIRST, MODEL, REPORT = "first.json", "model.zip", "report.json"
SAVE_SECONDS = 30.0  # the most work that a kill can cost
EARLIER = {"reward": "game"}  # of earlier runs, which lack the setting


class Sb3Run:
    """A run that is started or resumed, trained, and measured.

    Args:
        settings: see :class:`~glam_agents.sb3.settings.Sb3Settings`.

    Attributes:
        model: SB3's algorithm.
        num_envs: number of parallel dreams.
        frame_stack: number of stacked observations.
        path: the run's folder.
        first: the score in dreams before learning.

    Raises:
        GlamError: an impossible setting, a library that is missing, or a folder that holds
            something else. In that case nothing has been written.
    """

    def __init__(self, settings: Sb3Settings) -> None:
        self.settings = s = settings.complete()
        assert s.num_envs is not None
        assert s.frame_stack is not None
        self.num_envs, self.frame_stack = s.num_envs, s.frame_stack
        algorithm = find_algorithm(s.algo)
        self.device = find_device(s.device)
        self.checkpoint = Checkpoint.open(s.game)
        self.game = self.checkpoint.config.game
        self.path = s.run or Path("runs/sb3") / f"{self.game}-{s.algo}-{s.obs}"
        folder = RunFolder(self.path, kind="sb3") if s.resume else None
        if folder is not None:
            self._check_same(folder)
        self._dreams = self._make_training_dreams()
        saved = self.path / MODEL
        is_saved = folder is not None and saved.exists()
        self.model = self._load(algorithm, saved) if is_saved else self._make(algorithm)
        self.folder = folder or RunFolder(self.path, self._fixed(), kind="sb3")
        self.folder.lock()
        self.first = self._read_first() if is_saved else self._measure_first()

    @property
    def steps_done(self) -> int:
        """The number of dream steps learned from."""
        return self.model.num_timesteps

    def learn(self, on_progress: Callable[..., None]) -> bool:
        """Learn until all steps are done.

        Ctrl-C and SIGTERM stop it. In either case the model is saved.

        Args:
            on_progress: called with the name of the work, the steps done, the number of all steps,
                ``unit`` and ``note``.

        Returns:
            Whether all steps are done.
        """
        with StopRequest() as stop:
            if (left := self.settings.steps - self.steps_done) > 0:
                watch = _Watch(self, stop, on_progress)
                self.model.learn(left, watch, reset_num_timesteps=False, log_interval=None)  # pyright: ignore[reportArgumentType]
                watch.close()
        return self.steps_done >= self.settings.steps

    def save(self) -> None:
        """Write the model. If this fails, the last one is kept."""
        write_whole(self.path / MODEL, self.model.save)

    def measure(self) -> DreamScore:
        """Measure the agent in dreams, always from the same moments."""
        return measure_dreams(self._make_dreams, self._choose, self.settings.dreams)

    def report(self, on_progress: Callable[..., None]) -> dict[str, Any]:
        """Measure the agent in dreams and in the real game; write ``report.json``.

        Args:
            on_progress: called with the name of the work, the games done, and the number of all
                games.

        Returns:
            The content of the file.
        """
        s, last = self.settings, self.measure()
        real = measure_real(
            self._choose,
            self.checkpoint,
            obs=s.obs,
            frame_stack=self.frame_stack,
            episodes=s.episodes,
            device=self.device,
            on_progress=on_progress,
        )
        report = {
            **self._fixed(),
            "steps": self.steps_done,
            "dream_first": self.first.as_json(),
            "dream_last": last.as_json(),
            "real": real.as_json(),
            "run": str(self.path),
        }
        self._write(REPORT, report)
        return report

    def close(self) -> None:
        """Close the dreams and unlock the folder."""
        self._dreams.close()
        self.folder.unlock()

    # --- parts -------------------------------------------------------------------------------

    def _fixed(self) -> dict[str, Any]:
        """Return the content of config.json. A resumed run must have the same."""
        s = self.settings
        return {
            "game": self.game,
            "world_model": self.checkpoint.config.files[WORLD_MODEL].sha256,
            "algo": s.algo,
            "obs": s.obs,
            "num_envs": self.num_envs,
            "frame_stack": self.frame_stack,
            "horizon": s.horizon,
            "reward": s.reward,
            "seed": s.seed,
            "dreams": s.dreams,
        }

    def _check_same(self, folder: RunFolder) -> None:
        for name, value in self._fixed().items():
            if (old := folder.settings.get(name, EARLIER.get(name))) != value:
                raise GlamError(f"the run in {self.path} has {name} {old!r}, not {value!r}")

    def _make_dreams(self, num_envs: int) -> VecEnv:
        from stable_baselines3.common.vec_env import VecMonitor

        from glam_agents.sb3.env import SB3VecEnv

        dreams = DreamVectorEnv(
            self.game,
            num_envs,
            device=self.device,
            array_type="torch",
            obs_type=self.settings.obs,  # pyright: ignore[reportArgumentType]  (checked)
            max_episode_steps=self.settings.horizon,
            reward=self.settings.reward,
            checkpoint=self.checkpoint,
        )
        return VecMonitor(SB3VecEnv(dreams, self.frame_stack))

    def _make_training_dreams(self) -> VecEnv:
        from glam_agents.sb3.env import ClippedRewards

        return ClippedRewards(self._make_dreams(self.num_envs))

    def _algorithm_settings(self) -> dict[str, Any]:
        space: Any = self._dreams.observation_space
        return find_settings(self.settings.algo, space, self.num_envs)

    def _make(self, algorithm: type[BaseAlgorithm]) -> BaseAlgorithm:
        return algorithm(
            env=self._dreams,
            seed=self.settings.seed,
            device=self.device,
            **self._algorithm_settings(),
        )

    def _load(self, algorithm: type[BaseAlgorithm], path: Path) -> BaseAlgorithm:
        """Load a saved model.

        Dreams and random draws start again, with a new seed.
        """
        try:
            model = algorithm.load(path, env=self._dreams, device=self.device)
        except (zipfile.BadZipFile, AssertionError, ValueError, KeyError, RuntimeError) as error:
            raise GlamError(
                f"{path} cannot be read ({line_of(error)}); start another --run"
            ) from error
        model.set_random_seed(self.settings.seed + model.num_timesteps)
        if is_off_policy(self.settings.algo):
            # The replay buffer is not saved: it fills again before it is drawn from.
            starts = self._algorithm_settings()["learning_starts"] + model.num_timesteps
            model.learning_starts = starts  # pyright: ignore[reportAttributeAccessIssue]
        return model

    def _choose(self, seen: np.ndarray) -> np.ndarray:
        """Choose actions: drawn from a policy, or the best by their values."""
        return self.model.predict(seen, deterministic=is_off_policy(self.settings.algo))[0]

    def _measure_first(self) -> DreamScore:
        """Measure and save the untrained agent."""
        first = self.measure()
        self._write(FIRST, asdict(first))
        self.save()
        return first

    def _read_first(self) -> DreamScore:
        path = self.path / FIRST
        try:
            return DreamScore(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise GlamError(f"{path} cannot be read ({error}); start another --run") from error

    def _write(self, name: str, facts: dict[str, Any]) -> None:
        text = json.dumps(facts, indent=2) + "\n"
        write_whole(self.path / name, lambda file: file.write(text.encode()))


class _Watch:
    """SB3's callback of each step.

    It shows the progress, saves, and returns whether to continue.
    """

    def __init__(self, run: Sb3Run, stop: StopRequest, on_progress: Callable[..., None]) -> None:
        self._run, self._stop, self._on_progress = run, stop, on_progress
        self._steps_before = run.steps_done
        self._started_at = self._saved_at = time.perf_counter()

    def __call__(self, _locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
        self._show()
        if time.perf_counter() - self._saved_at >= SAVE_SECONDS:
            self._save()
        return not self._stop.asked

    def close(self) -> None:
        """Show the final progress and save."""
        self._show()
        self._save()

    def _show(self) -> None:
        recent = self._recent_return()
        note = "" if recent is None else f"dream return {recent:+.2f}"
        done, total = self._run.steps_done, self._run.settings.steps
        self._on_progress("learning", done, total, unit="steps", note=note)

    def _recent_return(self) -> float | None:
        """Return the mean return of the last hundred dreams."""
        recent = self._run.model.ep_info_buffer
        return statistics.fmean(float(e["r"]) for e in recent) if recent else None

    def _save(self) -> None:
        self._run.save()
        learned = self._run.model.logger.name_to_value  # SB3's own figures, such as train/loss
        now = time.perf_counter()
        steps = self._run.steps_done
        line = {
            "steps": steps,
            "steps_per_second": (steps - self._steps_before) / max(now - self._started_at, 1e-9),
            "dream_return": self._recent_return(),
            **{name: float(value) for name, value in learned.items()},
        }
        self._run.folder.append_metrics(line)
        self._saved_at = time.perf_counter()
