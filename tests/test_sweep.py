"""`glam sweep`: its settings, its mistakes, its display, and whole sweeps on Ray and submitit."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import mistake
from sweeps import EVERY, SHORT, glam, metrics, trainings, wait_for

from glam_env.cli.main import main
from glam_env.errors import GlamError, line_of
from glam_env.games import GAMES
from glam_env.sweep.matrix import make_runs, variant_words
from glam_env.sweep.settings import SweepSettings, read_file, read_games, read_seeds, to_words
from glam_env.sweep.table import Display, build_table
from glam_env.sweep.views import RunView

FILE = """
games = ["ms pacman", "Pong"]
seeds = "0-1,5"
then = ["export", "eval"]
cpus_per_run = 2
gpus-per-run = 0.25

[train]
preset = "debug"
total-steps = 300
autocast = false
[train.loss]
margin = 2

[variants.base]
[variants.frozen]
freeze.at = [0.2, 0.4]
loss.margin = 3
"""


# --- settings ------------------------------------------------------------------------------------


def test_a_file_becomes_a_matrix(tmp_path) -> None:
    file = tmp_path / "ablation.toml"
    file.write_text(FILE)
    settings = read_file(file)
    settings.validate()
    assert settings.games == ("MsPacman", "Pong")
    assert settings.seeds == (0, 1, 5)
    assert settings.then == ("eval", "export")  # in the order in which they are done
    assert (settings.gpus_per_run, settings.threads) == (0.25, 2)
    variants = dict(variant_words(settings))
    common = ["--preset=debug", "--total-steps=300", "--no-autocast"]
    assert variants["base"] == [*common, "--loss.margin=2"]
    assert variants["frozen"] == [*common, "--loss.margin=3", "--freeze.at", "0.2", "0.4"]
    named = [(str(name), words) for name, words in variants.items()]
    runs = make_runs(settings, tmp_path / "out", named, "cpu", "s")
    assert len(runs) == 2 * 2 * 3
    assert len({run.path for run in runs}) == len(runs)
    assert runs[0].path == str(tmp_path / "out" / "MsPacman" / "base-seed0")
    assert [run.seed for run in runs[:5]] == [0, 0, 0, 0, 1]  # one seed of all games first
    assert runs[0].start[:2] == ["train", "MsPacman"]
    assert {"--seed=0", "--threads=2", "--device=cpu", "--no-autocast"} <= {*runs[0].start}
    assert runs[0].resume[2] == "--resume"
    assert not any("total-steps" in word for word in runs[0].resume)


def test_seeds_and_games_are_read() -> None:
    assert read_seeds("0-4") == (0, 1, 2, 3, 4)
    assert read_seeds([3, "5-6"]) == (3, 5, 6)
    assert read_games("all") == tuple(GAMES)
    for wrong in ("", "4-0", "a", "1-", "-1", "0-99999999999", True, 1.5, -1):
        with pytest.raises(GlamError, match="seeds must be like 0-4"):
            read_seeds(wrong)


def test_every_kind_of_option_becomes_words(monkeypatch) -> None:
    """What a table says is what `glam train` reads."""
    from glam_env.cli.main import read_command

    table = {
        "preset": "debug",
        "learning_rate": 1e-5,
        "freeze": {"at": []},
        "exploration": [0.1, 0.0],
        "model": {"background_residual": False, "core": {"local_window": 3}},
        "graphs": True,
        "agent": {"hidden": 8},
    }
    read = read_command(["train", "Pong", *to_words(table)])
    assert (read.train.learning_rate, read.train.freeze.at) == (1e-5, ())
    assert read.train.exploration == (0.1, 0.0)
    assert not read.train.model.background_residual
    assert read.train.model.core.local_window == 3
    assert read.train.graphs
    assert read.agent.hidden == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("games = [", "is not TOML"),
        ("game = ['Pong']", "did you mean games?"),
        ("games = 3", "games must be names"),
        ("games = ['Ping']", "did you mean Pong"),
        ("games = 'Pong'\nseeds = '3-1'", "seeds must be like 0-4"),
        ("games = 'Pong'\nthen = ['score']", "then must be eval, fidelity, export"),
        ("games = 'Pong'\non = 'spark'", "on must be ray or slurm or local"),
        ("games = 'Pong'\ncpus_per_run = 'all'", "cpus_per_run must be a number"),
        ("games = 'Pong'\ncpus_per_run = 0", "cpus_per_run must be positive"),
        ("games = 'Pong'\ngpus_per_run = 1.5", "gpus_per_run must be in [0, 1]"),
        ("games = 'Pong'\nretries = -1", "retries must be in [0, 1000]"),
        ("games = 'Pong'\ncpus = 1\ncpus_per_run = 2", "cpus 1 are fewer than"),
        ("games = 'Pong'\non = 'slurm'\naddress = 'auto'", "address is that of a Ray cluster"),
        ("games = 'Pong'\ntrain = 1", "train must be a table"),
        ("games = 'Pong'\nvariants = {a = 1}", "variants must be tables"),
        ("games = 'Pong'\n[variants.'a/b']\nbatch = 1", "a variant's name is part of a folder"),
        ("games = 'Pong'\ntrain.seed = 3", "what sets it is seeds"),
        ("games = 'Pong'\n[variants.a]\nthreads = 3", "what sets it is cpus_per_run"),
        ("games = 'Pong'\ntrain.bach = 3", "Pong: there is no option --bach"),
        ("games = 'Pong'\ntrain.batch = 0", "Pong: batch must be in"),
        ("games = 'Pong'\n[variants.a]\nbatch = 0", "variant a, Pong: batch must be in"),
        ("games = 'Pong'\nthen = ['eval']\neval.episode = 3", "[eval]: there is no option"),
        ("seeds = 3", "a sweep needs games"),
        ("games = ['Pong', 'pong']", "games has Pong twice"),
        ("games = 'all'\nseeds = '0-9999'", "has 260,000 runs"),
    ],
)
def test_mistakes_in_a_file_get_one_line(text, expected, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.toml").write_text(text)
    assert expected in mistake(capsys, "sweep", "sweep.toml")
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.toml"]  # nothing has begun


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sweep"], "a sweep needs games: --games Pong"),
        (["sweep", "none.toml"], "none.toml cannot be read"),
        (["sweep", "--games", "Ping"], "did you mean Pong"),
        (["sweep", "--games", "Pong", "--preset", "tiny"], "paper, small, debug"),
        (["sweep", "--games", "Pong", "--set", "batch"], "write NAME=VALUE"),
        (["sweep", "--games", "Pong", "--then", "score"], "--then must be one of"),
        (["sweep", "--games", "Pong", "--on", "slurm", "--gpus-per-run", "0.5"], "whole GPUs"),
        (["sweep", "--games", "Pong", "--on", "slurm"], "submitit cannot be used"),
        (["sweep", "--games", "Pong", "--on", "local", "--slurm", "x=1"], "submitit cannot be"),
    ],
)
def test_mistakes_in_words_get_one_line(words, expected, tmp_path, capsys, monkeypatch) -> None:
    if {"slurm", "--slurm"} & {*words} and importlib.util.find_spec("submitit") is None:
        pytest.skip("submitit is not installed")  # its import alone would set up logging here
    monkeypatch.chdir(tmp_path)
    assert expected in mistake(capsys, *words)


def test_submitit_leaves_the_logging_of_others_alone() -> None:
    """Its own set-up would close their handlers, and some of them close a stream of the process."""
    pytest.importorskip("submitit")
    code = """
