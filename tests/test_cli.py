"""The command line: every mistake gets one line, and the help is quick and complete."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
from command_line import mistake

from glam_env.checkpoint import folder
from glam_env.cli.main import COMMANDS, main
from glam_env.cli.options import options_of
from glam_env.training.run_folder import RunFolder

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fly"], "there is no command 'fly'; choose from train, eval,"),
        (["evl", "Pong"], "did you mean eval?"),
        (["--versoin"], "did you mean --version?"),
        (["eval", "Pong", "Boxing"], "'Boxing' is one word too many"),
        (["info", "--jsn"], "there is no option --jsn: did you mean --json?"),
        (["bench", "--long_env", "3"], "did you mean --long-envs?"),
        (["sb3"], "GAME is missing"),
        (["sb3", "Pong", "--step", "3"], "did you mean --steps?"),
        (["eval", "Pong", "--episodes"], "--episodes needs a value"),
        (["eval", "Pong", "--episodes", "0"], "episodes must be a whole number >= 1"),
        (["train", "Pong", "--minutes", "nan"], "minutes must be positive"),
        (["train", "Pong", "--threads", "0"], "threads must be a whole number >= 1"),
        (["train", "Pong", "--threads", "1000000"], "threads must be in [1, "),
        (["train", "Pong", "--model.core.global-depth", "100000"], "must be at most 65536"),
        (["train", "Pong", "--model.width", "16000", "--model.stem", "1000"], "weights; at most"),
        (["train", "Pong", "--model.core.local-depth", "33"], "must be at most 32"),
        (["train", "Pong", "--agent.hidden", str(10**12)], "agent.hidden must be in [1, 16384]"),
        (["train", "Pong", "--num-envs", "1000000"], "num_envs must be in [1, 10000]"),
        (["train", "Pong", "--length", "9223372036854775808"], "length must be in [1, 1000000]"),
        (["train", "Pong", "--algorithm", "none"], "storm"),
        (["train", "Pong", "--loss.foregroundweight=2"], "did you mean --loss.foreground-weight?"),
        (["train", "Boxing", "--warm-start", "Pong"], "is of Pong"),
        (["train", "Pong", "--warm-start", "Pong", "--model.stem", "8"], "model.stem"),
        (["train", "Ping"], "Pong"),
        (["train", "Pong", "--preset", "tiny"], "paper, small, debug, small-local"),
        (["train", "Pong", "--bach", "3"], "there is no option --bach: did you mean --batch?"),
        (["train", "Pong", "--batch", "many"], "--batch must be INT"),
        (["train", "Pong", "--batch", "0"], "batch must be in [1, 1000000]"),
        (["train", "Pong", "--seed", "-1"], "seed must be in"),
        (["train", "Pong", "--horizon.every", "0"], "horizon.every must be in [1, 1000000000]"),
        (["train", "Pong", "--model.width", "0"], "model.width must be at least 1"),
        (["train", "Pong", "--agent.value-bins", "1"], "agent.value_bins must be in [2, 65536]"),
        (["train", "Pong", "--agent.gamma", "2"], "agent.gamma must be in [0, 1]"),
        (["train", "Pong", "--device", "warp"], "warp"),
        (["train"], "GAME is missing"),
        (["train", "Pong", "--resume"], "without --resume"),
        (["train", "Pong", "--protocol", "v5"], "protocol must be one of atari100k, published"),
        (["eval", "Pong", "--protocol", "v5"], "protocol must be one of atari100k, published"),
        (["eval", "Pong", "--noop-max", "-1"], "noop_max must be a whole number of at least 0"),
        (
            ["card", "Pong", "--from-results", "--scores-only"],
            "--from-results and --scores-only exclude each other",
        ),
        (
            ["card", "Pong", "--missing-only", "--fidelity-only"],
            "--missing-only and --fidelity-only exclude each other",
        ),
        (["eval", "Pong", "--kept"], "--kept needs the folder of a run of `glam train`"),
        (["train", "Pong", "--keep-every", "2"], "keep_every must be in [0, 1]"),
        (["eval", "nowhere/at/all"], "is not a checkpoint"),
        (["fidelity", "Pong", "--check", "--horizon", "8"], "horizon of at least 32"),
        (["info", "--plot", "curves.png"], "glam info RUN --plot FILE"),
        (["info", "~nobody-of-this-name/Pong"], "no such home folder"),
        (["info", "/dev/zero"], "is not a checkpoint"),
        (["info", "x" * 5000], "there is no game 'xxx"),
        (["info", "a/" + "x" * 5000], "is not a checkpoint"),
        (["info", "a\x1b[31m\nb"], r"a\x1b[31m\nb"),
        (["curves"], "at least one run"),
        (["curves", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["export", "Pong"], "no run"),
        (["export", "Pong", "--dtype", "int4"], "dtype must be one of int8, bfloat16, float32"),
        (["export", "Pong", "--contexts", "0"], "contexts must be a whole number >= 1"),
        (["export", "Pong", "--fidelity-steps", "0"], "fidelity_steps must be a whole number"),
        (["export", "Pong", "--to", "/"], "/ is a root of a file system"),
        (["export", "Pong", "--to", "/dev/null"], "it is a file"),
        (["export", "Pong", "--to", "/usr"], "/usr is not empty and holds no checkpoint"),
        (["export", "Pong", "--to", "/dev/null/Pong"], "/dev/null is not a writable folder"),
    ],
)
def test_mistakes_get_one_line(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = mistake(capsys, *words)
    assert expected in line
    assert not re.search(r"[╭╮╰╯│─]|\b(\w+ \w+) \1\b", line)  # no box, no doubled words
    assert list(tmp_path.iterdir()) == []  # and nothing was written


def test_a_game_without_a_checkpoint_names_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_PACKAGE", tmp_path / "glam_env")
    assert "glam train Krull" in mistake(capsys, "eval", "Krull")


def test_a_run_folder_that_cannot_be_written_gets_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    line = mistake(capsys, "train", "Pong", "--run", str(tmp_path / "file" / "run"))
    assert "choose a writable --run" in line
    assert (tmp_path / "file").read_text() == "mine"


# --- runs of `glam sb3` --------------------------------------------------------------------------


@pytest.fixture
def sb3_run(tmp_path) -> Path:
    settings = {"game": "Pong", "algo": "ppo", "obs": "latent", "horizon": 128}
    run = RunFolder(tmp_path / "Pong-ppo", settings, kind="sb3")
    run.append_metrics({"steps": 2048})
    return run.path


def test_info_of_an_sb3_run_says_what_it_is(sb3_run, capsys):
    assert main(["info", str(sb3_run)]) == 0
    printed = capsys.readouterr().out
    assert "algo: ppo" in printed
    assert "a run of `glam sb3`, 2,048 dream steps so far, no report yet" in printed
    score = {"dreams": 2, "mean": 1.0, "standard_error": 0.5, "length": 9.0}
    real = {"mean": 3.0, "standard_error": 1.0, "episodes": 4, "random": -20.7, "human": 14.6}
    report = {"game": "Pong", "algo": "ppo", "obs": "latent", "steps": 2048, "horizon": 128}
    report |= {"dream_first": score, "dream_last": score, "real": real, "run": str(sb3_run)}
    (sb3_run / "report.json").write_text(json.dumps(report))
    assert main(["info", str(sb3_run)]) == 0
    assert "+3.00 ± 1.00 points a game" in capsys.readouterr().out
    assert main(["info", str(sb3_run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["steps"], facts["report"]) == (2048, report)


@pytest.mark.parametrize("command", ["eval", "fidelity", "demo"])
def test_an_sb3_run_is_no_trained_game(sb3_run, capsys, command):
    assert "glam sb3" in mistake(capsys, command, str(sb3_run))


def test_an_sb3_run_is_not_exported(sb3_run, capsys):
    assert "glam sb3" in mistake(capsys, "export", "Pong", "--run", str(sb3_run))


# --- the command itself --------------------------------------------------------------------------


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run some code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_help_and_version_import_no_heavy_library():
    code = """
