"""Every sequence core but ``glam``, which all other tests use: it trains, resumes and dreams."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from glam_agents.storm import AGENT_PRESETS, ActorCritic
from same_runs import assert_same_runs

import glam_env  # noqa: F401  (registers the ids)
from glam_env.checkpoint.config import CheckpointConfig, ContextsConfig, PlaySettings
from glam_env.checkpoint.folder import Checkpoint, save_checkpoint
from glam_env.cli.info import _checkpoint
from glam_env.cli.main import read_command
from glam_env.envs.latent_filter import LatentFilter
from glam_env.errors import GlamError
from glam_env.evaluation.report.card import write_card
from glam_env.fast.choose import make_stepper
from glam_env.fast.plain import ModelStepper
from glam_env.model.cores.base import CORES
from glam_env.training.config import TrainConfig
from glam_env.training.export import draw_contexts, load_run
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

OTHERS = [name for name in CORES if name != "glam"]
SHORT = {"total_steps": 120, "random_steps": 60, "checkpoint_every": 20, "log_every": 1}


def config_of(name: str) -> TrainConfig:
    """Settings as the command line reads them, of a run of a few updates."""
    words = ["train", "Pong", "--preset=debug", f"--model.core.name={name}"]
    config = read_command(words).train
    assert type(config.model.core) is CORES[name].config
    return replace(config, **SHORT)


def trainer_of(run: RunFolder, config: TrainConfig) -> Trainer:
    def agent(width: int, actions: int) -> ActorCritic:
        return ActorCritic(AGENT_PRESETS["debug"], width, actions)

    return Trainer("Pong", config, run, agent)


@pytest.fixture(scope="module", params=OTHERS)
def trained(request: pytest.FixtureRequest, tmp_path_factory) -> SimpleNamespace:
    """Train, stop half-way and resume; then save a checkpoint."""
    name, config = request.param, config_of(request.param)
    folder = tmp_path_factory.mktemp(name)
    settings = {"game": "Pong", "preset": "debug", "train": asdict(config)}
    first = trainer_of(RunFolder(folder / "run", settings), config)
    assert not first.train(lambda: first.env_steps >= 90)
    first.close()
    second = trainer_of(RunFolder(folder / "run"), config)
    assert second.env_steps == 90
    assert second.train()
    second.close()
    run = load_run(RunFolder(folder / "run"), torch.device("cpu"))
    state = run.world_model.export_state()
    state["termination.layers.6.bias"] = torch.full((1,), -99.0)  # no dream ends by itself
    saved = save_checkpoint(
        folder / "Pong",
        config=CheckpointConfig(
            game="Pong",
            world_model=run.world_model.config,
            agent={"class": "none"},
            contexts=ContextsConfig(6, 16),
            max_episode_steps=100,
            protocol=PlaySettings(),
            provenance=run.provenance,
            reward_values=(-1.0, 0.0, 1.0),
        ),
        world_model_state=state,
        agent_state={},
        contexts=draw_contexts(run.world_model, run.replay, 6, 16, seed=0),
        card="",
    )
    return SimpleNamespace(
        name=name, config=config, settings=settings, run=run, path=saved, folder=folder
    )


@pytest.mark.emulator
def test_a_resumed_run_has_the_bits_of_one_that_was_never_stopped(trained) -> None:
    if trained.name not in ("local", "transformer"):
        pytest.skip("the others are made of the same parts")
    whole = trainer_of(RunFolder(trained.folder / "whole", trained.settings), trained.config)
    assert whole.train()
    whole.close()
    assert_same_runs(trained.folder / "run", trained.folder / "whole")


@pytest.mark.emulator
def test_the_core_has_learned(trained) -> None:
    model = trained.run.world_model
    assert type(model.core) is CORES[trained.name].core
    assert ("variation.weight" in model.state_dict()) == (trained.name == "global")
    torch.manual_seed(trained.config.seed)
    fresh = CORES[trained.name].core(model.config.width, model.config.core).state_dict()
    changed = [not torch.equal(fresh[key], value) for key, value in model.core.state_dict().items()]
    assert sum(changed) > len(changed) / 2


@pytest.mark.emulator
def test_it_dreams_alike_alone_from_snapshots_and_again(trained) -> None:
    options = {"checkpoint": trained.path, "obs_type": "latent"}
    envs = gym.make_vec("GLAMDream-Pong-v0", 4, **options)

    def play(steps: int) -> list[np.ndarray]:
        return [envs.step(np.full(4, t % 6))[0].copy() for t in range(steps)]

    begun = envs.reset(seed=1)[0].copy()
    early = play(70)  # the dreams leave every window that the contexts filled
    moment = envs.unwrapped.get_state()
    late = play(20)
    envs.unwrapped.set_state(moment)
    assert all(map(np.array_equal, play(20), late))
    assert np.array_equal(envs.reset(seed=1)[0], begun)
    assert all(map(np.array_equal, play(70), early))
    envs.unwrapped.set_state(moment.rows([2] * 4))
    h = play(1)[0][:, -trained.config.model.width :]
    assert np.isfinite(h).all()
    assert np.allclose(h, h[0], atol=1e-6)  # of one moment
    assert (early[-1][0] != early[-2][0]).any()
    envs.close()
    single = gym.make("GLAMDream-Pong-v0", checkpoint=trained.path, render_mode="rgb_array")
    single.reset(seed=0)
    frame = single.step(2)[0]
    assert frame.shape == (64, 64, 3)
    single.close()


@pytest.mark.emulator
def test_the_engine_is_pytorch_and_info_and_card_name_the_core(trained) -> None:
    model = Checkpoint.open(trained.path).world_model()
    assert isinstance(make_stepper(model), ModelStepper)
    with pytest.raises(GlamError, match="native"):
        make_stepper(model, backend="native")
    card = write_card(Checkpoint.open(trained.path).config)
    assert f"| sequence core | `{trained.name}` |" in card
    _, _, facts = _checkpoint(str(trained.path))
    assert facts["dreams on a CPU"] == f"PyTorch (the core '{trained.name}' has no C++ steps)"


@pytest.mark.emulator
@torch.no_grad()
def test_the_filter_follows_the_game_as_the_parallel_pass_does(trained) -> None:
    model = Checkpoint.open(trained.path).world_model()
    frames = torch.randint(256, (40, 2, 64, 64, 3), dtype=torch.uint8)
    actions = torch.randint(6, (40, 2))
    latents = LatentFilter(model, 2, torch.Generator())
    codes, h = [], []
    for t in range(40):
        latents.see(frames[t], np.array([t == 0, t in (0, 20)]))
        codes.append(latents.state.code)
        latents.act(actions[t])
        h.append(latents.state.h)
        if t == 25:  # as a run does that is stopped and resumed
            memory = latents.memory()
            latents = LatentFilter(model, 2, latents.generator)
            latents.load_memory(memory)
            latents._first[:] = False
    e = model.embed_codes(torch.stack(codes, 1), actions.T)
    for row, begin in ((0, 0), (1, 20)):
        alone = model.core(e[row : row + 1, begin:]).h[0]
        own = torch.stack(h)[begin + model.core.context - 1 :, row]
        torch.testing.assert_close(own, alone, atol=1e-4, rtol=0.0)


def test_each_core_has_a_preset_of_small_size() -> None:
    cores = {preset.model.core.name for key, preset in PRESETS.items() if key.startswith("small")}
    assert cores == set(CORES)
    storm = PRESETS["paper-storm"].model
    assert (storm.width, storm.core.depth, storm.core.heads, storm.core.dropout) == (512, 2, 8, 0.1)
    command = read_command(["train", "Pong", "--preset", "small-local"])
    assert command.agent == AGENT_PRESETS["small"]
    kept = ["train", "Pong", "--preset=small-local", "--model.core.name=local"]
    assert read_command(kept).train == command.train
    with pytest.raises(GlamError, match=r"model\.core\.name must be .*; got 'lstm'"):
        read_command(["train", "Pong", "--model.core.name", "lstm"])