import logging, os
class Handler(logging.Handler):
    def close(self):
        if not over:
            raise SystemExit("closed")
over = False
logging.getLogger("other").addHandler(Handler())
from glam_env.sweep.slurm_engine import _import_submitit
_import_submitit()
assert "SUBMITIT_LOG_LEVEL" not in os.environ
over = True
"""
    environment = {k: v for k, v in os.environ.items() if k != "SUBMITIT_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


# --- display -------------------------------------------------------------------------------------

VIEWS = [
    RunView("Pong/glam-seed0", "finished", last_return="3"),
    RunView("Pong/glam-seed1", "failed", note="train: it broke [bold]"),
    RunView("Pong/glam-seed2", "running", "joint training", "3/9 steps", "2/s", "0:00:03", "-2"),
    RunView("Pong/glam-seed3", "waiting"),
]


def test_plain_lines_say_what_has_changed_and_how_far_it_is() -> None:
    now, stream = [0.0], io.StringIO()
    with Display("runs/x", stream, lambda: now[0]) as display:
        display([RunView(one.name, "waiting") for one in VIEWS])
        for now[0] in (1.0, 2.0):
            display(VIEWS)
        now[0] = 16.0
        display(VIEWS)
    assert stream.getvalue().splitlines() == [
        "runs/x: 4 waiting",
        "Pong/glam-seed0 finished: return 3",
        "Pong/glam-seed1 failed: train: it broke [bold]",
        "Pong/glam-seed2 running",
        "runs/x: 1 running, 1 failed, 1 finished, 1 waiting",
        "  Pong/glam-seed2 running: joint training | 3/9 steps | 2/s | 0:00:03 left | return -2",
    ]


def test_the_table_fits_the_terminal_and_shows_what_runs_first() -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=160)
    console.print(build_table("runs/x", VIEWS, rows=3))
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "… 2 more" in text
    assert text.index("seed2") < text.index("seed1")
    assert "[bold]" in text
    assert "seed3" not in text
    for title in ("run", "phase", "steps", "rate", "time left", "last return", "state"):
        assert title in text


# --- whole sweeps --------------------------------------------------------------------------------

SWEEP = f"""
games = ["Pong"]
cpus = 2
[train]
preset = "debug"
{os.linesep.join(word.replace("=", " = ") for word in [*EVERY, *SHORT])}
[variants.glam]
[variants.broken]
learning-rate = 1e30
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[dict[str, Any]]:
    """Train Pong without a sweep and undisturbed; return the metrics."""
    options = ["--preset=debug", *(f"--{word}" for word in [*EVERY, *SHORT])]
    path = tmp_path_factory.mktemp("whole") / "Pong"
    assert main(["train", "Pong", *options, "--threads=1", f"--run={path}"]) == 0
    return metrics(path)


