"""``glam sb3``: an agent of Stable-Baselines3 learns in dreams and then plays the real game.

A run's folder holds ``run.json`` (settings, and what the agent earned before it had learned
anything), ``model.zip`` (SB3's own format, saved as the run goes), ``metrics.jsonl`` and, in the
end, ``report.json``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import tyro

from glam_env.checkpoint_config import CheckpointConfig, load_config
from glam_env.checkpoints import find_checkpoint, load_world_model
from glam_env.dream.engine import find_device, require_choice, require_count
from glam_env.errors import GlamError
from glam_env.training.logs import clock

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv
    from torch import Tensor

    from glam_env.evaluation.scores import Policy

ALGORITHMS = ("ppo", "a2c", "dqn", "qrdqn")
OBSERVATIONS = ("latent", "rgb")
MODEL = "model.zip"
SAVE_SECONDS = 30.0  # what a kill can cost
REPLAY_BYTES = 2**30
DREAM_SEED = 7_000  # of the dreams that an agent is measured in
REAL_SEED = 1_000  # of the games, the one of `glam eval`


@dataclass
class Sb3:
    """Train an agent of Stable-Baselines3 in dreams, then play the real game with it.

    Attributes:
        game: a game's name, or the path of a checkpoint.
        algo: ppo, a2c, dqn, or qrdqn (of sb3-contrib).
        steps: dream steps to learn from.
        obs: latent (the agent's features) or rgb (frames).
        num_envs: dreams side by side (default: 64; 16 for dqn and qrdqn).
        frame_stack: frames that are seen together (default: 4; 1 with latent).
        horizon: steps after which a dream is cut.
        seed: of the weights, the dreams and the actions.
        out: the run's folder (default: runs/sb3/GAME-ALGO-OBS).
        resume: go on with the run in that folder; give the settings that it was begun with.
        dreams: whole dreams that the agent is measured in, before and after.
        episodes: whole real games, played at the end.
        device: auto, cpu, cuda, …
        json: print the report as JSON.
    """

    game: tyro.conf.Positional[str]
    algo: str = "ppo"
    steps: int = 1_000_000
    obs: str = "latent"
    num_envs: int | None = None
    frame_stack: int | None = None
    horizon: int = 128
    seed: int = 0
    out: Path | None = None
    resume: bool = False
    dreams: int = 256
    episodes: int = 10
    device: str = "auto"
    json: bool = False


def sb3(args: Sb3) -> int:
    """Runs ``glam sb3``."""
    run = Sb3Run(args)
    print_to = sys.stderr if args.json else sys.stdout  # a report in JSON stands alone
    if not run.learn(print_to):
        print(f"stopped at step {run.steps_done:,}, saved in {run.folder}; go on with --resume")
        return 0
    report = run.report(print_to)
    print(json.dumps(report, indent=2) if args.json else show_report(report))
    return 0


@dataclass(frozen=True)
class DreamScore:
    """What an agent earned in dreams that began at the same moments for all.

    Attributes:
        dreams: how many; mean: reward of a dream; standard_error: of that mean.
        length: steps of a dream, mean.
    """

    dreams: int
    mean: float
    standard_error: float
    length: float


class Sb3Run:
    """A run: made or resumed, taught, measured.

    Args:
        args: see :class:`Sb3`.

    Raises:
        GlamError: an impossible setting, a library that is missing, or a folder that holds
            something else; nothing has been written then.
    """

    def __init__(self, args: Sb3) -> None:
        for name in ("steps", "horizon", "dreams", "episodes"):
            require_count(name, getattr(args, name))
        require_choice("algo", args.algo, ALGORITHMS)
        require_choice("obs", args.obs, OBSERVATIONS)
        latent, replayed = args.obs == "latent", args.algo in ("dqn", "qrdqn")
        self.num_envs = (16 if replayed else 64) if args.num_envs is None else args.num_envs
        self.frame_stack = (1 if latent else 4) if args.frame_stack is None else args.frame_stack
        require_count("num_envs", self.num_envs)
        require_count("frame_stack", self.frame_stack)
        if latent and self.frame_stack != 1:
            raise GlamError("features remember by themselves: leave out frame_stack with latent")
        if not isinstance(args.seed, int) or not 0 <= args.seed < 2**31:
            raise GlamError(f"seed must be a whole number in 0 … 2^31 − 1, got {args.seed!r}")
        make, options = _algorithm(args.algo, latent)
        self.args, self.device = args, find_device(args.device)
        self.checkpoint = find_checkpoint(args.game)
        self.config: CheckpointConfig = load_config(self.checkpoint)
        self.game = self.config.game
        self.folder = args.out or Path("runs/sb3") / f"{self.game}-{args.algo}-{args.obs}"
        self._record = self.folder / "run.json"
        settings = {
            "game": self.game,
            "algo": args.algo,
            "obs": args.obs,
            "num_envs": self.num_envs,
            "frame_stack": self.frame_stack,
            "horizon": args.horizon,
            "seed": args.seed,
            "dreams": args.dreams,
        }
        before = self._earlier(settings)
        from agents.sb3 import ClippedRewards

        dreams = ClippedRewards(self._make_dreams(self.num_envs))
        if before is None:
            self.model: BaseAlgorithm = make(
                env=dreams, seed=args.seed, device=self.device, **options(dreams)
            )
            self.first = self.measure()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.save()
            record = {"settings": settings, "first": asdict(self.first)}
            _write(self._record, json.dumps(record, indent=2))
        else:
            self.first = DreamScore(**before)
            self.model = make.load(self.folder / MODEL, env=dreams, device=self.device)
            # Dreams and draws begin anew, and a replay buffer fills again before it is drawn from.
            self.model.set_random_seed(args.seed + self.steps_done)
            if hasattr(self.model, "learning_starts"):
                self.model.learning_starts += self.steps_done

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
        asked: list[int] = []

        def ask(number: int, _frame: object) -> None:
            asked.append(number)
            signal.signal(number, signal.SIG_DFL)  # a second one kills

        old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if (left := self.args.steps - self.steps_done) > 0:
                watch = _Watch(self, asked, stream)
                self.model.learn(left, watch, reset_num_timesteps=False, log_interval=None)  # pyright: ignore[reportArgumentType]
                watch.close()
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        return self.steps_done >= self.args.steps

    def save(self) -> None:
        """Writes the model whole, or leaves the last one as it is."""
        part = self.folder / f"part-{MODEL}"
        self.model.save(part)
        os.replace(part, self.folder / MODEL)

    def measure(self) -> DreamScore:
        """What the agent earns in dreams now; always from the same moments."""
        width = min(self.args.dreams, 64)
        earned: list[float] = []
        lengths: list[int] = []
        with contextlib.closing(self._make_dreams(width)) as dreams, _own_draws(DREAM_SEED):
            while len(earned) < self.args.dreams:
                dreams.seed(DREAM_SEED + len(earned))
                seen = dreams.reset()
                ended: dict[int, tuple[float, int]] = {}  # the first dream of each row counts
                while len(ended) < width:
                    seen, _, dones, infos = dreams.step(self._choose(seen))
                    for row in np.flatnonzero(dones):
                        episode = infos[row]["episode"]
                        ended.setdefault(int(row), (float(episode["r"]), int(episode["l"])))
                rows = sorted(ended)[: self.args.dreams - len(earned)]
                earned += [ended[row][0] for row in rows]
                lengths += [ended[row][1] for row in rows]
        error = float(np.std(earned, ddof=1) / len(earned) ** 0.5) if len(earned) > 1 else 0.0
        return DreamScore(len(earned), statistics.fmean(earned), error, statistics.fmean(lengths))

    def report(self, stream: TextIO) -> dict[str, Any]:
        """Measures the agent in dreams and in the real game, and keeps that as ``report.json``."""
        from glam_env.evaluation.scores import evaluate_policy

        print(
            f"dreaming {self.args.dreams} dreams, playing {self.args.episodes} games …", file=stream
        )
        last = self.measure()
        with _own_draws(REAL_SEED):
            real = evaluate_policy(
                self._real_policy(),
                self.game,
                episodes=self.args.episodes,
                seed=REAL_SEED,
                repeat_action_probability=self.config.protocol.repeat_action_probability,
            )
        report = {
            **json.loads(self._record.read_text())["settings"],
            "steps": self.steps_done,
            "dream_first": asdict(self.first),
            "dream_last": asdict(last),
            "real": real.as_json(),
            "folder": str(self.folder),
        }
        _write(self.folder / "report.json", json.dumps(report, indent=2))
        return report

    # --- parts -------------------------------------------------------------------------------

    def _make_dreams(self, num_envs: int) -> VecEnv:
        from stable_baselines3.common.vec_env import VecMonitor

        from agents.sb3 import SB3VecEnv
        from glam_env.dream.vector_env import DreamVectorEnv

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
        """Actions as the algorithm means them: drawn from a policy, or the best by a value."""
        deterministic = self.args.algo in ("dqn", "qrdqn")
        return self.model.predict(seen, deterministic=deterministic)[0]

    def _real_policy(self) -> Policy:
        if self.args.obs != "latent":
            from agents.sb3 import FramePolicy

            return FramePolicy(self._choose, self.frame_stack)
        import torch

        from glam_env.atari.latent_filter import FilteredPolicy

        def act(features: Tensor, _generator: torch.Generator) -> Tensor:
            chosen = self._choose(features.cpu().numpy())
            return torch.from_numpy(chosen).to(features.device)

        return FilteredPolicy(load_world_model(self.checkpoint, self.device), act)

    def _earlier(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """What the run in the folder, if it shall be resumed, earned at first."""
        if not self.args.resume:
            if self._record.exists():
                raise GlamError(
                    f"{self.folder} holds a run: go on with --resume, or choose another --out"
                )
            return None
        if not self._record.exists():
            raise GlamError(f"{self.folder} holds no run: leave out --resume, or choose its --out")
        try:
            record = json.loads(self._record.read_text())
            old, first = record["settings"], record["first"]
        except (ValueError, KeyError, TypeError) as error:
            raise GlamError(f"{self._record} is broken: begin anew with another --out") from error
        for name, value in settings.items():
            if old.get(name) != value:
                raise GlamError(
                    f"the run in {self.folder} has {name} {old.get(name)!r}, not {value!r}"
                )
        return first


class _Watch:
    """SB3 calls it after every step: it shows progress, saves, and says whether to go on."""

    def __init__(self, run: Sb3Run, asked: list[int], stream: TextIO) -> None:
        self._run, self._asked, self._stream = run, asked, stream
        self._every = 1.0 if stream.isatty() else 15.0  # seconds between lines
        self._begun_at = self._shown_at = self._saved_at = time.perf_counter()
        self._begun_with = run.steps_done

    def __call__(self, _locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
        now = time.perf_counter()
        if now - self._shown_at >= self._every:
            self._shown_at = now
            self._show()
        if now - self._saved_at >= SAVE_SECONDS:
            self._save()
            self._saved_at = time.perf_counter()
        return not self._asked

    def close(self) -> None:
        """Shows and saves the end."""
        self._show()
        self._save()
        if self._stream.isatty():
            self._stream.write("\n")

    def _rate(self) -> float:
        seconds = max(time.perf_counter() - self._begun_at, 1e-9)
        return (self._run.steps_done - self._begun_with) / seconds

    def _return(self) -> float | None:
        """Of the last hundred dreams."""
        recent = self._run.model.ep_info_buffer
        return statistics.fmean(float(e["r"]) for e in recent) if recent else None

    def _show(self) -> None:
        done, total, rate = self._run.steps_done, self._run.args.steps, self._rate()
        share = min(done / total, 1.0)
        bar = f"[{'=' * round(24 * share):24}]"
        left = clock(max(total - done, 0) / max(rate, 1e-9))
        text = f"{bar} {done:,}/{total:,} steps | {rate:,.0f} steps/s, {left} left"
        if (earned := self._return()) is not None:
            text += f" | dream return {earned:+.2f}"
        self._stream.write(f"\r\x1b[2K{text}" if self._stream.isatty() else f"{text}\n")
        self._stream.flush()

    def _save(self) -> None:
        self._run.save()
        line = {
            "steps": self._run.steps_done,
            "steps_per_second": self._rate(),
            "dream_return": self._return(),
        }
        with (self._run.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _algorithm(name: str, latent: bool) -> tuple[Any, Callable[[VecEnv], dict[str, Any]]]:
    """SB3's class, and how to make its settings from the env.

    Raises:
        GlamError: the library that has it is not installed.
    """
    module = "sb3_contrib" if name == "qrdqn" else "stable_baselines3"
    try:
        library = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        cure = "sb3-contrib" if name == "qrdqn" else '"glam-env[sb3]"'
        raise GlamError(f"{name} needs {module.replace('_', '-')}: pip install {cure}") from error

    def options(envs: VecEnv) -> dict[str, Any]:
        settings = dict(_SETTINGS[name], policy="MlpPolicy" if latent else "CnnPolicy")
        if "learning_starts" in settings:
            space = envs.observation_space
            size = 2 * int(np.prod(space.shape or ())) * np.dtype(space.dtype).itemsize
            settings["buffer_size"] = min(REPLAY_BYTES // size, 100_000)
        return settings

    return getattr(library, name.upper()), options


_ACTOR_CRITIC = {"gamma": 0.985, "gae_lambda": 0.95, "ent_coef": 0.01}
_REPLAYED = {
    "gamma": 0.985,
    "learning_rate": 3e-4,
    "learning_starts": 5_000,
    "train_freq": 4,
    "gradient_steps": 4,
    "batch_size": 128,
    "target_update_interval": 4_000,
    "exploration_fraction": 0.2,
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {
        **_ACTOR_CRITIC,
        "n_steps": 128,
        "batch_size": 1024,
        "n_epochs": 4,
        "learning_rate": 5e-4,
    },
    "a2c": {**_ACTOR_CRITIC, "n_steps": 16, "learning_rate": 7e-4},
    "dqn": _REPLAYED,
    "qrdqn": _REPLAYED,
}


def show_report(report: dict[str, Any]) -> str:
    """A report as text: the score in dreams beside the real one."""
    first, last, real = report["dream_first"], report["dream_last"], report["real"]
    spread = "" if real["standard_error"] is None else f" ± {real['standard_error']:.2f}"

    def dream(score: dict[str, Any]) -> str:
        return f"{score['mean']:+.2f} ± {score['standard_error']:.2f}"

    return "\n".join(
        (
            f"{report['game']}: {report['algo']} on {report['obs']}, "
            f"{report['steps']:,} dream steps",
            f"  dream  {dream(first)} -> {dream(last)} points a dream of at most "
            f"{report['horizon']} steps ({last['dreams']} dreams, before and after)",
            f"  real   {real['mean']:+.2f}{spread} points a game ({real['episodes']} whole games; "
            f"random {real['random']}, human {real['human']})",
            f"saved in {report['folder']}",
        )
    )


@contextlib.contextmanager
def _own_draws(seed: int) -> Iterator[None]:
    """PyTorch's global draws are fixed within, and go on afterwards as if nothing had been."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _write(path: Path, text: str) -> None:
    """Writes a file whole, or leaves it as it is."""
    part = path.with_name(f"part-{path.name}")
    part.write_text(text)
    os.replace(part, path)
