"""docs/add_an_agent.md: its agent is one file and one line, and lives a whole life."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from glam_agents import AGENTS, AgentKind, config_of, find_agent, load_agent
from short_games import cut_games

from glam_env.checkpoint.folder import Checkpoint
from glam_env.cli.main import main
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.errors import GlamError
from glam_env.training.imagination import Rollout
from glam_env.training.run_folder import RunFolder

PAGE = Path(__file__).parents[1] / "docs" / "add_an_agent.md"
FILE, LINE, THROUGH_GYMNASIUM = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
SHORT = ["--fidelity-steps", "400", "--behavior-steps", "400", "--branch-steps", "0"]
SHORT += ["--ranking-moments", "0", "--ceiling-moments", "0"]
RUN = ["--total-steps", "200", "--random-steps", "60"]


@pytest.fixture
def reinforce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AgentKind:
    """Write the page's file and register it by one line."""
    (tmp_path / "reinforce.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(AGENTS, "reinforce", "reinforce:REINFORCE")  # the line
    monkeypatch.delitem(sys.modules, "reinforce", raising=False)
    monkeypatch.chdir(tmp_path)
    return find_agent("reinforce")


@pytest.mark.emulator
def test_a_toy_agent_trains_is_exported_dreams_and_is_evaluated(
    reinforce, capsys, tmp_path, monkeypatch
):
    words = re.findall(r'"([^"]+)"', LINE.split("main(")[1])
    assert words[:3] == ["train", "Pong", "--preset"]
    short = ["--total-steps", "300", "--random-steps", "100"]
    assert main([*words, *short, "--replay-capacity", "700"]) == 0
    cut_games(monkeypatch)
    run = RunFolder(tmp_path / "runs" / "Pong")
    stored = {"class": "reinforce", "hidden": 32, "gamma": 0.985, "learning_rate": 0.001}
    assert run.settings["agent"] == stored
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert any("policy_loss" in line for line in lines)

    folder = tmp_path / "checkpoints" / "Pong"
    words = ["--contexts", "40", "--episodes", "1", *SHORT]
    assert main(["export", "Pong", *words]) == 0
    checkpoint = Checkpoint.open(folder)
    config, state = checkpoint.config, checkpoint.agent_state()
    assert config.agent == stored
    sizes = config.world_model
    agent: Any = load_agent(config.agent, state, sizes.feature_dim, sizes.num_actions)
    saved = run.load_checkpoint()
    assert saved is not None
    learned = saved["agent"]["agent"]  # the export is the run's agent, stored as bfloat16
    assert agent.state_dict().keys() == learned.keys()
    for name, value in agent.state_dict().items():
        torch.testing.assert_close(value, learned[name], rtol=1e-2, atol=1e-3)
    first = load_agent(stored, state, sizes.feature_dim, sizes.num_actions)
    assert not any(p.requires_grad for p in first.parameters())  # pyright: ignore[reportAttributeAccessIssue]

    envs = DreamVectorEnv(
        "Pong", 4, checkpoint=str(folder), array_type="torch", obs_type="latent", device="cpu"
    )
    features, _ = envs.reset(seed=0)
    for _ in range(5):
        features, reward, *_ = envs.step(agent.act(features))
        assert reward.isfinite().all()
    envs.close()

    capsys.readouterr()
    for name in (folder, run.path):  # the checkpoint, and the run itself
        assert main(["eval", str(name), "--episodes", "1", "--json"]) == 0
        assert -21 <= json.loads(capsys.readouterr().out)["mean"] <= 21


@pytest.mark.emulator
def test_a_run_goes_on_with_its_own_agent(reinforce, tmp_path):
    words = ["train", "Pong", "--preset", "debug"]
    assert main([*words, "--algorithm", "reinforce", *RUN]) == 0
    path = tmp_path / "runs" / "Pong" / "config.json"
    settings = json.loads(path.read_text())
    settings["train"]["total_steps"] = 240
    path.write_text(json.dumps(settings))
    assert main(["train", "Pong", "--resume"]) == 0
    state = RunFolder(path.parent).load_checkpoint()
    assert state is not None
    assert state["counts"]["env_steps"] == 240
    assert set(state["agent"]["agent"]) >= {"policy.0.weight"}


def test_the_help_shows_the_options_of_the_chosen_agent(reinforce, capsys):
    for algorithm, shown, hidden in (
        ("reinforce", "--agent.learning-rate", "--agent.value-bins"),
        ("storm", "--agent.value-bins", "--agent.nothing"),
    ):
        assert main(["train", "Pong", "--algorithm", algorithm, "--help"]) == 0
        out = capsys.readouterr().out
        assert shown in out
        assert hidden not in out
    assert main(["train", "Pong", "--algorithm", "dreamer"]) == 2
    assert "known: storm, reinforce" in capsys.readouterr().err


def test_the_toy_agent_learns_what_pays(reinforce):
    torch.manual_seed(0)
    agent = reinforce.make(reinforce.config(hidden=16, learning_rate=1e-2), 6, 3)
    g = torch.Generator().manual_seed(0)
    features = torch.randn(5, 64, 6, generator=g)
    for _ in range(60):
        actions = torch.stack([agent.act(f, generator=g) for f in features[:-1]])
        paid = (actions == 1).float()
        agent.update(Rollout(features, actions, paid, torch.zeros_like(paid, dtype=torch.bool)))
    assert (agent.act(features[0], greedy=True) == 1).all()


def test_a_player_draws_what_act_draws(reinforce):
    agent = reinforce.make(reinforce.config(), 2 * 3 + 4, 5)
    code, h = torch.tensor([[0, 2], [1, 1], [2, 0]]), torch.randn(3, 4)
    z = torch.nn.functional.one_hot(code, 3).float().flatten(1)
    draws = [torch.Generator().manual_seed(1) for _ in range(2)]
    for _ in range(20):
        played = agent.player(6)(code, h, draws[0])
        assert torch.equal(played, agent.act(torch.cat([z, h], -1), generator=draws[1]))


@pytest.mark.emulator
def test_the_agent_through_gymnasium_plays_the_real_game(saved_checkpoint, monkeypatch, capsys):
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(saved_checkpoint.parent))
    cut_games(monkeypatch)
    exec(compile(THROUGH_GYMNASIUM, str(PAGE), "exec"), {})
    assert re.fullmatch(r"one game of Pong: [+-]\d+\n", capsys.readouterr().out)