import sys
from glam_env.cli.main import main
codes = [main(words) for words in ([], ["--help"], ["--version"], ["eval", "--help"])]
heavy = {"torch", "ale_py", "stable_baselines3", "matplotlib", "tensorboard"} & set(sys.modules)
print("END", codes, sorted(heavy))
"""
    done = python(code)
    assert done.stdout.splitlines()[-1] == "END [0, 0, 0, 0] []", done.stderr
    assert all(f"{name} " in done.stdout for name in COMMANDS)


def test_help_works_without_posix():
    """As on Windows, where these modules do not exist."""
    code = """
import sys
for name in ("fcntl", "termios", "resource", "pwd", "grp", "tty"):
    sys.modules[name] = None
from glam_env.cli.main import main
import glam_env.training.run_folder, glam_env.training.trainer
sys.exit(main(["train", "--help"]))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "--loss.foreground-weight" in done.stdout


def test_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"glam \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_explained(name, capsys):
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert COMMANDS[name].split(",")[0] in printed
    kind = getattr(import_module(f"glam_env.cli.{name}"), name.capitalize())
    attributes = (kind.__doc__ or "").split("Attributes:")[1]
    for field in fields(kind):
        assert re.search(rf"^ +{field.name}: \w", attributes, re.MULTILINE), field.name
    command = kind.defaults([]) if hasattr(kind, "defaults") else kind
    for option in options_of(command):
        assert option in printed, option


