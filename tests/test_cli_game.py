"""The command line: a small game from training to card."""

import copy
import json
import re
import shlex
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import mistake
from short_games import cut_games

from glam_env.checkpoint.config import CheckpointConfig, from_json, to_json
from glam_env.checkpoint.folder import Checkpoint
from glam_env.cli.main import main
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.evaluation import examine
from glam_env.evaluation.measures import ranking
from glam_env.evaluation.play import scores
from glam_env.evaluation.report.card import write_card
from glam_env.training.export import load_run
from glam_env.training.run_folder import RunFolder

pytestmark = pytest.mark.emulator

STEPS, UPDATES = 300, 23


@pytest.fixture(scope="module", autouse=True)
def little_play():
    """Cut the real games, and rank three policies of twelve; yield how scores were played."""
    standard, make, played = ranking.standard_policies, scores.Emulator, []

    def emulator(*given, **options):
        played.append((options["repeat_action_probability"], options["noop_max"]))
        return make(*given, **options)

    with pytest.MonkeyPatch.context() as patch:
        cut_games(patch)
        patch.setattr(ranking, "standard_policies", lambda *given: standard(*given)[::4])
        patch.setattr(scores, "Emulator", emulator)
        yield played


@pytest.fixture(scope="module")
def life(little_play, tmp_path_factory) -> Path:
    """A folder in which Pong was trained (debug) and exported."""
    folder = tmp_path_factory.mktemp("life")
    run, to = str(folder / "runs" / "Pong"), str(folder / "checkpoints" / "Pong")
    words = ["--run", run, "--preset", "debug", "--replay-capacity", "700"]
    words += ["--total-steps", str(STEPS), "--random-steps", "100"]
    assert main(["train", "pong", *words]) == 0
    words = ["--run", run, "--to", to, "--contexts", "40", "--episodes", "1"]
    words += ["--fidelity-steps", "400", "--behavior-steps", "400", "--branch-steps", "120"]
    words += ["--ranking-moments", "2", "--ceiling-moments", "4"]
    assert main(["export", "Pong", *words]) == 0
    return folder


def test_the_exported_card_has_its_origin_and_its_results(life, little_play):
    folder = life / "checkpoints" / "Pong"
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "world_model.safetensors.xz",
        "agent.safetensors.xz",
        "contexts.safetensors.xz",
        "CARD.md",
        "metrics.jsonl",
    }
    config = Checkpoint.open(folder).config
    assert (config.game, config.provenance.preset) == ("Pong", "debug")
    assert config.provenance.environment_steps == STEPS
    assert config.provenance.updates == UPDATES
    card = (folder / "CARD.md").read_text()
    results = config.results["scores"]
    assert [score["protocol"] for score in results] == ["atari100k", "published"]
    assert little_play[:2] == [(0.0, 30), (0.25, 0)]
    for words in (
        "debug",
        str(STEPS),
        *(f"this checkpoint | {score['mean']:.2f} ±" for score in results),
        "| GLAM | 18.0 | published | 0.25 | no no-ops | published |",
        "| DreamerV3 | 18.0 | atari100k | 0 | up to 30 no-ops | published |",
        "| human | 14.6 | – | – | – | published |",
        "`glam eval Pong --protocol published --episodes 1 --seed 1000`",
        "-20.7",
        "14.6",
        "F1",
        "ball",
        "won",
        "fail",
    ):
        assert words in card, words


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
    earlier_run = f"| `debug` | {STEPS} | {UPDATES} |"
    assert earlier_run in card
    assert "\nIt rained.\n" in card
    assert earlier_run not in (folder / "CARD.md").read_text()


def games(config: CheckpointConfig) -> dict[str, list[float]]:
    """Return the stored scores of single games, by protocol."""
    return {score["protocol"]: score["scores"] for score in config.results["scores"]}


