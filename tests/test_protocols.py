"""Protocols: the settings of the real game, from the command line to whatever plays it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import mistake
from glam_agents.storm import AGENT_PRESETS, ActorCritic
from same_runs import metrics
from short_games import cut_games

from glam_env.cli.main import main
from glam_env.cli.trained import load_run, load_trained
from glam_env.errors import GlamError
from glam_env.evaluation import RandomPolicy, evaluate_policy
from glam_env.evaluation.measures.behavior import compare_behavior
from glam_env.evaluation.play import scores
from glam_env.evaluation.play.recording import record_play
from glam_env.games import GAMES
from glam_env.protocols import METHODS, PROTOCOLS, PlaySettings, choose_play
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

PUBLISHED = PROTOCOLS["published"]


# --- settings ------------------------------------------------------------------------------------


def test_the_two_protocols():
    assert PROTOCOLS["atari100k"] == PlaySettings(0.0, 4, 30) == PlaySettings()
    assert PROTOCOLS["published"] == PlaySettings(0.25, 4, 0)
    for name, play in PROTOCOLS.items():
        assert play.protocol == name
        assert play.options == f"--protocol {name}"
    own = PlaySettings(0.1, noop_max=1)
    assert own.protocol is None
    assert str(own) == "sticky actions 0.1, up to 1 no-op"
    assert own.options == "--repeat-action-probability 0.1 --noop-max 1"


def test_single_settings_win_over_a_protocol():
    own = PlaySettings(0.1, noop_max=3)
    assert choose_play(own) == own
    assert choose_play(own, "published") == PUBLISHED
    assert choose_play(own, "published", noop_max=7) == replace(PUBLISHED, noop_max=7)
    assert choose_play(own, None, 0.0) == replace(own, repeat_action_probability=0.0)
    with pytest.raises(GlamError, match="must be one of atari100k, published; got 'v5'"):
        choose_play(own, "v5")


def test_methods_with_a_protocol_are_methods_with_scores():
    assert {name for game in GAMES.values() for name in game.published} - METHODS.keys() == {
        "SimPLe"
    }
    assert METHODS["GLAM"] == METHODS["STORM"] == PUBLISHED


# --- what plays ----------------------------------------------------------------------------------


def begin_alike(frames: np.ndarray) -> bool:
    """Whether (E, ...) games begin alike, as they do without no-ops only."""
    return bool((frames == frames[:1]).all())


@pytest.mark.emulator
@pytest.mark.parametrize("play", PROTOCOLS.values())
def test_recordings_are_played_under_the_settings(play):
    recording = record_play(RandomPolicy(7), "Assault", steps=4, num_envs=4, seed=0, play=play)
    assert begin_alike(recording.frames[:, 0]) == (play == PUBLISHED)


class Watcher(RandomPolicy):
    """Keeps the first frames that it sees."""

    frames = None

    def act(self, frames, first):
        if self.frames is None:
            self.frames = frames.copy()
        return super().act(frames, first)


@pytest.mark.emulator
@pytest.mark.parametrize("play", PROTOCOLS.values())
def test_scores_are_played_under_the_settings(play, monkeypatch):
    cut_games(monkeypatch)
    policy = Watcher(7)
    report = evaluate_policy(policy, "Assault", episodes=4, num_envs=4, seed=0, play=play)
    assert report.play == play
    assert begin_alike(policy.frames) == (play == PUBLISHED)


@pytest.mark.emulator
def test_sticky_actions_reach_the_emulator_of_a_score(monkeypatch):
    made = []
    emulator = scores.Emulator
    monkeypatch.setattr(
        scores, "Emulator", lambda *a, **k: made.append(emulator(*a, **k)) or made[-1]
    )
    cut_games(monkeypatch)
    evaluate_policy(RandomPolicy(6), "Pong", episodes=1, seed=0, play=PlaySettings(0.1))
    assert made[0].repeat_action_probability == 0.1


@pytest.mark.emulator
def test_behaviour_is_played_under_the_settings(make_world_model, monkeypatch):
    played = []

    def record(*args, play, **options):
        played.append(play)
        raise InterruptedError

    monkeypatch.setattr("glam_env.evaluation.measures.behavior.record_play", record)
    with pytest.raises(InterruptedError):
        compare_behavior(make_world_model(), lambda f, g: f, "Pong", play=PUBLISHED)
    assert played == [PUBLISHED]


# --- training ------------------------------------------------------------------------------------

TINIER = [
    *("--preset", "debug", "--total-steps", "40", "--random-steps", "20", "--update-every", "5"),
    *("--num-envs", "1", "--image-warmup", "1", "--model-warmup", "1", "--log-every", "1"),
]
TINY = [
    *TINIER,
    *("--freeze.at", "0.8", "--freeze.finetune", "1", "--freeze.latent-length", "20"),
    *("--freeze.adapt", "1", "--freeze.end-to-end", "1"),
]


@pytest.mark.emulator
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("game", GAMES)
def test_every_game_trains_under_both_protocols(game, protocol, tmp_path):
    """A tiny run passes through all phases, under one protocol, and keeps weights that act."""
    run, whole = tmp_path / "run", protocol == "published"
    words = TINY if whole else [*TINIER, "--freeze.at"]
    assert main(["train", game, "--run", str(run), "--protocol", protocol, *words]) == 0
    trained, stored = load_run(run, torch.device("cpu"))
    assert (trained.game, trained.play) == (game, PROTOCOLS[protocol])
    updates = 8 if whole else 5
    assert (stored.provenance.environment_steps, stored.provenance.updates) == (40, updates)
    counts, images = metrics(run)[-1], 2 if whole else 1
    assert (counts["image_updates"], counts["agent_updates"]) == (images, 3)  # before the last


@pytest.mark.emulator
@pytest.mark.parametrize("play", PROTOCOLS.values())
def test_the_games_of_a_training_are_played_under_its_settings(tmp_path, play):
    config = replace(PRESETS["debug"], num_envs=4, **play.emulator)
    assert config.play == play

    def agent(width: int, actions: int) -> ActorCritic:
        return ActorCritic(AGENT_PRESETS["debug"], width, actions)

    trainer = Trainer("Assault", config, RunFolder(tmp_path / "run", {"train": {}}), agent)
    assert begin_alike(trainer.collector._frames) == (play == PUBLISHED)
    assert trainer.collector.emulator.repeat_action_probability == play.repeat_action_probability
    trainer.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    """A run of one step under the published protocol, with other no-ops."""
    path = str(tmp_path_factory.mktemp("runs") / "Pong")
    words = ["--run", path, *TINY, "--protocol", "published", "--noop-max", "2"]
    assert main(["train", "Pong", *words]) == 0
    return path


@pytest.mark.emulator
def test_a_run_stores_its_settings_and_is_played_by_them(run, capsys, monkeypatch):
    cut_games(monkeypatch)
    own = replace(PUBLISHED, noop_max=2)
    assert load_trained(run, "cpu").play == own
    assert main(["eval", run, "--episodes", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    stored = report["repeat_action_probability"], report["noop_max"], report["protocol"]
    assert stored == (0.25, 2, None)
    assert report["trained_under"]["noop_max"] == 2


@pytest.mark.emulator
def test_a_resumed_run_keeps_its_protocol(run, tmp_path, capsys):
    other = str(tmp_path / "run")
    words = ["--run", other, *TINY]
    assert main(["train", "Pong", *words, "--protocol", "published"]) == 0
    assert main(["train", "Pong", "--run", other, "--resume", "--protocol", "published"]) == 0
    capsys.readouterr()
    line = mistake(capsys, "train", "Pong", "--run", run, "--resume", "--protocol", "atari100k")
    assert "a resumed run keeps its own settings" in line
    line = mistake(capsys, "train", "Pong", "--run", other, "--resume", "--protocol", "atari100k")
    assert "--protocol published, not atari100k; leave out --protocol" in line
