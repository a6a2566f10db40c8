"""The command line: a small game from training to card, and every mistake in one line."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from glam_env.checkpoint.config import CheckpointConfig, from_json, to_json
from glam_env.checkpoint.folder import Checkpoint
from glam_env.cli.main import COMMANDS, main
from glam_env.cli.options import options_of
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.evaluation.report.card import write_card
from glam_env.training.export import load_run
from glam_env.training.run_folder import RunFolder

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def life(tmp_path_factory) -> Path:
    """A folder in which Pong was trained (debug) and exported."""
    folder = tmp_path_factory.mktemp("life")
    run, to = str(folder / "runs" / "Pong"), str(folder / "checkpoints" / "Pong")
    words = ["--run", run, "--preset", "debug", "--replay-capacity", "700"]
    assert main(["train", "pong", *words]) == 0
    words = ["--run", run, "--to", to, "--contexts", "40", "--episodes", "1"]
    words += ["--fidelity-steps", "400", "--behavior-steps", "400", "--branch-steps", "120"]
    assert main(["export", "Pong", *words]) == 0
    return folder


@pytest.mark.emulator
def test_the_exported_card_has_its_origin_and_its_results(life):
    folder = life / "checkpoints" / "Pong"
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "world_model.safetensors",
        "agent.safetensors",
        "contexts.safetensors",
        "CARD.md",
        "metrics.jsonl",
    }
    config = Checkpoint.open(folder).config
    assert (config.game, config.provenance.preset) == ("Pong", "debug")
    assert config.provenance.environment_steps == 600
    assert config.provenance.updates == 27
    card = (folder / "CARD.md").read_text()
    score = config.results["score"]
    for words in (
        "debug",
        "600",
        f"{score['mean']:.2f}",
        "-20.7",
        "14.6",
        "F1",
        "ball",
        "won",
        "fail",
    ):
        assert words in card, words


@pytest.mark.emulator
def test_a_warm_start_is_named_on_the_card(life, tmp_path):
    folder, run = life / "checkpoints" / "Pong", tmp_path / "run"
    words = ["--run", str(run), "--preset", "debug", "--total-steps", "220", "--seed", "3"]
    assert main(["train", "Pong", *words, "--warm-start", str(folder)]) == 0
    trained = load_run(RunFolder(run), torch.device("cpu"))
    origin, earlier = trained.provenance, Checkpoint.open(folder).config.provenance
    assert origin.begun_from == to_json(earlier)
    config = replace(Checkpoint.open(folder).config, provenance=replace(origin, note="It rained."))
    assert from_json(CheckpointConfig, to_json(config), "test") == config
    card = write_card(config)
    assert "| seed | 3 |" in card
    origin = "an earlier run: preset `debug`, 600 steps, 27 updates"
    assert origin in card
    assert "\nIt rained.\n" in card
    assert origin not in (folder / "CARD.md").read_text()


@pytest.mark.emulator
def test_a_checkpoint_measured_again_has_the_same_results(life, tmp_path):
    folder = Path(shutil.copytree(life / "checkpoints" / "Pong", tmp_path / "Pong"))
    before = Checkpoint.open(folder).config
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(plain | {"results": {}}))
    (folder / "CARD.md").write_text("of another time")
    words = [
        "--episodes",
        "1",
        "--fidelity-steps",
        "400",
        "--behavior-steps",
        "400",
        "--branch-steps",
        "120",
    ]
    assert main(["card", str(folder), *words]) == 0
    after = Checkpoint.open(folder).config
    assert replace(after, results={}) == replace(before, results={})
    assert after.results["score"]["scores"] == before.results["score"]["scores"]
    assert after.results["fidelity"]["images"] == before.results["fidelity"]["images"]
    assert (folder / "CARD.md").read_text() == write_card(after)
    assert (folder / "metrics.jsonl").exists()


@pytest.mark.emulator
def test_eval_repeats_the_score_of_the_card(life, capsys):
    folder = life / "checkpoints" / "Pong"
    assert main(["eval", str(folder), "--episodes", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["scores"] == Checkpoint.open(folder).config.results["score"]["scores"]
    assert -21 <= report["mean"] <= 21
    assert report["published"]["GLAM"] == 18
    assert main(["eval", "Pong", "--random", "--episodes", "2", "--num-envs", "2"]) == 0
    printed = capsys.readouterr().out
    for words in ("mean of 2 whole games", "SimPLe", "DreamerV3", "STORM", "GLAM", "human"):
        assert words in printed, words


SHORT = ["--steps", "400", "--behavior-steps", "400", "--branch-steps", "120", "--horizon", "32"]


@pytest.mark.emulator
def test_fidelity_check_fails_below_the_thresholds(life, capsys, tmp_path):
    folder = str(life / "checkpoints" / "Pong")
    words = ["--check", "--json", "--out", str(tmp_path / "out")]
    assert main(["fidelity", folder, *SHORT, *words]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not all(check["passed"] for check in report["checks"])
    assert report == json.loads((tmp_path / "out" / "fidelity.json").read_text())
    assert (tmp_path / "out" / "film.mp4").exists()


@pytest.mark.emulator
def test_a_run_is_measured_without_an_export(life, capsys):
    run = str(life / "runs" / "Pong")
    assert main(["fidelity", run, *SHORT]) == 0  # without --check, whatever it finds
    assert "FAIL  reward F1 to step 16" in capsys.readouterr().out
    assert main(["eval", run, "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 1


@pytest.mark.emulator
def test_demo_prints_both_worlds_and_draws_them(life, capsys):
    gif = life / "demo.gif"
    words = ["--episodes", "1", "--num-envs", "4", "--steps", "70", "--gif", str(gif)]
    assert main(["demo", str(life / "checkpoints" / "Pong"), *words]) == 0
    out = capsys.readouterr().out
    assert "dream steps/s" in out
    assert "points a game over 1 whole games" in out
    from PIL import Image

    with Image.open(gif) as film:
        assert film.n_frames == 150
        assert film.width > 2 * film.height * 0.9


@pytest.mark.emulator
def test_an_exported_checkpoint_is_an_env(life):
    env = DreamVectorEnv("Pong", 3, checkpoint=str(life / "checkpoints" / "Pong"))
    frames, _ = env.reset(seed=0)
    assert frames.shape == (3, 64, 64, 3)
    frames, reward, *_ = env.step(np.array([0, 1, 2]))
    assert frames.dtype == np.uint8
    assert np.isfinite(reward).all()
    env.close()


@pytest.mark.emulator
def test_info_of_everything_of_a_checkpoint_and_of_a_run(life, capsys):
    assert main(["info"]) == 0
    assert "mamba scan" in capsys.readouterr().out
    assert main(["info", str(life / "checkpoints" / "Pong"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["preset"] == "debug"
    run = life / "runs" / "Pong"
    assert main(["info", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["settings"]["preset"] == "debug"
    assert facts["history"]["phases"][-1]["name"] == "joint training"
    done = sum(phase["model_updates"] for phase in facts["history"]["phases"])
    assert 0 < done <= 27  # to the last line that was logged
    assert main(["info", str(run), "--plot", str(life / "run.png")]) == 0
    printed = capsys.readouterr().out
    for words in ("play before learning", "joint training", "foreground_error", "hours"):
        assert words in printed, words
    assert (life / "run.png").stat().st_size > 10_000


@pytest.mark.emulator
def test_the_curves_of_runs_are_drawn_together(life, capsys):
    run, kept = life / "runs" / "Pong", life / "other.jsonl"
    shutil.copyfile(run / "metrics.jsonl", kept)
    words = [str(run), str(kept), "--to", str(life / "curves.png"), "--game", "pong"]
    assert main(["curves", *words]) == 0
    assert "Pong, other" in capsys.readouterr().out
    assert (life / "curves.png").stat().st_size > 10_000


def mistake(capsys, *words: str) -> str:
    """Runs a command that must fail with exit code 2 and one line; returns the line."""
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("glam: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    return err


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
        (["train", "Pong", "--algorithm", "none"], "storm"),
        (["train", "Pong", "--loss.foregroundweight=2"], "did you mean --loss.foreground-weight?"),
        (["train", "Boxing", "--warm-start", "Pong"], "is of Pong"),
        (["train", "Pong", "--warm-start", "Pong", "--model.stem", "8"], "model.stem"),
        (["train", "Ping"], "Pong"),
        (["train", "Pong", "--preset", "tiny"], "paper, small, debug"),
        (["train", "Pong", "--bach", "3"], "there is no option --bach: did you mean --batch?"),
        (["train", "Pong", "--batch", "many"], "--batch must be INT"),
        (["train", "Pong", "--batch", "0"], "batch must be positive"),
        (["train", "Pong", "--device", "warp"], "warp"),
        (["train"], "GAME is missing"),
        (["train", "Pong", "--resume"], "without --resume"),
        (["eval", "Krull"], "glam train Krull"),
        (["eval", "nowhere/at/all"], "no checkpoint"),
        (["fidelity", "Pong", "--check", "--horizon", "8"], "horizon of at least 32"),
        (["info", "--plot", "curves.png"], "glam info RUN --plot FILE"),
        (["curves"], "at least one run"),
        (["curves", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["export", "Pong"], "no run"),
        (["export", "Pong", "--dtype", "int8"], "bfloat16"),
    ],
)
def test_mistakes_get_one_line(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = mistake(capsys, *words)
    assert expected in line
    assert not re.search(r"[╭╮╰╯│─]|\b(\w+ \w+) \1\b", line)  # no box, no doubled words
    assert list(tmp_path.iterdir()) == []  # and nothing was written


def test_a_run_folder_that_cannot_be_written_gets_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    line = mistake(capsys, "train", "Pong", "--run", str(tmp_path / "file" / "run"))
    assert "choose a writable --run" in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.emulator
def test_a_run_is_not_started_over_another(life, capsys):
    run = life / "runs" / "Pong"
    before = (run / "metrics.jsonl").read_bytes()
    line = mistake(capsys, "train", "Pong", "--run", str(run), "--preset", "debug")
    assert "--resume" in line
    assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--preset", "small"], "has --preset debug, not small; leave out --preset"),
        (["--batch", "32"], "has --batch 2, not 32; leave out --batch"),  # paper's own
        (["--agent.hidden", "64", "--batch", "8"], "leave out --batch, --agent.hidden"),
    ],
)
def test_a_resumed_run_keeps_its_settings(life, capsys, words, expected):
    run = life / "runs" / "Pong"
    line = mistake(capsys, "train", "Pong", "--run", str(run), "--resume", *words)
    assert "a resumed run keeps its own settings" in line
    assert expected in line


@pytest.mark.emulator
def test_the_next_command_has_the_run(life, tmp_path, capsys):
    """It can be pasted: the run's folder is quoted, and equal settings are no mistake."""
    run = tmp_path / "my run"
    words = ["train", "Pong", "--run", str(run), "--preset", "debug"]
    assert main([*words, "--minutes", "0.0001"]) == 0
    printed = capsys.readouterr().out
    following = printed.strip().split("next: ")[1]
    assert shlex.split(following) == ["glam", "train", "Pong", "--resume", "--run", str(run)]
    again = [*shlex.split(following)[1:], "--preset", "debug", "--minutes", "0.0001"]
    assert main(again) == 0
    finished = life / "runs" / "Pong"
    assert main(["train", "Pong", "--run", str(finished), "--resume"]) == 0
    assert f"next: glam export Pong --run {finished}" in capsys.readouterr().out


@pytest.mark.emulator
def test_a_run_of_another_game_is_not_resumed(life, capsys):
    run = life / "runs" / "Pong"
    line = mistake(capsys, "train", "Boxing", "--run", str(run), "--resume")
    assert "a run of Pong, not Boxing" in line


@pytest.mark.emulator
@pytest.mark.parametrize(
    "file", ["config.json", "world_model.safetensors", "agent.safetensors", "contexts.safetensors"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_damage_to_a_checkpoint_gets_one_line_that_names_the_file(
    life, tmp_path, capsys, file, damage
):
    folder = tmp_path / "Pong"
    shutil.copytree(life / "checkpoints" / "Pong", folder)
    path = folder / file
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0x80
        path.write_bytes(data)
    line = mistake(capsys, "demo", str(folder), "--gif", str(tmp_path / "demo.gif"))
    if not (file == "config.json" and damage == "missing"):
        assert file in line
    assert not (tmp_path / "demo.gif").exists()


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
