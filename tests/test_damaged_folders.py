"""Odd and damaged folders on the command line: one line, exit code 2, nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import mistake
from limits import limits

from glam_env.checkpoint.folder import AGENT, CONFIG, CONTEXTS, FILE_BYTES, WORLD_MODEL
from glam_env.cli.main import main
from glam_env.training.run_folder import RunFolder

ANSI = "\x1b[31mred\x1b[0m"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10678486\n"


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    with limits():
        yield


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    plain = json.loads((folder / CONFIG).read_text())
    change(plain)
    (folder / CONFIG).write_text(json.dumps(plain))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def sparse(path: Path, size: int = 3 * 2**30) -> None:
    """Make a file of zeros, and a config that knows its size and its digest."""
    path.unlink()
    with path.open("wb") as file:
        file.truncate(size)
    if path.name != CONFIG:
        digest = hashlib.sha256(bytes(16)).hexdigest()
        record = {"bytes": size, "sha256": digest}
        edit(path.parent, lambda plain: plain["files"].update({path.name: record}))


# --- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CONFIG, WORLD_MODEL, AGENT, CONTEXTS])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (pipe, "it is a device, a pipe or a socket"),
        (endless, "it is a device, a pipe or a socket"),
        (sparse, "at most are read"),
        (lambda path: (path.unlink(), path.mkdir()), "it is a folder"),
        (lambda path: path.write_bytes(POINTER), "git lfs pull"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2]), ""),
        (lambda path: (path.unlink(), path.symlink_to(path)), "symbolic links"),
    ],
)
def test_info_looks_at_each_file_before_it_reads_it(
    tiny_checkpoint, capsys, name, damage, says
) -> None:
    damage(tiny_checkpoint / name)
    line = mistake(capsys, "info", str(tiny_checkpoint))
    assert name in line
    assert says in line or (name == CONFIG and "is not JSON" in line)


def test_the_bound_of_a_file_is_beyond_every_checkpoint() -> None:
    shipped = Path(__file__).parents[1] / "checkpoints" / "Pong"
    assert max(path.stat().st_size for path in shipped.iterdir()) < FILE_BYTES / 20


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["results"].update(score={"mean": "high"}),
        lambda c: c["results"].update(score=[1]),
        lambda c: c["results"].update(score={"mean": 1.0, "episodes": 2}),
        lambda c: c["results"].update(fidelity=3),
        lambda c: c["results"].update(fidelity={"checks": [{"nam": ANSI}]}),
        lambda c: c.update(game=ANSI),
        lambda c: c.update(format_version=ANSI * 1000),
        lambda c: c.update({ANSI * 1000: 1}),
        lambda c: c["provenance"]["versions"].update({ANSI * 1000: 1}),
        lambda c: c["world_model"].update(width=ANSI * 1000),
        lambda c: c["world_model"]["core"].update(name=ANSI * 1000),
    ],
)
def test_malformed_values_get_one_printable_line(tiny_checkpoint, capsys, change) -> None:
    edit(tiny_checkpoint, change)
    line = mistake(capsys, "info", str(tiny_checkpoint))
    assert line[:-1].isprintable()
    assert len(line) < 1100
    if "results" in line:
        assert "results" in mistake(capsys, "card", str(tiny_checkpoint), "--from-results")


def test_names_of_a_checkpoint_are_escaped_where_they_are_shown(tiny_checkpoint, capsys) -> None:
    edit(tiny_checkpoint, lambda c: c["provenance"].update(note=ANSI, hardware="x" * 10**5))
    edit(tiny_checkpoint, lambda c: c["results"].update({ANSI: [ANSI * 1000]}))
    line = dict.fromkeys(("env_steps", "image_updates", "model_updates", "agent_updates"), 1)
    line |= {"seconds": 1.0, "phase": ANSI * 100, ANSI * 100: 1.0}
    (tiny_checkpoint / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["info", str(tiny_checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert r"\x1b[31mred" in printed
    assert max(map(len, printed.splitlines())) < 1100


@pytest.mark.parametrize(
    "text",
    [
        "no json\n{}\n",
        "[" * 100_000 + "\n{}\n",
        '{"env_steps": 1}\n{}\n',
        '{"env_steps": "1", "image_updates": [], "model_updates": 0, "agent_updates": 0, '
        '"seconds": 0}\n' * 2,
        '{"env_steps": 1e999, "image_updates": 1, "model_updates": 0, "agent_updates": 0, '
        '"seconds": 0, "phase": [1]}\n' * 2,
        '{"env_steps": 1' + "0" * 5000 + "}\n{}\n",
        "\udcff",
    ],
)
def test_malformed_metrics_get_one_line(tiny_checkpoint, capsys, text) -> None:
    path = tiny_checkpoint / "metrics.jsonl"
    path.write_bytes(text.encode(errors="surrogateescape"))
    for words in (["info", str(tiny_checkpoint)], ["curves", str(path)]):
        assert "metrics.jsonl" in mistake(capsys, *words)


@pytest.mark.parametrize("damage", [pipe, endless, sparse])
def test_metrics_are_looked_at_too(tiny_checkpoint, capsys, tmp_path, damage) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    damage = (lambda p: sparse_file(p)) if damage is sparse else damage
    damage(path)
    assert "metrics.jsonl" in mistake(capsys, "curves", str(path))


def sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 * 2**30)


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture
def sb3_run(tmp_path) -> Path:
    settings = {"game": "Pong", "algo": "ppo", "obs": "latent", "horizon": 128}
    run = RunFolder(tmp_path / "Pong-ppo", settings, kind="sb3")
    run.append_metrics({"steps": 2048})
    return run.path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.jsonl", "not json\n"),
        ("metrics.jsonl", '{"step": 1}\n'),
        ("metrics.jsonl", '{"steps": [1]}\n'),
        ("metrics.jsonl", "\udcff\n"),
        ("report.json", ""),
        ("report.json", "{}"),
        ("report.json", "[1]"),
        ("report.json", '{"dream_first": {"mean": "x"}, "dream_last": 1, "real": null}'),
        ("report.json", "[" * 10**5),
    ],
)
def test_a_damaged_sb3_run_gets_one_line(sb3_run, capsys, name, text) -> None:
    (sb3_run / name).write_bytes(text.encode(errors="surrogateescape"))
    assert name in mistake(capsys, "info", str(sb3_run))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "train"}, "key 'game' is missing"),
        ({"kind": "train", "game": [], "preset": "debug", "train": {}}, "must be names"),
        ({"kind": "train", "game": "Pong", "preset": "debug", "train": []}, "expected an object"),
        (
            {"kind": "train", "game": "Pong", "preset": "debug", "train": {"num_envs": 0}},
            "num_envs must be in",
        ),
        (
            {
                "kind": "train",
                "game": "Pong",
                "preset": "debug",
                "train": {"model": {"num_actions": 6, "global_depth": 100_000}},
            },
            "global_depth must be at most",
        ),
    ],
)
def test_damaged_settings_of_a_run_get_one_line(tmp_path, capsys, settings, says) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(settings))
    for words in (["eval", str(tmp_path)], ["train", "Pong", "--run", str(tmp_path), "--resume"]):
        line = mistake(capsys, *words)
        assert says in line
        assert str(tmp_path) in line
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG]


@pytest.mark.parametrize("damage", [pipe, endless, lambda path: sparse(path, 8 * 2**30)])
def test_settings_of_a_run_are_looked_at_first(tmp_path, capsys, damage) -> None:
    (tmp_path / CONFIG).write_text("{}")
    damage(tmp_path / CONFIG)
    line = mistake(capsys, "train", "Pong", "--run", str(tmp_path), "--resume")
    assert f"{CONFIG} cannot be read" in line or "at most are read" in line
    assert "already holds a run" in mistake(capsys, "train", "Pong", "--run", str(tmp_path))


# --- where an export goes ------------------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a refused export has begun to measure, or to load."""

    def fail(*_arguments: Any, **_settings: Any) -> None:
        pytest.fail("work has begun")

    monkeypatch.setattr("glam_env.cli.trained.measure_all", fail)
    monkeypatch.setattr("glam_env.cli.trained.load_run", fail)


