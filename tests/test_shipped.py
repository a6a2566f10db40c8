"""The checkpoints that are shipped: whole, as their card says, and worth dreaming in."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from glam_agents.storm import ActorCritic

import glam_env
from glam_env.checkpoint.folder import (
    Checkpoint,
    shipped_checkpoints,
)
from glam_env.envs.latent_filter import FilteredPolicy
from glam_env.evaluation.measures.open_loop import measure_fidelity
from glam_env.evaluation.play.recording import add_noise, record_play
from glam_env.evaluation.report.card import write_card
from glam_env.games import GAMES

SHIPPED = shipped_checkpoints()


def load_agent(folder) -> ActorCritic:
    config = Checkpoint.open(folder).config
    sizes = config.world_model
    state = Checkpoint.open(folder).agent_state()
    return ActorCritic.from_export(config.agent, state, sizes.feature_dim, sizes.num_actions)


def test_pong_is_shipped():
    assert "Pong" in SHIPPED


@pytest.mark.parametrize("game", SHIPPED)
def test_a_shipped_checkpoint_is_whole_and_small(game):
    folder = SHIPPED[game]
    config = Checkpoint.open(folder).config
    world_model, contexts, agent = (
        Checkpoint.open(folder).world_model(),
        Checkpoint.open(folder).contexts(),
        load_agent(folder),
    )
    assert all(p.isfinite().all() for p in [*world_model.parameters(), *agent.parameters()])
    assert contexts.count == config.contexts.count >= 1000
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert max(sizes) <= 16 << 20
    assert sum(sizes) <= 32 << 20


@pytest.mark.parametrize("game", SHIPPED)
def test_the_card_says_what_was_measured_and_nothing_else(game):
    config = Checkpoint.open(SHIPPED[game]).config
    assert (SHIPPED[game] / "CARD.md").read_text() == write_card(config)
    assert config.results["score"]["episodes"] >= 20
    assert config.results["fidelity"]["windows"] >= 100


def test_the_readme_tells_the_shipped_score():
    score = Checkpoint.open(SHIPPED["Pong"]).config.results["score"]
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert f"{score['mean']:.2f} ± {score['standard_error']:.2f}".replace("-", "−") in readme


@pytest.mark.parametrize("game", SHIPPED)
def test_gym_make_dreams(game):
    env = gym.make(f"GLAMDream-{game}-v0")
    first, _ = env.reset(seed=0)
    frames = [env.step(env.action_space.sample())[0] for _ in range(5)]
    assert first.shape == (64, 64, 3)
    assert any((frame != first).any() for frame in frames)
    env.close()


def test_a_game_without_a_checkpoint_says_how_to_make_one():
    missing = next(game for game in GAMES if game not in SHIPPED)
    with pytest.raises(glam_env.GlamError, match=f"glam train {missing}") as error:
        gym.make(f"GLAMDream-{missing}-v0")
    assert "\n" not in str(error.value)


@pytest.mark.emulator
def test_the_dream_of_pong_knows_the_game():
    """On new play: it draws what moves, and finds the points again."""
    world_model, agent = Checkpoint.open(SHIPPED["Pong"]).world_model(), load_agent(SHIPPED["Pong"])
    act = add_noise(lambda f, g: agent.act(f, generator=g), 6, (0.0, 0.5, 1.0))
    policy = FilteredPolicy(world_model, act)
    recording = record_play(policy, "Pong", steps=1500, num_envs=3, seed=77)
    report = measure_fidelity(world_model, recording, horizon=16, stride=8)
    dream, repeat, average = (
        np.array(report.images[painter].foreground_error)
        for painter in ("dream", "repeat", "average")
    )
    assert (dream < repeat).all()
    assert (dream < average).all()
    assert dream[0] < 0.3
    assert report.rewards[0].real >= 10
    assert report.rewards[0].f1 > 0.5
