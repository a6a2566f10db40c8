"""bfloat16 is used only where the hardware is faster with it."""

import pytest
import torch

from glam_env.fast.precision import autocast, bfloat16_pays


@pytest.mark.parametrize("tiles", [False, True])
def test_bfloat16_on_a_cpu_needs_matrix_units(monkeypatch, tiles):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    bfloat16_pays.cache_clear()
    x = torch.ones(2, 2)
    try:
        assert bfloat16_pays("cpu") is tiles
        assert bfloat16_pays("cuda")
        assert not bfloat16_pays("mps")
        with autocast(torch.device("cpu"), True):
            assert (x @ x).dtype == (torch.bfloat16 if tiles else torch.float32)
        with autocast(torch.device("cpu"), False):
            assert (x @ x).dtype == torch.float32
    finally:
        bfloat16_pays.cache_clear()
