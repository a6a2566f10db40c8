"""context="window": each step is the parallel pass over just the last 16 steps."""

from dataclasses import asdict, replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from glam_agents.storm import AGENT_PRESETS, ActorCritic

import glam_env  # noqa: F401  (registers the ids)
from glam_env.envs.dream.engine import DreamEngine
from glam_env.envs.dream.options import DreamOptions
from glam_env.envs.latent_filter import LatentFilter
from glam_env.errors import GlamError
from glam_env.model.config import LossConfig, WorldModelConfig
from glam_env.model.cores.base import CORES
from glam_env.model.cores.glam import GlamConfig
from glam_env.model.cores.window import WINDOW_STEPS, WindowCore
from glam_env.model.structures import LatentBatch, tree_tensors
from glam_env.model.world_model import WorldModel
from glam_env.training.imagination import imagine
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

CLOSE = {"atol": 1e-4, "rtol": 0.0}


def make_model(name: str = "glam") -> WorldModel:
    torch.manual_seed(5)
    core = CORES[name].config()
    model = WorldModel(WorldModelConfig(6, stem=4, categoricals=4, classes=4, width=16, core=core))
    for key, parameter in model.core.named_parameters():  # Mambas that remember
        if key.endswith(("A_log", "dt_proj.bias")):
            parameter.data += -4.0 if key.endswith("A_log") else 2.0
    return model


@pytest.mark.parametrize("name", CORES)
@torch.no_grad()
def test_a_step_is_the_pass_over_the_last_steps(name: str) -> None:
    core = make_model(name).core.eval()
    window, e = WindowCore(core, 16), torch.randn(3, 60, 16)
    first = torch.zeros(3, 60, dtype=torch.bool)
    first[:, 0] = True
    first[1, [2, 30, 50]] = True
    state, whole = window.initial_state(3), window(e)
    carried, differs = core.initial_state(3), False
    for t in range(60):
        h, state = window.step(e[:, t], state, first[:, t])
        plain, carried = core.step(e[:, t], carried, first[:, t])
        for row in range(3):
            start = max(int(first[row, : t + 1].nonzero().max()), t - WINDOW_STEPS + 1)
            seen = e[row : row + 1, start : t + 1]
            # A sequence that has just begun has no parallel pass: the core's own steps run it.
            right = core(seen).h[0, -1] if seen.shape[1] >= core.context else plain[row]
            torch.testing.assert_close(h[row], right, **CLOSE)
            differs |= not torch.allclose(h[row], plain[row], atol=1e-3)
        if t >= core.context - 1:
            torch.testing.assert_close(whole.h[0, t - core.context + 1], h[0], **CLOSE)
    assert differs == (name != "local")  # it sees no more than four steps anyway
    rows, positions = torch.tensor([0, 2, 0]), torch.tensor([59, 59, 20])
    own = window.state_at(whole, rows, positions)
    torch.testing.assert_close(own.features[:2], state.features[[0, 2]])
    torch.testing.assert_close(window.read(own), whole.h[rows, positions - core.context + 1])


@torch.no_grad()
def test_the_model_dreams_and_starts_dreams_in_its_window() -> None:
    model = make_model("transformer")  # in training mode: its window has no dropout all the same
    other = model.windowed()
    assert other.recomputes
    assert not model.recomputes
    assert [*other.state_dict()] == [*model.state_dict()]
    batch = LatentBatch(
        torch.randn(2, 40, 4, 4).log_softmax(-1),
        torch.randn(2, 40, 16),
        torch.randint(6, (2, 40)),
        torch.zeros(2, 40),
        torch.zeros(2, 40, dtype=torch.bool),
        torch.ones(2, 40, dtype=torch.bool),
    )
    _, _, posterior = model.latent_loss(batch, LossConfig())
    rows, positions = torch.tensor([0, 1, 1]), torch.tensor([16, 39, 5])
    start = other.dream_starts(posterior, rows, positions)
    model.eval()
    e = model.embed_codes(posterior.codes, batch.actions)
    for i, (row, t) in enumerate(zip(rows.tolist(), positions.tolist(), strict=True)):
        right = model.core(e[row : row + 1, max(0, t - 16) : t]).h[0, -1]
        torch.testing.assert_close(start.h[i], right, **CLOSE)
    actions = torch.tensor([1, 2, 3])
    step = other.step(start, actions, temperature=0.0)
    seen = torch.cat([e[1, 24:39], model.embed_codes(start.code, actions)[1:2]])
    torch.testing.assert_close(step.state.h[1], model.core(seen[None]).h[0, -1], **CLOSE)


