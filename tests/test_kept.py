"""Weights kept in the course of a run: the same bits, their scores, and their export."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command_line import mistake
from glam_agents.storm import AGENT_PRESETS, ActorCritic

from glam_env.checkpoint.folder import Checkpoint
from glam_env.cli import trained
from glam_env.cli.main import main
from glam_env.cli.ranking import load_policies
from glam_env.errors import GlamError
from glam_env.evaluation import ScoreReport
from glam_env.evaluation.play.policies import FramePolicy, NamedPolicy
from glam_env.evaluation.play.scores import CHOICE
from glam_env.evaluation.report.history import read_history, save_curves
from glam_env.evaluation.report.real_scores import ScoreCurve, put_curve, read_curves
from glam_env.protocols import PROTOCOLS
from glam_env.training.kept import Kept, list_kept, load_kept, save_kept
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

pytestmark = pytest.mark.emulator

# A copy of a run takes the whole capacity of its replay.
CONFIG = replace(
    PRESETS["debug"], total_steps=240, keep_every=0.05, log_every=1, replay_capacity=1_000
)
KEPT = [228, 240]  # at 12, 24, … 216 the agent had not learned


def make(path: Path) -> Trainer:
    settings = {"game": "Pong", "preset": "debug", "train": asdict(CONFIG)}
    settings["agent"] = {"class": "storm", **asdict(AGENT_PRESETS["debug"])}
    run = RunFolder(path, None if (path / "config.json").exists() else settings)

    def agent(width: int, actions: int) -> ActorCritic:
        return ActorCritic(AGENT_PRESETS["debug"], width, actions)

    return Trainer("Pong", CONFIG, run, agent)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished run that kept weights; tests only read it."""
    path = tmp_path_factory.mktemp("whole") / "Pong"
    trainer = make(path)
    assert trainer.train()
    trainer.close()
    return path


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "Pong"))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


# --- keeping -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "steps"),
    [
        (0.0, ()),
        (0.1, (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)),
        (0.3, (30, 60, 90, 100)),
        (1.0, (100,)),
    ],
)
def test_the_steps_at_which_weights_are_kept(share, steps):
    assert replace(CONFIG, total_steps=100, keep_every=share).keep_at == steps


def test_weights_are_kept_once_the_agent_learns(whole):
    run = RunFolder(whole)
    assert list(list_kept(run)) == KEPT
    first, last = (load_kept(run, step) for step in KEPT)
    assert first.counts["env_steps"] == KEPT[0]
    assert last.counts["model_updates"] > first.counts["model_updates"] > 0
    state = run.load_checkpoint()
    assert state is not None
    for name, value in last.world_model.items():
        assert torch.equal(value, state["world_model"][name]), name
    assert any(not torch.equal(first.agent[name], value) for name, value in last.agent.items())


def test_a_run_stopped_and_killed_keeps_the_same_weights(whole, tmp_path):
    """The kill comes after weights were kept, and the last checkpoint is from before."""
    trainer = make(tmp_path / "run")
    while trainer.env_steps < 220:
        trainer.advance()
    trainer.save()
    while trainer.env_steps < 230:
        trainer.advance()
    trainer.close()
    resumed = make(tmp_path / "run")
    assert resumed.env_steps == 220
    assert resumed.train()
    resumed.close()
    ours, theirs = (list_kept(RunFolder(path)) for path in (tmp_path / "run", whole))
    assert list(ours) == list(theirs)
    for step in ours:
        a, b = weights(ours[step]), weights(theirs[step])
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_broken_weights_are_not_kept(run):
    for path in list_kept(RunFolder(run)).values():
        path.unlink()
    trainer = make(run)
    with torch.no_grad():
        trainer.agent.actor.layers[0].weight[0, 0] = float("nan")
    with pytest.raises(GlamError, match="the agent's weights not finite"):
        trainer._keep()
    assert list_kept(trainer.run) == {}
    trainer.close()


def test_a_step_without_weights_and_a_torn_file_get_one_line(run):
    folder = RunFolder(run)
    with pytest.raises(GlamError, match="kept no weights at step 7; it has 228, 240"):
        load_kept(folder, 7)
    path = list_kept(folder)[228]
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(GlamError, match=r"step_0000000228.safetensors cannot be read"):
        load_kept(folder, 228)
    with pytest.raises(GlamError, match="trained without --keep-every"):
        load_kept(RunFolder(run.parent / "other", {"train": {}}), 228)


def test_a_folder_that_cannot_be_written_gets_one_line(run):
    shutil.rmtree(run / "kept")
    (run / "kept").write_text("mine")
    with pytest.raises(GlamError, match="make the run's folder writable"):
        save_kept(RunFolder(run), Kept({"env_steps": 1}, 0.0, {}, {}))


# --- scores --------------------------------------------------------------------------------------


def test_kept_weights_act_and_know_their_origin(whole):
    (first, run), (last, _) = (trained.load_run(whole, torch.device("cpu"), s) for s in KEPT)
    assert first.real_steps == run.provenance.environment_steps == 228
    assert run.provenance.updates == load_kept(RunFolder(whole), 228).counts["model_updates"]
    whole_run, _ = trained.load_run(whole, torch.device("cpu"))
    features = torch.randn(64, first.world_model.config.feature_dim)
    acts = [
        t.act(greedy=True)(features, torch.Generator().manual_seed(0))
        for t in (first, last, whole_run)
    ]
    assert torch.equal(acts[1], acts[2])
    kept = load_kept(RunFolder(whole), 228)
    for name, value in first.agent.export_state().items():
        assert torch.equal(value, kept.agent[name])