def test_the_scores_of_an_old_checkpoint_are_measured_alone(life, tmp_path, capsys):
    """It has a single score, which its card shows under the protocol that it was played with."""
    folder = Path(shutil.copytree(life / "checkpoints" / "Pong", tmp_path / "Pong"))
    new = Checkpoint.open(folder).config
    plain = json.loads((folder / "config.json").read_text())
    results = plain["results"]
    old = results.pop("scores")[0]
    del old["protocol"], old["noop_max"]
    results["score"] = old
    (folder / "config.json").write_text(json.dumps(plain))
    assert main(["info", str(folder)]) == 0
    assert "whole real games, atari100k (sticky actions 0, up to 30" in capsys.readouterr().out
    assert main(["card", str(folder), "--from-results"]) == 0
    card = (folder / "CARD.md").read_text()
    assert re.search(r"this checkpoint \| \S+ ± – \| atari100k \| 0 \| up to 30", card)
    assert "--protocol published" not in card
    assert main(["card", str(folder), "--scores-only", "--episodes", "1"]) == 0
    after = Checkpoint.open(folder).config
    assert games(after) == games(new)
    assert after.results["fidelity"] == new.results["fidelity"]
    assert "score" not in after.results


def test_a_missing_measure_is_added_alone(life, tmp_path, capsys):
    folder = Path(shutil.copytree(life / "checkpoints" / "Pong", tmp_path / "Pong"))
    new = json.loads((folder / "config.json").read_text())
    plain = copy.deepcopy(new)
    del plain["results"]["fidelity"]["ceiling"]
    for check in plain["results"]["fidelity"]["checks"]:
        del check["ceiling"]  # of a version without them
    (folder / "config.json").write_text(json.dumps(plain))
    assert main(["card", str(folder), "--missing-only", "--ceiling-moments", "4"]) == 0
    assert json.loads((folder / "config.json").read_text()) == new
    assert "noise ceiling" in (folder / "CARD.md").read_text()
    (folder / "config.json").write_text(json.dumps(plain | {"results": {}}))
    capsys.readouterr()
    assert "no fidelity yet" in mistake(capsys, "card", str(folder), "--missing-only")


def test_a_checkpoint_measured_again_has_the_same_results(life, tmp_path):
    folder = Path(shutil.copytree(life / "checkpoints" / "Pong", tmp_path / "Pong"))
    before = Checkpoint.open(folder).config
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(plain | {"results": {}}))
    (folder / "CARD.md").write_text("of another time")
    words = ["--episodes", "1", "--fidelity-steps", "400", "--behavior-steps", "400"]
    words += [
        "--branch-steps",
        "0",
        "--ranking-moments",
        "0",
        "--ceiling-moments",
        "0",
    ]  # the costliest; no figure is compared
    assert main(["card", str(folder), *words]) == 0
    after = Checkpoint.open(folder).config
    assert replace(after, results={}) == replace(before, results={})
    assert games(after) == games(before)
    assert after.results["fidelity"]["images"] == before.results["fidelity"]["images"]
    assert (folder / "CARD.md").read_text() == write_card(after)
    assert (folder / "metrics.jsonl").exists()


