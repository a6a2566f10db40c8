"""The command `glam`: train, measure, show and export learned games."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from typing import Annotated, Any, Union

import tyro

from glam_env import __version__
from glam_env.cli.options import one_line, options_of
from glam_env.errors import GlamError

DESCRIPTION = (
    "Learned Atari games: train them, measure them, play in them. `glam COMMAND --help` lists the "
    "options of a command, `glam --version` prints the version."
)

COMMANDS = {
    "train": "Train a world model and its agent on a real game.",
    "eval": "Play whole real games with a trained agent.",
    "fidelity": "Measure how well dreams match the game, on play that training never saw.",
    "play": "Play dream and real game by hand in a window; hand over, wind back, branch, record.",
    "demo": "Dream with a trained agent, play the real game with it, and show both.",
    "sb3": "Train an agent of Stable-Baselines3 in dreams, then play the real game with it.",
    "bench": "Measure the speed of dreams, of the emulator and of training, or plot it.",
    "export": "Turn a run into a checkpoint with measured score and fidelity.",
    "push": "Push a checkpoint to the Hugging Face Hub, with a card and its results.",
    "card": "Measure a checkpoint again, and rewrite its results and its card.",
    "list": "List all games, and the results of those that have a checkpoint.",
    "info": "Show the installation, or one checkpoint or run.",
    "curves": "Draw the learning curves of several runs into one picture.",
    "web": "Write a static web page in which trained games are played, or show it here.",
    "sweep": "Train many games and seeds, on one machine or a cluster; resume, measure, export.",
    "report": "Add up the scores of a sweep, in tables and a picture, beside the published ones.",
}
"""Each command `name` is the class `Name` of the module `glam_env.cli.name`."""

BROKEN_PIPE, INTERRUPTED, MISTAKE = 141, 130, 2  # exit codes; the first two as in shells


def main(words: list[str] | None = None) -> int:
    """Run the command `glam`.

    Args:
        words: The command line without the program's name; that of the process if None.

    Returns:
        The exit code: 0, or 2 after one line about a problem that the user can correct, such as a
        full disk, 130 after Ctrl-C, 141 if the reader of standard output has gone.
    """
    if sys.stderr is None:  # it was closed before the start
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        print("glam: standard output is closed; redirect it, to /dev/null say", file=sys.stderr)
        return MISTAKE
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # instead of an error in a narrow encoding
    try:
        code = _run(sys.argv[1:] if words is None else words)
        sys.stdout.flush()
        return code
    except GlamError as error:
        print(f"glam: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("glam: stopped", file=sys.stderr)
        return INTERRUPTED
    except OSError:
        if (problem := _broken_output()) is None:
            raise
        if isinstance(problem, BrokenPipeError):
            return BROKEN_PIPE
        reason = problem.strerror or problem
        print(f"glam: cannot write to standard output ({reason}); redirect it", file=sys.stderr)
        return MISTAKE


def _run(words: list[str]) -> int:
    if words == ["--version"]:
        print(f"glam {__version__}")
        return 0
    try:
        return read_command(words or ["--help"]).execute()
    except SystemExit as end:  # of --help
        return int(end.code or 0)


def read_command(words: list[str]) -> Any:
    """Read a command and its options.

    Raises:
        GlamError: The words hold a mistake, which the message describes.
    """
    kinds = {
        name: getattr(import_module(f"glam_env.cli.{name}"), name.capitalize()) for name in COMMANDS
    }
    chosen, default = words[0], {}
    command, known = "glam", [*kinds, "--version"]
    if chosen in kinds:
        kind = kinds[chosen]
        command, known = f"glam {chosen}", options_of(kind)
        if hasattr(kind, "defaults"):  # they depend on the words, such as a preset's name
            with one_line(command, known):
                default["default"] = kind.defaults(words[1:])
            known = options_of(default["default"])
    marks = {
        name: tyro.conf.subcommand(name, description=summary, **(default if name == chosen else {}))
        for name, summary in COMMANDS.items()
    }
    union: Any = Union[tuple(Annotated[kinds[name], mark] for name, mark in marks.items())]  # noqa: UP007
    with one_line(command, known):
        return tyro.cli(union, prog="glam", args=words, description=DESCRIPTION)


def _broken_output() -> OSError | None:
    """Return the error of writing to standard output, or None if there is none.

    After an error all further output is discarded.
    """
    try:
        print(flush=True)  # a flush alone may have nothing to write by now
    except OSError as problem:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return problem
    return None


if __name__ == "__main__":
    sys.exit(main())
