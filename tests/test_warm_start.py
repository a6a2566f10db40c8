"""A run that starts from the weights of the checkpoint that comes with the project."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from glam_agents.storm import AGENT_PRESETS, STORM, ActorCritic

from glam_env.checkpoint.folder import Checkpoint
from glam_env.cli.main import main
from glam_env.errors import GlamError
from glam_env.model.cores.glam import GlamConfig
from glam_env.training.config import FreezeConfig, TrainConfig
from glam_env.training.export import load_run
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer
from glam_env.training.warm_start import open_warm_start, with_own_ranges

DEBUG = replace(PRESETS["debug"], total_steps=240, replay_capacity=300)


@pytest.fixture(scope="module")
def shipped() -> Path:
    """The checkpoint that comes with the project."""
    return Path(__file__).resolve().parents[1] / "checkpoints" / "Pong"


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.emulator
@pytest.mark.parametrize("expected", [False, True])
def test_a_warm_start_has_the_weights_of_its_checkpoint(tmp_path, shipped, expected):
    """The world model with its background, and the agent, which plays the first steps.

    Expected values have ranges, which the shipped Pong has not.
    """
    checkpoint = Checkpoint.open(shipped)
    assert not checkpoint.config.world_model.expected_reward
    config = replace(
        DEBUG,
        warm_start=str(shipped),
        model=replace(checkpoint.config.world_model, expected_reward=expected),
        total_steps=240,
        image_warmup=0,
        model_warmup=0,
        freeze=FreezeConfig(),
    )
    hidden = checkpoint.config.agent["hidden"]
    run = RunFolder(tmp_path / "warm", {"train": asdict(config)})

    def agent(width: int, actions: int) -> ActorCritic:
        own = replace(AGENT_PRESETS["debug"], hidden=hidden, expected_value=expected)
        return ActorCritic(own, width, actions)

    trainer = Trainer("Pong", config, run, agent)
    assert trainer.phase.name == "first play"
    none = torch.zeros(2)
    ranges = {"reward_code.seen": none}, {"value_code.seen": none}
    weights = checkpoint.world_model().export_state(), checkpoint.agent_state()
    for part, own, stored in zip(
        (trainer.world_model, trainer.agent), ranges, weights, strict=True
    ):
        assert_same(part.export_state(), stored | (own if expected else {}))
    before = trainer.world_model.decoder.background.clone()
    while trainer.phase.name == "first play":
        trainer.advance()
    assert trainer.phase.name == "joint training"
    assert torch.equal(trainer.world_model.decoder.background, before)
    assert trainer.train()
    assert trainer.model_updates > 0
    if expected:  # it has seen rewards and returns by now
        assert (trainer.agent.value_code.seen != 0).any()
    trainer.close()


def warm(shipped: Path, **model) -> TrainConfig:
    sizes = replace(Checkpoint.open(shipped).config.world_model, **model)
    return replace(DEBUG, warm_start=str(shipped), model=sizes)


def test_a_warm_start_opens_where_all_sizes_fit(shipped):
    checkpoint = Checkpoint.open(shipped)
    # Settings that are no sizes may differ.
    config = warm(shipped, num_actions=18, unimix=0.5, draw_temperature=0.5)
    agent = {**checkpoint.config.agent, "gamma": 0.5}
    assert open_warm_start(config, "Pong", agent, STORM.sizes).path == checkpoint.path


@pytest.mark.parametrize(
    ("model", "agent", "words"),
    [
        ({"stem": 4}, {}, "has model.stem 16, this run 4"),
        ({"core": GlamConfig(local_window=5)}, {}, "has model.core.local_window 4, this run 5"),
        ({}, {"hidden": 256}, "has agent.hidden 512, this run 256"),
        ({}, {"class": "toy"}, "has agent.class storm, this run toy"),
    ],
)
def test_a_warm_start_of_other_sizes_is_refused(shipped, model, agent, words):
    own = {**Checkpoint.open(shipped).config.agent, **agent}
    with pytest.raises(GlamError, match=words) as error:
        open_warm_start(warm(shipped, **model), "Pong", own, STORM.sizes)
    assert "\n" not in str(error.value)


def test_a_warm_start_needs_a_checkpoint_of_its_game(shipped):
    with pytest.raises(GlamError, match="is of Pong; Breakout needs one of its own"):
        open_warm_start(warm(shipped), "Breakout")
    with pytest.raises(GlamError, match="no/such/folder"):
        open_warm_start(replace(DEBUG, warm_start="no/such/folder"), "Pong")


@pytest.mark.emulator
def test_a_warm_start_by_command_takes_the_sizes_of_its_checkpoint(tmp_path, capsys):
    """What the command refuses leaves no folder that would block the corrected command."""
    run = tmp_path / "run"
    words = ["train", "Pong", "--preset", "small", "--warm-start", "Pong", "--run", str(run)]
    for wrong in (["--model.width", "64"], ["--agent.hidden", "256"]):
        assert main([*words, *wrong]) == 2
        assert "they must be equal" in capsys.readouterr().err
        assert not run.exists()
    assert main([*words, "--minutes", "0.0001"]) == 0
    trained = load_run(RunFolder(run), torch.device("cpu"))
    sizes = Checkpoint.open("Pong").config.world_model
    assert (trained.config.model.stem, trained.config.model.width) == (sizes.stem, sizes.width)
    assert trained.config.batch == PRESETS["small"].batch
    assert trained.provenance.begun_from["environment_steps"] > 0


def test_ranges_are_those_of_the_run():
    weight, seen, zeros = torch.ones(1), torch.ones(2), torch.zeros(2)
    ranged, plain = {"head": weight, "code.seen": seen}, {"head": weight}
    own = {"head": torch.zeros(1), "code.seen": zeros}
    assert with_own_ranges(ranged, plain) == plain
    assert with_own_ranges(plain, own) == {"head": weight, "code.seen": zeros}
    assert with_own_ranges(ranged, own) == ranged
    assert set(with_own_ranges({"other": weight}, plain)) == {"other"}  # what loads it says so
