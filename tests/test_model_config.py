"""World model configs: values that cannot work are refused, and old files are read."""

import math
from dataclasses import asdict, replace

import pytest
import torch

from glam_env.checkpoint.config import from_json, to_json
from glam_env.errors import GlamError
from glam_env.model.config import WorldModelConfig, upgrade_config
from glam_env.model.cores.glam import GlamConfig
from glam_env.model.world_model import WorldModel

TINY = WorldModelConfig(num_actions=3, stem=4, categoricals=3, classes=5, width=16)
FORMAT_1 = {  # a checkpoint's world model as version 0.1 wrote it
    "num_actions": 6,
    "stem": 16,
    "categoricals": 32,
    "classes": 32,
    "width": 128,
    "local_window": 5,
    "global_depth": 2,
    "local_depth": 1,
    "state_size": 8,
    "conv_width": 3,
    "expand": 1,
    "background_residual": True,
    "unimix": 0.001,
    "draw_temperature": 0.25,
    "reward_bins": 255,
}
CORE_1 = GlamConfig("glam", 5, 2, 1, 8, 3, 1)


def test_a_flat_config_of_format_1_is_read() -> None:
    before = dict(FORMAT_1)
    config = from_json(WorldModelConfig, FORMAT_1, "here")
    assert before == FORMAT_1
    assert config == WorldModelConfig(6, 16, 32, 32, 128, CORE_1, True, 0.001, 0.25, 255)
    assert from_json(WorldModelConfig, to_json(config), "here") == config


def test_upgrading_changes_nothing_that_is_current() -> None:
    for plain in (asdict(TINY), {"num_actions": 3}, {"num_actions": 3, "core": {"name": "glam"}}):
        assert upgrade_config(plain) == plain
    assert from_json(WorldModelConfig, {"num_actions": 3}, "here") == WorldModelConfig(3)


@pytest.mark.parametrize(
    ("core", "message"),
    [
        ({"name": "lstm"}, r"here: core: core\.name must be one of glam, .*; got 'lstm'"),
        ({}, "core.name must be one of glam, .*; got ''"),
        ("glam", "expected an object, got 'glam'"),
        ({"name": "glam", "depth": 3}, "here: core: unknown key 'depth'"),
        ({"name": "glam", "expand": 2.0}, "here: core: expand: expected int, got 2.0"),
    ],
)
def test_a_core_that_is_not_one_is_refused(core, message) -> None:
    with pytest.raises(GlamError, match=message):
        from_json(WorldModelConfig, {"num_actions": 3, "core": core}, "here")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("unimix", [0.0, -0.1, 1.0, 1.5, 1e-7, math.nan, math.inf]),
        ("draw_temperature", [0.0, -1.0, 1e-4, math.nan, math.inf]),
        ("classes", [1, 0, 257]),
        ("reward_bins", [1, 0]),
        ("num_actions", [0, -1, 257]),
        ("stem", [0]),
        ("categoricals", [0]),
        ("width", [0, -8]),
        ("embed_hidden", [-1, 16_385]),
        ("prior_hidden", [-1, 16_385]),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(name, values) -> None:
    for value in values:
        config = replace(TINY, **{name: value})
        with pytest.raises(ValueError, match=f"^{name} must be"):
            config.validate()
        with pytest.raises(ValueError, match=f"^{name} must be"):
            WorldModel(config)


@pytest.mark.parametrize("name", [name for name in asdict(GlamConfig()) if name != "name"])
def test_sizes_of_the_core_are_refused_by_name(name) -> None:
    with pytest.raises(ValueError, match=rf"^core\.{name} must be at least"):
        replace(TINY, core=replace(GlamConfig(), **{name: 0})).validate()
    if name == "local_window":
        with pytest.raises(ValueError, match=r"core\.local_window must be at least 2, got 1"):
            replace(TINY, core=GlamConfig(local_window=1)).validate()


@torch.no_grad()
@pytest.mark.parametrize("unimix", [1e-6, 0.999])
@pytest.mark.parametrize("draw_temperature", [1e-3, 1e30])
def test_the_outermost_values_give_finite_numbers(unimix, draw_temperature) -> None:
    torch.manual_seed(0)
    config = replace(TINY, unimix=unimix, draw_temperature=draw_temperature)
    config.validate()
    model = WorldModel(config).eval()
    model.encoder.head.weight.mul_(1e4)  # a posterior that is sure
    model.prior.weight.mul_(1e4)
    images = torch.randint(256, (2, 6, 64, 64, 3), dtype=torch.uint8)
    log_probs = model.encode(images)
    assert bool(log_probs.isfinite().all())
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 6, 3))
    codes, actions = log_probs.argmax(-1), torch.zeros(2, 5, dtype=torch.int64)
    step = model.step(model.warm_up(codes, actions), actions[:, 0])
    assert bool(step.prior_entropy.isfinite().all())
    assert bool(model.prior_log_probs(step.state.h).isfinite().all())
