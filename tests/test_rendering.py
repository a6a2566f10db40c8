"""The renderers: the decoder's images, within the documented rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from glam_env.checkpoint.folder import Checkpoint
from glam_env.fast.choose import make_renderer, missing
from glam_env.fast.native.renderer import NativeRenderer, can_draw
from glam_env.fast.precision import int8_pays
from glam_env.fast.quantized import IntegerRenderer, round_decoder
from glam_env.fast.render import FloatRenderer, fold
from glam_env.model.distributions import one_hot
from glam_env.model.vision import ImageDecoder

NATIVE = not missing() and can_draw()

K, C = 6, 5
PER = 2  # categoricals of each place of a grid
PONG = Path(__file__).resolve().parents[1] / "checkpoints" / "Pong"

integer_renderers = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.skipif(not there, reason="not on this CPU"))
        for kind, there in ((IntegerRenderer, int8_pays("cpu")), (NativeRenderer, NATIVE))
    ],
)


def make_decoder(*, residual: bool, stem: int = 4, grid: int = 0) -> ImageDecoder:
    """Build a decoder with non-trivial BatchNorms and colours within the range."""
    torch.manual_seed(3)
    decoder = ImageDecoder(stem, PER * grid**2 or K, C, residual=residual, grid=grid)
    with torch.no_grad():
        if grid:
            decoder.place_bias.normal_(0.0, 0.3)
        for module in decoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0.0, 0.3)
                module.running_mean.normal_(0.0, 0.3)
                module.running_var.uniform_(0.3, 2.0)
        decoder.background.uniform_(0.2, 0.8)
        decoder.convolutions[-1].weight.mul_(10.0)
        if not residual:
            decoder.convolutions[-1].bias.fill_(0.5)
    return decoder.eval().requires_grad_(False)


def make_codes(count: int, seed: int = 0, categoricals: int = K) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(C, (count, categoricals), generator=generator)


def decoded(decoder: ImageDecoder, codes: torch.Tensor, classes: int) -> torch.Tensor:
    """Return (E, 64, 64, 3) float64 levels of 255, computed by the decoder itself."""
    return 255.0 * decoder(one_hot(codes, classes).flatten(-2)).clamp(0.0, 1.0).double()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("count", [1, 3, 70])
def test_float_renderer_draws_the_decoders_images(residual, count) -> None:
    decoder, codes = make_decoder(residual=residual), make_codes(count)
    frames = FloatRenderer(fold(decoder, K))(codes)
    assert (frames.dtype, tuple(frames.shape)) == (torch.uint8, (count, 64, 64, 3))
    expected = decoded(decoder, codes, C)
    assert expected.std() > 15  # not a single colour
    assert (frames.double() - expected).abs().max() < 0.51


@pytest.mark.parametrize("grid", [4, 8])
def test_codes_with_places_are_drawn_as_the_decoder_draws_them(grid) -> None:
    decoder, count = make_decoder(residual=True, grid=grid), PER * grid**2
    codes = make_codes(70, categoricals=count)
    expected = decoded(decoder, codes, C)
    assert expected.std() > 15
    folded = fold(decoder, count)
    assert (FloatRenderer(folded)(codes).double() - expected).abs().max() < 0.51
    chosen = make_renderer(decoder, make_codes(64, seed=1, categoricals=count))
    assert not isinstance(chosen, NativeRenderer)  # it knows the paper's first map alone
    if int8_pays("cpu"):
        assert isinstance(chosen, IntegerRenderer)
        off = (chosen(codes).double() - expected).abs()
        assert off.mean() < 1.5
        alone = torch.cat([chosen(code) for code in codes.split(1)])
        assert torch.equal(chosen(codes), alone)


def test_bfloat16_is_close() -> None:
    decoder, codes = make_decoder(residual=True), make_codes(8)
    frames = FloatRenderer(fold(decoder, K), torch.bfloat16)(codes)
    assert (frames.double() - decoded(decoder, codes, C)).abs().max() < 4.0


@integer_renderers
def test_integers_draw_the_shipped_pong_as_documented(kind) -> None:
    checkpoint = Checkpoint.open(PONG)
    model, contexts = checkpoint.world_model(), checkpoint.contexts()
    codes = contexts.codes[:, -1].long()
    render = kind(round_decoder(fold(model.decoder, model.config.categoricals), codes[::8]))
    others = codes[1::16]  # none of them set the steps
    off = (render(others).double() - decoded(model.decoder, others, model.config.classes)).abs()
    assert off.mean() < 0.5
    assert (off > 2.5).double().mean() < 1e-4


@integer_renderers
def test_integer_frames_are_independent_of_the_batch(kind) -> None:
    decoder, codes = make_decoder(residual=True, stem=16), make_codes(70)
    render = kind(round_decoder(fold(decoder, K), codes))
    alone = torch.cat([render(code) for code in codes.split(1)])
    assert torch.equal(render(codes), alone)


@pytest.mark.skipif(not NATIVE, reason="not on this CPU")
def test_native_renderer_refuses_codes_out_of_range() -> None:
    decoder = round_decoder(fold(make_decoder(residual=True, stem=16), K), make_codes(8))
    codes = make_codes(3)
    codes[2, 1] = C
    with pytest.raises(IndexError, match="out of range"):
        NativeRenderer(decoder)(codes)


@pytest.mark.skipif(not NATIVE, reason="not on this CPU")
@pytest.mark.parametrize(
    "change", [lambda x: x[:, :-1], lambda x: x[0], lambda x: x.int(), lambda x: x.to("meta")]
)
def test_native_renderer_checks_shapes_before_memory_is_read(change) -> None:
    decoder = round_decoder(fold(make_decoder(residual=True, stem=16), K), make_codes(8))
    with pytest.raises(ValueError, match="on the CPU, got"):
        NativeRenderer(decoder)(change(make_codes(3)))


@pytest.mark.skipif(not (int8_pays("cpu") and NATIVE), reason="not on this CPU")
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("stem", [16, 32])
def test_native_frames_are_those_of_onednn_up_to_rounding(residual, stem) -> None:
    """Compare all pixels, edges included; sums between two steps round either way."""
    codes = make_codes(33, seed=2)
    decoder = round_decoder(
        fold(make_decoder(residual=residual, stem=stem), K), make_codes(64, seed=3)
    )
    one, other = IntegerRenderer(decoder)(codes).int(), NativeRenderer(decoder)(codes).int()
    off = (one - other).abs()
    assert off.max() <= 5  # the weights of the last layer are scaled by ten here
    assert (off > 0).double().mean() < 1e-3
    assert one.double().std() > 15
    for edge in (one[:, 0], one[:, -1], one[:, :, 0], one[:, :, -1]):
        assert edge.double().std() > 5


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_frames_belong_to_the_caller(precision) -> None:
    decoder, codes = make_decoder(residual=True), make_codes(5)
    render = make_renderer(decoder, codes, precision)
    first = render(codes)
    kept = first.clone()
    render(make_codes(5, seed=1))
    assert torch.equal(first, kept)
    first.zero_()
    assert torch.equal(render(codes), kept)


def test_auto_takes_integers_where_they_are_faster() -> None:
    render = make_renderer(make_decoder(residual=False), make_codes(5))
    assert isinstance(render, IntegerRenderer if int8_pays("cpu") else FloatRenderer)
    large = make_renderer(make_decoder(residual=False, stem=16), make_codes(5))
    assert isinstance(large, NativeRenderer if NATIVE else type(render))
    assert np.array_equal(render(make_codes(2)).shape, (2, 64, 64, 3))
