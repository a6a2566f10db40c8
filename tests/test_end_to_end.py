"""Image and sequence model that learn together before the images are frozen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from debug_runs import make_trainer
from same_runs import assert_same_runs
from tiny_checkpoint import TINY

from glam_env.model.config import LossConfig
from glam_env.model.structures import SequenceBatch
from glam_env.model.world_model import WorldModel
from glam_env.training.config import FreezeConfig
from glam_env.training.phases import count_freezes, schedule
from glam_env.training.presets import PRESETS
from glam_env.training.trainer import Trainer

DEBUG = replace(
    PRESETS["debug"],
    total_steps=220,
    random_steps=100,
    replay_capacity=200,
    model_warmup=0,
    decay_from=1.0,
    freeze=replace(
        PRESETS["debug"].freeze,
        at=(0.0, 0.9),
        end_to_end=4,
        representation=0.7,
        foreground_weight=9.0,
        decay_from=0.5,
    ),
)
PHASE = "end-to-end training"


def make(path: Path, config=DEBUG) -> Trainer:
    return make_trainer(path, config)


def test_schedule():
    """The first freeze gives it a prior that has learned; a later one has such a prior already."""
    freeze = FreezeConfig(at=(0.0, 0.9), finetune=3, adapt=4, end_to_end=5)
    phases = schedule(replace(DEBUG, freeze=freeze))
    assert [(phase.name, phase.total) for phase in phases[2:]] == [
        ("image fine-tuning", 3),
        ("adaptation", 4),
        (PHASE, 5),
        ("adaptation", 4),
        ("joint training", 198),
        (PHASE, 5),
        ("adaptation", 4),
        ("joint training", 220),
    ]
    assert count_freezes(phases) == 3


@pytest.mark.emulator
def test_images_and_sequence_model_learn_and_images_are_frozen_after_it(tmp_path, monkeypatch):
    trainer = make(tmp_path / "run")
    model, calls = trainer.world_model, []
    update = trainer.learner.update_model

    def watch(batch, rate, loss_config):
        calls.append((trainer.phase.name, type(batch), rate, loss_config))
        return update(batch, rate, loss_config)

    def weights() -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in model.state_dict().items()}

    def changed(before: dict[str, torch.Tensor]) -> set[str]:
        return {
            name.split(".")[0]
            for name, value in model.named_parameters()
            if not torch.equal(value, before[name])
        }

    monkeypatch.setattr(trainer.learner, "update_model", watch)
    while trainer.phase.name != PHASE:
        trainer.advance()
    before, store = weights(), trainer.latents
    while trainer.phase.name == PHASE:
        trainer.advance()
    assert {"encoder", "decoder", "core", "prior", "reward"} <= changed(before)
    assert trainer.latents is not None
    assert trainer.latents is not store
    frozen = weights()
    while trainer.phase.name == "adaptation":
        trainer.advance()
    assert changed(frozen).isdisjoint({"encoder", "decoder"})
    assert "core" in changed(frozen)

    together = [call for call in calls if call[0] == PHASE]
    assert len(together) == DEBUG.freeze.end_to_end
    assert {kind for _, kind, *_ in together} == {SequenceBatch}
    rates = [rate for *_, rate, _ in together]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 5.5e-4])  # to 1e-4 over the second half
    names = ["margin", "margin_weight", "foreground_weight", "representation"]
    own = {name: getattr(DEBUG.freeze, name) for name in names}
    expected = replace(DEBUG.loss, diversity=0.0, **own)
    assert {used for *_, used in together} == {expected}
    assert {used for name, *_, used in calls if name == "adaptation"} == {DEBUG.loss}
    trainer.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Train a run that was never stopped."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    trainer = make(path)
    assert trainer.train()
    trainer.close()
    return path


@pytest.mark.emulator
@pytest.mark.parametrize("freezes", [1, 2])
def test_a_run_resumed_in_the_middle_of_it_is_the_same(whole, tmp_path, freezes):
    """After the fine-tuning, and after the first time that both learned together."""
    trainer = make(tmp_path / "parts")
    phases = trainer.phases
    while trainer.phase.name != PHASE or count_freezes(phases[: trainer.phase_index]) < freezes:
        trainer.advance()
    trainer.advance()
    assert trainer.phase_updates == 1
    trainer.save()
    trainer.close()
    resumed = make(tmp_path / "parts")
    assert (resumed.phase.name, resumed.phase_updates) == (PHASE, 1)
    assert resumed.train()
    resumed.close()
    assert_same_runs(tmp_path / "parts", whole)


@pytest.mark.parametrize("sharp", [False, True])
def test_representation_loss_makes_the_latents_what_the_prior_says(sharp):
    """Its gradient alone, with that of all other losses taken away."""
    torch.manual_seed(0)
    model = WorldModel(replace(TINY, sharp_prior=sharp, draw_temperature=0.5))
    images = torch.randint(256, (2, 12, 64, 64, 3), dtype=torch.uint8)
    actions = torch.randint(6, (2, 12))
    none, valid = torch.zeros(2, 12), torch.ones(2, 12, dtype=torch.bool)
    batch = SequenceBatch(images, actions, none, none.bool(), valid)
    weights = LossConfig(representation=100.0, dynamics=0.0, variation=0.0, free_nats=0.0)
    weights = replace(weights, latent_gradient=0.0)
    rate = torch.optim.Adam(model.encoder.parameters(), lr=1e-2)

    def distance() -> float:
        """Mean KL of the posterior that the prior learns to the model's marginal latent."""
        with torch.no_grad():
            log_probs = model.prior_target(model.posterior(images)).flatten(0, 1)
        mean = log_probs.exp().mean(0).log()
        return float(F.kl_div(mean.expand_as(log_probs), log_probs, log_target=True,
                              reduction="batchmean"))  # fmt: skip

    with torch.no_grad():  # latents that differ from frame to frame, which the prior cannot know
        for parameter in model.encoder.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.2)
    before = distance()
    for update in range(60):
        losses = []
        for used in (weights, replace(weights, representation=0.0)):
            torch.manual_seed(update)
            losses.append(model.loss(batch, used)[0])
        rate.zero_grad()
        (losses[0] - losses[1]).backward()
        rate.step()
    assert distance() < 0.5 * before
