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