# --- the registry --------------------------------------------------------------------------------


def test_names_agree_and_presets_are_those_of_training():
    from glam_env.training.presets import PRESETS

    for name, kind in AGENTS.items():
        assert kind.name == name
        assert kind.presets.keys() <= PRESETS.keys()
        for preset in PRESETS:
            config = kind.preset(preset)
            assert config_of(kind.as_json(config), "test") == (kind, config)


def test_the_registry_is_light():
    code = (
        "import sys, glam_agents; assert 'storm' in glam_agents.AGENTS;"
        "print(sorted({'torch', 'tyro', 'stable_baselines3', 'ale_py'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_absent_fields_take_their_defaults_and_a_run_without_a_class_is_storms():
    storm = AGENTS["storm"]
    assert config_of({"class": "storm"}, "test")[1] == storm.config()
    kind, config = config_of({"hidden": 8}, "test", default="storm")
    assert (kind, config) == (storm, storm.config(hidden=8))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"class": "dreamer"}, "agent class 'dreamer' is unknown; known: storm"),
        ({"hidden": 8}, "agent class None is unknown; known: storm"),
        ({"class": "storm", "hiden": 8}, "x.json: agent: unknown key 'hiden'"),
        ({"class": "storm", "hidden": "8"}, "x.json: agent: hidden: expected int, got '8'"),
        (["storm"], r"x.json: agent must be an object with a class, got \['storm'\]"),
    ],
)
def test_a_config_that_cannot_be_read_gets_one_line(stored, message):
    with pytest.raises(GlamError, match=message) as error:
        config_of(stored, "x.json")
    assert "\n" not in str(error.value)


def test_sizes_follow_a_checkpoint_and_the_rest_stays():
    storm = AGENTS["storm"]
    config = storm.with_sizes_of(storm.preset("small"), storm.config(hidden=32, gamma=0.5))
    assert (config.hidden, config.gamma) == (32, storm.preset("small").gamma)


def test_a_config_needs_defaults():
    def make(config, feature_dim, num_actions):
        raise NotImplementedError

    with pytest.raises(TypeError, match="width"):
        AgentKind("x", make_dataclass("Config", [("width", int)]), make)
    with pytest.raises(TypeError, match="must be a dataclass"):
        AgentKind("x", dict, make)