def make_run(folder: Path) -> Path:
    settings = {"game": "Pong", "preset": "debug", "train": {}, "agent": {}}
    return RunFolder(folder, settings).path


def test_an_export_into_a_foreign_folder_is_refused_before_any_work(
    tmp_path, tiny_checkpoint, capsys, no_work
) -> None:
    run, diary = make_run(tmp_path / "run"), tmp_path / "diary"
    diary.mkdir()
    (diary / "mine.txt").write_text("mine")
    foreign = tmp_path / "bert"  # its config.json is of another library
    foreign.mkdir()
    (foreign / CONFIG).write_text('{"model_type": "bert"}')
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for to in (diary, run, foreign, run / "checkpoints" / "..", tmp_path / "diary" / "mine.txt"):
        line = mistake(capsys, "export", "Pong", "--run", str(run), "--to", str(to))
        assert "choose another folder" in line or "it is a file" in line
    assert "is a file" in mistake(
        capsys, "export", "Pong", "--run", str(run), "--to", str(tmp_path / "loop")
    )
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_damaged_checkpoint_can_be_exported_again(tiny_checkpoint) -> None:
    from glam_env.checkpoint.replace import require_replaceable

    (tiny_checkpoint / CONFIG).write_text('{"format')
    assert require_replaceable(tiny_checkpoint) == tiny_checkpoint.resolve()


