"""Agents from outside in the ranking, and agents that learn in frozen dreams."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import frozen_dream
import numpy as np
import pytest
import torch
from glam_agents.frozen import FrozenDreams, new_agent, save_with_agent, usual_reward

from glam_env.checkpoint.config import WORLD_MODEL
from glam_env.checkpoint.folder import Checkpoint, save_checkpoint
from glam_env.cli.main import main
from glam_env.cli.ranking import load_policies
from glam_env.cli.trained import load_trained
from glam_env.errors import GlamError
from glam_env.evaluation.measures.ranking import compare_policies
from glam_env.evaluation.play.policies import FramePolicy, History, NamedPolicy
from glam_env.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def folder(endless_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with an agent, and one of other weights."""
    here = tmp_path_factory.mktemp("ranked")
    checkpoint = Checkpoint.open(endless_checkpoint)
    agent, stored = new_agent("storm", checkpoint.world_model(), "debug", seed=1)
    save_with_agent(checkpoint, agent, stored, here / "same", "of a test")
    other = Checkpoint.open(here / "same")
    state = other.world_model().export_state()
    state["prior.weight"] = state["prior.weight"] + 0.1
    save_checkpoint(
        here / "other",
        config=other.config,
        world_model_state=state,
        agent_state=other.agent_state(),
        contexts=other.contexts(),
        card="",
    )
    return here


@pytest.fixture(scope="module")
def sb3_runs(folder: Path) -> dict[str, Path]:
    """Runs of `glam sb3` that have learned nothing, by what they see."""
    from glam_agents.sb3.algorithms import find_algorithm, find_settings
    from glam_agents.sb3.env import make_vec_env

    runs = {}
    for algo, obs, stack in (("ppo", "latent", 1), ("dqn", "latent", 1), ("ppo", "rgb", 2)):
        envs = make_vec_env(
            "Pong", 2, obs_type=obs, frame_stack=stack, checkpoint=folder / "same", device="cpu"
        )
        space: Any = envs.observation_space
        options = find_settings(algo, space, 2) | ({"buffer_size": 10} if algo == "dqn" else {})
        path = folder / f"{algo}-{obs}"
        weights = Checkpoint.open(folder / "same").config.files[WORLD_MODEL].sha256
        settings = {"game": "Pong", "algo": algo, "obs": obs, "frame_stack": stack}
        RunFolder(path, {**settings, "world_model": weights}, kind="sb3")
        find_algorithm(algo)(env=envs, seed=0, device="cpu", **options).save(path / "model.zip")
        envs.close()
        runs[f"{algo} {obs}"] = path
    return runs


# --- agents in frozen dreams ---------------------------------------------------------------------


def test_the_example_writes_a_checkpoint_whose_agent_can_play(folder, tmp_path, capsys):
    args = {"preset": "debug", "updates": 3, "dreams": 4, "horizon": 5, "device": "cpu"}
    to = tmp_path / "lose"
    frozen_dream.main(frozen_dream.Args(str(folder / "same"), to, lose=True, **args))
    config = Checkpoint.open(to).config
    assert config.provenance.note.startswith("Its agent was trained to lose")
    assert "trained to lose" in (to / "CARD.md").read_text()
    assert "60 dream steps" in config.provenance.note
    before, after = (load_trained(str(path), "cpu") for path in (folder / "same", to))
    same = before.world_model.export_state()
    assert all(torch.equal(v, same[k]) for k, v in after.world_model.export_state().items())
    assert f"written to {to}" in capsys.readouterr().out


def test_a_scale_of_minus_one_negates_rewards_and_nothing_else(folder):
    checkpoint = Checkpoint.open(folder / "same")
    model, contexts = checkpoint.world_model(), checkpoint.contexts()
    agent, _ = new_agent("storm", model, "debug")
    win, lose = (
        FrozenDreams(model, contexts, dreams=4, horizon=5, reward_scale=scale).rollout(agent)
        for scale in (1.0, -1.0)
    )
    assert win.rewards.any()
    assert torch.equal(win.rewards, -lose.rewards)
    assert torch.equal(win.actions, lose.actions)
    with pytest.raises(GlamError, match="at least 1"):
        FrozenDreams(model, contexts, horizon=0)


# --- loading -------------------------------------------------------------------------------------


def test_an_agent_of_frozen_dreams_knows_the_usual_reward(folder):
    checkpoint = Checkpoint.open(folder / "same")
    model, contexts = checkpoint.world_model(), checkpoint.contexts()
    agent, _ = new_agent("storm", model, "small")
    sizes = {"dreams": 2, "horizon": 2, "reward_scale": -2.0}
    config = replace(checkpoint.config, reward_values=(-100.0, 0.0, 200.0, 600.0))
    dreams = FrozenDreams(model, contexts, usual_reward=usual_reward(config), **sizes)
    dreams.train(agent, 1, lambda rollout: None)
    assert agent._floor.item() == pytest.approx(0.2 * 2 * 300)
    assert usual_reward(replace(config, reward_values=())) == 1.0


