"""The folder of a run: its kind, its checkpoints, its lock."""

import json
import subprocess
import sys

import pytest
import torch

from glam_env.errors import GlamError
from glam_env.training.run_folder import RunFolder, run_kind, write_whole

RUN = {"train": {"seed": 1}}


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_whole(path, lambda file: file.write(b"old"))

    def fail(file) -> None:
        file.write(b"new, and half of it")
        raise OSError(28, "No space left on device")

    with pytest.raises(GlamError, match="No space left"):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    RunFolder(tmp_path, RUN)
    with pytest.raises(GlamError, match="already holds a run"):
        RunFolder(tmp_path, RUN)
    assert RunFolder(tmp_path).settings == {"kind": "train", "train": {"seed": 1}}


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"kind": "train", "game": "Pong"}, "train"),
        ({"kind": "sb3", "game": "Pong"}, "sb3"),
        ({"game": "Pong", "train": {}}, "train"),  # as earlier versions wrote them
        ({"game": "Pong", "algo": "ppo"}, "sb3"),
        ({"game": "Pong", "format_version": 1}, None),  # a checkpoint
        ([], None),
    ],
)
def test_a_folder_is_opened_as_the_kind_of_run_that_it_holds(tmp_path, settings, kind):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert run_kind(tmp_path) == kind
    for asked in ("train", "sb3"):
        if asked == kind:
            assert RunFolder(tmp_path, kind=asked).settings == settings
            continue
        with pytest.raises(GlamError, match=f"`glam {asked}`") as error:
            RunFolder(tmp_path, kind=asked)
        assert "\n" not in str(error.value)


def test_a_new_run_stores_its_kind(tmp_path):
    RunFolder(tmp_path / "sb3", {"game": "Pong"}, kind="sb3")
    assert run_kind(tmp_path / "sb3") == "sb3"
    assert run_kind(tmp_path / "none") is None


def test_resuming_nothing_is_an_error(tmp_path):
    with pytest.raises(GlamError, match="no run to resume"):
        RunFolder(tmp_path / "none")


def test_a_run_folder_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GlamError, match="choose a writable"):
        RunFolder(tmp_path / "file" / "run", {})


def test_a_torn_checkpoint_gives_way_to_the_one_before(tmp_path):
    run = RunFolder(tmp_path, RUN)
    for count in (1, 2, 3):
        run.save_checkpoint(count, {"count": count, "weights": torch.ones(4000)})
    older, newest = run.checkpoints()
    newest.write_bytes(newest.read_bytes()[:5000])
    state = run.load_checkpoint()
    assert state is not None
    assert state["count"] == 2
    older.write_bytes(b"")
    with pytest.raises(GlamError, match="can be read"):
        run.load_checkpoint()


def test_a_folder_has_one_trainer(tmp_path):
    one, other = RunFolder(tmp_path, RUN), RunFolder(tmp_path)
    one.lock()
    with pytest.raises(GlamError, match="is being trained by another process"):
        other.lock()
    one.unlock()
    other.lock()
    other.unlock()


HOLD = """
import sys, time
from pathlib import Path
from glam_env.training.run_folder import RunFolder

run = RunFolder(Path(sys.argv[1]))
run.lock()
print("locked", flush=True)
time.sleep(600)
"""


def test_a_killed_process_leaves_no_lock(tmp_path):
    run = RunFolder(tmp_path, RUN)
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(GlamError, match="is being trained by another process"):
            run.lock()
    finally:
        process.kill()
        process.communicate()
    run.lock()
    run.unlock()
