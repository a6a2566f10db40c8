"""``glam sb3``: an agent of Stable-Baselines3 learns in dreams and then plays the real game.

A run's folder holds ``config.json`` (settings), ``first.json`` (what the agent earned before it had
learned anything), ``model.zip`` (SB3's own format, saved as the run goes), ``metrics.jsonl`` and,
in the end, ``report.json``.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import zipfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import torch

from glam_agents.progress import ProgressBar
from glam_agents.sb3.score import DreamScore, measure_dreams, own_draws, show_report
from glam_env.checkpoint.config import WORLD_MODEL
from glam_env.checkpoint.folder import Checkpoint
from glam_env.checks import require_choice, require_count
from glam_env.cli.options import Sb3
from glam_env.console import StopRequest
from glam_env.device import find_device
from glam_env.errors import GlamError
from glam_env.training.run_folder import RunFolder, write_whole

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv
    from torch import Tensor

    from glam_env.envs.atari.emulator import EmulatorStep, Episode
    from glam_env.evaluation.play.scores import Policy

OBSERVATIONS = ("latent", "rgb")
FIRST, MODEL, REPORT = "first.json", "model.zip", "report.json"
SAVE_SECONDS = 30.0  # what a kill can cost
REAL_SEED = 1_000  # of the games, the one of `glam eval`


def sb3(args: Sb3) -> int:
    """Runs ``glam sb3``."""
    print_to = sys.stderr if args.json else sys.stdout  # a report in JSON stands alone
    with closing(Sb3Run(args)) as run:
        if not run.learn(print_to):
            cure = "go on with --resume"
            print(f"stopped at step {run.steps_done:,}, saved in {run.path}; {cure}", file=print_to)
            return 0
        report = run.report(print_to)
    print(json.dumps(report, indent=2) if args.json else show_report(report))
    return 0


class Sb3Run:
    """A run: made or resumed, taught, measured.

    Args:
        args: see :class:`~glam_env.cli.options.Sb3`.

    Raises:
        GlamError: an impossible setting, a library that is missing, or a folder that holds
            something else; nothing has been written then.
    """

    def __init__(self, args: Sb3) -> None:
        from glam_agents.sb3.algorithms import (
            ALGORITHMS,
            find_algorithm,
            find_settings,
            is_replayed,
        )
        from glam_agents.sb3.env import ClippedRewards

        for name in ("steps", "horizon", "dreams", "episodes"):
            require_count(name, getattr(args, name))
        require_choice("algo", args.algo, ALGORITHMS)
        require_choice("obs", args.obs, OBSERVATIONS)
        if not 0 <= args.seed < 2**31:
            raise GlamError(f"seed must lie in 0 … 2^31 − 1, got {args.seed}")
        latent, self.replayed = args.obs == "latent", is_replayed(args.algo)
        # PPO's updates are few and broad; the others learn from more and narrower ones.
        usual = 64 if args.algo == "ppo" else 16
        self.num_envs = usual if args.num_envs is None else args.num_envs
        self.frame_stack = (1 if latent else 4) if args.frame_stack is None else args.frame_stack
        require_count("num_envs", self.num_envs)
        require_count("frame_stack", self.frame_stack)
        if latent and self.frame_stack != 1:
            raise GlamError("features remember by themselves: leave out frame_stack with latent")
        algorithm = find_algorithm(args.algo)
        self.args, self.device = args, find_device(args.device)
        self.checkpoint = Checkpoint.open(args.game)
        self.config = self.checkpoint.config
        self.game = self.config.game
        self.path = args.run or Path("runs/sb3") / f"{self.game}-{args.algo}-{args.obs}"
        self.settings = {
            "game": self.game,
            "world_model": self.config.files[WORLD_MODEL].sha256,
            "algo": args.algo,
            "obs": args.obs,
            "num_envs": self.num_envs,
            "frame_stack": self.frame_stack,
            "horizon": args.horizon,
            "seed": args.seed,
            "dreams": args.dreams,
        }
        folder = self._earlier() if args.resume else None
        self._dreams = ClippedRewards(self._make_dreams(self.num_envs))
        space: Any = self._dreams.observation_space
        settings = find_settings(args.algo, space, self.num_envs)
        saved = self.path / MODEL
        if folder is not None and saved.exists():
            self.model = self._load(algorithm, saved)
            # Dreams and draws begin anew, and a replay buffer fills again before it is drawn from.
            self.model.set_random_seed(args.seed + self.steps_done)
            if self.replayed:
                starts = settings["learning_starts"] + self.steps_done
                self.model.learning_starts = starts  # pyright: ignore[reportAttributeAccessIssue]
        else:
            self.model = algorithm(env=self._dreams, seed=args.seed, device=self.device, **settings)
        self.folder = RunFolder(self.path, self.settings) if folder is None else folder
        self.folder.lock()
        self.first = self._read_first() if saved.exists() else self._begin()

    @property
    def steps_done(self) -> int:
        """Dream steps learned from."""
        return self.model.num_timesteps

    def learn(self, stream: TextIO) -> bool:
        """Learns until all steps are done; Ctrl-C and SIGTERM stop and save it.

        Args:
            stream: where the line of progress goes.

        Returns:
            Whether all steps are done.
        """
        with StopRequest() as stop:
            if (left := self.args.steps - self.steps_done) > 0:
                watch = _Watch(self, stop, stream)
                self.model.learn(left, watch, reset_num_timesteps=False, log_interval=None)  # pyright: ignore[reportArgumentType]
                watch.close()
        return self.steps_done >= self.args.steps

    def save(self) -> None:
        """Writes the model whole, or leaves the last one as it is."""
        write_whole(self.path / MODEL, self.model.save)

    def measure(self) -> DreamScore:
        """What the agent earns in dreams now; always from the same moments."""
        return measure_dreams(self._make_dreams, self._choose, self.args.dreams)

    def report(self, stream: TextIO) -> dict[str, Any]:
        """Measures the agent in dreams and in the real game, and keeps that as ``report.json``.

        Args:
            stream: where the line of progress goes.
        """
        from glam_env.evaluation.play.scores import evaluate_policy

        print(f"dreaming {self.args.dreams} dreams …", file=stream)
        last = self.measure()
        bar = ProgressBar(stream, self.args.episodes, "real games")

        def show(_step: EmulatorStep, counted: list[Episode]) -> None:
            bar.show(len(counted))

        with own_draws(REAL_SEED):
            real = evaluate_policy(
                self._real_policy(),
                self.game,
                episodes=self.args.episodes,
                seed=REAL_SEED,
                repeat_action_probability=self.config.protocol.repeat_action_probability,
                on_step=show,
            )
        bar.finish(self.args.episodes)
        report = {
            **self.settings,
            "steps": self.steps_done,
            "dream_first": self.first.as_json(),
            "dream_last": last.as_json(),
            "real": real.as_json(),
            "run": str(self.path),
        }
        self._write(REPORT, report)
        return report

    def close(self) -> None:
        """Lets go of the dreams and of the folder."""
        self._dreams.close()
        self.folder.unlock()

    # --- parts -------------------------------------------------------------------------------

    def _make_dreams(self, num_envs: int) -> VecEnv:
        from stable_baselines3.common.vec_env import VecMonitor

        from glam_agents.sb3.env import SB3VecEnv
        from glam_env.envs.dream.env import DreamVectorEnv

        dreams = DreamVectorEnv(
            self.game,
            num_envs,
            device=self.device,
            array_type="torch",
            obs_type=self.args.obs,
            max_episode_steps=self.args.horizon,
            checkpoint=self.checkpoint,
        )
        return VecMonitor(SB3VecEnv(dreams, self.frame_stack))

    def _choose(self, seen: np.ndarray) -> np.ndarray:
        """Actions as the algorithm means them: drawn from a policy, or the best by their values."""
        return self.model.predict(seen, deterministic=self.replayed)[0]

    def _real_policy(self) -> Policy:
        if self.args.obs != "latent":
            from glam_agents.sb3.algorithms import FramePolicy

            return FramePolicy(self._choose, self.frame_stack)
        from glam_env.envs.latent_filter import FilteredPolicy

        def act(features: Tensor, _generator: torch.Generator) -> Tensor:
            chosen = self._choose(features.cpu().numpy())
            return torch.from_numpy(chosen).to(features.device)

        return FilteredPolicy(self.checkpoint.world_model(self.device), act)

    def _begin(self) -> DreamScore:
        """Measures and saves what has learned nothing yet."""
        first = self.measure()
        self._write(FIRST, asdict(first))
        self.save()
        return first

    def _earlier(self) -> RunFolder:
        """The folder of the run that is resumed."""
        folder = RunFolder(self.path)
        for name, value in self.settings.items():
            if (old := folder.settings.get(name)) != value:
                raise GlamError(f"the run in {self.path} has {name} {old!r}, not {value!r}")
        return folder

    def _load(self, algorithm: type[BaseAlgorithm], path: Path) -> BaseAlgorithm:
        try:
            return algorithm.load(path, env=self._dreams, device=self.device)
        except (zipfile.BadZipFile, AssertionError, ValueError, KeyError, RuntimeError) as error:
            reason = (str(error) or repr(error)).splitlines()[0]
            raise GlamError(f"{path} cannot be read ({reason}); start another --run") from error

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
    """SB3 calls it after every step: it shows progress, saves, and says whether to go on."""

    def __init__(self, run: Sb3Run, stop: StopRequest, stream: TextIO) -> None:
        self._run, self._stop = run, stop
        self._bar = ProgressBar(stream, run.args.steps, "steps", run.steps_done)
        self._saved_at = time.perf_counter()

    def __call__(self, _locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
        self._bar.show(self._run.steps_done, self._words())
        if time.perf_counter() - self._saved_at >= SAVE_SECONDS:
            self._save()
        return not self._stop.asked

    def close(self) -> None:
        """Shows and saves the end."""
        self._bar.finish(self._run.steps_done, self._words())
        self._save()

    def _return(self) -> float | None:
        """Of the last hundred dreams."""
        recent = self._run.model.ep_info_buffer
        return statistics.fmean(float(e["r"]) for e in recent) if recent else None

    def _words(self) -> str:
        earned = self._return()
        return "" if earned is None else f"dream return {earned:+.2f}"

    def _save(self) -> None:
        self._run.save()
        learned = self._run.model.logger.name_to_value  # SB3's own figures, such as train/loss
        line = {
            "steps": self._run.steps_done,
            "steps_per_second": self._bar.rate(self._run.steps_done),
            "dream_return": self._return(),
            **{name: float(value) for name, value in learned.items()},
        }
        self._run.folder.append_metrics(line)
        self._saved_at = time.perf_counter()
