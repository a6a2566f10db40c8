"""Frames, windows and closing of the dreamt and the real env."""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest
import torch
from comparison import assert_same
from torch._subclasses.fake_tensor import FakeTensor
from worlds import (
    actions_at,
    observations,
    worlds,
    worlds_of_one_base,
)

from glam_env.errors import GlamError


@worlds_of_one_base
@pytest.mark.parametrize("obs_type", ["rgb", "latent"])
def test_frames_and_their_grid(make, world, obs_type) -> None:
    frames = make(world, 1, obs_type=obs_type, render_mode="rgb_array")
    grid = make(world, 3, obs_type=obs_type, render_mode="rgb_grid")
    with pytest.raises(GlamError, match="not begun"):
        frames.render()
    grid.reset(seed=1)
    frames.reset(seed=1)
    (frame,), picture = frames.render(), grid.render()
    assert (frame.shape, frame.dtype, picture.shape) == ((64, 64, 3), np.uint8, (128, 128, 3))
    assert frame.any()
    assert picture[:64, :64].any()
    assert picture[:64, 64:].any()
    assert picture[64:, :64].any()
    assert not picture[64:, 64:].any()
    if obs_type == "rgb":
        seen = grid.step(actions_at(0, 3))[0]
        picture = grid.render()
        assert_same(picture[:64, :64], seen[0])
        assert_same(picture[:64, 64:], seen[1])
        assert_same(picture[64:, :64], seen[2])


@worlds
def test_a_window_shows_every_step(make, make_single, world) -> None:
    pygame = pytest.importorskip("pygame")
    envs = make(world, render_mode="human", autoreset_mode="NEXT_STEP")
    seen = envs.reset(seed=0)[0]
    assert envs.render() is None

    def shown() -> np.ndarray:
        return pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)

    assert shown().shape == (512, 1024, 3)
    for t in range(2):
        assert_same(shown()[::8, ::8], np.concatenate(list(seen), 1))
        seen = envs.step(actions_at(t))[0]
    envs.close()
    assert not pygame.display.get_init()
    env = make_single(world, render_mode="human")
    seen, _ = env.reset(seed=0)
    assert env.render() is None
    assert_same(shown()[::8, ::8], seen)


def test_where_there_is_no_display_the_cure_is_named(make, monkeypatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "no-such-driver")
    envs = make("dream", render_mode="human")
    with pytest.raises(
        GlamError, match=r'no window can be opened here .*use render_mode="rgb_array"'
    ):
        envs.reset(seed=0)


@worlds
def test_a_window_without_pygame_names_the_extra(make, world, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(GlamError, match=r"glam-env\[human\]"):
        make(world, render_mode="human")


@worlds
def test_render_without_a_mode_warns(make, world) -> None:
    envs = make(world, 1)
    with pytest.warns(UserWarning, match="render_mode"):
        assert envs.render() is None


def tensor_bytes() -> int:
    """Return the bytes behind live tensors that are not frozen; packed numbers are a byte each."""
    tensors = [value for value in gc.get_objects() if issubclass(type(value), torch.Tensor)]
    tensors = [t for t in tensors if not isinstance(t, FakeTensor)]  # an export's: no memory
    plain = [t for t in tensors if t.device.type != "meta" and t.layout == torch.strided]
    storages = {t.untyped_storage().data_ptr(): t for t in plain}
    packed = sum(t.numel() for t in tensors if t.layout != torch.strided)
    return packed + sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


@worlds_of_one_base
@observations
def test_a_closed_env_has_let_go_of_every_tensor(make, make_single, world, obs_type) -> None:
    gc.collect()
    gc.freeze()  # what lives already is not looked through
    gc.disable()  # memory must be freed without the collector of cycles
    try:
        before = tensor_bytes()
        for single in (True, False):
            options = {"obs_type": obs_type, "render_mode": "rgb_array"}
            env = make_single(world, **options) if single else make(world, 1, **options)
            env.reset(seed=0)
            env.step(1 if single else actions_at(0, 1))
            env.render()
            assert tensor_bytes() > before
            env.close()
            env.close()
            assert tensor_bytes() == before
    finally:
        gc.enable()
        gc.unfreeze()
    for use in (env.reset, env.render, lambda: env.step(actions_at(0, 1))):
        with pytest.raises(GlamError, match="closed"):
            use()
