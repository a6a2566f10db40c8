"""Settings of a sweep, from a TOML file, options of the command line, or both."""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from glam_env.errors import GlamError, printable
from glam_env.files import read_bounded
from glam_env.games import GAMES, find_game

Step = Literal["eval", "fidelity", "export"]
Engine = Literal["ray", "slurm", "local"]
STEPS: tuple[Step, ...] = get_args(Step)
ENGINES: tuple[Engine, ...] = get_args(Engine)
MOST_RUNS = 100_000
TOML_BYTES = 2**20
CURE = "see docs/sweeps.md"
OWN = {
    "seed": "seeds",
    "run": "folder",
    "resume": "nothing: a sweep resumes by itself",
    "device": "gpus_per_run",
    "threads": "cpus_per_run",
    "minutes": "nothing: stop the sweep instead",
}
"""Options of `glam train` that the sweep sets itself, and what sets them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SEEDS = re.compile(r"\d+(-\d+)?")


@dataclass(frozen=True)
class SweepSettings:
    """Settings of a sweep, as in its TOML file.

    Attributes:
        games: Names of games.
        seeds: Seeds of the runs of each game and variant.
        train: Options of `glam train`, by name, for all runs.
        variants: Further options of `glam train`, by name of the variant. Without variants there
            is one, named by its sequence core.
        then: What follows a run: eval (the score under both protocols), fidelity, export.
        eval, fidelity, export: Options of these commands.
        on: The engine: ray, slurm (submitit), or local (submitit without a cluster).
        address: Address of a Ray cluster; none: Ray is started on this machine.
        cpus: CPUs that Ray uses on this machine; none: all.
        cpus_per_run: CPUs of a run, and its threads.
        gpus_per_run: GPUs of a run, or a share of one; none: 1 if there are GPUs.
        retries: How often a run may lose its worker or its node.
        slurm: Parameters of submitit's executor, such as `partition`.
    """

    games: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    train: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    then: tuple[Step, ...] = ()
    eval: Mapping[str, Any] = field(default_factory=dict)
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    export: Mapping[str, Any] = field(default_factory=dict)
    on: Engine = "ray"
    address: str | None = None
    cpus: int | None = None
    cpus_per_run: float = 1.0
    gpus_per_run: float | None = None
    retries: int = 5
    slurm: Mapping[str, Any] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """CPU threads of a run. They are fixed, since its numbers depend on them."""
        return max(1, math.floor(self.cpus_per_run))

    def validate(self) -> None:
        """Check the settings that do not depend on the options of other commands.

        Raises:
            GlamError: A setting cannot work; the message says what would.
        """
        if not self.games:
            raise GlamError("a sweep needs games: --games Pong Boxing, or --games all")
        _require_distinct("games", self.games)
        if not self.seeds:
            raise GlamError("a sweep needs seeds, such as --seeds 0-4")
        _require_distinct("seeds", self.seeds)
        _require_distinct("then", self.then)
        count = len(self.games) * len(self.seeds) * max(1, len(self.variants))
        if count > MOST_RUNS:
            raise GlamError(f"the sweep has {count:,} runs; at most {MOST_RUNS:,} can be made")
        for name in self.variants:
            if not _NAME.fullmatch(name):
                raise GlamError(
                    f"a variant's name is part of a folder: letters, digits, . _ -, at most 64; "
                    f"got {name!r}"
                )
        for options in (self.train, *self.variants.values()):
            for name in options:
                if (instead := OWN.get(name.replace("-", "_"))) is not None:
                    raise GlamError(f"a sweep sets {name} itself; what sets it is {instead}")
        if not 0 < self.cpus_per_run < math.inf:
            raise GlamError(f"cpus_per_run must be positive, got {self.cpus_per_run}")
        gpus = self.gpus_per_run
        if gpus is not None and not (0 <= gpus <= 1 or (gpus < math.inf and gpus == int(gpus))):
            raise GlamError(f"gpus_per_run must be in [0, 1] or a whole number, got {gpus}")
        if self.cpus is not None and self.cpus < self.cpus_per_run:
            raise GlamError(f"cpus {self.cpus} are fewer than cpus_per_run {self.cpus_per_run:g}")
        if not 0 <= self.retries <= 1000:
            raise GlamError(f"retries must be in [0, 1000], got {self.retries}")
        if self.address is not None and self.on != "ray":
            raise GlamError(f"address is that of a Ray cluster; leave it out with on {self.on}")


def _require_distinct(name: str, values: tuple[Any, ...]) -> None:
    if twice := [value for value in values if values.count(value) > 1]:
        raise GlamError(f"{name} has {twice[0]} twice; leave one out")


def read_games(names: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of games; `all` stands for the 26 of Atari 100k.

    Raises:
        GlamError: There is no such game.
    """
    names = [names] if isinstance(names, str) else list(names)
    if names == ["all"]:
        return tuple(GAMES)
    return tuple(find_game(name).name for name in names)