def test_eval_repeats_the_score_of_the_card(life, capsys):
    folder = life / "checkpoints" / "Pong"
    assert main(["eval", str(folder), "--episodes", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    config = Checkpoint.open(folder).config
    assert (report["protocol"], report["scores"]) == ("atari100k", games(config)["atari100k"])
    assert report["trained_under"] == to_json(config.protocol)
    assert report["real_steps"] == STEPS
    assert main(["eval", str(folder), "--episodes", "1", "--protocol", "published"]) == 0
    printed = capsys.readouterr().out
    assert "protocol: published (sticky actions 0.25, no no-ops)" in printed
    assert f"trained under: atari100k (sticky actions 0, up to 30 no-ops); {STEPS} real" in printed
    assert -21 <= report["mean"] <= 21
    assert report["published"]["GLAM"] == 18
    assert main(["eval", "Pong", "--random", "--episodes", "2", "--num-envs", "2"]) == 0
    printed = capsys.readouterr().out
    for words in ("mean of 2 whole games", "SimPLe", "DreamerV3", "STORM", "GLAM", "human"):
        assert words in printed, words


SHORT = ["--steps", "400", "--behavior-steps", "400", "--horizon", "32"]
NO_ACTIONS = ["--branch-steps", "0", "--ranking-moments", "0", "--ceiling-moments", "0"]


def test_fidelity_check_fails_below_the_thresholds(life, capsys, tmp_path, monkeypatch):
    windows = partial(examine.dream_windows, count=1)
    monkeypatch.setattr(examine, "dream_windows", windows)
    monkeypatch.setattr(examine, "save_plots", lambda *_: [])  # they have tests of their own
    folder = str(life / "checkpoints" / "Pong")
    words = ["--check", "--json", "--out", str(tmp_path / "out")]
    assert main(["fidelity", folder, *SHORT, *NO_ACTIONS, *words]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not all(check["passed"] for check in report["checks"])
    assert report == json.loads((tmp_path / "out" / "fidelity.json").read_text())
    assert (tmp_path / "out" / "film.mp4").exists()


def test_a_run_is_measured_without_an_export(life, capsys):
    run = str(life / "runs" / "Pong")
    assert main(["fidelity", run, *SHORT, *NO_ACTIONS]) == 0  # without --check, whatever it finds
    assert re.search(r"reward F1 to step 16 .* fail\n", capsys.readouterr().out)
    assert main(["eval", run, "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 1


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


def test_an_exported_checkpoint_is_an_env(life):
    env = DreamVectorEnv("Pong", 3, checkpoint=str(life / "checkpoints" / "Pong"))
    frames, _ = env.reset(seed=0)
    assert frames.shape == (3, 64, 64, 3)
    frames, reward, *_ = env.step(np.array([0, 1, 2]))
    assert frames.dtype == np.uint8
    assert np.isfinite(reward).all()
    env.close()


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
    assert 0 < done <= UPDATES  # to the last line that was logged
    assert main(["info", str(run), "--plot", str(life / "run.png")]) == 0
    printed = capsys.readouterr().out
    for words in ("play before learning", "joint training", "foreground_error", "hours"):
        assert words in printed, words
    assert (life / "run.png").stat().st_size > 10_000


def test_the_curves_of_runs_are_drawn_together(life, capsys):
    run, kept = life / "runs" / "Pong", life / "other.jsonl"
    shutil.copyfile(run / "metrics.jsonl", kept)
    words = [str(run), str(kept), "--to", str(life / "curves.png"), "--game", "pong"]
    assert main(["curves", *words]) == 0
    assert "Pong, other" in capsys.readouterr().out
    assert (life / "curves.png").stat().st_size > 10_000


def test_a_run_is_not_started_over_another(life, capsys):
    run = life / "runs" / "Pong"
    before = (run / "metrics.jsonl").read_bytes()
    line = mistake(capsys, "train", "Pong", "--run", str(run), "--preset", "debug")
    assert "--resume" in line
    assert (run / "metrics.jsonl").read_bytes() == before


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


def test_a_run_of_another_game_is_not_resumed(life, capsys):
    run = life / "runs" / "Pong"
    line = mistake(capsys, "train", "Boxing", "--run", str(run), "--resume")
    assert "a run of Pong, not Boxing" in line


@pytest.mark.parametrize(
    "file",
    ["config.json", *(f"{part}.safetensors.xz" for part in ("world_model", "agent", "contexts"))],
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


def test_a_card_is_written_again_from_its_results(life, tmp_path, capsys):
    folder = Path(shutil.copytree(life / "checkpoints" / "Pong", tmp_path / "Pong"))
    before, card = (folder / "config.json").read_bytes(), (folder / "CARD.md").read_text()
    (folder / "CARD.md").write_text("of another time")
    assert main(["card", str(folder), "--from-results"]) == 0
    assert (folder / "CARD.md").read_text() == card
    assert (folder / "config.json").read_bytes() == before
    plain = json.loads(before)
    del plain["results"]["fidelity"]["checks"][9:]  # of a version with fewer thresholds
    (folder / "config.json").write_text(json.dumps(plain))
    assert main(["card", str(folder), "--from-results"]) == 0
    assert (folder / "config.json").read_bytes() == before
    (folder / "config.json").write_text(json.dumps(plain | {"results": {}}))
    assert "no results yet" in mistake(capsys, "card", str(folder), "--from-results")
