"""An agent that starts again from new weights at given shares of a run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from debug_runs import make_trainer
from same_runs import assert_same_runs

from glam_env.errors import GlamError
from glam_env.training.extension import extend, store_extension
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

pytestmark = pytest.mark.emulator

RESET = replace(
    PRESETS["debug"],
    total_steps=280,
    random_steps=100,
    replay_capacity=200,
    agent_resets=(0.8,),
)
AT = 224  # 0.8 of the steps


def make(path: Path, config=RESET) -> Trainer:
    return make_trainer(path, config)


def last_layer(trainer: Trainer) -> torch.Tensor:
    """Return the critic's last weights, which are zero in an agent that has learned nothing."""
    return list(trainer.agent.critic.parameters())[-2]


def advance_to_steps(trainer: Trainer, steps: int) -> None:
    while trainer.env_steps < steps:
        trainer.advance()


def test_the_agent_has_new_weights_and_a_new_optimizer_at_the_given_share(tmp_path):
    trainer = make(tmp_path / "run")
    advance_to_steps(trainer, AT - 2)
    first, actor = trainer.agent, trainer.agent.actor.state_dict()
    before = trainer.agent_updates
    assert before > 0
    assert last_layer(trainer).abs().max() > 0.0
    world_model = {k: v.clone() for k, v in trainer.world_model.state_dict().items()}
    advance_to_steps(trainer, AT)
    assert trainer.env_steps == AT
    assert trainer.agent is not first
    assert last_layer(trainer).abs().max() == 0.0
    new = trainer.agent.actor.state_dict()
    assert not torch.equal(new["layers.0.weight"], actor["layers.0.weight"])
    assert trainer.agent.return_range.isnan().all()
    assert not trainer.agent.optimizer.state
    unchanged = trainer.world_model.state_dict()
    assert all(torch.equal(unchanged[name], value) for name, value in world_model.items())
    assert trainer.train()
    assert trainer.agent_updates > before
    assert last_layer(trainer).abs().max() > 0.0
    trainer.close()


def test_a_run_resumed_around_a_reset_equals_one_that_never_stopped(tmp_path):
    whole = make(tmp_path / "whole")
    assert whole.train()
    whole.close()
    for steps in (AT - 2, AT, RESET.total_steps):
        trainer = make(tmp_path / "parts")
        trainer.train(stop=lambda trainer=trainer, steps=steps: trainer.env_steps >= steps)
        trainer.close()
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


def test_more_steps_do_not_repeat_a_reset(tmp_path):
    trainer = make(tmp_path / "run")
    assert trainer.train()
    trainer.close()
    longer = extend(RESET, 400)
    assert longer.reset_at[0] > RESET.total_steps
    run = RunFolder(tmp_path / "run")
    store_extension(run, 400, at=280)
    trainer = make(tmp_path / "run", longer)
    agent = trainer.agent
    assert trainer.train()
    assert trainer.agent is agent
    trainer.close()


@pytest.mark.parametrize(
    ("shares", "match"),
    [
        ((1.0,), "must be below 1"),
        ((0.5, 0.2), "ascending shares"),
        ((0.5, 0.5), "ascending shares"),
        ((-0.1,), "ascending shares"),
        ((float("nan"),), "ascending shares"),
        (tuple(i / 200 for i in range(101)), "100 at most"),
    ],
)
def test_impossible_resets_are_refused(shares, match):
    with pytest.raises(GlamError, match=match):
        replace(RESET, agent_resets=shares).validate()
