"""`glam train`: a world model and its agent, trained on a real game."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from glam_env.cli.options import FLAT, Device, Game, Protocol, RunPath, options_of
from glam_env.cli.trained import RUNS
from glam_env.errors import GlamError

if TYPE_CHECKING:
    from glam_agents import AgentKind

    from glam_env.training.config import TrainConfig
    from glam_env.training.run_folder import RunFolder
else:  # its module imports torch: `defaults` imports the class when it is needed
    TrainConfig = Any


MOST_THREADS = (
    256  # on a machine with fewer cores; the process ends if far more threads are started
)


@dataclass
class _CoreChoice:
    """The name of a sequence core."""

    name: str = ""


@dataclass
class _ModelChoice:
    """Where the options of a world model have that name."""

    core: _CoreChoice = field(default_factory=_CoreChoice)


@dataclass
class _Choices:
    """Options that decide the defaults of the others."""

    preset: str = "paper"
    algorithm: str = ""
    warm_start: str = ""
    protocol: str | None = None
    resume: bool = False
    model: _ModelChoice = field(default_factory=_ModelChoice)


@dataclass
class Train:
    """Options of `glam train`.

    Attributes:
        game: One of the 26 games of Atari 100k, such as Pong.
        preset: Named settings: paper (a GPU), small (two CPU cores) or debug (seconds). The
            options below override single ones; --model.core.name takes another sequence core.
        algorithm: The agent, a name in `glam_agents.AGENTS`.
        protocol: How the game is played, in short: atari100k (no sticky actions, up to 30 no-ops)
            or published (sticky actions 0.25, no no-ops). By default as in the preset.
        run: The run's folder.
        resume: Continue the run in that folder, with its own settings; only --total-steps may be
            given, to extend it.
        minutes: Save and stop after so many minutes.
        device: Where the run computes.
        threads: CPU threads of PyTorch. By default PyTorch chooses.
        train: Settings of the training.
        agent: Settings of the agent.
    """

    game: Game
    preset: str
    algorithm: str
    train: Annotated[TrainConfig, FLAT]
    agent: Any
    protocol: Protocol = None
    run: RunPath = None
    resume: bool = False
    minutes: float | None = None
    device: Device = "auto"
    threads: int | None = None

    @classmethod
    def defaults(cls, words: list[str]) -> Train:
        """Return the defaults of a command line.

        They are those of its preset, with the sizes of the checkpoint of a warm start. A run that
        is resumed has its own settings as defaults, so that a different setting is noticed.

        Args:
            words: The command line after `glam train`.

        Raises:
            GlamError: If there is no such preset, agent or checkpoint, or no run to resume.
        """
        from glam_agents import DEFAULT_AGENT, find_agent

        from glam_env.protocols import choose_play
        from glam_env.training.presets import PRESETS

        read = partial(tyro.cli, args=words, prog="glam train")
        choices, _ = read(_Choices, add_help=False, return_unknown_args=True)
        if choices.preset not in PRESETS:
            raise GlamError(f"preset must be one of {', '.join(PRESETS)}; got {choices.preset!r}")
        kind = find_agent(choices.algorithm or DEFAULT_AGENT)
        train = _with_core(PRESETS[choices.preset], choices.model.core.name)
        defaults = cls(
            game=tyro.MISSING,
            preset=choices.preset,
            algorithm=kind.name,
            train=replace(train, **choose_play(train.play, choices.protocol).emulator),
            agent=kind.preset(choices.preset),
        )
        if choices.resume:
            return read(cls, default=defaults)._as_begun()
        return defaults._sized_by(choices.warm_start) if choices.warm_start else defaults

    def execute(self) -> int:
        """Train until the last step, or until stopped."""
        import torch

        from glam_env.checks import require_count, require_within
        from glam_env.console import FINISHED, STOPPED, Progress, StopRequest
        from glam_env.device import find_device
        from glam_env.training.extension import store_extension
        from glam_env.training.logs import TensorBoardLog, show_metrics
        from glam_env.training.trainer import Trainer

        device = find_device(self.device)
        if self.threads is not None:
            most = max(MOST_THREADS, os.cpu_count() or 1)
            require_within("threads", require_count("threads", self.threads), f"[1, {most}]")
            torch.set_num_threads(self.threads)
        if self.minutes is not None and not self.minutes > 0:
            raise GlamError(f"minutes must be positive, got {self.minutes}")
        game, run, kind = self._open_run()
        listeners: list[Callable[[dict[str, Any]], None]] = []

        def log(line: dict[str, Any]) -> None:
            for listen in listeners:
                listen(line)

        with StopRequest() as stop, Progress() as progress:
            trainer = Trainer(
                game,
                self.train,
                run,
                lambda width, actions: kind.make(self.agent, width, actions),
                device,
                log,
            )
            if self.train.total_steps != run.settings["train"]["total_steps"]:
                store_extension(run, self.train.total_steps, at=trainer.env_steps)
            updates = trainer.image_updates + trainer.model_updates
            board = TensorBoardLog(run.path / "tensorboard", updates)
            listeners += [show_metrics(self.train, progress), board]
            until = math.inf if self.minutes is None else time.monotonic() + 60 * self.minutes
            finished = trainer.train(stop=lambda: stop.asked or time.monotonic() >= until)
            trainer.close()
            board.close()
        state = FINISHED if finished else STOPPED
        following = self._command("export" if finished else "train", game)
        print(f"{state} at step {trainer.env_steps:,}, saved in {run.path}; next: {following}")
        return 0

    def _path(self) -> Path:
        """Return the run's folder."""
        from glam_env.games import find_game

        return self.run or RUNS / find_game(self.game).name

    def _command(self, name: str, game: str) -> str:
        """Return the next command, quoted for a shell."""
        words = ["glam", name, game]
        if name == "train":
            words.append("--resume")
        if self.run is not None:
            words += ["--run", shlex.quote(str(self.run))]
        return " ".join(words)

    def _as_begun(self) -> Train:
        """Return the options with the settings of the run that is resumed."""
        from glam_agents import DEFAULT_AGENT, config_of

        from glam_env.games import find_game
        from glam_env.training.export import read_settings
        from glam_env.training.run_folder import RunFolder

        path, game = self._path(), find_game(self.game).name
        run, where = RunFolder(path), str(path / "config.json")
        own_game, preset, config = read_settings(run.settings, where)
        if own_game != game:
            raise GlamError(f"{path} holds a run of {own_game}, not {game}; choose its --run")
        kind, agent = config_of(run.settings.get("agent", {}), where, DEFAULT_AGENT)
        return replace(
            self,
            preset=preset,
            algorithm=kind.name,
            protocol=config.play.protocol,
            train=config,
            agent=agent,
        )

    def _sized_by(self, warm_start: str) -> Train:
        """Return the options with the sizes of a checkpoint."""
        from glam_agents import config_of, find_agent

        from glam_env.checkpoint.folder import Checkpoint
        from glam_env.training.warm_start import FREE

        checkpoint = Checkpoint.open(warm_start)
        kind, agent = config_of(checkpoint.config.agent, str(checkpoint.path))
        if kind.name != self.algorithm:
            raise GlamError(
                f"the agent of {checkpoint.path} is {kind.name}, not {self.algorithm}; "
                f"give --algorithm {kind.name}"
            )
        free = {name: getattr(self.train.model, name) for name in FREE}
        train = replace(self.train, model=replace(checkpoint.config.world_model, **free))
        agent = find_agent(self.algorithm).with_sizes_of(self.agent, agent)
        return replace(self, train=train, agent=agent)

    def check(self) -> tuple[str, AgentKind, dict[str, Any]]:
        """Check the options of a new run, and write nothing.

        Returns:
            The game, the kind of the agent, and the settings of the run's folder.

        Raises:
            GlamError: A setting that cannot work, or a library that is missing.
        """
        from glam_agents import find_agent

        from glam_env.checkpoint.config import to_json
        from glam_env.games import find_game
        from glam_env.training.recorded import read_recordings
        from glam_env.training.warm_start import open_warm_start

        game, kind = find_game(self.game).name, find_agent(self.algorithm)
        _require_libraries()
        self.train.validate()
        kind.validate(self.agent)
        read_recordings(self.train, find_game(game))
        settings: dict[str, Any] = {
            "game": game,
            "preset": self.preset,
            "train": asdict(self.train),
            "agent": kind.as_json(self.agent),
        }
        if self.train.warm_start:
            checkpoint = open_warm_start(self.train, game, settings["agent"], kind.sizes)
            settings["begun_from"] = to_json(checkpoint.config.provenance)
        return game, kind, settings

    def _open_run(self) -> tuple[str, RunFolder, AgentKind]:
        """Check everything, then make the run's folder, or open it."""
        from glam_agents import find_agent

        from glam_env.games import find_game
        from glam_env.training.run_folder import RunFolder

        path = self._path()
        if self.resume:
            _require_libraries()
            self._require_unchanged(path)
            return find_game(self.game).name, RunFolder(path), find_agent(self.algorithm)
        game, kind, settings = self.check()
        return game, RunFolder(path, settings), kind

    def _require_unchanged(self, path: Path) -> None:
        """Refuse settings that differ from those of the resumed run.

        Only a larger number of steps is accepted.
        """
        from glam_env.training.extension import extend

        begun = self._as_begun()
        if self.train.total_steps != begun.train.total_steps:
            begun = replace(begun, train=extend(begun.train, self.train.total_steps))
        own, given = options_of(begun), options_of(self)
        if changed := [name for name in own if given.get(name) != own[name]]:
            name = changed[0]
            raise GlamError(
                f"a resumed run keeps its own settings: {path} has {name} {own[name]}, "
                f"not {given.get(name)}; leave out {', '.join(changed)}"
            )


def _with_core(config: TrainConfig, name: str) -> TrainConfig:
    """Return the settings with another sequence core, of default sizes.

    They are returned unchanged if they have that core, or if the name is empty.

    Raises:
        GlamError: There is no such core.
    """
    from glam_env.model.cores.base import find_core
    from glam_env.training.presets import with_core

    if name in ("", config.model.core.name):
        return config
    try:
        return with_core(config, find_core(name).config())  # type: ignore[call-arg]
    except ValueError as error:
        raise GlamError(f"model.{error}") from error


def _require_libraries() -> None:
    """Refuse to train without what training needs.

    Raises:
        GlamError: A library is missing.
    """
    if missing := [name for name in ("ale_py", "tensorboard") if find_spec(name) is None]:
        raise GlamError(f'training needs {missing[0]}: pip install "glam-env[train]"')