@pytest.fixture
def games(monkeypatch) -> list:
    """Replace the real games: weights of step 228 score 5, those of 240 only 1."""
    played = []

    def play_games(policy, game, play, *, episodes, seed, num_envs, **options):
        agent = policy.world_model.reward.layers[0].weight.sum().item()
        played.append({"seed": seed, "play": play, "weights": agent, **options})
        first = played[0]["weights"]
        scores = (4.0, 6.0) if agent == first else (0.0, 2.0)
        return ScoreReport(game, play, seed, num_envs, scores, (10, 10), 1.0)

    monkeypatch.setattr(trained, "play_games", play_games)
    return played


def test_the_best_is_chosen_on_some_games_and_reported_on_others(run, games, capsys):
    assert main(["eval", str(run), "--kept"]) == 0
    printed = capsys.readouterr().out
    assert "kept weights, atari100k (sticky actions 0, up to 30 no-ops):" in printed
    assert "reported: step 228, 5.00 ± 1.00 in 2 whole games on other seeds" in printed
    assert [game["seed"] for game in games] == [3000, 3000, 1000]
    assert [game.get("purpose") for game in games] == [CHOICE, CHOICE, None]
    assert games[2]["weights"] == games[0]["weights"] != games[1]["weights"]
    (curve,) = read_curves(run)
    assert list(curve.points) == KEPT
    assert (curve.best, curve.points[240]["mean"], curve.reported["seed"]) == (228, 1.0, 1000)

    words = ["--kept", "--protocol", "published", "--json"]
    assert main(["eval", str(run), *words]) == 0
    assert json.loads(capsys.readouterr().out)["best"] == 228
    assert {game["play"] for game in games[3:]} == {PROTOCOLS["published"]}
    assert main(["eval", str(run), "--kept"]) == 0  # in the place of the older curve
    curves = read_curves(run)
    assert {curve.play.protocol for curve in curves} == {"atari100k", "published"}
    assert len(curves) == 2


def test_the_curve_of_real_scores_is_drawn_and_printed(run, games, capsys, monkeypatch, tmp_path):
    assert main(["eval", str(run), "--kept"]) == 0
    capsys.readouterr()
    assert main(["info", str(run)]) == 0
    assert "reported: step 228" in capsys.readouterr().out
    figures = []
    monkeypatch.setattr(
        "glam_env.evaluation.report.plots.save_figure", lambda figure, path: figures.append(figure)
    )
    history = read_history(run)
    assert history.as_json()["real_scores"][0]["best"] == 228
    save_curves(tmp_path / "curves.png", {"run": history})
    score = figures[0].axes[0]
    legend = figures[0].axes[-1].get_legend()  # beside the curves
    assert "run, whole games, atari100k" in [text.get_text() for text in legend.texts]
    (container,) = score.containers
    assert container[0].get_xdata().tolist() == KEPT
    assert container[0].get_ydata().tolist() == [5.0, 1.0]


def test_of_equal_scores_the_later_weights_are_the_best():
    assert ScoreCurve({10: {"mean": 1.0}, 20: {"mean": 2.0}, 30: {"mean": 2.0}}).best == 30


def test_a_broken_scores_file_gets_one_line(run, games):
    (run / "scores.json").write_text('{"curves": [{}]}')
    with pytest.raises(GlamError, match=r"scores.json cannot be read"):
        read_curves(run)
    (run / "scores.json").unlink()
    (run / ".scores.json.partial").mkdir()
    with pytest.raises(GlamError, match="make the folder writable"):
        put_curve(run, ScoreCurve({1: {"mean": 0.0}}))


# --- export --------------------------------------------------------------------------------------


def test_the_best_weights_are_exported(run, games, capsys, monkeypatch):
    to = run.parent / "checkpoint"
    words = ["export", "Pong", "--run", str(run), "--to", str(to), "--contexts", "8"]
    assert "glam eval" in mistake(capsys, *words, "--kept", "best")
    assert "kept must be best, or the step" in mistake(capsys, *words, "--kept", "last")
    assert "it has 228, 240" in mistake(capsys, *words, "--kept", "7")
    assert main(["eval", str(run), "--kept"]) == 0
    monkeypatch.setattr(trained, "measure_all", lambda loaded, **_: {})
    assert main([*words, "--kept", "best", "--dtype", "float32"]) == 0
    checkpoint = Checkpoint.open(to)
    assert checkpoint.config.provenance.environment_steps == 228
    kept = load_kept(RunFolder(run), 228)
    stored = checkpoint.world_model().state_dict()
    assert all(torch.equal(stored[name], value) for name, value in kept.world_model.items())
    assert all(torch.equal(v, kept.agent[k]) for k, v in checkpoint.agent_state().items())
    assert read_curves(to)[0].best == 228  # the curve goes with the weights


def test_a_run_without_kept_weights_is_not_scored(run, capsys):
    shutil.rmtree(run / "kept")
    assert "train with --keep-every" in mistake(capsys, "eval", str(run), "--kept")


# --- the ranking ---------------------------------------------------------------------------------


def test_each_age_of_the_agent_is_ranked(whole, run):
    """The last has the run's own world model; the one before sees the features of its own."""
    loaded = trained.load_trained(str(whole), "cpu")
    earlier, last = load_policies([f"kept:{whole}"], loaded, "cpu")
    assert [earlier.name, last.name] == [f"kept Pong at step {step}" for step in KEPT]
    assert isinstance(earlier, FramePolicy)
    assert isinstance(last, NamedPolicy)
    shutil.rmtree(run / "kept")
    with pytest.raises(GlamError, match="kept no weights; train with --keep-every"):
        load_policies([f"kept:{run}"], loaded, "cpu")
