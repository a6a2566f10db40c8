"""One run of a sweep: stopped, killed, failed, measured; each as its worker reports it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sweeps import EVERY, SHORT, metrics, trainings, wait_for

from glam_env.sweep import worker as workers
from glam_env.sweep.matrix import RunSpec, follow_ups
from glam_env.sweep.settings import SweepSettings
from glam_env.sweep.status import Status, read_status, read_tail, write_status
from glam_env.sweep.views import is_done, view
from glam_env.sweep.worker import LOG, Outcome, Runner, WorkerLost
from glam_env.training.presets import PRESETS

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc"),
]

GAME = "Breakout"  # a whole game of an agent that has learnt nothing is short
WHOLE = int(os.environ.get("GLAM_SWEEP_KILLS", "0")) >= 10  # the whole form of all tests
WORDS = ("--preset=debug", *(f"--{word}" for word in [*EVERY, *SHORT]))
WORKER = """
import json, sys
from glam_env.sweep.matrix import RunSpec
from glam_env.sweep.worker import Runner
print(Runner(RunSpec(**json.loads(sys.argv[1]))).run().state)
"""


def spec(path: Path, *more: str) -> RunSpec:
    return RunSpec(GAME, "glam", 0, str(path), (*WORDS, *more), 1, "cpu", session="one")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run that nothing disturbs."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert Runner(spec(path)).run() == Outcome("finished")
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of a few MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"a small disk needs mount ({error})")
    if done.returncode:
        pytest.skip(f"a small disk must be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def in_thread(runner: Runner) -> tuple[threading.Thread, list[Outcome | WorkerLost]]:
    """Run it beside the test."""
    ended: list[Outcome | WorkerLost] = []

    def run() -> None:
        try:
            ended.append(runner.run())
        except WorkerLost as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ended


def has_checkpoint(path: Path) -> bool:
    return any((path / "checkpoints").glob("step_*.pt"))


def disturbed(path: Path, disturb: Callable[[Runner], None]) -> Outcome | WorkerLost:
    """Disturb a run that trains and has saved; return how its worker ended."""
    runner = Runner(spec(path))
    thread, ended = in_thread(runner)
    wait_for(lambda: (has_checkpoint(path) and trainings(path)) or ended)
    disturb(runner)
    thread.join()
    return ended[0]


def test_a_run_is_trained_once(whole) -> None:
    log = (whole / LOG).read_text()
    assert "finished at step 300" in log
    status = read_status(whole)
    assert status is not None
    assert (status.state, status.trained, status.worker) == ("finished", True, os.getpid())
    assert is_done(spec(whole))
    assert Runner(spec(whole)).run() == Outcome("finished")
    assert (whole / LOG).read_text() == log  # no process was started
    assert view(spec(whole), Outcome("finished"), PRESETS["debug"]).state == "finished"


def test_a_killed_and_a_stopped_run_go_on(whole, tmp_path) -> None:
    path = tmp_path / "run"

    def kill(_runner: Runner) -> None:
        for pids in trainings(path).values():
            for pid in pids:
                os.kill(pid, signal.SIGKILL)

    lost = disturbed(path, kill)
    assert isinstance(lost, WorkerLost)
    assert str(lost) == "train was ended by SIGKILL"
    assert disturbed(path, lambda runner: runner.stop()) == Outcome("stopped")
    assert not is_done(spec(path))
    assert not trainings(path)
    shown = view(replace(spec(path), session="two"), None, PRESETS["debug"])
    assert shown.state == "waiting"
    assert Runner(spec(path)).run() == Outcome("finished")
    assert metrics(path) == metrics(whole)
    status = read_status(path)
    assert status is not None
    assert status.attempt == 3


def test_a_process_ends_with_its_worker_and_the_next_one_waits(whole, tmp_path) -> None:
    """The successor of a killed worker trains only once the old process is gone."""
    path = tmp_path / "run"
    plain = json.dumps({**vars(spec(path)), "then": ()})
    first = subprocess.Popen([sys.executable, "-c", WORKER, plain])
    wait_for((path / "config.json").exists)
    (old,) = trainings(path)[str(path)]
    os.kill(old, signal.SIGSTOP)  # it cannot end by itself now
    wait_for(lambda: Path(f"/proc/{old}/stat").read_text().split()[2] == "T")
    first.kill()
    first.wait()
    thread, ended = in_thread(Runner(spec(path)))
    thread.join(3.0)
    assert thread.is_alive()
    assert trainings(path)[str(path)] == {old}
    os.kill(old, signal.SIGCONT)
    thread.join()
    assert ended == [Outcome("finished")]
    assert metrics(path) == metrics(whole)


def test_a_lock_that_is_never_free_is_reported(whole, tmp_path, monkeypatch) -> None:
    import fcntl

    monkeypatch.setattr(workers, "LOCK_SECONDS", 0.5)
    with (tmp_path / workers.LOCK).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(WorkerLost, match="another worker holds"):
            Runner(spec(tmp_path)).run()
        stopped = Runner(spec(tmp_path))
        stopped.stop()
        assert stopped.run() == Outcome("stopped")


def test_a_run_that_breaks_is_set_apart_with_its_message(tmp_path) -> None:
    outcome = Runner(spec(tmp_path, "--learning-rate=1e30")).run()
    assert outcome.state == "failed"
    assert outcome.message.startswith("train: training broke: ")
    assert "not finite" in outcome.message
    status = read_status(tmp_path)
    assert status is not None
    assert (status.state, status.message) == ("failed", outcome.message)
    shown = view(spec(tmp_path), outcome, PRESETS["debug"])
    assert outcome.message in shown.line()


def test_a_removed_folder_gets_one_line(tmp_path) -> None:
    path = tmp_path / "run"
    # At once: while it is emptied file by file, the run writes more.
    outcome = disturbed(path, lambda _runner: shutil.rmtree(path.rename(tmp_path / "removed")))
    assert isinstance(outcome, Outcome)
    assert outcome.state == "failed"
    assert str(path) in outcome.message
    assert "\n" not in outcome.message
    assert not path.exists()  # the status did not make it again
    path.parent.joinpath("file").write_text("")
    under = Runner(spec(tmp_path / "file" / "run")).run()
    assert under.state == "failed"
    assert "make it writable" in under.message


def test_a_full_disk_gets_one_line(small_disk) -> None:
    outcome = Runner(spec(small_disk / "run")).run()
    assert outcome.state == "failed"
    assert outcome.message.startswith("train: ")
    assert str(small_disk) in outcome.message
    assert "disk space" in outcome.message


def test_what_follows_a_run_is_done_once(whole, tmp_path) -> None:
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    few = {"behavior-steps": 400, "branch-steps": 120 if WHOLE else 0}
    few["ranking-moments"] = 2 if WHOLE else 0
    few["ceiling-moments"] = 4 if WHOLE else 0
    sizes = {"episodes": 1, "fidelity-steps": 400, "contexts": 32, "max-episode-steps": 32}
    settings = SweepSettings(
        games=(GAME,),
        then=("eval", "fidelity", "export"),
        eval={"episodes": 1},
        fidelity={**few, "steps": 400, "horizon": 32},
        export={**few, **sizes},
    )
    steps = follow_ups(settings, GAME, str(path), "cpu")
    assert [follow.step for follow in steps] == ["eval", "eval", "fidelity", "export"]
    own = replace(spec(path), then=steps)
    assert not is_done(own)
    (path / "results").mkdir()
    names = ["eval-atari100k.json", *([] if WHOLE else ["fidelity.json"])]
    for name in names:  # by an earlier attempt
        (path / "results" / name).write_text("{}")
    assert Runner(own).run() == Outcome("finished")
    assert is_done(own)
    for name in names:
        assert (path / "results" / name).read_text() == "{}"
    score = json.loads((path / "results" / "eval-published.json").read_text())
    assert score["protocol"] == "published"
    assert len(score["scores"]) == 1
    if WHOLE:
        assert json.loads((path / "results" / "fidelity.json").read_text())["rows"]
        assert (path / "fidelity" / "film.mp4").is_file()
    config = json.loads((path / "checkpoint" / "config.json").read_text())
    assert len(config["results"]["scores"]) == 2
    log = (path / LOG).read_text()
    assert Runner(own).run() == Outcome("finished")
    assert (path / LOG).read_text() == log  # nothing was done again


def test_a_step_that_fails_is_named(whole) -> None:
    settings = SweepSettings(games=(GAME,), then=("export",), export={"contexts": 0})
    own = replace(spec(whole), then=follow_ups(settings, GAME, str(whole), "cpu"))
    outcome = Runner(own).run()
    assert outcome == Outcome("failed", "export: contexts must be a whole number >= 1, got 0")


# --- what others see -----------------------------------------------------------------------------


def test_a_running_run_is_described_by_its_files(whole, tmp_path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    own = spec(tmp_path / "run")
    status = Status(session="one", state="running", step="train", attempt=2, host="node7")
    write_status(tmp_path / "run", status)
    config = replace(PRESETS["debug"], total_steps=300, random_steps=100)
    shown = view(own, None, config)
    last = [line for line in read_tail(whole) if "phase" in line][-1]
    assert shown.state == "running"
    assert shown.phase == last["phase"] == "joint training"
    assert shown.steps == f"{last['env_steps']}/300 steps"
    assert shown.rate.endswith("/s")
    assert shown.left.startswith("0:00:")
    assert shown.note == "node7, attempt 2"
    assert view(replace(own, session="two"), None, config).state == "waiting"


def test_torn_files_are_no_error(tmp_path) -> None:
    assert read_status(tmp_path) is None
    assert read_tail(tmp_path) == []
    (tmp_path / "sweep.json").write_text('{"session": "one"')
    (tmp_path / "metrics.jsonl").write_text('{"env_steps": 3, "phase": "a"}\n{"env_st')
    assert read_status(tmp_path) is None
    assert read_tail(tmp_path) == [{"env_steps": 3, "phase": "a"}]
    (tmp_path / "metrics.jsonl").write_text('{"env_steps": 3}\n' * 20_000)
    assert 1000 < len(read_tail(tmp_path)) < 20_000
