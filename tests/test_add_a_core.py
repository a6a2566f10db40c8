"""The core of ``docs/add_a_core.md``: it trains, dreams, filters real play and is evaluated."""

import importlib
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import numpy as np
import pytest
import torch
from glam_agents.storm import AGENT_PRESETS, ActorCritic
from short_games import cut_games

import glam_env  # noqa: F401  (registers the ids)
from glam_env.checkpoint.config import CheckpointConfig, ContextsConfig, PlaySettings
from glam_env.checkpoint.folder import Checkpoint, save_checkpoint
from glam_env.envs.latent_filter import FilteredPolicy, LatentFilter
from glam_env.evaluation.examine import examine
from glam_env.evaluation.play.scores import evaluate_policy
from glam_env.fast.choose import make_stepper
from glam_env.fast.plain import ModelStepper
from glam_env.model.config import WorldModelConfig
from glam_env.model.cores.base import CORES, CoreKind, core_config_type
from glam_env.training.export import TrainedRun, draw_contexts, load_run
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "add_a_core.md"


@pytest.fixture(scope="module")
def average(tmp_path_factory):
    """The page's core as a module, registered by the page's line."""
    file, line, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    folder = tmp_path_factory.mktemp("core")
    (folder / "average_core.py").write_text(file, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        module = importlib.import_module("average_core")
        exec(line, {"CORES": CORES, "CoreKind": CoreKind, **vars(module)})
        yield module
        del CORES["average"], sys.modules["average_core"]


@pytest.fixture(scope="module")
def trained(average: ModuleType, tmp_path_factory) -> TrainedRun:
    """A debug run with that core, read back from its folder."""
    debug = PRESETS["debug"]
    model = replace(debug.model, core=average.AverageConfig(steps=4))
    config = replace(debug, total_steps=240, random_steps=100, replay_capacity=200, model=model)
    run = RunFolder(
        tmp_path_factory.mktemp("runs") / "Pong",
        {"game": "Pong", "preset": "debug", "train": asdict(config)},
    )

    def agent(width: int, actions: int) -> ActorCritic:
        return ActorCritic(AGENT_PRESETS["debug"], width, actions)

    trainer = Trainer("Pong", config, run, agent)
    assert trainer.train()
    trainer.close()
    return load_run(RunFolder(run.path), torch.device("cpu"))


@pytest.fixture(scope="module")
def checkpoint(trained: TrainedRun, tmp_path_factory) -> Path:
    """Its checkpoint."""
    contexts = draw_contexts(trained.world_model, trained.replay, 10, 16, seed=0)
    return save_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "Pong",
        config=CheckpointConfig(
            game="Pong",
            world_model=trained.world_model.config,
            agent={"class": "none"},
            contexts=ContextsConfig(10, 16),
            max_episode_steps=8,
            protocol=PlaySettings(),
            provenance=trained.provenance,
        ),
        world_model_state=trained.world_model.export_state(),
        agent_state={},
        contexts=contexts,
        card="",
    )


@torch.no_grad()
def test_a_pass_and_steps_agree(average: ModuleType) -> None:
    torch.manual_seed(0)
    core = average.AverageCore(16, average.AverageConfig())
    e = torch.randn(3, 12, 16)
    output, state = core(e), core.initial_state(3)
    for t in range(12):
        first = torch.full((3,), t == 0)
        h, state = core.step(e[:, t], state, first)
        torch.testing.assert_close(h, output.h[:, t])
    torch.testing.assert_close(
        core.state_at(output, torch.tensor([2, 0]), torch.tensor([11, 11])), state[[2, 0]]
    )


def test_it_learns(trained: TrainedRun, average: ModuleType) -> None:
    assert trained.config.model.core == average.AverageConfig(steps=4)  # as config.json has it
    model = trained.world_model
    assert isinstance(model.core, average.AverageCore)
    assert not any("variation" in name for name in model.state_dict())
    torch.manual_seed(trained.config.seed)
    fresh = average.AverageCore(model.core.width, average.AverageConfig(steps=4))
    assert not torch.equal(fresh.layer[0].weight, model.core.layer[0].weight)