@pytest.mark.emulator
def test_an_export_without_metrics_is_refused_before_it_measures(
    tmp_path, capsys, monkeypatch
) -> None:
    run, to = tmp_path / "run", tmp_path / "to"
    words = ["--preset", "debug", "--replay-capacity", "700", "--minutes", "0.0001"]
    assert main(["train", "Pong", "--run", str(run), *words]) == 0
    capsys.readouterr()
    (run / "metrics.jsonl").unlink(missing_ok=True)
    monkeypatch.setattr(
        "glam_env.cli.trained.measure_all", lambda *_, **__: pytest.fail("it measures")
    )
    line = mistake(capsys, "export", "Pong", "--run", str(run), "--to", str(to))
    assert "metrics.jsonl cannot be read" in line
    assert not to.exists()


# --- file systems and streams --------------------------------------------------------------------


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Return a function that mounts a folder again, read-only."""
    mounted = []

    def mount(folder: Path) -> Path:
        place = tmp_path / f"read-only-{len(mounted)}"
        place.mkdir()
        for words in (["--bind", str(folder), str(place)], ["-o", "remount,ro,bind", str(place)]):
            try:
                done = subprocess.run(["mount", *words], capture_output=True, text=True)
            except OSError as error:
                pytest.skip(f"a read-only file system needs mount ({error})")
            if done.returncode:
                pytest.skip(f"a read-only file system must be mounted: {done.stderr.strip()}")
            mounted.append(place)
        return place

    yield mount
    for place in reversed(mounted):
        subprocess.run(["umount", str(place)], check=False, capture_output=True)


@pytest.mark.emulator
def test_a_read_only_file_system_gets_one_line(tmp_path, read_only, capsys) -> None:
    run = tmp_path / "disk" / "run"
    words = ["train", "Pong", "--run", str(run), "--preset", "debug", "--replay-capacity", "700"]
    assert main([*words, "--minutes", "0.0001"]) == 0
    capsys.readouterr()
    disk = read_only(tmp_path / "disk")
    for words in (
        ["train", "Pong", "--run", str(disk / "run"), "--resume"],
        ["train", "Pong", "--run", str(disk / "new"), "--preset", "debug"],
        ["export", "Pong", "--run", str(run), "--to", str(disk / "Pong")],
    ):
        line = mistake(capsys, *words)
        assert str(disk) in line
        assert "writable" in line


def command(words: list[str], **streams: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "glam_env.cli", *words],
        stderr=subprocess.PIPE,
        text=True,
        **streams,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["info", "Pong"], ["--version"], ["eval", "--help"]])
def test_a_full_standard_output_gets_one_line(words) -> None:
    with open("/dev/full", "w") as full:
        done = command(words, stdout=full)
    assert done.returncode == 2
    assert done.stderr == (
        "glam: cannot write to standard output (No space left on device); redirect it\n"
    )


def test_a_closed_standard_output_gets_one_line() -> None:
    done = command(["--version"], preexec_fn=lambda: os.close(1))
    assert done.returncode == 2
    assert done.stderr.startswith("glam: standard output is closed")
    assert done.stderr.count("\n") == 1


def test_a_closed_standard_error_ends_nothing() -> None:
    code = "import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    words = [sys.executable, "-c", code, "-m", "glam_env.cli"]
    done = subprocess.run([*words, "info"], stdout=subprocess.PIPE, text=True)
    assert (done.returncode, "glam-env" in done.stdout) == (0, True)
    done = subprocess.run([*words, "fly"], stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_full_disk_for_tensorboard_gets_one_line(tmp_path) -> None:
    """Its thread fails, and the next call says so."""
    code = """
import sys
from glam_env.errors import GlamError
from glam_env.training.logs import TensorBoardLog
import resource

board = TensorBoardLog(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, hard))
try:
    for step in range(100_000):
        board({"image_updates": step, "model_updates": 0, "x": 1.0})
except GlamError as error:
    print(error)
"""
    if sys.platform != "linux":
        pytest.skip("limits of Linux")
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (
        done.stdout == f"cannot write {tmp_path} (File too large); free disk space and --resume\n"
    )
    assert done.stderr == ""


def test_a_copy_of_a_checkpoint_with_links_is_read(tiny_checkpoint, tmp_path, capsys) -> None:
    """As in the cache of the Hugging Face Hub, where the files are links to others."""
    linked = tmp_path / "linked" / "Pong"
    linked.mkdir(parents=True)
    for path in tiny_checkpoint.iterdir():
        (linked / path.name).symlink_to(path)
    assert main(["info", str(linked)]) == 0
    shutil.rmtree(linked)
