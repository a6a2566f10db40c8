"""Training on stored latents: what is stored, what learns from it, and what is frozen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from glam_env.errors import GlamError
from glam_env.model.config import LossConfig
from glam_env.model.distributions import categorical_kl, sample_codes
from glam_env.model.structures import LatentBatch, SequenceBatch
from glam_env.model.world_model import WorldModel
from glam_env.training.config import FreezeConfig
from glam_env.training.latent_store import LatentStore
from glam_env.training.presets import PRESETS
from glam_env.training.replay import Replay

STREAMS, CAPACITY, SPARE = 2, 40, 10


@pytest.fixture
def frozen(make_world_model):
    model = make_world_model()
    model.requires_grad_(True).train()
    model.freeze_images()
    return model


@pytest.fixture
def replay(tmp_path) -> Replay:
    return Replay(tmp_path, STREAMS, CAPACITY, SPARE)


def play(replay: Replay, steps: int, rng: np.random.Generator) -> None:
    nothing = np.zeros(STREAMS, bool)
    for _ in range(steps):
        images = rng.integers(256, size=(STREAMS, 64, 64, 3), dtype=np.uint8)
        actions, rewards = rng.integers(6, size=STREAMS), rng.normal(size=STREAMS)
        replay.add(images, actions, rewards.astype(np.float32), nothing, nothing, nothing)


def test_samples_are_the_latents_of_the_same_frames(replay, frozen):
    """While the ring fills, past its seam, and after more frames than it holds were missed."""
    rng = np.random.default_rng(0)
    store = LatentStore(replay, frozen)
    for steps in (20, 15, 40, 120):
        play(replay, steps, rng)
        store.catch_up()
        latents = store.sample(6, 9, np.random.default_rng(steps))
        frames = replay.sample(6, 9, np.random.default_rng(steps))
        log_probs, projected = frozen.latents(frames.images.flatten(0, 1))
        expected = LatentBatch(
            log_probs.unflatten(0, (6, 9)), projected.unflatten(0, (6, 9)), *frames[1:]
        )
        for stored, computed in zip(latents, expected, strict=True):
            torch.testing.assert_close(stored, computed, rtol=2e-3, atol=2e-3)  # float16


def test_frames_are_encoded_once(replay, frozen, monkeypatch):
    seen = []
    latents = frozen.latents
    monkeypatch.setattr(frozen, "latents", lambda x: (seen.append(len(x)), latents(x))[1])
    store = LatentStore(replay, frozen)
    play(replay, 5, np.random.default_rng(0))
    store.catch_up()
    store.catch_up()
    again = LatentStore(replay, frozen)
    again.load_state(store.state())
    play(replay, 3, np.random.default_rng(1))
    again.catch_up()
    assert sum(seen) == STREAMS * (5 + 3)


def test_the_latent_loss_is_the_whole_loss_without_its_image_terms(frozen):
    frozen.eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 12, 64, 64, 3), dtype=torch.uint8, generator=generator)
    rest = (
        torch.randint(6, (3, 12), generator=generator),
        torch.randn(3, 12, generator=generator),
        torch.rand(3, 12, generator=generator) < 0.2,
        torch.arange(12) < torch.tensor([[12], [6], [9]]),
    )
    log_probs, projected = frozen.latents(images.flatten(0, 1))
    batch = LatentBatch(log_probs.unflatten(0, (3, 12)), projected.unflatten(0, (3, 12)), *rest)
    config = LossConfig(free_nats=0.0, variation_free_nats=0.0, representation=0.0)
    torch.manual_seed(5)
    whole, metrics, posterior = frozen.loss(SequenceBatch(images, *rest), config)
    torch.manual_seed(5)
    latent, latent_metrics, latent_posterior = frozen.latent_loss(batch, config)
    assert torch.equal(posterior.codes, latent_posterior.codes)
    torch.testing.assert_close(latent, whole - metrics["reconstruction"], rtol=1e-4, atol=1e-4)
    for name in latent_metrics.keys() - {"loss"}:
        torch.testing.assert_close(latent_metrics[name], metrics[name], rtol=1e-4, atol=1e-5)
    frozen.zero_grad()
    latent.backward()
    learning = {name.split(".")[0] for name, p in frozen.named_parameters() if p.grad is not None}
    assert learning == {
        "feature_encoder", "core", "prior", "reward", "termination", "variation"
    }  # fmt: skip


@pytest.mark.parametrize("sharp_prior", [False, True])
def test_latent_loss_draws_at_draw_temperature_and_predicts_the_stored_latents(
    make_world_model, sharp_prior
):
    plain = make_world_model()
    config = replace(plain.config, draw_temperature=0.25, sharp_prior=sharp_prior)
    sharp = WorldModel(config).eval()
    sharp.load_state_dict(plain.state_dict())
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 12, 4, 4, generator=generator)
    batch = LatentBatch(
        logits.log_softmax(-1),
        torch.randn(4, 12, 16, generator=generator),
        torch.randint(6, (4, 12), generator=generator),
        torch.zeros(4, 12),
        torch.zeros(4, 12, dtype=torch.bool),
        torch.arange(12) < torch.tensor([[12], [6], [9], [4]]),
    )
    torch.manual_seed(1)
    _, metrics, posterior = sharp.latent_loss(batch, LossConfig())
    torch.manual_seed(1)
    assert torch.equal(posterior.codes, sample_codes(batch.log_probs, temperature=0.25))
    start = sharp.core.context - 1
    prior = sharp.prior_log_probs(posterior.core.h[:, :-1])
    power = 4 if sharp_prior else 1  # of the probabilities that the prior learns
    learned = batch.log_probs[:, start + 1 :].exp() ** power
    kl = categorical_kl((learned / learned.sum(-1, keepdim=True)).log(), prior)
    kl = kl[batch.valid[:, start + 1 :]].mean()
    torch.testing.assert_close(metrics["dynamics_kl"], kl)


def test_frozen_images_stay_frozen_in_training_mode(frozen):
    frozen.train()
    assert not frozen.encoder.training
    assert not frozen.decoder.training
    assert frozen.core.training
    before = {k: v.clone() for k, v in frozen.encoder.state_dict().items()}
    frozen.encode(torch.zeros(4, 64, 64, 3, dtype=torch.uint8))
    assert all(torch.equal(v, before[k]) for k, v in frozen.encoder.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"at": (1.5,)}, "freeze.at must hold ascending shares"),
        ({"at": (0.5, 0.2)}, "freeze.at must hold ascending shares"),
        ({"latent_length": 16}, "freeze.latent_length 16 must exceed context"),
        ({"latent_batch": 0}, "freeze.latent_batch must be in"),
        ({"latent_batch": 1, "latent_length": 20}, "which computes 4 states"),
        ({"latent_length": 20_000}, "leave no sequence of 20000"),
    ],
)
def test_impossible_settings_are_refused(change, words):
    small = PRESETS["small"]
    with pytest.raises(GlamError, match=words):
        replace(small, freeze=replace(small.freeze, **change)).validate()


def test_sizes_of_stored_latents_do_not_matter_to_a_run_that_stores_none():
    replace(PRESETS["small"], freeze=FreezeConfig(at=(), latent_length=20_000)).validate()
