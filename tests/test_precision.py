"""bfloat16 is used only where the hardware is faster with it."""

import math
import os

import pytest
import torch

from glam_env.fast import precision
from glam_env.fast.precision import autocast, bfloat16_pays


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """Decide again in each test, with an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bfloat16_pays.cache_clear()
    yield tmp_path / "cache" / "glam_env" / "native"
    bfloat16_pays.cache_clear()


def multiplies(monkeypatch, *, amx=False, avx512=False):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)


def measure(monkeypatch, ratio):
    """Let the measurement find a ratio; return the list of its calls."""
    calls = []
    monkeypatch.setattr(precision, "measure_bfloat16", lambda: calls.append(ratio) or ratio)
    return calls


@pytest.mark.parametrize(
    ("ratio", "pays"), [(0.7, True), (0.94, True), (0.96, False), (3.0, False)]
)
def test_a_cpu_that_multiplies_bfloat16_is_measured(monkeypatch, ratio, pays):
    multiplies(monkeypatch, avx512=True)
    measure(monkeypatch, ratio)
    assert bfloat16_pays("cpu") is pays
    x = torch.ones(2, 2)
    with autocast(torch.device("cpu"), True):
        assert (x @ x).dtype == (torch.bfloat16 if pays else torch.float32)
    with autocast(torch.device("cpu"), False):
        assert (x @ x).dtype == torch.float32


def test_it_is_measured_once_and_kept(monkeypatch, fresh):
    multiplies(monkeypatch, amx=True)
    calls = measure(monkeypatch, 0.8)
    assert bfloat16_pays("cpu")
    bfloat16_pays.cache_clear()
    measure(monkeypatch, 2.0)
    assert bfloat16_pays("cpu")
    assert len(calls) == 1
    (file,) = fresh.iterdir()
    file.write_text("")  # cut short
    bfloat16_pays.cache_clear()
    assert not bfloat16_pays("cpu")
    assert file.read_text() == "2.000"


def test_other_cpus_and_devices_are_not_measured(monkeypatch, fresh):
    multiplies(monkeypatch)
    calls = measure(monkeypatch, 0.1)
    assert not bfloat16_pays("cpu")
    assert bfloat16_pays("cuda")
    assert not bfloat16_pays("mps")
    assert not calls
    assert not fresh.exists()


@pytest.mark.parametrize("amx", [False, True])
def test_where_nothing_can_be_kept_matrix_units_decide(monkeypatch, fresh, amx):
    multiplies(monkeypatch, amx=amx, avx512=True)
    calls = measure(monkeypatch, 0.1)
    fresh.parent.mkdir(parents=True)
    fresh.write_text("in the way")
    assert bfloat16_pays("cpu") is amx
    assert not calls


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no modes of files")
def test_what_others_may_write_is_not_read(monkeypatch, fresh):
    multiplies(monkeypatch, avx512=True)
    measure(monkeypatch, 0.1)
    fresh.mkdir(parents=True)
    fresh.chmod(0o777)
    assert not bfloat16_pays("cpu")


def test_the_measurement_leaves_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    ratio = precision.measure_bfloat16() if torch.cpu._is_avx512_bf16_supported() else quick_ratio()
    assert ratio > 0.0
    assert math.isfinite(ratio)
    assert torch.equal(torch.rand(4), expected)


def quick_ratio():
    """Measure one turn, since this CPU is slow with the format."""
    turns, precision.TURNS = precision.TURNS, 1
    try:
        return precision.measure_bfloat16()
    finally:
        precision.TURNS = turns
