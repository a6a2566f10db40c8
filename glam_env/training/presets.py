"""The named presets of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from glam_env.model.config import LossConfig, WorldModelConfig
from glam_env.model.cores.base import CoreConfig
from glam_env.model.cores.double import DoubleMambaConfig, DoubleTransformerConfig
from glam_env.model.cores.parts import GlobalConfig, LocalConfig
from glam_env.model.cores.transformer import TransformerConfig
from glam_env.training.config import FreezeConfig, HorizonConfig, TrainConfig

_PAPER = TrainConfig()

_SMALL = TrainConfig(
    # A small replay is learned by heart, and a real step costs far less than an update.
    total_steps=400_000,
    random_steps=40_000,
    num_envs=8,
    exploration=(0.0, 0.0, 0.1, 0.25, 0.0, 0.5, 0.0, 1.0),
    # Held actions show where a paddle goes. Where a game wants many presses, as boxing and kicking
    # do, they earn next to nothing.
    exploration_hold=(1.0, 8.0, 8.0, 1.0),
    # Sticky actions show the model what held actions do, and keep the agent from learning a game by
    # heart.
    repeat_action_probability=0.25,
    replay_capacity=400_000,
    batch=8,
    length=32,
    update_every=64,
    model_updates=4,  # of few sequences: four such learn more than one of four times as many
    image_warmup=1_200,
    image_batch=32,
    image_learning_rate=2e-3,
    freeze=FreezeConfig(
        at=(0.0, 0.6),
        finetune=4_000,
        decay_from=0.5,
        foreground_weight=50.0,
        focus=4.0,  # else Assault's bullets are not drawn, and its agent stays at random play
        margin=3,  # else balls are clouds: whether a paddle meets one is decided within a pixel
        margin_weight=5.0,
        margin_from=0.5,
        end_to_end=1_000,  # else latents vary at random, and Breakout learns half as fast
        representation=0.5,
        adapt=2_000,  # more, and random play is learned by heart
        latent_batch=4,
    ),
    learning_rate=1e-3,
    decay_from=0.6,
    imagination_batch=128,
    horizon=HorizonConfig(every=50_000, maximum=24),
    model=WorldModelConfig(
        num_actions=18,
        stem=16,
        width=128,
        embed_hidden=512,  # with both layers a sequence model needs half of the updates
        prior_hidden=512,
        background_residual=True,
        draw_temperature=0.25,
        sharp_prior=True,  # else dreams promise what only luck brings
        unimix=0.001,
        expected_reward=True,  # else one chance in ten of 400 points counts as 0.8
    ),
    loss=LossConfig(
        decode_fraction=0.25,
        foreground_weight=50.0,
        rare_share=0.1,  # else Breakout's ball is not drawn
        frame_share=0.2,  # else Assault's flashes of the whole screen outweigh its enemies
        latent_gradient=0.0,
        image_temperature=0.5,
        diversity=0.004,  # else Assault's latents are constant after 400 updates
    ),
    log_every=200,
    checkpoint_every=20_000,
)

_DEBUG = replace(
    _SMALL,
    total_steps=600,
    random_steps=200,
    num_envs=2,
    batch=2,
    length=20,
    exploration=(0.0,),
    exploration_hold=(1.0,),
    repeat_action_probability=0.0,
    replay_capacity=100_000,
    update_every=20,
    model_updates=1,
    image_warmup=3,
    image_batch=8,
    image_learning_rate=0.0,
    model_warmup=3,
    freeze=FreezeConfig(
        at=(0.7, 0.9),
        finetune=2,
        end_to_end=2,
        margin=2,
        margin_weight=5.0,
        adapt=2,
        latent_batch=2,
        latent_length=24,
    ),
    imagination_batch=8,
    horizon=HorizonConfig(initial=4, increase=2, every=300, maximum=6),
    model=replace(
        _SMALL.model, stem=4, categoricals=4, classes=4, width=16, embed_hidden=32, prior_hidden=32
    ),
    autocast=False,
    log_every=5,
    checkpoint_every=100,
)


def with_core(config: TrainConfig, core: CoreConfig, **sizes: Any) -> TrainConfig:
    """Return the settings with another sequence core, and other sizes of the world model."""
    return replace(config, model=replace(config.model, core=core, **sizes))


PRESETS: dict[str, TrainConfig] = {
    "paper": _PAPER,
    "small": _SMALL,
    "debug": _DEBUG,
    "small-local": with_core(_SMALL, LocalConfig()),
    "small-global": with_core(_SMALL, GlobalConfig()),
    "small-transformer": with_core(_SMALL, TransformerConfig()),
    "small-double-mamba": with_core(_SMALL, DoubleMambaConfig()),
    "small-double-transformer": with_core(_SMALL, DoubleTransformerConfig()),
    "paper-storm": with_core(_PAPER, TransformerConfig(), width=512),
}
"""``paper``: table 3, for a GPU. ``small``: for two CPU cores. ``debug``: for tests, in seconds.

After a hyphen follows another sequence core in that preset; the agent is that of the first part.
``paper-storm`` has the published sizes of STORM's transformer.
"""