def read_seeds(given: object) -> tuple[int, ...]:
    """Read seeds from a number, a list of numbers, or text such as ``"0-4,7"``.

    Raises:
        GlamError: The value is something else.

    >>> read_seeds("0-2,7")
    (0, 1, 2, 7)
    """
    if isinstance(given, list | tuple):
        return tuple(seed for each in given for seed in read_seeds(each))
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 2**63:
        return (given,)
    seeds: list[int] = []
    for part in str(given).replace(" ", "").split(","):
        ends = [int(end) for end in part.split("-")] if _SEEDS.fullmatch(part) else []
        if not ends or ends[-1] < ends[0] or ends[-1] - ends[0] >= MOST_RUNS or ends[-1] >= 2**63:
            raise GlamError(f"seeds must be like 0-4 or 0,2,5, got {printable(repr(given), 60)}")
        seeds += range(ends[0], ends[-1] + 1)
    return tuple(seeds)


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: The text is not TOML.
        GlamError: This Python is older than 3.11 and has no tomli.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ModuleNotFoundError as error:
            raise GlamError('sweeps need tomli: pip install "glam-env[sweep]"') from error
    return tomllib.loads(text)


def read_assignments(words: tuple[str, ...]) -> dict[str, Any]:
    """Read options from words such as ``total-steps=600``.

    Values are TOML, or else plain text.

    Raises:
        GlamError: A word has no name or no value.

    >>> read_assignments(("freeze.at=[0.2, 0.4]", "dream-starts=fresh"))
    {'freeze.at': [0.2, 0.4], 'dream-starts': 'fresh'}
    """
    options: dict[str, Any] = {}
    for word in words:
        name, mark, text = word.partition("=")
        if not mark or not name:
            raise GlamError(f"write NAME=VALUE, such as total-steps=600, not {word!r}")
        try:
            options[name] = parse_toml(f"value = {text}")["value"]
        except ValueError:
            options[name] = text
    return options


def read_file(path: Path) -> SweepSettings:
    """Read a sweep from a TOML file.

    Raises:
        GlamError: The file cannot be read, or has an unknown setting or a wrong value.
    """
    try:
        table = parse_toml(read_bounded(path, TOML_BYTES, "give a TOML file").decode("utf-8"))
    except ValueError as error:
        if isinstance(error, GlamError):
            raise
        raise GlamError(f"{path} is not TOML ({error}); {CURE}") from error
    known = {each.name: each for each in fields(SweepSettings)}
    plain = {name.replace("-", "_"): value for name, value in table.items()}
    for name in plain:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise GlamError(f"{path}: there is no setting {printable(name, 60)!r}; {advice}")
    return replace(SweepSettings(), **{k: _checked(path, k, v) for k, v in plain.items()})


def _checked(path: Path, name: str, value: Any) -> Any:
    """Return the value of one setting of a file in its own type."""
    where = f"{path}: {name}"
    match name:
        case "games":
            _require(where, value, "names", isinstance(value, str) or _all(value, str))
            return read_games(value)
        case "seeds":
            return read_seeds(value)
        case "then":
            _require(where, value, ", ".join(STEPS), _all(value, str) and {*value} <= {*STEPS})
            return tuple(step for step in STEPS if step in value)
        case "on":
            _require(where, value, " or ".join(ENGINES), value in ENGINES)
        case "address":
            _require(where, value, "text", isinstance(value, str))
        case "cpus" | "retries":
            _require(where, value, "a whole number", type(value) is int)
        case "cpus_per_run" | "gpus_per_run":
            _require(where, value, "a number", type(value) in (int, float))
        case "variants":
            tables = isinstance(value, dict) and _all([*value.values()], dict)
            _require(where, value, "tables: [variants.NAME]", tables)
        case _:
            _require(where, value, f"a table: [{name}]", isinstance(value, dict))
    return value


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(each, kind) for each in values)


def _require(where: str, value: Any, right: str, holds: bool) -> None:
    if not holds:
        raise GlamError(f"{where} must be {right}; got {printable(repr(value), 60)}")


def to_words(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return options of a command as the words of its command line.

    Args:
        options: Values by name; the name of a nested table is put before the names in it.
        prefix: Prefix of all names.

    >>> to_words({"total-steps": 600, "autocast": False, "loss": {"margin": 2}})
    ['--total-steps=600', '--no-autocast', '--loss.margin=2']
    """
    words: list[str] = []
    for name, value in options.items():
        whole = prefix + name.replace("_", "-")
        if isinstance(value, Mapping):
            words += to_words(value, f"{whole}.")
        elif isinstance(value, bool):
            parent, dot, last = whole.rpartition(".")
            words.append(f"--{whole}" if value else f"--{parent}{dot}no-{last}")
        elif isinstance(value, list | tuple):
            words += [f"--{whole}", *map(str, value)]
        else:
            words.append(f"--{whole}={value}")
    return words
