"""Options, read with tyro: common types, and one-line messages for mistakes."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from glam_env.errors import GlamError

try:  # not public; without it, mistakes get tyro's own message of several lines
    from tyro import _errors as tyro_errors
except ImportError:
    tyro_errors = None

FLAT = tyro.conf.arg(name="")
"""Marks a field whose own fields become options without a prefix."""

Game = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="GAME")]
"""A game's name; some commands take the path of a checkpoint or a run in its place."""

Device = Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda|cuda:N")]


def folder(default: str) -> Any:
    """Return the settings of an optional path whose default is described in words."""
    return tyro.conf.arg(metavar="PATH", help_behavior_hint=f"(default: {default})")


Protocol = Annotated[str | None, tyro.conf.arg(metavar="atari100k|published")]
"""A name in `glam_env.protocols.PROTOCOLS`."""

RunPath = Annotated[Path | None, folder("runs/GAME")]


def options_of(command: Any, prefix: str = "--") -> dict[str, Any]:
    """Return the options of a command by name, such as `--loss.reward-weight`.

    Args:
        command: An instance of a dataclass of options, or its class.
        prefix: Prefix of the names.

    Returns:
        Values by name. For a class these are the defaults, None for an option without a default.
    """
    kind = command if isinstance(command, type) else type(command)
    hints, found = get_type_hints(kind, include_extras=True), {}
    for field in fields(kind):
        marks = getattr(hints[field.name], "__metadata__", ())
        if tyro.conf.Positional in marks:
            continue
        if not isinstance(command, type):
            value = getattr(command, field.name)
        elif field.default_factory is not MISSING:
            value = field.default_factory()
        else:
            value = None if field.default is MISSING else field.default
        name = prefix + field.name.strip("_").replace("_", "-")  # `lambda_` is --lambda
        if is_dataclass(value) and not isinstance(value, type):
            found |= options_of(value, prefix if FLAT in marks else f"{name}.")
        else:
            found[name] = value
    return found


@contextlib.contextmanager
def one_line(command: str, known: Iterable[str]) -> Iterator[None]:
    """Convert the mistakes that tyro finds to a `GlamError` of one line.

    Args:
        command: What is being read: "glam", or "glam" and a command's name.
        known: Options and commands that may have been meant.
    """
    names = [*known, "--help"]

    def refuse(event: Any) -> None:
        if words := _explain(event, command, names):
            raise GlamError(words if words.endswith("?") else f"{words}; see `{command} --help`")

    if tyro_errors is None:
        yield
        return
    with tyro_errors.on_parse_error(refuse):
        yield


def _explain(event: Any, command: str, known: list[str]) -> str:
    """Describe a mistake; return an empty string for an unknown kind of mistake."""
    assert tyro_errors is not None
    if isinstance(event, tyro_errors.UnrecognizedArgs):
        return _unknown(event.tokens, command, known)
    if isinstance(event, tyro_errors.MissingArgs):
        if event.unrecognized_tokens:
            return _unknown(event.unrecognized_tokens, command, known)
        return f"{', '.join(_name(each.arg) for each in event.missing_arguments)} is missing"
    if isinstance(event, tyro_errors.InvalidChoice):
        choices = ", ".join(event.choices)
        return f"{_name(event.argument)} must be one of {choices}; got {event.value!r}"
    if isinstance(event, tyro_errors.BadValue):
        name = _name(event.argument)
        return f"{name} needs a value" if name.startswith("-") else f"{name} is missing"
    if isinstance(event, tyro_errors.InstantiationFailure):
        message = " ".join(str(event.message).split())
        if (argument := event.argument) is None:
            return message
        return f"{_name(argument)} must be {argument.lowered.metavar} ({message})"
    return ""


def _unknown(words: list[str], command: str, known: list[str]) -> str:
    """Describe unknown words, and suggest the known word that is most similar."""
    word = next((each for each in words if each.startswith("-")), words[0])
    if word.startswith("-"):
        text = f"there is no option {word}"
    elif command == "glam":
        text = f"there is no command {word!r}"
    else:
        text = f"{word!r} is one word too many"
    meant = difflib.get_close_matches(word.split("=")[0].replace("_", "-"), known, n=1)
    if meant:
        return f"{text}: did you mean {meant[0]}?"
    if command == "glam":
        return f"{text}; choose from {', '.join(known)}"
    return text


def _name(argument: Any) -> str:
    """Return the name of an argument in messages."""
    if argument.is_positional():
        return argument.field.intern_name.upper()
    return argument.lowered.name_or_flags[0]