def test_agents_are_loaded_by_their_kind(folder, sb3_runs):
    trained = load_trained(str(folder / "same"), "cpu")
    words = ["storm:{}/same", "storm:{}/other", "sb3:{}/ppo-latent", "sb3:{}/dqn-latent"]
    specs = [word.format(folder) for word in [*words, "sb3:{}/ppo-rgb"]]
    same, other, ppo, dqn, rgb = load_policies(specs, trained, "cpu")
    assert [policy.name for policy in (same, other, ppo)] == [
        "storm same",
        "storm other",
        "sb3 ppo-latent",
    ]
    assert all(isinstance(policy, NamedPolicy) for policy in (same, ppo, dqn))
    assert all(isinstance(policy, FramePolicy) for policy in (other, rgb))
    twice = load_policies(2 * specs[:1], trained, "cpu")
    assert twice[0].name == f"storm {folder}/same"

    features = torch.rand(5, trained.world_model.config.feature_dim)
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(4, 5, 64, 64, 3), dtype=np.uint8)
    history = History(frames[:3].swapaxes(0, 1), np.zeros((5, 3), np.int64))
    for policy in (same, other, ppo, dqn, rgb):
        generators = [torch.Generator().manual_seed(2) for _ in range(2)]
        if isinstance(policy, FramePolicy):
            plays = [policy.begin(history, generator)(frames[3]) for generator in generators]
        else:
            plays = [policy.begin(5, generator)(features) for generator in generators]
        assert torch.equal(*plays)
        assert plays[0].dtype == torch.int64
        assert plays[0].shape == (5,)


def test_frames_are_stacked_with_those_before_the_moment(sb3_runs, folder, monkeypatch):
    """The agent sees the last frame of the history below the current one."""
    from glam_agents.sb3 import policies

    seen: list[np.ndarray] = []

    def watch(_model: Any, stack: np.ndarray, *_: Any) -> torch.Tensor:
        seen.append(stack)
        return torch.zeros(len(stack), dtype=torch.int64)

    monkeypatch.setattr(policies, "choose_actions", watch)
    trained = load_trained(str(folder / "same"), "cpu")
    (rgb,) = load_policies([f"sb3:{sb3_runs['ppo rgb']}"], trained, "cpu")
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None, None].repeat(64, 2)
    frames = frames.repeat(64, 3).repeat(3, 4)  # (5, 1, 64, 64, 3)
    history = History(frames[:3].swapaxes(0, 1), np.zeros((1, 3), np.int64))
    choose = rgb.begin(history, torch.Generator())
    choose(frames[3]), choose(frames[4])
    assert [stack[0, ::3, 0, 0].tolist() for stack in seen] == [[2, 3], [3, 4]]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("ppo:{}/same", "KIND:PATH, where KIND is one of sb3, kept, storm"),
        ("{}/same", "takes KIND:PATH"),
        ("storm:", "takes KIND:PATH"),
        ("storm:{}/nowhere", "not a checkpoint"),
        ("sb3:{}/same", "holds"),
        ("sb3:{}/stranger", "features of another world model"),
        ("sb3:{}/empty", "no model.zip yet"),
        ("storm:{}/qbert", "plays Qbert, not Pong"),
    ],
)
def test_what_cannot_be_ranked_is_refused_in_one_line(folder, sb3_runs, spec, says):
    if says.startswith("features"):
        shutil.copytree(sb3_runs["ppo latent"], folder / "stranger")
        config = folder / "stranger" / "config.json"
        config.write_text(config.read_text().replace('"world_model": "', '"world_model": "0'))
    if says.startswith("no model"):
        RunFolder(folder / "empty", RunFolder(sb3_runs["ppo latent"], kind="sb3").settings, "sb3")
    if says.startswith("plays"):
        other = Checkpoint.open(folder / "same")
        save_checkpoint(
            folder / "qbert",
            config=replace(other.config, game="Qbert"),
            world_model_state=other.world_model().export_state(),
            agent_state=other.agent_state(),
            contexts=other.contexts(),
            card="",
        )
    trained = load_trained(str(folder / "same"), "cpu")
    with pytest.raises(GlamError, match=says) as caught:
        load_policies([spec.format(folder)], trained, "cpu")
    assert "\n" not in str(caught.value)


def test_agents_without_moments_are_refused(folder, capsys):
    words = ["--ranking-agents", f"storm:{folder}/same", "--ranking-moments", "0"]
    assert main(["fidelity", str(folder / "same"), *words]) == 2
    assert "set --ranking-moments" in capsys.readouterr().err


# --- ranking -------------------------------------------------------------------------------------


@pytest.mark.emulator
def test_policies_on_frames_see_real_and_drawn_ones(folder, sb3_runs):
    """All kinds are ranked together; a policy on frames sees what its world shows."""
    trained = load_trained(str(folder / "same"), "cpu")
    seen: list[tuple[History, list[np.ndarray]]] = []

    def begin(history: History, _generator: torch.Generator) -> Any:
        seen.append((history, frames := []))

        def choose(shown: np.ndarray) -> torch.Tensor:
            frames.append(shown.copy())
            return torch.zeros(len(shown), dtype=torch.int64)

        return choose

    specs = [f"storm:{folder}/other", f"sb3:{sb3_runs['dqn latent']}"]
    policies = [FramePolicy("watch", begin), *load_policies(specs, trained, "cpu")]
    report = compare_policies(
        trained.world_model,
        trained.act(),
        policies,
        "Pong",
        moments=2,
        stride=20,
        horizons=(3,),
        futures=1,
        dreams=2,
        seed=3,
    )
    assert [policy.name for policy in report.policies] == [
        "watch",
        "storm other",
        "sb3 dqn-latent",
    ]
    (first, played), (second, _), (both, drawn) = seen
    assert first.frames.shape == (1, 16, 64, 64, 3)
    assert both.actions.shape == (4, 16)  # two dreams of each moment
    assert np.array_equal(both.frames[[0, 2]], np.concatenate([first.frames, second.frames]))
    assert [len(frames) for frames in (played, drawn)] == [3, 3]
    ahead = np.abs(played[0].astype(int) - first.frames[:, -1]).mean()
    assert 0 < ahead < 5  # the frame at the moment follows the history
    assert {tuple(frame.shape) for frame in drawn} == {(4, 64, 64, 3)}