@pytest.mark.parametrize("obs_type", ["rgb", "latent"])
def test_it_dreams(checkpoint: Path, obs_type: str) -> None:
    def play() -> list[np.ndarray]:
        envs = gym.make_vec("GLAMDream-Pong-v0", 4, checkpoint=checkpoint, obs_type=obs_type)
        seen = [envs.reset(seed=1)[0].copy()]
        for t in range(20):  # beyond the horizon of 8
            obs, reward, terminated, truncated, _ = envs.step(np.full(4, t % 6))
            seen += [obs.copy(), reward, terminated, truncated]
        envs.close()
        return seen

    first, second = play(), play()
    assert all(map(np.array_equal, first, second))
    assert all(np.isfinite(part).all() for part in first)
    assert isinstance(make_stepper(Checkpoint.open(checkpoint).world_model()), ModelStepper)


def test_config_json_names_it(checkpoint: Path, average: ModuleType) -> None:
    plain = json.loads((checkpoint / "config.json").read_text())
    assert plain["world_model"]["core"] == {"name": "average", "steps": 4}
    assert core_config_type(plain["world_model"]["core"]) is average.AverageConfig


def test_branches_of_a_moment_dream_on(checkpoint: Path) -> None:
    envs = gym.make_vec("GLAMDream-Pong-v0", 4, checkpoint=checkpoint, obs_type="latent")
    envs.reset(seed=0)
    envs.step(np.zeros(4, int))
    moment = envs.unwrapped.get_state()
    one = envs.step(np.ones(4, int))
    envs.unwrapped.set_state(moment)
    assert all(map(np.array_equal, envs.step(np.ones(4, int))[:4], one[:4]))
    envs.unwrapped.set_state(moment.rows([2] * 4))
    obs, *_ = envs.step(np.ones(4, int))
    width = obs.shape[1] - 16
    assert all(np.array_equal(row[width:], obs[0, width:]) for row in obs)  # h of one moment
    envs.close()


def test_the_filter_starts_again_where_an_episode_starts(trained: TrainedRun) -> None:
    frames = torch.randint(256, (2, 3, 64, 64, 3), dtype=torch.uint8)
    one, both = (LatentFilter(trained.world_model, n, torch.Generator()) for n in (1, 2))
    one.see(frames[:1, 2], np.array([True]))
    one.act(torch.tensor([4]))
    for t in range(3):
        both.see(frames[:, t], np.array([t in (0, 2), t == 0]))
        both.state = both.state._replace(code=both.state.code.index_fill(0, torch.tensor(0), 1))
        both.act(torch.tensor([4, 4]))
    one.see(frames[:1, 2], np.array([True]))
    one.state = one.state._replace(code=torch.ones_like(one.state.code))
    one.act(torch.tensor([4]))
    torch.testing.assert_close(both.state.h[:1], one.state.h)
    assert not torch.equal(both.state.h[1], both.state.h[0])
    memory = both.memory()
    again = LatentFilter(trained.world_model, 2)
    again.load_memory(memory)
    torch.testing.assert_close(again.state, both.state)


def act(features: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(6, (len(features),), generator=generator)


def test_it_is_evaluated(trained: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_games(monkeypatch)
    report, _ = examine(
        trained.world_model,
        act,
        "Pong",
        steps=400,
        behavior_steps=400,
        branch_steps=0,
        ranking_moments=0,
        ceiling_moments=0,
        horizon=8,
        dream_horizon=8,
    )
    assert len(report.as_json()["images"]["dream"]["psnr"]) == 8
    score = evaluate_policy(FilteredPolicy(trained.world_model, act), "Pong", episodes=1, seed=0)
    assert -21.0 <= score.mean <= 21.0


def test_unknown_names_and_sizes_are_refused(average: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"one of glam, .*, average; got 'lstm'"):
        core_config_type({"name": "lstm"})
    with pytest.raises(ValueError, match="one of glam"):
        core_config_type({})
    wrong = replace(average.AverageConfig(), name="glam")
    with pytest.raises(ValueError, match="AverageConfig is not for that core"):
        WorldModelConfig(num_actions=6, core=wrong).validate()
    with pytest.raises(ValueError, match=r"core\.steps must be at least 1, got 0"):
        WorldModelConfig(num_actions=6, core=average.AverageConfig(steps=0)).validate()
