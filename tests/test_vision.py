"""The image encoder and decoder, layer by layer against their definition."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glam_env.model.vision import ImageDecoder, ImageEncoder


def randomise_norms(module):
    """Running statistics and weights that a swapped or forgotten BatchNorm would show."""
    generator = torch.Generator().manual_seed(5)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.running_mean, norm.bias.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.5)
            for tensor in (norm.running_var, norm.weight.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module.eval()


def normalise(x, norm):
    """BatchNorm in evaluation, spelt out."""
    mean, var, weight, bias = (
        t.double()[:, None, None]
        for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (var + norm.eps).sqrt() * weight + bias


def images(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 64, 64, 3), dtype=torch.uint8, generator=generator)


def layers_of(module, kind):
    return [m for m in module.modules() if isinstance(m, kind)]


def test_the_papers_encoder_has_the_papers_sizes():
    encoder = ImageEncoder(32, 32, 32)
    convolutions = layers_of(encoder, nn.Conv2d)
    assert [c.out_channels for c in convolutions] == [32, 64, 128, 256]
    for c in convolutions:
        assert (c.kernel_size, c.stride) == ((4, 4), (2, 2))
    assert len(layers_of(encoder, nn.BatchNorm2d)) == 4
    x, logits = encoder(images(2))
    assert x.shape == (2, 4 * 4 * 256)
    assert logits.shape == (2, 32, 32)
    assert encoder.feature_dim == 4 * 4 * 256


def test_the_decoder_mirrors_the_encoder():
    decoder = ImageDecoder(32, 32, 32, residual=False)
    assert decoder.project.weight.shape == (4 * 4 * 256, 32 * 32)
    convolutions = layers_of(decoder, nn.ConvTranspose2d)
    assert [c.out_channels for c in convolutions] == [128, 64, 32, 3]
    for c in convolutions:
        assert (c.kernel_size, c.stride) == ((4, 4), (2, 2))
    assert decoder(torch.zeros(2, 32 * 32)).shape == (2, 64, 64, 3)


@torch.no_grad()
def test_the_encoder_computes_its_definition():
    encoder = randomise_norms(ImageEncoder(4, 3, 5))
    frames = images(3)
    x = frames.double().permute(0, 3, 1, 2) / 255.0
    norms = layers_of(encoder, nn.BatchNorm2d)
    for convolution, norm in zip(layers_of(encoder, nn.Conv2d), norms, strict=True):
        x = F.conv2d(x, convolution.weight.double(), stride=2, padding=1)
        x = normalise(x, norm).clamp_min(0.0)
    x = x.reshape(3, -1)
    logits = x @ encoder.head.weight.double().T + encoder.head.bias.double()
    got_x, got_logits = encoder(frames)
    torch.testing.assert_close(got_x.double(), x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got_logits.flatten(1).double(), logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("residual", [False, True])
def test_the_decoder_computes_its_definition(residual):
    decoder = randomise_norms(ImageDecoder(4, 3, 5, residual=residual))
    background = images(1)[0].float() / 255.0
    decoder.background.copy_(background)
    z = torch.rand(2, 15, generator=torch.Generator().manual_seed(1))
    x = (z.double() @ decoder.project.weight.double().T).reshape(2, 32, 4, 4)
    norms = layers_of(decoder, nn.BatchNorm2d)
    convolutions = layers_of(decoder, nn.ConvTranspose2d)
    for norm, convolution in zip(norms, convolutions, strict=True):
        x = normalise(x, norm).clamp_min(0.0)
        bias = None if convolution.bias is None else convolution.bias.double()
        x = F.conv_transpose2d(x, convolution.weight.double(), bias, stride=2, padding=1)
    expected = x.permute(0, 2, 3, 1)
    if residual:
        expected = expected + background.double()
    torch.testing.assert_close(decoder(z).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_running_statistics_move_in_training_only(training):
    encoder, decoder = ImageEncoder(4, 3, 5), ImageDecoder(4, 3, 5, residual=False)
    for module, given in ((encoder, images(3)), (decoder, torch.rand(3, 15))):
        module.train(training)
        before = {k: v.clone() for k, v in module.state_dict().items() if "running" in k}
        module(given)
        after = module.state_dict()
        assert before
        for name, value in before.items():
            assert torch.equal(after[name], value) != training, name


def test_under_autocast_images_come_out_in_float32():
    decoder = ImageDecoder(4, 3, 5, residual=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert decoder(torch.rand(2, 15)).dtype == torch.float32


def test_with_a_grid_one_layer_serves_all_places():
    encoder, decoder = ImageEncoder(16, 64, 16, 8), ImageDecoder(16, 64, 16, residual=True, grid=8)
    assert [c.out_channels for c in layers_of(encoder, nn.Conv2d)] == [16, 32, 64]
    assert [c.out_channels for c in layers_of(decoder, nn.ConvTranspose2d)] == [32, 16, 3]
    assert encoder.head.weight.shape == (16, 64)
    assert decoder.project.weight.shape == (64, 16)
    x, logits = encoder(images(2))
    assert x.shape == (2, encoder.feature_dim) == (2, 8 * 8 * 64)
    assert logits.shape == (2, 64, 16)
    assert decoder(torch.zeros(2, 64 * 16)).shape == (2, 64, 64, 3)
    # 4 is the paper's last map, with two categoricals of each place
    assert ImageEncoder(16, 32, 32, 4)(images(2))[1].shape == (2, 32, 32)


@torch.no_grad()
@pytest.mark.parametrize("grid", [4, 8])
def test_a_grid_s_encoder_and_decoder_compute_their_definition(grid):
    """Place by place in float64, the categoricals in the order of the places."""
    per, classes, places = 2, 3, grid**2
    encoder = randomise_norms(ImageEncoder(4, per * places, classes, grid))
    decoder = randomise_norms(ImageDecoder(4, per * places, classes, residual=False, grid=grid))
    nn.init.normal_(encoder.place_bias)
    nn.init.normal_(decoder.place_bias)
    x = encoder(images(3))[0].double().unflatten(1, (-1, grid, grid))
    logits = encoder(images(3))[1].double()
    z = torch.rand(2, per * places * classes, generator=torch.Generator().manual_seed(1))
    first = torch.zeros(2, decoder.first, grid, grid, dtype=torch.double)
    for place in range(places):
        row, column = divmod(place, grid)
        expected = x[:, :, row, column] @ encoder.head.weight.double().T
        expected = expected + encoder.head.bias.double() + encoder.place_bias[place].double()
        got = logits[:, place * per : (place + 1) * per].flatten(1)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        part = z.double()[:, place * per * classes : (place + 1) * per * classes]
        first[:, :, row, column] = part @ decoder.project.weight.double().T
        first[:, :, row, column] += decoder.place_bias[place].double()
    expected = decoder.double().convolutions(first).permute(0, 2, 3, 1)
    torch.testing.assert_close(decoder.float()(z).double(), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_categorical_with_a_place_sees_and_draws_its_surroundings_alone():
    encoder = randomise_norms(ImageEncoder(4, 64, 3, 8))
    decoder = randomise_norms(ImageDecoder(4, 64, 3, residual=False, grid=8))
    frames = images(1).repeat(2, 1, 1, 1)
    frames[1, 40:44, 20:24] = 255 - frames[1, 40:44, 20:24]  # a ball, in row 5 and column 2
    _, logits = encoder(frames)
    changed = (logits[0] != logits[1]).any(-1).view(8, 8).nonzero().tolist()
    assert [5, 2] in changed
    assert all(abs(row - 5) <= 1 and abs(column - 2) <= 1 for row, column in changed)
    z = torch.zeros(2, 64, 3)
    z[:, :, 0] = 1.0
    z[1, 5 * 8 + 2] = torch.tensor([0.0, 1.0, 0.0])
    drawn = decoder(z.flatten(1))
    rows, columns = (drawn[0] != drawn[1]).any(-1).nonzero().T
    assert 24 < int(rows.min()) <= 40
    assert 47 <= int(rows.max()) < 64
    assert 0 <= int(columns.min()) <= 16
    assert 23 <= int(columns.max()) < 40
