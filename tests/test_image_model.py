"""The image model: what each pixel weighs in its loss, and what its latents pay for."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import OPEN, TINY, make_batch, make_model

from glam_env.model.distributions import sample_codes
from glam_env.model.losses import reconstruction_loss


def train_images(model, images, config, updates):
    """Train the image model alone and return the metrics of the last update."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(updates):
        loss, metrics = model.autoencoder_loss(images, config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return metrics


def test_a_frame_of_other_pixels_weighs_no_more_than_its_limit():
    """A flash of the whole screen neither outweighs the rest nor makes common what moves."""
    model = make_model(background_residual=True).eval()
    images = torch.full((4, 64, 64, 3), 100, dtype=torch.uint8)
    model.set_background(images)
    images[0] = images[1, 10, 20] = images[1:, 50:60, 50:60] = 200
    valid = torch.tensor([True, True, True, False])
    config = replace(OPEN, foreground_weight=7.0, rare_share=0.9, frame_share=0.1)
    z = torch.rand(4, 15)
    with torch.no_grad():
        error = ((model.decoder(z) - images / 255.0) ** 2).sum(-1).double().numpy()
    differs = (images[..., 0] == 200).numpy()

    def limit(counts):
        return np.stack([frame * min(1.0, 0.1 / frame.mean()) for frame in counts])

    seldom = np.maximum(limit(differs)[:3].sum(0) / 4, 1 / 4)
    counts = limit(differs * np.maximum(1.0, 0.9 / seldom))
    assert counts[0].mean() == pytest.approx(0.1)
    assert counts[1, 10, 20] == pytest.approx(0.9 * 4 / 1.1)  # 0.9 * 4 / 2 with a whole flash
    weight = np.where(differs, 7.0 * counts, 1.0)
    loss, _ = model.reconstruction(z, images, config, valid)
    assert loss.item() == pytest.approx((weight * error)[:3].sum() / 3, rel=1e-5)
    images[0] = 100  # without a flash the limit changes nothing
    plain = replace(config, frame_share=0.0)
    losses = [model.reconstruction(z, images, own)[0].item() for own in (config, plain)]
    assert losses[0] == losses[1]


def test_pixels_count_as_much_of_them_as_is_missing():
    """A pixel that is drawn counts nothing, one that is not drawn four times, and no more."""
    images = torch.full((4, 64, 64, 3), 100, dtype=torch.uint8)
    background = images[0] / 255.0
    images[0, 5] = images[1, 10, 20] = images[:, 50:60, 50:60] = 200
    images[2, 30, 30] = 120  # a faint pixel counts as a bright one does
    drawn = background + 0.8 * torch.rand(4, 64, 64, 1) * (images / 255.0 - background)
    drawn[:, 55, 55] = 0.0  # worse than the background
    drawn[1, 2, 3] = 1.0
    config = replace(OPEN, foreground_weight=7.0, rare_share=0.9, frame_share=0.02, focus=4.0)
    target, back = images.double().numpy() / 255.0, background.double().numpy()
    error = ((drawn.double().numpy() - target) ** 2).sum(-1)
    whole = ((target - back) ** 2).sum(-1)
    differs = (images[..., 0] != 100).numpy()

    def limit(counts):
        return np.stack([frame * min(1.0, 0.02 / frame.mean()) for frame in counts])

    rarity = np.maximum(1.0, 0.9 / np.maximum(limit(differs).mean(0), 1 / 4))
    missing = np.minimum(1.0, error / np.where(differs, whole, 1.0))
    assert len({round(float(each), 3) for each in missing[differs]}) > 100
    weight = np.where(differs, 7.0 * limit(differs * rarity * 4.0 * missing), 1.0)
    loss, _ = reconstruction_loss(drawn, images, background, config)
    assert loss.item() == pytest.approx((weight * error).sum() / 4, rel=1e-5)

    wide = replace(config, margin=1, margin_weight=3.0)  # a margin weighs as without it
    near = np.pad(limit(differs * rarity), ((0, 0), (1, 1), (1, 1)))
    near = np.max([near[:, y : y + 64, x : x + 64] for y in range(3) for x in range(3)], 0)
    weight = np.maximum(weight, np.where(near > 0.0, 3.0 * near, 1.0))
    loss, _ = reconstruction_loss(drawn, images, background, wide)
    assert loss.item() == pytest.approx((weight * error).sum() / 4, rel=1e-5)


def test_pixels_that_equal_the_background_count_more_where_few_differ():
    model = make_model(background_residual=True).eval()
    images = torch.full((4, 64, 64, 3), 100, dtype=torch.uint8)
    model.set_background(images)
    images[0, 0, 0] = images[1, 30, 30] = images[:, 50:, 50:] = 200
    config = replace(OPEN, foreground_weight=7.0, rare_share=0.5, empty_weight=0.25)
    z = torch.rand(4, 15)
    loss, _ = model.reconstruction(z, images, config)
    with torch.no_grad():
        error = ((model.decoder(z) - images / 255.0) ** 2).sum(-1).double().numpy()
    differs = (images[..., 0] == 200).numpy()
    weight = np.empty((4, 64, 64))
    for y in range(64):
        for x in range(64):
            around = differs[:, max(0, y - 4) : y + 5, max(0, x - 4) : x + 5].mean()
            empty = max(1.0, 0.25 * 0.5 / max(around, 0.002))
            own = 7.0 * max(1.0, 0.5 / max(differs[:, y, x].mean(), 0.25))
            weight[:, y, x] = np.where(differs[:, y, x], own, empty)
    assert weight[0, 20, 10] == 62.5  # nothing differs around it
    assert 1.0 < weight[0, 29, 31] < 62.5
    assert weight[0, 48, 60] == 1.0  # beside what always differs
    assert loss.item() == pytest.approx((weight * error).sum() / 4, rel=1e-5)
    plain, _ = model.reconstruction(z, images, replace(config, empty_weight=0.0))
    assert plain.item() < loss.item()


def test_the_entropy_of_latents_is_part_of_the_image_models_loss():
    model, images = make_model().eval(), make_batch(3, 9).images.flatten(0, 1)
    torch.manual_seed(0)
    plain, metrics = model.autoencoder_loss(images, OPEN)
    torch.manual_seed(0)
    loss, again = model.autoencoder_loss(images, replace(OPEN, image_entropy=2.0))
    p = model.posterior(images).double().exp()
    entropy = -(p * p.log()).sum((-1, -2)).mean().item()
    assert again["posterior_entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert loss.item() == pytest.approx(plain.item() + 2.0 * entropy, rel=1e-5)
    assert again["reconstruction"] == metrics["reconstruction"] == plain

    metrics = train_images(model, images, replace(OPEN, image_entropy=100.0), 20)
    assert metrics["posterior_entropy"].item() < 0.5 * entropy


def test_the_diversity_of_latents_is_part_of_the_image_models_loss():
    model, images = make_model().eval(), make_batch(3, 9).images.flatten(0, 1)
    torch.manual_seed(0)
    plain, _ = model.autoencoder_loss(images, OPEN)
    torch.manual_seed(0)
    loss, metrics = model.autoencoder_loss(images, replace(OPEN, diversity=0.02))
    mean = model.posterior(images).double().exp().mean(0)
    entropy = -(mean * mean.log()).sum().item()
    assert metrics["latent_diversity"].item() == pytest.approx(entropy, rel=1e-5)
    assert loss.item() == pytest.approx(plain.item() * (1.0 - 0.02 * entropy), rel=1e-5)


def test_diversity_keeps_classes_in_use():
    model, images, used = make_model(), make_batch(3, 9).images.flatten(0, 1), {}
    start = copy.deepcopy(model.state_dict())
    for weight in (0.0, 1.0):
        model.load_state_dict(start)
        metrics = train_images(model, images, replace(OPEN, diversity=weight), 30)
        used[weight] = metrics["latent_diversity"].item()
    most = TINY.categoricals * np.log(TINY.classes)
    assert used[0.0] < 0.9 * most < used[1.0] <= most


def test_image_models_learn_from_draws_of_their_temperature(monkeypatch):
    model, images, seen = make_model().eval(), make_batch(3, 9).images.flatten(0, 1), []
    decoder = model.decoder.forward
    monkeypatch.setattr(model.decoder, "forward", lambda z: (seen.append(z), decoder(z))[1])
    torch.manual_seed(0)
    model.autoencoder_loss(images, replace(OPEN, image_temperature=0.5))
    torch.manual_seed(0)
    log_probs = model.posterior(images).detach()
    codes = sample_codes(log_probs, temperature=0.5)
    assert torch.equal(seen[0].unflatten(-1, log_probs.shape[1:]).argmax(-1), codes)
    torch.manual_seed(0)
    assert not torch.equal(sample_codes(log_probs), codes)


@pytest.mark.parametrize("rare", [0.0, 0.8])
def test_the_margin_is_around_the_foreground(rare):
    """And counts as much more as the pixels that it is around."""
    model = make_model(background_residual=True).eval()
    images = torch.full((2, 64, 64, 3), 100, dtype=torch.uint8)
    model.set_background(images)
    places = [(0, 10, 20), (0, 12, 21), (1, 0, 63), (1, 12, 21)]  # one of them in a corner
    for place in places:
        images[place] = 200
    config = replace(OPEN, foreground_weight=7.0, margin=2, margin_weight=3.0, rare_share=rare)
    z = torch.rand(2, 15)
    loss, metrics = model.reconstruction(z, images, config)
    with torch.no_grad():
        error = ((model.decoder(z) - images / 255.0) ** 2).sum(-1).double().numpy()
    factors = [max(1.0, rare / share) for share in (0.5, 1.0, 0.5, 1.0)]
    weight = np.ones((2, 64, 64))
    for (image, y, x), factor in zip(places, factors, strict=True):
        part = weight[image, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        part[:] = np.maximum(part, 3.0 * factor)
    around = weight > 1.0
    assert around.sum() == 25 + 25 - 12 + 9 + 25
    for place, factor in zip(places, factors, strict=True):
        weight[place] = 7.0 * factor
    assert loss.item() == pytest.approx((weight * error).sum() / 2, rel=1e-5)
    worth = len(places) * 3 * (100 / 255) ** 2
    assert metrics["margin_error"].item() == pytest.approx((error * around).sum() / worth, rel=1e-4)
