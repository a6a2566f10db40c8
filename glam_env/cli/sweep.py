"""`glam sweep`: many training runs, on one machine or a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from glam_env.cli.options import folder as path_option
from glam_env.cli.options import options_of
from glam_env.cli.trained import RUNS
from glam_env.errors import GlamError

if TYPE_CHECKING:
    from glam_env.cli.train import Train
    from glam_env.sweep.engine import Engine
    from glam_env.sweep.matrix import RunSpec
    from glam_env.sweep.settings import SweepSettings
    from glam_env.sweep.worker import Outcome
    from glam_env.training.config import TrainConfig

FAILED, STOPPED = 1, 130  # exit codes
FAILURES_SHOWN = 20

File = Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="FILE.toml")]
Text = tyro.conf.arg(metavar="NAME=VALUE")


@dataclass
class Sweep:
    """Options of `glam sweep`. They go before those of the file.

    Attributes:
        file: A TOML file with the settings; see docs/sweeps.md.
        games: Names of games, or all.
        seeds: Seeds of each game, such as 0-4 or 0,2,5.
        preset: Preset of the runs; see `glam train --help`.
        set: Further options of `glam train`, such as total-steps=600.
        then: What follows each run: eval (its score under both protocols), fidelity, export.
        folder: Folder of the sweep.
        on: What runs it: ray (this machine, or the cluster at --address), slurm (an array job
            through submitit), local (submitit on this machine, all runs at once).
        address: Address of a Ray cluster, such as auto or HOST:6379. RAY_ADDRESS does the same.
        cpus: CPUs of this machine that Ray uses. By default all.
        cpus_per_run: CPUs of a run; it trains with as many threads.
        gpus_per_run: GPUs of a run; 0.25 puts four runs on each. By default 1 if there are any.
        retries: How often a run may lose its worker or its node before it is set apart.
        slurm: Parameters of submitit, such as partition=gpu or timeout_min=720.
        dry_run: List the runs, estimate what they take, and start nothing.
    """

    file: File = None
    games: tuple[str, ...] = ()
    seeds: str | None = None
    preset: str | None = None
    set: Annotated[tuple[str, ...], Text] = ()
    then: tuple[Literal["eval", "fidelity", "export"], ...] | None = None
    folder: Annotated[Path | None, path_option("runs/NAME of the file or the preset")] = None
    on: Literal["ray", "slurm", "local"] | None = None
    address: str | None = None
    cpus: int | None = None
    cpus_per_run: float | None = None
    gpus_per_run: float | None = None
    retries: int | None = None
    slurm: Annotated[tuple[str, ...], Text] = ()
    dry_run: bool = False

    def execute(self) -> int:
        """Check every run, then execute all of them."""
        from glam_env.console import StopRequest
        from glam_env.sweep.drive import drive, one_driver
        from glam_env.sweep.matrix import describe
        from glam_env.sweep.status import replace_file
        from glam_env.sweep.table import Display

        settings = self._settings()
        variants = check_variants(settings)
        check_follow_ups(settings)
        where = self._folder(variants)
        if self.dry_run:
            print(self._estimate(settings, variants, where))
            return 0
        check_begun(settings, variants, where)
        with one_driver(where):
            engine = _start_engine(settings, where)
            try:
                runs = _list_runs(settings, variants, where, engine.device, engine.session)
                replace_file(where / "sweep-settings.json", describe(settings, runs))
                title = f"{where}: {len(runs)} run{'s' if len(runs) != 1 else ''} on {engine.where}"
                configs = {each.name: each.config for each in variants}
                with StopRequest() as stop, Display(title) as display:
                    if engine.note:
                        display.say(engine.note)
                    outcomes = drive(engine, runs, configs, display, lambda: stop.asked)
            finally:
                engine.close()
        print(_summary(where, runs, outcomes))
        states = [outcome.state for outcome in outcomes.values()]
        return FAILED if "failed" in states else STOPPED if "stopped" in states else 0

    def _settings(self) -> SweepSettings:
        """Return the settings of the file, overridden by those of the command line.

        Raises:
            GlamError: A setting that cannot work.
        """
        from glam_env.sweep.settings import (
            STEPS,
            SweepSettings,
            read_assignments,
            read_file,
            read_games,
            read_seeds,
        )

        settings = SweepSettings() if self.file is None else read_file(self.file)
        given: dict[str, Any] = {
            name: value
            for name in ("on", "address", "cpus", "cpus_per_run", "gpus_per_run", "retries")
            if (value := getattr(self, name)) is not None
        }
        if self.games:
            given["games"] = read_games(self.games)
        if self.seeds is not None:
            given["seeds"] = read_seeds(self.seeds)
        if self.then is not None:
            given["then"] = tuple(step for step in STEPS if step in self.then)
        preset = {} if self.preset is None else {"preset": self.preset}
        given["train"] = {**settings.train, **preset, **read_assignments(self.set)}
        given["slurm"] = {**settings.slurm, **read_assignments(self.slurm)}
        settings = replace(settings, **given)
        settings.validate()
        return settings

    def _folder(self, variants: Sequence[Variant]) -> Path:
        """Return the folder of the sweep."""
        if self.folder is not None:
            return self.folder
        return RUNS / (variants[0].preset if self.file is None else self.file.stem)

    def _estimate(self, settings: SweepSettings, variants: Sequence[Variant], where: Path) -> str:
        """List the runs, and estimate what they take."""
        from glam_agents import find_agent

        from glam_env.console import Progress
        from glam_env.sweep.estimate import estimate, table

        device = "cuda" if settings.gpus_per_run else "cpu"
        runs = _list_runs(settings, variants, where, device, "")
        costs = {}
        with Progress() as progress:
            for each in variants:
                own = [run for run in runs if run.variant == each.name]
                kind = find_agent(each.command.algorithm)

                def make(width: int, actions: int, each: Variant = each, kind: Any = kind) -> Any:
                    return kind.make(each.command.agent, width, actions)

                costs[each.name] = estimate(
                    own, each.config, make, device, settings.threads, progress
                )
        return table(runs, costs, settings.cpus_per_run)


@dataclass(frozen=True)
class Variant:
    """A variant of a sweep, as `glam train` understands it.

    Attributes:
        name: Its name in folders.
        words: The words that give its settings to `glam train`.
        command: What `glam train` reads from them, for the first game and seed.
    """

    name: str
    words: tuple[str, ...]
    command: Train

    @property
    def config(self) -> TrainConfig:
        """Settings of the training."""
        return self.command.train

    @property
    def preset(self) -> str:
        """Name of the preset."""
        return self.command.preset


def check_variants(settings: SweepSettings) -> list[Variant]:
    """Read and check the options of each variant and game, as `glam train` does.

    Raises:
        GlamError: An option that is unknown or cannot work; the message names the variant.
    """
    from glam_env.cli.main import read_command
    from glam_env.sweep.matrix import variant_words

    variants: list[Variant] = []
    for name, words in variant_words(settings):
        commands: list[Train] = []
        for game in settings.games:
            try:
                command = read_command(["train", game, *words, f"--seed={settings.seeds[0]}"])
                command.check()
            except GlamError as error:
                of = f"variant {name}, {game}" if name else game
                raise GlamError(f"{of}: {error}") from error
            commands.append(command)
        own = name or commands[0].train.model.core.name
        variants.append(Variant(own, tuple(words), commands[0]))
    return variants


def check_follow_ups(settings: SweepSettings) -> None:
    """Read the options of the steps after a run, as their commands do.

    Raises:
        GlamError: An option that is unknown or of another type.
    """
    from glam_env.cli.main import read_command
    from glam_env.sweep.matrix import follow_ups

    for follow in follow_ups(settings, settings.games[0], "PATH", "cpu"):
        try:
            read_command(list(follow.words))
        except GlamError as error:
            raise GlamError(f"[{follow.step}]: {error}") from error


def check_begun(settings: SweepSettings, variants: Sequence[Variant], where: Path) -> None:
    """Check that existing runs have the settings of the sweep.

    Raises:
        GlamError: A run has other settings.
    """
    from glam_agents import DEFAULT_AGENT, config_of

    from glam_env.training.export import read_settings
    from glam_env.training.run_folder import RunFolder

    commands = {each.name: each.command for each in variants}
    for run in _list_runs(settings, variants, where, "cpu", ""):
        path = Path(run.path)
        if not (path / "config.json").exists():
            continue
        stored, at = RunFolder(path).settings, str(path / "config.json")
        game, _, config = read_settings(stored, at)
        _, agent = config_of(stored.get("agent", {}), at, DEFAULT_AGENT)
        if game != run.game:
            raise GlamError(f"{path} holds a run of {game}; choose another --folder")
        command = commands[run.variant]
        wanted = options_of(
            replace(command, train=replace(command.train, seed=run.seed), protocol=None)
        )
        found = options_of(replace(command, train=config, agent=agent, protocol=None))
        if changed := [name for name in wanted if found.get(name) != wanted[name]]:
            name = changed[0]
            raise GlamError(
                f"{path} holds a run with {name} {found.get(name)}, not {wanted[name]}; "
                "give the settings of before, or choose another --folder"
            )


def _list_runs(
    settings: SweepSettings,
    variants: Sequence[Variant],
    where: Path,
    device: str,
    session: str,
) -> list[RunSpec]:
    from glam_env.sweep.matrix import make_runs

    named = [(each.name, each.words) for each in variants]
    return make_runs(settings, where, named, device, session)


def _start_engine(settings: SweepSettings, where: Path) -> Engine:
    if settings.on == "ray":
        from glam_env.sweep.ray_engine import RayEngine

        return RayEngine(settings)
    from glam_env.sweep.slurm_engine import SlurmEngine

    return SlurmEngine(settings, where)


def _summary(where: Path, runs: Sequence[RunSpec], outcomes: Mapping[str, Outcome]) -> str:
    """Return how the sweep ended: failed runs, counts, and the next command."""
    failed = [run.name for run in runs if outcomes[run.name].state == "failed"]
    lines = [f"{name} failed: {outcomes[name].message}" for name in failed[:FAILURES_SHOWN]]
    if len(failed) > FAILURES_SHOWN:
        lines.append(f"… {len(failed) - FAILURES_SHOWN} more failed")
    states = [outcome.state for outcome in outcomes.values()]
    counts = [f"{states.count('finished')} of {len(runs)} runs finished"]
    for state in ("failed", "stopped"):
        if state in states:
            counts.append(f"{states.count(state)} {state}")
    left = len(counts) > 1
    following = "the same command goes on" if left else f"next: glam report {where}"
    return "\n".join([*lines, f"{', '.join(counts)}; {following}"])
