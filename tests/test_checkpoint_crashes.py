"""A save that is killed at any moment: the folder holds a whole checkpoint, old or new."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glam_env.checkpoint import replace as replacing
from glam_env.checkpoint.config import CheckpointConfig
from glam_env.checkpoint.folder import CARD, Checkpoint, save_checkpoint, write_results

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="crashes are made in forks")

FILE_EVENTS = ("open", "os.", "shutil.")
KILLED = 9


def killed_at(point: int, work: Callable[[], object]) -> bool:
    """Do some work in a fork that ends, as by a kill, before its ``point``-th file operation.

    Returns:
        Whether it was killed; else it did all of the work.
    """
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
    count = 0

    def watch(event: str, _arguments: object = None) -> None:
        nonlocal count
        if event.startswith(FILE_EVENTS):
            count += 1
            if count == point:
                os._exit(KILLED)

    code = 1
    try:
        os.fsync = lambda descriptor: watch("os.fsync")
        sys.addaudithook(watch)
        work()
        code = 0
    finally:
        os._exit(code)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill, unlike a power cut, loses nothing that was written."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def content(folder: Path) -> str:
    """Open a checkpoint, check all its files, and return the first line of its card."""
    checkpoint = Checkpoint.open(folder)
    checkpoint.verify()
    return (checkpoint.path / CARD).read_text().splitlines()[0]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_kill_at_any_point_of_a_save_loses_nothing(
    saved_checkpoint: Path,
    tmp_path: Path,
    checkpoint_config: CheckpointConfig,
    make_world_model,
    make_contexts,
    monkeypatch: pytest.MonkeyPatch,
    exchanges: bool,
) -> None:
    if not exchanges:
        monkeypatch.setattr(replacing, "_exchange", lambda one, other: False)
    state, contexts = make_world_model().export_state(), make_contexts()
    folder = tmp_path / "Pong"

    def save(card: str = "new") -> None:
        save_checkpoint(
            folder,
            config=checkpoint_config,
            world_model_state=state,
            agent_state={"actor.weight": torch.zeros(2, 3)},
            contexts=contexts,
            card=card,
        )

    seen: list[str] = []
    point, every = 0, 1 if exchanges else 3  # a third of the points is enough
    while True:
        point += every
        shutil.rmtree(tmp_path)
        shutil.copytree(saved_checkpoint, folder)
        (folder / "mine.txt").write_text("kept")
        was_killed = killed_at(point, save)
        seen.append(content(folder))
        assert (replacing.standing(folder) / "mine.txt").read_text() == "kept"
        if not was_killed:
            break
        save("newer")  # whatever the kill has left is no obstacle
        assert content(folder) == "newer"
        assert [p.name for p in tmp_path.iterdir()] == ["Pong"]
    old = len([card for card in seen if card == "# A tiny Pong"])
    assert seen == ["# A tiny Pong"] * old + ["new"] * (len(seen) - old)
    assert every * old > 10  # the points before the exchange …
    assert every * (len(seen) - old) > 5  # … and those after it


def test_a_kill_at_any_point_of_a_first_save_leaves_nothing_or_all(
    saved_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(saved_checkpoint)
    folder, point, complete = tmp_path / "new" / "Pong", 0, []

    def save() -> None:
        save_checkpoint(
            folder,
            config=checkpoint.config,
            world_model_state=checkpoint.world_model().export_state(),
            agent_state=checkpoint.agent_state(),
            contexts=checkpoint.contexts(),
            card="new",
        )

    while True:
        point += 1
        was_killed = killed_at(point, save)
        complete.append(folder.exists())
        if folder.exists():
            assert content(folder) == "new"
            shutil.rmtree(folder)
        if not was_killed:
            break
    assert complete == sorted(complete)


def test_results_are_replaced_in_one_step_too(tiny_checkpoint: Path) -> None:
    config = Checkpoint.open(tiny_checkpoint).config
    point, seen = 0, []

    def write() -> None:
        write_results(tiny_checkpoint, replace(config, results={"score": 1}), "# Results\n")

    while True:
        point += 1
        was_killed = killed_at(point, write)
        card = content(tiny_checkpoint)
        results = Checkpoint.open(tiny_checkpoint).config.results
        assert results == ({"score": 1} if card == "# Results" else {})
        seen.append(card)
        if not was_killed:
            break
        write_results(tiny_checkpoint, config, "# A tiny Pong\n")
    assert set(seen) == {"# A tiny Pong", "# Results"}


def test_folders_are_exchanged_in_one_step_here(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("renameat2 is of Linux")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    if not replacing._exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this file system exchanges nothing")
    assert (tmp_path / "one" / "name").read_text() == "other"
    assert (tmp_path / "other" / "name").read_text() == "one"
    with pytest.raises(OSError, match="No such file"):
        replacing._exchange(tmp_path / "one", tmp_path / "nowhere")