@torch.no_grad()
def test_imagination_recomputes(make_world_model) -> None:
    model, agent = make_world_model(), ActorCritic(AGENT_PRESETS["debug"], 32, 6)
    codes, actions = torch.randint(4, (2, 17, 4)), torch.randint(6, (2, 16))
    other = model.windowed()
    rollout = imagine(other, agent, other.warm_up(codes, actions), 30)
    assert rollout.codes is not None
    e = model.embed_codes(
        torch.cat([codes[:, :16], rollout.codes[:-1].transpose(0, 1)], 1),
        torch.cat([actions, rollout.actions.T], 1),
    )
    for t in range(31):
        right = model.core(e[:, t : t + 16]).h[:, -1]
        torch.testing.assert_close(rollout.features[t, :, 16:], right, **CLOSE)


@torch.no_grad()
def test_an_engine_s_dreams_are_those_of_the_window(make_world_model, make_contexts) -> None:
    model, contexts = make_world_model(-99.0), make_contexts()
    options = DreamOptions(context="window", max_episode_steps=99, obs_type="latent")
    engine = DreamEngine(model, contexts, 2, options)
    assert not model.recomputes  # it is the caller's
    index = engine.reset(seed=2)
    e = model.embed_codes(contexts.codes[index, :16].long(), contexts.actions[index].long())
    for t in range(40):
        actions = torch.tensor([t % 6, (t + 1) % 6])
        e = torch.cat([e, model.embed_codes(engine.state.code, actions)[:, None]], 1)
        engine.step(actions)
        right = model.core(e[:, -16:]).h[:, -1]
        torch.testing.assert_close(engine.observe()[:, 16:], right, **CLOSE)


@torch.no_grad()
def test_the_filter_recomputes(make_world_model) -> None:
    model = make_world_model()
    latents = LatentFilter(model.windowed(), 1, torch.Generator())
    codes, actions = [], torch.randint(6, (40,))
    for t in range(40):
        latents.see(torch.randint(256, (1, 64, 64, 3), dtype=torch.uint8), np.array([t == 0]))
        codes.append(latents.state.code)
        latents.act(actions[t : t + 1])
    e = model.embed_codes(torch.cat(codes)[None], actions[None])
    torch.testing.assert_close(latents.state.h, model.core(e[:, -16:]).h[:, -1], **CLOSE)
    again = LatentFilter(model.windowed(), 1)
    again.load_memory(latents.memory())
    assert all(map(torch.equal, tree_tensors(again.state), tree_tensors(latents.state)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": "short"}, "context must be"),
        ({"context": "window", "backend": "native"}, "with a window take 'torch'"),
    ],
)
def test_what_cannot_be_is_refused(endless_checkpoint, options: dict, message: str) -> None:
    with pytest.raises(GlamError, match=message):
        gym.make("GLAMDream-Pong-v0", checkpoint=endless_checkpoint, **options)


def test_a_core_of_a_longer_window_is_refused() -> None:
    core = GlamConfig(local_window=17)
    config = replace(PRESETS["debug"], context=18, length=24, dream_context="window")
    with pytest.raises(GlamError, match="fewer than the 17 that the core needs"):
        replace(config, model=replace(config.model, core=core)).validate()
    with pytest.raises(GlamError, match="dream_context must be recurrent or window"):
        replace(config, dream_context="none").validate()
    with pytest.raises(ValueError, match="a window of 16 is too short"):
        WorldModel(WorldModelConfig(6, width=16, core=core)).windowed()


@pytest.mark.emulator
def test_a_run_trains_in_windows_and_resumes(tmp_path) -> None:
    """Its image model is frozen on the way: the filter must not set it to training mode."""
    config = replace(
        PRESETS["debug"],
        dream_context="window",
        total_steps=240,
        random_steps=200,
        checkpoint_every=20,
        freeze=replace(PRESETS["debug"].freeze, at=(0.9,)),
    )
    run = RunFolder(tmp_path / "run", {"train": asdict(config)})

    def open_run(run: RunFolder) -> Trainer:
        return Trainer("Pong", config, run, lambda f, a: ActorCritic(AGENT_PRESETS["debug"], f, a))

    first = open_run(run)
    first.train(lambda: first.env_steps >= 220)
    assert isinstance(first.world_model.memory, WindowCore)
    first.close()
    second = open_run(RunFolder(tmp_path / "run"))
    assert [part.shape[0] for part in tree_tensors(second.collector.filter.state.core)] == [2, 2]
    assert second.train()
    assert second.agent_updates > first.agent_updates > 0
    assert not second.world_model.encoder.training
    second.close()
