"""The runs of a sweep.

Each run has a folder, a command that starts it and one that resumes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glam_env.protocols import PROTOCOLS
from glam_env.sweep.settings import Step, SweepSettings, to_words

RESULTS, CHECKPOINT = "results", "checkpoint"


@dataclass(frozen=True)
class FollowUp:
    """A command that follows a run.

    Attributes:
        step: Name of the command.
        words: The command line after `glam`.
        output: File for its standard output; None if the command writes `done` itself.
        done: File that exists once the command is done.
    """

    step: Step
    words: tuple[str, ...]
    output: str | None
    done: str


@dataclass(frozen=True)
class RunSpec:
    """Specification of a run, for its worker.

    Attributes:
        game: Name of the game.
        variant: Name of the variant.
        seed: Seed of the run.
        path: Absolute path of its folder.
        settings: Words of the command line with its settings for `glam train`.
        threads: CPU threads of its commands.
        device: Device of its commands.
        then: Commands that follow it.
        cwd: Folder that relative paths in the settings refer to.
        session: Marks one start of the sweep.
    """

    game: str
    variant: str
    seed: int
    path: str
    settings: tuple[str, ...]
    threads: int
    device: str = "auto"
    then: tuple[FollowUp, ...] = ()
    cwd: str = "."
    session: str = ""

    @property
    def name(self) -> str:
        """Name of the run within its sweep."""
        return f"{self.game}/{self.variant}-seed{self.seed}"

    @property
    def start(self) -> list[str]:
        """The command line that starts the run, after `glam`."""
        return ["train", self.game, *self.settings, f"--seed={self.seed}", *self._common]

    @property
    def resume(self) -> list[str]:
        """The command line that resumes it."""
        return ["train", self.game, "--resume", *self._common]

    @property
    def _common(self) -> list[str]:
        where = [f"--run={self.path}", f"--device={self.device}"]
        return [*where, f"--threads={self.threads}"]


def variant_words(settings: SweepSettings) -> Iterator[tuple[str | None, list[str]]]:
    """Yield the name and the words of each variant.

    Without variants there is one, with the name None, since its name follows from the settings.
    """
    if not settings.variants:
        yield None, to_words(settings.train)
    for name, own in settings.variants.items():
        yield name, to_words(_merged(settings.train, own))


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of both, where those of ``own`` replace those of ``base``.

    Options within tables are replaced one by one.
    """
    return {**_flat(base), **_flat(own)}


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        whole = prefix + name.replace("_", "-")
        flat |= _flat(value, f"{whole}.") if isinstance(value, Mapping) else {whole: value}
    return flat


def follow_ups(settings: SweepSettings, game: str, path: str, device: str) -> tuple[FollowUp, ...]:
    """List the commands that follow a run, with one `eval` for each protocol."""
    found = []
    for step in settings.then:
        words = [f"--device={device}", *to_words(getattr(settings, step))]
        if step == "eval":
            for protocol in PROTOCOLS:
                file = f"{RESULTS}/eval-{protocol}.json"
                line = ("eval", path, f"--protocol={protocol}", "--json", *words)
                found.append(FollowUp(step, line, file, file))
        elif step == "fidelity":
            file = f"{RESULTS}/fidelity.json"
            line = ("fidelity", path, "--json", f"--out={path}/fidelity", *words)
            found.append(FollowUp(step, line, file, file))
        else:
            target = f"{path}/{CHECKPOINT}"
            line = ("export", game, f"--run={path}", f"--to={target}", *words)
            found.append(FollowUp(step, line, None, f"{CHECKPOINT}/config.json"))
    return tuple(found)


def make_runs(
    settings: SweepSettings,
    folder: Path,
    variants: Sequence[tuple[str, Sequence[str]]],
    device: str,
    session: str,
) -> list[RunSpec]:
    """List the runs of a sweep, ordered by seed, then variant, then game.

    Args:
        settings: Settings of the sweep.
        folder: Folder of the sweep.
        variants: Name and words of each variant.
        device: Device of the runs.
        session: Marks this start of the sweep.
    """
    runs, cwd = [], str(Path.cwd())
    for seed in settings.seeds:
        for name, words in variants:
            for game in settings.games:
                path = str(folder.absolute() / game / f"{name}-seed{seed}")
                runs.append(
                    RunSpec(
                        game=game,
                        variant=name,
                        seed=seed,
                        path=path,
                        settings=tuple(words),
                        threads=settings.threads,
                        device=device,
                        then=follow_ups(settings, game, path, device),
                        cwd=cwd,
                        session=session,
                    )
                )
    return runs


def describe(settings: SweepSettings, runs: Sequence[RunSpec]) -> str:
    """Describe a sweep as JSON, for its folder."""
    plain = {
        "games": settings.games,
        "variants": list(dict.fromkeys(run.variant for run in runs)),
        "seeds": settings.seeds,
        "settings": {run.variant: run.settings for run in runs},
        "then": settings.then,
    }
    return json.dumps(plain, indent=2) + "\n"
