"""Commands refuse what cannot succeed at once, and leave nothing behind."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from command_line import mistake

from glam_env.cli import trained

GAME = ["demo", "eval", "fidelity", "export", "card", "sb3"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch, saved_checkpoint) -> None:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(saved_checkpoint.parent))
    monkeypatch.chdir(tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(trained, "load_trained", refuse)


@pytest.mark.parametrize("command", GAME)
def test_without_ale_py_a_command_says_so_at_once(command, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trained, "find_spec", lambda name: None)
    says = mistake(capsys, command, "Pong").strip()
    assert says.endswith('pip install "glam-env[atari]"')
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["demo", "Pong", "--episodes", "0"], "episodes must be a whole number >= 1"),
        (["demo", "Pong", "--steps", "0"], "steps must be a whole number >= 1"),
        (["demo", "Pong", "--num-envs", "0"], "num_envs must be a whole number >= 1"),
        (["demo", "Pong", "--gif", "config/x.gif"], "cannot write config/x.gif; choose a writable"),
        (["eval", "Pong", "--episodes", "0"], "episodes must be a whole number >= 1"),
        (["fidelity", "Pong", "--horizon", "0"], "horizon must be a whole number >= 1"),
        (["fidelity", "Pong", "--steps", "0"], "steps must be a whole number >= 1"),
        (["sb3", "Pong", "--horizon", "0"], "horizon must be a whole number >= 1"),
        (["sb3", "Pong", "--episodes", "0"], "episodes must be a whole number >= 1"),
        (["card", "Pong", "--scores-only", "--fidelity-only"], "exclude each other"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(words, says, capsys, tmp_path) -> None:
    (tmp_path / "config").write_text("a file, not a folder")
    assert says in mistake(capsys, *words)
    assert {path.name for path in tmp_path.iterdir()} == {"config"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_is_refused(capsys, tmp_path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot write" in mistake(capsys, "demo", "Pong")


def test_the_extras_that_messages_name_exist() -> None:
    root = Path(__file__).resolve().parents[1]
    texts = [
        path.read_text() for part in ("glam_env", "agents") for path in (root / part).rglob("*.py")
    ]
    named = {name for text in texts for name in re.findall(r"glam-env\\?\[([a-z0-9,]+)\]", text)}
    extras = re.search(
        r"\[project.optional-dependencies\]\n(.*?)\n\[",
        (root / "pyproject.toml").read_text(),
        re.DOTALL,
    )
    assert extras
    known = set(re.findall(r"^(\w+) = ", extras[1], re.MULTILINE))
    assert (
        {"atari", "sb3", "train", "video"}
        <= {part for name in named for part in name.split(",")}
        <= known
    )
