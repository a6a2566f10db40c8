"""New play beside what the world model expected of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from same_runs import metrics
from tiny_models import make_batch, make_model

from glam_env.envs.latent_filter import LatentFilter
from glam_env.model.distributions import one_hot
from glam_env.training.new_play import NewPlay

STREAMS, STEPS = 3, 14


def watch(model, batch, first):
    """Run a filter with its figures over (E, T) steps; return those and the codes (E, T, K)."""
    latents = LatentFilter(model, STREAMS, torch.Generator().manual_seed(0))
    new_play, figures, codes = NewPlay(latents), [], []
    for t in range(STEPS):
        latents.see(batch.images[:, t], first[:, t])
        new_play.see(first[:, t])
        codes.append(latents.state.code)
        latents.act(batch.actions[:, t])
        new_play.earn(batch.rewards[:, t].numpy())
        figures.append(new_play.read())
        assert new_play.read() == {}
    return figures, torch.stack(codes, 1)


def expected_at(model, codes, actions, images, rewards):
    """Compute, in float64, both figures of one episode: (T) KL of z_t, (T) reward found."""
    c, length = model.config, len(actions)
    z = one_hot(codes, c.classes).flatten(-2)
    h = model.core(model.embed(z, actions)[None]).h[0].double()  # from step context − 1 on
    start = model.core.context - 1
    kl, found = torch.full((length,), torch.nan), torch.full((length,), torch.nan)
    logits = h @ model.prior.weight.double().T + model.prior.bias.double()
    probs = logits.unflatten(-1, (c.categoricals, c.classes)).softmax(-1)
    prior = (1.0 - c.unimix) * probs + c.unimix / c.classes
    posterior = model.posterior(images).double().exp() ** (1.0 / c.target_temperature)
    posterior = posterior / posterior.sum(-1, keepdim=True)
    bins = model.reward_code.mean(model.reward(h.float())).double()
    for place, predicted in enumerate(bins):
        t = start + place
        earned = float(rewards[t])
        if earned != 0.0:
            found[t] = float(abs(float(predicted) - earned) < 0.5 * abs(earned))
        if t + 1 < length:
            target = posterior[t + 1]
            kl[t + 1] = (target * (target.log() - prior[place].log())).sum()
    return kl, found


@pytest.mark.parametrize("sharp", [False, True])
@torch.no_grad()
def test_it_compares_each_step_with_what_the_steps_before_it_led_to_expect(sharp):
    model = make_model(sharp_prior=sharp, draw_temperature=0.5).eval()
    batch = make_batch(STREAMS, STEPS)
    first = np.zeros((STREAMS, STEPS), bool)
    first[:, 0] = True
    first[1, 6] = True  # another episode begins
    figures, codes = watch(model, batch, first)
    kl, found = torch.full((STREAMS, STEPS), torch.nan), torch.full((STREAMS, STEPS), torch.nan)
    for row, begin, end in ((0, 0, STEPS), (1, 0, 6), (1, 6, STEPS), (2, 0, STEPS)):
        part = row, slice(begin, end)
        given = codes[part], batch.actions[part], batch.images[part], batch.rewards[part]
        kl[part], found[part] = expected_at(model, *given)
    assert found.nanmean() not in (0.0, 1.0)  # both occur
    for name, expected in (("new_play_kl", kl), ("new_play_rewards_found", found)):
        for t in range(STEPS):
            column = expected[:, t]
            if column.isnan().all():
                assert name not in figures[t]
            else:
                mean = column.nanmean()
                torch.testing.assert_close(figures[t][name], mean, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_its_memory_survives_a_checkpoint():
    model, batch = make_model().eval(), make_batch(STREAMS, STEPS)
    latents = LatentFilter(model, STREAMS)
    old, fresh = NewPlay(latents), NewPlay(latents)
    first = np.array([True, True, False])
    for t in range(model.core.context):
        latents.see(batch.images[:, t], first & (t == 0))
        old.see(first & (t == 0))
        latents.act(batch.actions[:, t])
        old.read()
    fresh.load_memory(old.memory().clone())
    latents.see(batch.images[:, STEPS - 1], ~first)
    for new_play in (old, fresh):
        new_play.see(~first)
    assert torch.equal(old.read()["new_play_kl"], fresh.read()["new_play_kl"])
    assert not fresh.memory()[2] > 1  # its episode began just now


@pytest.mark.emulator
def test_a_run_logs_it_where_the_agent_plays(tmp_path):
    from glam_env.cli.main import main

    words = ["--preset", "debug", "--run", str(tmp_path), "--total-steps", "300"]
    assert main(["train", "Pong", *words, "--random-steps", "100", "--log-every", "1"]) == 0
    lines = metrics(tmp_path)
    joint = [line for line in lines if "new_play_kl" in line]
    assert joint
    assert min(line["env_steps"] for line in joint) > 100
    assert all(line["new_play_kl"] > 0.0 for line in joint)
    assert any("new_play_rewards_found" in line for line in lines)
