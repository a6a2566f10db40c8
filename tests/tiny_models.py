"""Tiny world models in training mode and batches of noise for them."""

from dataclasses import replace

import torch

from glam_env.model.config import LossConfig, WorldModelConfig
from glam_env.model.structures import SequenceBatch
from glam_env.model.world_model import WorldModel

TINY = WorldModelConfig(num_actions=3, stem=4, categoricals=3, classes=5, width=16, reward_bins=41)
OPEN = LossConfig(free_nats=0.0, variation_free_nats=0.0)  # lower bounds would hide small terms


def make_model(**changes):
    """Make a tiny model in training mode, with random numbers in the heads that start at zero."""
    torch.manual_seed(2)
    model = WorldModel(replace(TINY, **changes))
    with torch.no_grad():
        for head in (model.reward, model.termination):
            head.layers[-1].weight.normal_(0.0, 0.5)
        *_, last = model.prior.modules()
        last.weight.normal_(0.0, 0.5)
    return model


def make_batch(rows=2, length=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (rows, length, 64, 64, 3), dtype=torch.uint8, generator=g)
    actions = torch.randint(3, (rows, length), generator=g)
    rewards = torch.randint(-2, 3, (rows, length), generator=g).float()
    life_lost = torch.rand(rows, length, generator=g) < 0.4
    return SequenceBatch(images, actions, rewards, life_lost, torch.ones_like(life_lost))