@pytest.mark.emulator
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_ctrl_c_stops_all_and_a_broken_run_leaves_the_others(whole, tmp_path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    (tmp_path / "mixed.toml").write_text(SWEEP)
    folder = tmp_path / "runs" / "mixed"
    driver = glam("sweep", "mixed.toml", cwd=tmp_path, start_new_session=True)
    wait_for(lambda: any(folder.glob("*/glam-seed0/checkpoints/step_*.pt")))
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: all processes of the command
    out, err = driver.communicate(timeout=300)
    # On a busy machine the broken run may fail before it can stop, and a failure goes first.
    failed = "Pong/broken-seed0 failed" in err
    assert driver.returncode == (1 if failed else 130), err
    assert "stopping: each run saves first" in err
    assert "Pong/glam-seed0 stopped" in err
    counts = "1 failed, 1 stopped" if failed else "2 stopped"
    assert f"0 of 2 runs finished, {counts}; the same command goes on" in out
    assert not trainings(folder)
    driver = glam("sweep", "mixed.toml", cwd=tmp_path)
    wait_for(lambda: trainings(folder))
    second = glam("sweep", "mixed.toml", cwd=tmp_path)  # beside the first one
    assert second.wait(120) == 2
    assert "another process drives the sweep" in second.stderr.read()  # pyright: ignore
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 1, err
    lines = out.splitlines()
    broke = "Pong/broken-seed0 failed: train: training broke:"
    assert any(line.startswith(broke) for line in lines)
    assert metrics(folder / "Pong" / "glam-seed0") == whole
    assert lines[-1] == "1 of 2 runs finished, 1 failed; the same command goes on"
    assert json.loads((folder / "sweep-settings.json").read_text())["variants"] == [
        "glam",
        "broken",
    ]


@pytest.mark.emulator
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_submitit_requeues_what_was_signalled_and_what_was_killed(whole, tmp_path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    folder = tmp_path / "sweep"
    words = ["sweep", "--games", "Pong", "--preset", "debug", "--on", "local"]
    driver = glam(*words, "--set", *EVERY, *SHORT, "--folder", folder)
    run = folder / "Pong" / "glam-seed0"

    def status() -> dict[str, Any]:
        try:
            return json.loads((run / "sweep.json").read_text())
        except (OSError, ValueError):
            return {"attempt": 0, "worker": 0}

    def worker(attempt: int) -> int:
        saved = any((run / "checkpoints").glob("step_*.pt"))
        now = status()
        return now["worker"] if saved and now["attempt"] == attempt else 0

    # SLURM signals a job before its time is up: it saves and is put back into the queue.
    os.kill(wait_for(lambda: worker(1)), signal.SIGUSR2)
    os.kill(wait_for(lambda: worker(2)), signal.SIGKILL)
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 0, out + err
    assert "1 of 1 runs finished" in out
    assert status()["attempt"] == 3
    assert metrics(run) == whole
    assert "stopped at step" in (run / "log.txt").read_text()  # it had saved, before it was killed


@pytest.mark.emulator
def test_a_dry_run_lists_and_estimates_and_starts_nothing(tmp_path, monkeypatch, capsys) -> None:
    from glam_env.sweep import estimate

    monkeypatch.setattr(estimate, "SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "--games", "Pong", "Boxing", "--seeds", "0-2", "--preset", "debug"]
    assert main([*words, "--then", "eval", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert out.count("new\n") == 6
    assert "6 runs: about " in out
    assert "iterations measured here on Pong, cpu" in out
    assert "not counted: eval" in out
    begin = time.monotonic()
    done = tmp_path / "runs" / "debug" / "Pong" / "glam-seed0"
    done.mkdir(parents=True)
    status = {"session": "", "state": "finished", "step": "", "attempt": 1, "trained": True}
    status |= {"message": "", "host": "", "worker": 0, "since": 0.0}
    (done / "sweep.json").write_text(json.dumps(status))
    (done / "metrics.jsonl").write_text('{"env_steps": 600, "seconds": 7200.0}\n')
    assert main([*words, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "6 runs: about 12.0 core-hours, 10.0 of them ahead" in out
    assert "glam: 2:00:00 a run, by 1 finished run of this sweep" in out
    assert time.monotonic() - begin < 60


def test_other_settings_than_those_of_a_begun_run_are_refused(tmp_path, capsys) -> None:
    from dataclasses import asdict, replace

    from glam_agents import AGENTS

    from glam_env.training.presets import PRESETS
    from glam_env.training.run_folder import RunFolder

    kind = AGENTS["storm"]
    settings = {
        "game": "Pong",
        "preset": "debug",
        "train": asdict(replace(PRESETS["debug"], seed=1)),
        "agent": kind.as_json(kind.preset("debug")),
    }
    RunFolder(tmp_path / "Pong" / "glam-seed1", settings)
    words = ["sweep", "--games", "Pong", "--seeds", "1", "--preset", "debug"]
    words += ["--folder", str(tmp_path)]
    line = mistake(capsys, *words, "--set", "batch=3")
    assert "holds a run with --batch 2, not 3" in line
    line = mistake(capsys, *words, "--set", "agent.hidden=3")
    assert "--agent.hidden" in line
    line = mistake(capsys, *words, "--cpus", "1", "--cpus-per-run", "1", "--address", "127.0.0.1:1")
    has_ray = importlib.util.find_spec("ray") is not None
    expected = "no Ray cluster answers at 127.0.0.1:1" if has_ray else "sweeps need ray"
    assert expected in line  # the settings are the same


def test_settings_have_no_runs_by_default() -> None:
    with pytest.raises(GlamError, match="a sweep needs games"):
        SweepSettings().validate()


def test_an_error_without_a_message_has_a_line() -> None:
    error = RuntimeError("\n first\nsecond\n")
    assert (line_of(error), line_of(error, -1)) == ("first", "second")
    assert line_of(AssertionError()) == "AssertionError()"
