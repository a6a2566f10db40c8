"""The world model: its losses by hand, its gradients, dreams, and the filter of real frames."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import OPEN, TINY, make_batch, make_model

from glam_env.envs.latent_filter import LatentFilter
from glam_env.model import world_model as module
from glam_env.model.config import LossConfig, WorldModelConfig
from glam_env.model.cores.glam import GlamConfig
from glam_env.model.distributions import sample_codes
from glam_env.model.world_model import WorldModel

START = TINY.core.context - 1


def make_codes(*shape, seed=0):
    return torch.randint(5, (*shape, 3), generator=torch.Generator().manual_seed(seed))


def make_actions(*shape, seed=0):
    return torch.randint(3, shape, generator=torch.Generator().manual_seed(seed + 1))


def seeded_loss(model, batch, config, seed=0):
    torch.manual_seed(seed)
    return model.loss(batch, config)


def encoder_gradient(model, batch, config):
    model.zero_grad(set_to_none=True)
    seeded_loss(model, batch, config)[0].backward()
    return torch.cat([p.grad.flatten() for p in model.encoder.parameters()])


def assert_states_close(left, right, **tolerance):
    assert torch.equal(left.code, right.code)
    for a, b in zip((left.h, *left.core), (right.h, *right.core), strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"atol": 1e-4, "rtol": 1e-4}))


# --- the loss ----------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(9, 9), (9, 6), (3, 5)], ids=str)
@pytest.mark.parametrize("config", [LossConfig(), OPEN, LossConfig(free_nats=0.2)])
def test_every_term_of_the_loss_by_hand(config, counts):
    """Steps that are padding count in none."""
    model, batch = make_model(), make_batch()
    rows, length = batch.actions.shape
    valid = torch.arange(length) < torch.tensor(counts)[:, None]
    batch = batch._replace(valid=valid)
    loss, metrics, posterior = seeded_loss(model, batch, config)

    with torch.no_grad():  # still in training mode: BatchNorm sees the same batch
        frames = batch.images.flatten(0, 1)
        x, logits = model.encoder(frames)
        z = F.one_hot(posterior.codes, 5).double().flatten(-2)
        drawn = model.decoder(z.float().flatten(0, 1))
        action = F.one_hot(batch.actions, 3).double()
        e = model.feature_encoder(torch.cat([z, action], -1).float())
        output = model.core(e)

    def categorical(values):  # 1 % uniform in every categorical
        probs = values.double().reshape(*values.shape[:-1], 3, 5).softmax(-1)
        return 0.99 * probs + 0.01 / 5

    reconstruction = ((drawn - frames / 255.0) ** 2).double()[valid.flatten()].sum() / sum(counts)
    x = x.unflatten(0, (rows, length))
    q = categorical(logits.flatten(1).unflatten(0, (rows, length)))
    reward, termination, dynamics, variation = [], [], [], []
    with torch.no_grad():
        for b in range(rows):
            for t in range(START, counts[b]):
                h = output.h[b, t - START]
                # r_t and the end of a life follow the action at t: they belong to h_t.
                log_probs = model.reward.layers(h).double().log_softmax(-1).numpy()
                r = batch.rewards[b, t].item()
                at = (np.sign(r) * np.log1p(abs(r)) + 20) / 40 * 40
                low = int(np.floor(at))
                reward.append(-(1 - at + low) * log_probs[low] - (at - low) * log_probs[low + 1])
                p = model.termination.layers(h).double().sigmoid().item()
                termination.append(-np.log(p if batch.life_lost[b, t] else 1 - p))
                if t + 1 == counts[b]:
                    continue
                # h_t predicts z_{t+1}, u^g_t the change of the image features to t + 1.
                prior = categorical(model.prior(h))
                dynamics.append((q[b, t + 1] * (q[b, t + 1] / prior).log()).sum().item())
                target = categorical(model.variation_target(x[b, t + 1] - x[b, t]))
                guess = categorical(model.variation(output.variation[b, t - START]))
                variation.append((target * (target / guess).log()).sum().item())
    terms = {
        "reconstruction": reconstruction.item(),
        "reward": np.mean(reward),
        "termination": np.mean(termination),
        "dynamics_kl": np.mean(dynamics),
        "variation_kl": np.mean(variation),
    }
    for name, expected in terms.items():
        assert metrics[name].item() == pytest.approx(expected, rel=1e-4), name
    kl = max(config.free_nats, terms["dynamics_kl"])
    expected = terms["reconstruction"] + terms["reward"] + terms["termination"] + 0.6 * kl
    expected += 0.1 * max(config.variation_free_nats, terms["variation_kl"])
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert metrics["loss"].item() == loss.item()


def test_padding_changes_neither_loss_nor_gradient_nor_figures():
    model, batch = make_model().eval(), make_batch()  # BatchNorm would see the padding
    batch = batch._replace(valid=torch.arange(9) < torch.tensor([[9], [6]]))
    other = make_batch(seed=1)
    mixed = [
        torch.where(batch.valid.view(2, 9, *[1] * (a.ndim - 2)), a, b)
        for a, b in zip(batch[:-1], other[:-1], strict=True)
    ]
    loss, metrics, _ = seeded_loss(model, batch, OPEN)
    gradient = encoder_gradient(model, batch, OPEN)
    batch = batch._replace(**dict(zip(batch._fields, mixed, strict=False)))
    loss_again, metrics_again, _ = seeded_loss(model, batch, OPEN)
    torch.testing.assert_close(loss_again, loss)
    torch.testing.assert_close(encoder_gradient(model, batch, OPEN), gradient)
    assert metrics.keys() == metrics_again.keys()
    for name, value in metrics.items():
        torch.testing.assert_close(metrics_again[name], value)


def test_a_draw_temperature_sharpens_what_is_drawn_for_use_and_no_loss():
    plain, sharp = make_model(unimix=0.002), make_model(unimix=0.002, draw_temperature=0.25)
    batch = make_batch()
    losses = [seeded_loss(model, batch, OPEN)[0].item() for model in (plain, sharp)]
    assert losses[0] == losses[1]
    plain.eval(), sharp.eval()
    with torch.no_grad():
        left, right = (model.encode(batch.images[0]) for model in (plain, sharp))
        _, logits = plain.encoder(batch.images[0])
    probs = 0.998 * logits.double().softmax(-1) + 0.002 / 5
    torch.testing.assert_close(left.double().exp(), probs, rtol=1e-4, atol=1e-6)
    expected = probs**4 / (probs**4).sum(-1, keepdim=True)
    torch.testing.assert_close(right.double().exp(), expected, rtol=1e-4, atol=1e-6)

    state = plain.warm_up(make_codes(50, 6), make_actions(50, 5))
    steps = [
        model.step(
            state,
            make_actions(50),
            temperature=temperature,
            generator=torch.Generator().manual_seed(0),
        )
        for model, temperature in ((plain, 0.25), (sharp, 1.0), (plain, 1.0))
    ]
    assert torch.equal(steps[0].state.code, steps[1].state.code)
    assert not torch.equal(steps[0].state.code, steps[2].state.code)


def test_a_sharp_prior_learns_the_sharp_posterior_and_is_drawn_as_it_is():
    sharp = make_model(draw_temperature=0.25, sharp_prior=True).eval()
    plain = make_model().eval()
    state = plain.warm_up(make_codes(50, 6), make_actions(50, 5))
    codes = [
        model.step(state, make_actions(50), generator=torch.Generator().manual_seed(0)).state.code
        for model in (plain, sharp)
    ]
    assert torch.equal(*codes)
    with torch.no_grad():
        log_probs = plain.posterior(make_batch().images[0])
        learned = sharp.prior_target(log_probs).double().exp()
        assert torch.equal(plain.prior_target(log_probs), log_probs)
    probs = log_probs.double().exp()
    expected = probs**4 / (probs**4).sum(-1, keepdim=True)
    torch.testing.assert_close(learned, expected, rtol=1e-4, atol=1e-6)


def test_metrics_are_finite_detached_scalars_and_the_posterior_has_its_shapes():
    model, batch = make_model(), make_batch(2, 9)
    loss, metrics, posterior = seeded_loss(model, batch, LossConfig())
    assert loss.shape == ()
    for name, value in metrics.items():
        assert value.shape == (), name
        assert value.isfinite(), name
        assert not value.requires_grad, name
    assert posterior.codes.shape == (2, 9, 3)
    assert posterior.codes.dtype == torch.int64
    assert posterior.core.h.shape == (2, 9 - START, 16)


@torch.no_grad()
def test_hidden_layers_of_feature_encoder_and_prior_by_hand():
    model = make_model(embed_hidden=24, prior_hidden=7).eval()
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def hidden(x, part):  # linear without bias, LayerNorm, ReLU
        x = weights[f"{part}.0.weight"] @ x
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return np.maximum(x * weights[f"{part}.1.weight"] + weights[f"{part}.1.bias"], 0.0)

    codes, h = torch.tensor([[4, 0, 2]]), torch.linspace(-2.0, 2.0, 16)
    z = np.zeros(15 + 3)
    z[[4, 5, 12, 15 + 1]] = 1.0  # one class of each categorical, and action 1
    e = weights["feature_encoder.3.weight"] @ hidden(z, "feature_encoder")
    for embedded in (
        model.embed_codes(codes, torch.tensor([1])),
        model.embed(F.one_hot(codes, 5).flatten(-2).float(), torch.tensor([1])),
    ):
        np.testing.assert_allclose(embedded[0], e, atol=1e-5)
    logits = weights["prior.3.weight"] @ hidden(h.double().numpy(), "prior")
    logits = (logits + weights["prior.3.bias"]).reshape(3, 5)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    probs = 0.99 * probs + 0.01 / 5
    np.testing.assert_allclose(model.prior_log_probs(h).exp(), probs, atol=1e-6)


def test_the_loss_is_float32_under_bfloat16_autocast():
    model, batch = make_model(), make_batch()
    plain = seeded_loss(model, batch, OPEN)
    with torch.autocast("cpu", torch.bfloat16):
        loss, metrics, posterior = seeded_loss(model, batch, OPEN)
    assert {value.dtype for value in (loss, *metrics.values())} == {torch.float32}
    same = (posterior.codes == plain[2].codes).float().mean()
    assert same > 0.8  # the networks' rounding may flip a draw or two
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_every_trainable_parameter_gets_a_gradient_and_the_fixed_projection_none():
    model = make_model(core=GlamConfig(global_depth=2, local_depth=2), prior_hidden=8)
    loss, _, _ = seeded_loss(model, make_batch(), OPEN)
    loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("variation_target"):
            assert not parameter.requires_grad
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_the_variation_target_gets_no_gradient():
    """Eq. 10 stops the gradient at the image features."""
    model, batch = make_model(), make_batch()
    cut = replace(OPEN, latent_gradient=0.0)
    with_it = encoder_gradient(model, batch, replace(cut, variation=10.0))
    assert torch.equal(with_it, encoder_gradient(model, batch, replace(cut, variation=0.0)))


def test_the_two_halves_of_the_divergence_stop_opposite_gradients():
    model, batch = make_model(), make_batch()
    only = replace(OPEN, latent_gradient=0.0, dynamics=0.0, representation=0.0, variation=0.0)
    nothing = encoder_gradient(model, batch, only)
    assert not model.prior.weight.grad.any()

    dynamics = encoder_gradient(model, batch, replace(only, dynamics=1.0))
    assert torch.equal(dynamics, nothing)  # sg(q): the posterior is not moved by L_dyn
    assert model.prior.weight.grad.any()

    representation = encoder_gradient(model, batch, replace(only, representation=1.0))
    assert not torch.allclose(representation, nothing)
    assert not model.prior.weight.grad.any()  # sg(p): the prior is not moved by L_rep


def test_below_the_free_nats_the_divergence_has_no_gradient():
    model, batch = make_model(), make_batch()
    seeded_loss(model, batch, replace(LossConfig(), free_nats=100.0))[0].backward()
    assert not model.prior.weight.grad.any()
    assert seeded_loss(model, batch, OPEN)[1]["dynamics_kl"] > 0.0


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_latent_gradient_scales_what_sequence_losses_send_into_the_encoder(scale):
    model, batch = make_model(), make_batch()
    config = replace(OPEN, latent_gradient=scale, representation=0.0)
    other = batch._replace(rewards=batch.rewards + 3.0, life_lost=~batch.life_lost)
    gradients = encoder_gradient(model, batch, config), encoder_gradient(model, other, config)
    assert torch.equal(*gradients) == (scale == 0.0)
    assert gradients[0].any()  # the reconstruction's is always there


def test_latent_gradient_leaves_the_loss_alone():
    model, batch = make_model(), make_batch()
    losses = [
        seeded_loss(model, batch, replace(OPEN, latent_gradient=scale))[0].item()
        for scale in (0.0, 0.5, 1.0)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_decoding_a_part_of_the_frames_leaves_loss_and_gradient_unbiased(monkeypatch):
    """The mean over all ten draws of one frame of ten is that of all frames."""
    likeliest = partial(sample_codes, temperature=0.0)
    monkeypatch.setattr(module, "sample_codes", lambda log_probs, **_: likeliest(log_probs))
    model, batch = make_model().eval(), make_batch(2, 5)
    weight = model.decoder.project.weight

    def draw(config, seed):
        torch.manual_seed(seed)
        model.zero_grad(set_to_none=True)
        loss, metrics, _ = model.loss(batch, config)
        loss.backward()
        return metrics["reconstruction"].item(), weight.grad.clone()

    whole, whole_gradient = draw(OPEN, 0)
    config, seen, counts = replace(OPEN, decode_fraction=0.1), {}, {}
    for seed in range(150):
        value, gradient = draw(config, seed)
        seen[value] = gradient
        counts[value] = counts.get(value, 0) + 1
    assert len(seen) == 10
    assert np.mean(list(seen)) == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(torch.stack(list(seen.values())).mean(0), whole_gradient)
    # 9 degrees of freedom: above 34 once in ten thousand seeds.
    assert sum((count - 15) ** 2 / 15 for count in counts.values()) < 34


@pytest.mark.parametrize("rare", [0.0, 0.5])
def test_foreground_and_reward_weights_by_hand(rare):
    model, batch = make_model(background_residual=True).eval(), make_batch(3, 9)
    model.set_background(batch.images.flatten(0, 1))
    median = np.median(batch.images.flatten(0, 1).numpy(), axis=0)
    np.testing.assert_allclose(model.decoder.background.numpy() * 255.0, median, atol=1e-4)

    config = replace(OPEN, foreground_weight=7.0, foreground_threshold=0.45, rare_share=rare)
    z = torch.rand(27, 15)
    loss, metrics = model.reconstruction(z, batch.images.flatten(0, 1), config)
    with torch.no_grad():
        target = batch.images.flatten(0, 1).double() / 255.0
        error = (model.decoder(z).double() - target) ** 2
        apart = (target - model.decoder.background.double()).abs().amax(-1) > 0.45
        share = apart.double().mean(0).clamp_min(1 / 27)  # (64, 64)
        weight = torch.where(apart, 7.0 * (rare / share).clamp_min(1.0), 1.0)
        expected = (error.sum(-1) * weight).sum() / 27
        nothing = (target - model.decoder.background.double()).square().sum(-1)
    assert 0.05 < apart.double().mean() < 0.95
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    relative = error.sum(-1)[apart].sum() / nothing[apart].sum()
    assert metrics["foreground_error"].item() == pytest.approx(relative.item(), rel=1e-4)
    shares = share.expand(27, 64, 64)[apart]
    relative = (error.sum(-1)[apart] / shares).sum() / (nothing[apart] / shares).sum()
    assert metrics["rare_error"].item() == pytest.approx(relative.item(), rel=1e-4)
    assert ((rare / shares) > 1.0).any() == (rare > 0)

    plain = seeded_loss(model, batch, OPEN)[1]["reward"]
    quiet = batch._replace(rewards=torch.zeros_like(batch.rewards))
    heavy = replace(OPEN, reward_weight=5.0)
    assert seeded_loss(model, batch, heavy)[1]["reward"] > plain
    assert torch.equal(
        seeded_loss(model, quiet, heavy)[1]["reward"], seeded_loss(model, quiet, OPEN)[1]["reward"]
    )


# --- dreams ------------------------------------------------------------------------------


def test_dreams_start_where_a_warm_up_on_the_same_steps_ends():
    model, batch = make_model(core=GlamConfig(global_depth=2, local_depth=2)), make_batch(3, 12)
    _, _, posterior = seeded_loss(model, batch, LossConfig())
    rows, positions = torch.tensor([0, 2, 1, 0]), torch.tensor([4, 11, 7, 8])
    starts = model.dream_starts(posterior, rows, positions)
    for n, (row, t) in enumerate(zip(rows, positions, strict=True)):
        codes, actions = posterior.codes[row, : t + 1], batch.actions[row, :t]
        expected = model.warm_up(codes[None], actions[None])
        assert_states_close(starts.rows(torch.tensor([n])), expected)
    assert not starts.h.requires_grad


def test_a_dream_at_temperature_zero_is_the_parallel_pass_over_its_latents():
    model = make_model(core=GlamConfig(global_depth=2, local_depth=2))
    codes, actions, ahead = make_codes(4, 17), make_actions(4, 80), 64
    state = model.warm_up(codes, actions[:, :16])
    trail, steps = [*codes.unbind(1)], []
    for t in range(ahead):
        steps.append(model.step(state, actions[:, 16 + t], temperature=0.0))
        state = steps[-1].state
        trail.append(state.code)
    with torch.no_grad():
        known = F.one_hot(torch.stack(trail[:-1], 1), 5).float().flatten(-2)
        h = model.core(model.embed(known, actions)).h
        rewards, ends = model.reward(h), model.termination(h).squeeze(-1)
    for t, step in enumerate(steps):
        at = 16 + t - START  # h_t predicts the step from z_t
        torch.testing.assert_close(step.state.h, h[:, at], atol=1e-4, rtol=0.0)
        torch.testing.assert_close(step.reward_logits, rewards[:, at], atol=1e-3, rtol=0.0)
        torch.testing.assert_close(step.termination_logit, ends[:, at], atol=1e-3, rtol=0.0)
        assert torch.equal(step.state.code, model.prior_log_probs(step.state.h).argmax(-1))


def test_a_dream_does_not_depend_on_its_neighbours():
    """The dreams of a recombined batch continue as each does alone."""
    model, codes, actions = make_model(), make_codes(5, 9), make_actions(5, 9)
    state = model.warm_up(codes, actions[:, :8])
    together = model.step(state, actions[:, 8], temperature=0.0)
    order = torch.tensor([3, 0, 4])
    some = model.step(state.rows(order), actions[order, 8], temperature=0.0)
    assert_states_close(some.state, together.state.rows(order))


def test_dreams_of_a_batch_draw_their_own_futures():
    model, codes, actions = make_model(), make_codes(1, 9), make_actions(1, 9)
    state = model.warm_up(codes.expand(2000, -1, -1), actions[:, :8].expand(2000, -1))
    generator = torch.Generator().manual_seed(4)
    step = model.step(state, actions[:, 8].expand(2000), generator=generator)
    prior = model.prior_log_probs(step.state.h)
    for k in range(3):
        frequency = torch.bincount(step.state.code[:, k], minlength=5) / 2000
        probs = prior[0, k].exp()
        error = 4.5 * (probs * (1 - probs) / 2000).sqrt() + 1e-3
        assert ((frequency - probs).abs() < error).all()
    generator.manual_seed(4)
    again = model.step(state, actions[:, 8].expand(2000), generator=generator)
    assert torch.equal(again.state.code, step.state.code)


def test_a_step_returns_its_heads_and_does_not_change_the_state():
    model, codes, actions = make_model(), make_codes(3, 9), make_actions(3, 9)
    state = model.warm_up(codes, actions[:, :8])
    kept = [part.clone() for part in (state.code, state.h, *state.core)]
    step = model.step(state, actions[:, 8])
    for part, before in zip((state.code, state.h, *state.core), kept, strict=True):
        assert torch.equal(part, before)
    torch.testing.assert_close(step.reward, model.reward_code.mean(step.reward_logits))
    prior = model.prior_log_probs(step.state.h)
    torch.testing.assert_close(prior.exp().sum(-1), torch.ones(3, 3))
    torch.testing.assert_close(step.prior_entropy, -(prior.exp() * prior).sum((1, 2)))
    features = model.features(step.state)
    assert features.shape == (3, TINY.feature_dim)
    assert torch.equal(features[:, :15].unflatten(-1, (3, 5)).argmax(-1), step.state.code)
    assert torch.equal(features[:, 15:], step.state.h)
    for tensor in (features, step.reward, step.termination_logit, *step.state.core):
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad


@pytest.mark.parametrize("training", [False, True])
def test_dreaming_and_filtering_leave_batchnorm_and_the_mode_alone(training):
    model, codes, actions = make_model().train(training), make_codes(2, 9), make_actions(2, 9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = model.warm_up(codes, actions[:, :8])
    model.step(state, actions[:, 8])
    watcher = LatentFilter(model, 2)
    for t in range(3):
        watcher.see(make_batch(2, 3).images[:, t], np.array([t == 0, False]))
        watcher.act(actions[:, t])
    assert all(part.training == training for part in model.modules())
    with torch.no_grad():
        model.eval().encode(model.decode(codes).mul(255).byte())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# --- real frames -------------------------------------------------------------------------


def watch(watcher, images, first, actions):
    """Run a filter over (E, T) steps; return its features (E, T, F) and codes (E, T, K)."""
    features, codes = [], []
    for t in range(images.shape[1]):
        features.append(watcher.see(images[:, t], first[:, t]))
        codes.append(watcher.state.code)
        watcher.act(actions[:, t])
    return torch.stack(features, 1), torch.stack(codes, 1)


def test_a_filter_reset_in_the_middle_of_a_batch_is_a_fresh_filter():
    model, batch = make_model(), make_batch(3, 16)
    first = torch.zeros(3, 16, dtype=torch.bool)
    first[:, 0] = True
    first[1, 6] = True
    generator = torch.Generator().manual_seed(0)
    old = LatentFilter(model, 3, generator)
    watch(old, batch.images[:, :6], first[:, :6], batch.actions[:, :6])
    fresh_generator = torch.Generator()
    fresh_generator.set_state(generator.get_state())
    fresh = LatentFilter(model, 3, fresh_generator)
    rest = slice(6, 16)
    features, _ = watch(old, batch.images[:, rest], first[:, rest], batch.actions[:, rest])
    started = first[:, rest].clone()
    started[:, 0] = True
    expected, _ = watch(fresh, batch.images[:, rest], started, batch.actions[:, rest])
    torch.testing.assert_close(features[1], expected[1])
    assert not features[1, 0, 15:].any()  # no state at an episode's first frame
    assert not torch.allclose(features[0, :, 15:], expected[0, :, 15:], atol=1e-3)


def test_a_filter_has_the_state_of_a_warm_up_on_its_codes():
    """On real frames an agent sees the features that it knows from dreams."""
    model, batch = make_model().eval(), make_batch(2, 24)
    first = torch.zeros(2, 24, dtype=torch.bool)
    first[:, 0] = True
    watcher = LatentFilter(model, 2, torch.Generator().manual_seed(0))
    features, codes = watch(watcher, batch.images, first, batch.actions)
    for t in range(START + 1, 24):
        expected = model.features(model.warm_up(codes[:, : t + 1], batch.actions[:, :t]))
        torch.testing.assert_close(features[:, t], expected, atol=1e-4, rtol=0.0)


def test_a_filters_memory_survives_a_checkpoint():
    model, batch = make_model().eval(), make_batch(2, 12)
    first = torch.zeros(2, 12, dtype=torch.bool)
    first[:, 0] = True
    watcher = LatentFilter(model, 2, torch.Generator().manual_seed(0))
    watch(watcher, batch.images[:, :7], first[:, :7], batch.actions[:, :7])
    other = LatentFilter(model, 2, torch.Generator())
    other.generator.set_state(watcher.generator.get_state())
    other.load_memory(watcher.memory())
    rest = (batch.images[:, 7:], first[:, 7:], batch.actions[:, 7:])
    torch.testing.assert_close(watch(other, *rest), watch(watcher, *rest))


# --- images, codes, export ---------------------------------------------------------------


def test_encode_and_decode_keep_leading_dimensions():
    model, images = make_model().eval(), make_batch(2, 3).images
    log_probs, codes = model.encode(images), make_codes(2, 3)
    assert log_probs.shape == (2, 3, 3, 5)
    assert log_probs.exp().min() >= 0.01 / 5 - 1e-7
    torch.testing.assert_close(model.encode(images[1]), log_probs[1])
    drawn = model.decode(codes)
    assert drawn.shape == (2, 3, 64, 64, 3)
    assert drawn.min() >= 0.0
    assert drawn.max() <= 1.0
    torch.testing.assert_close(model.decode(codes[1]), drawn[1])


def test_an_export_holds_all_but_the_fixed_projection_and_loads_back():
    model, batch = make_model(), make_batch()
    seeded_loss(model, batch, LossConfig())  # changes BatchNorm's statistics
    model.set_background(batch.images.flatten(0, 1))
    exported = model.export_state()
    assert set(model.state_dict()) - set(exported) == {"variation_target.weight"}
    other = WorldModel(TINY)
    other.load_exported(exported)
    for one in (model, other):
        one.eval()
    codes, actions = make_codes(2, 9), make_actions(2, 9)
    torch.testing.assert_close(other.encode(batch.images), model.encode(batch.images))
    torch.testing.assert_close(other.decode(codes), model.decode(codes))
    steps = [
        one.step(one.warm_up(codes, actions[:, :8]), actions[:, 8], temperature=0.0)
        for one in (model, other)
    ]
    assert_states_close(steps[0].state, steps[1].state)
    torch.testing.assert_close(steps[0].reward, steps[1].reward)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_an_export_that_does_not_fit_is_refused(change):
    exported = WorldModel(TINY).export_state()
    if change == "missing":
        del exported["prior.weight"]
    elif change == "extra":
        exported["prior.scale"] = torch.zeros(1)
    else:
        exported["prior.weight"] = torch.zeros(2, 2)
    with pytest.raises(RuntimeError, match="prior"):
        WorldModel(TINY).load_exported(exported)


def test_one_image_needs_no_batch():
    model = WorldModel(WorldModelConfig(2, stem=4, categoricals=3, classes=5, width=16)).eval()
    assert model.encode(torch.zeros(64, 64, 3, dtype=torch.uint8)).shape == (3, 5)
    assert model.decode(torch.zeros(3, dtype=torch.int64)).shape == (64, 64, 3)
