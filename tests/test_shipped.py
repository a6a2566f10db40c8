"""The shipped checkpoints: complete, as their card says, and faithful to the game."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from glam_agents import load_agent as build_agent

import glam_env
from glam_env.checkpoint.folder import Checkpoint, shipped_checkpoints
from glam_env.envs.latent_filter import FilteredPolicy
from glam_env.evaluation.measures.base import Settings, Subject
from glam_env.evaluation.measures.events import EventReport
from glam_env.evaluation.measures.images import FOREGROUND, ImageReport
from glam_env.evaluation.play.recording import add_noise, record_play
from glam_env.evaluation.report.card import write_card
from glam_env.games import GAMES
from glam_env.protocols import PROTOCOLS

SHIPPED = shipped_checkpoints()


def load_agent(checkpoint: Checkpoint) -> Any:
    sizes = checkpoint.config.world_model
    state = checkpoint.agent_state()
    return build_agent(checkpoint.config.agent, state, sizes.feature_dim, sizes.num_actions)


def test_pong_is_shipped():
    assert "Pong" in SHIPPED


@pytest.mark.parametrize("game", SHIPPED)
def test_a_shipped_checkpoint_is_whole_and_small(game):
    folder = SHIPPED[game]
    checkpoint = Checkpoint.open(folder)
    world_model, contexts, agent = (
        checkpoint.world_model(),
        checkpoint.contexts(),
        load_agent(checkpoint),
    )
    config = checkpoint.config
    assert all(p.isfinite().all() for p in [*world_model.parameters(), *agent.parameters()])
    assert contexts.count == config.contexts.count >= 1000
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors*")]
    assert sum(sizes) <= 6 << 20


@pytest.mark.parametrize("game", SHIPPED)
def test_the_card_says_what_was_measured_and_nothing_else(game):
    config = Checkpoint.open(SHIPPED[game]).config
    assert (SHIPPED[game] / "CARD.md").read_text() == write_card(config)
    scores = config.results["scores"]
    named = [score["protocol"] for score in scores if score["protocol"]]
    assert named == list(PROTOCOLS)  # and that of its training, where it is neither
    assert all(score["episodes"] >= 20 for score in scores)
    assert config.results["fidelity"]["windows"] >= 100


def test_the_readme_has_the_shipped_scores():
    """Each beside its protocol and the real steps that the model has seen."""
    config = Checkpoint.open(SHIPPED["Pong"]).config
    readme = (Path(__file__).parents[1] / "README.md").read_text().replace("*", "")
    steps = f"{config.provenance.real_steps:,}"
    for score in config.results["scores"]:
        cells = f"{score['mean']:.2f} ± {score['standard_error']:.2f}", steps, score["protocol"]
        assert f"| {' | '.join(cells)} |".replace("-", "−") in readme


@pytest.mark.parametrize("game", SHIPPED)
def test_gym_make_dreams(game):
    env = gym.make(f"GLAMDream-{game}-v0")
    first, _ = env.reset(seed=0)
    frames = [env.step(env.action_space.sample())[0] for _ in range(5)]
    assert first.shape == (64, 64, 3)
    assert any((frame != first).any() for frame in frames)
    env.close()


@pytest.mark.parametrize("game", SHIPPED)
@pytest.mark.parametrize("obs", ["rgb", "latent"])
def test_dreams_of_a_shipped_game_take_200_steps(game, obs):
    """64 dreams; drawn are 16 of those of other games than Pong, as drawing takes most time."""
    count = 16 if obs == "rgb" and game != "Pong" else 64
    env = gym.make_vec(f"GLAMDream-{game}-v0", num_envs=count, obs_type=obs)
    first, _ = env.reset(seed=0)
    env.action_space.seed(0)
    total, ended = np.zeros(count), np.zeros(count, int)
    for _ in range(200):
        seen, rewards, terminated, truncated, _ = env.step(env.action_space.sample())
        assert np.isfinite(rewards).all()
        total += rewards
        ended += terminated | truncated
    assert seen in env.observation_space
    assert (seen != first).reshape(count, -1).any(-1).all()  # no dream is stuck
    assert (ended >= 1).all()  # the horizon is shorter
    if obs == "latent":  # a few short dreams of a game may all go without a reward
        assert len(np.unique(total)) > 1
    env.close()


@pytest.mark.parametrize("game", SHIPPED)
def test_the_first_ten_contexts_are_dreamt_as_well_as_the_card_says(game):
    """Four steps ahead, against the frames of their own latents."""
    checkpoint = Checkpoint.open(SHIPPED[game])
    world_model, contexts = checkpoint.world_model(), checkpoint.contexts()
    codes, actions = contexts.codes[:10].long(), contexts.actions[:10].long()
    ahead, known = 4, contexts.length - 4
    background = world_model.decoder.background
    real = world_model.decode(codes[:, -1])
    shown = ((real - background).abs().amax(-1, keepdim=True) > FOREGROUND).float()

    def error(rows: torch.Tensor) -> float:
        """Foreground error when row i follows the moment of context ``rows[i]``."""
        state = world_model.warm_up(codes[rows, : known + 1], actions[rows, :known])
        generator = torch.Generator().manual_seed(0)
        for t in range(known, contexts.length):
            state = world_model.step(state, actions[rows, t], generator=generator).state
        drawn = world_model.decode(state.code)
        squares = shown * (drawn - real).square(), shown * (background - real).square()
        return float(squares[0].sum() / squares[1].sum())

    card = checkpoint.config.results["fidelity"]["images"]["dream"]["foreground_error"]
    assert error(torch.arange(10)) <= 1.5 * card[ahead - 1] + 0.02
    assert error(torch.arange(10).roll(1)) > 1.5 * card[ahead - 1] + 0.02  # other contexts


def test_a_game_without_a_checkpoint_says_how_to_make_one():
    missing = next(game for game in GAMES if game not in SHIPPED)
    with pytest.raises(glam_env.GlamError, match=f"glam train {missing}") as error:
        gym.make(f"GLAMDream-{missing}-v0")
    assert "\n" not in str(error.value)


@pytest.mark.emulator
def test_the_dream_of_pong_knows_the_game():
    """On new play it draws what moves, and predicts the points."""
    checkpoint = Checkpoint.open("Pong")
    world_model, agent = checkpoint.world_model(), load_agent(checkpoint)
    act = add_noise(lambda f, g: agent.act(f, generator=g), 6, (0.0, 0.5, 1.0))
    policy = FilteredPolicy(world_model, act)
    recording = record_play(policy, "Pong", steps=1500, num_envs=3, seed=77)
    settings = Settings(horizon=16, stride=8)
    pong = Subject(world_model, act, "Pong", settings, recording=recording, players={})
    report, images = EventReport.measure(pong), ImageReport.measure(pong).images
    dream, repeat, average = (
        np.array(images[name].foreground_error) for name in ("dream", "repeat", "average")
    )
    assert (dream < repeat).all()
    assert (dream < average).all()
    assert dream[0] < 0.3
    rewards = report.rewards[0]
    assert rewards.real >= 10
    assert rewards.f1 > 0.5