def documented() -> list[str]:
    """List the commands that the documents show in lines of their own."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for file in files for line in file.read_text().splitlines()]
    return sorted({line.split("#")[0].strip() for line in lines if line.startswith("glam ")})


@pytest.mark.parametrize("line", documented())
def test_commands_of_the_documents_are_understood(line, monkeypatch):
    for name in COMMANDS:
        kind = getattr(import_module(f"glam_env.cli.{name}"), name.capitalize())
        monkeypatch.setattr(kind, "execute", lambda command: 0)
        if name == "train":
            monkeypatch.setattr(kind, "_as_begun", lambda command: command)  # there is no run
    assert main(shlex.split(line)[1:]) == 0


@pytest.mark.parametrize(
    "words",
    [
        "train Pong --preset small --batch 16 --loss.foreground-weight 20 --agent.hidden 64",
        "train --preset=debug Pong --model.core.local-window 2 --no-autocast --freeze.at 0.2 0.4",
        "bench Pong --preset small paper --long 100000 --to benchmarks/results",
        "sb3 Pong --algo dqn --obs rgb --num-envs 4 --json",
    ],
)
def test_options_are_read(words, monkeypatch):
    read = []
    kind = getattr(import_module(f"glam_env.cli.{words.split()[0]}"), words.split()[0].capitalize())
    monkeypatch.setattr(kind, "execute", lambda command: read.append(options_of(command)) or 0)
    assert main(words.split()) == 0
    expected = {
        "--batch": 16,
        "--loss.foreground-weight": 20.0,
        "--agent.hidden": 64,
        "--model.core.local-window": 2,
        "--autocast": False,
        "--freeze.at": (0.2, 0.4),
        "--long": 100_000,
        "--num-envs": 4,
        "--obs": "rgb",
    }
    given = {word.replace("--no-", "--") for word in words.split() if word.startswith("--")}
    for name in given & expected.keys():
        assert read[0][name] == expected[name] or words.startswith("bench"), name
    if "debug" in words:
        assert (read[0]["--preset"], read[0]["--total-steps"]) == ("debug", 600)


def test_a_reader_that_goes_away_ends_the_command_quietly():
    code = "from glam_env.cli.main import main; import sys; sys.exit(main(['info', 'Pong']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_another_broken_pipe_is_not_hidden(monkeypatch, capsys):
    def fail(command) -> int:
        raise BrokenPipeError("of a subprocess")

    monkeypatch.setattr("glam_env.cli.info.Info.execute", fail)
    with pytest.raises(BrokenPipeError, match="of a subprocess"):
        main(["info"])


def test_ctrl_c_gets_one_line(monkeypatch, capsys):
    def interrupt(command) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("glam_env.cli.info.Info.execute", interrupt)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "glam: stopped\n"
