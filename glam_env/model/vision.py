"""The image model: four strided convolutions, and their mirror image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGE_SIZE = 64
MAP_SIZE = 4  # side of the encoder's last feature map


def stem_channels(stem: int) -> list[int]:
    """Return the channels after each convolution: 32, 64, 128, 256 for a stem of 32."""
    return [stem, 2 * stem, 4 * stem, 8 * stem]


def _channels_last(module: nn.Sequential) -> nn.Sequential:
    """Lay weights out as the images are; convolutions are then twice as fast on a CPU."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


class ImageEncoder(nn.Module):
    """Image to feature map x to the logits of z ~ q(z | o) (eq. 4, encoder).

    Args:
        stem: Channels of the first convolution (paper: 32).
        categoricals: K.
        classes: C.
    """

    def __init__(self, stem: int, categoricals: int, classes: int) -> None:
        super().__init__()
        self.shape = (categoricals, classes)
        layers: list[nn.Module] = []
        previous = 3
        for channels in stem_channels(stem):
            layers += [
                nn.Conv2d(previous, channels, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            previous = channels
        self.convolutions = _channels_last(nn.Sequential(*layers))
        self.feature_dim = previous * MAP_SIZE * MAP_SIZE
        self.head = nn.Linear(self.feature_dim, categoricals * classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (N, 64, 64, 3) uint8 images.

        Returns:
            x (N, 16 · 8 · stem), the flattened feature map, and the logits (N, K, C).
        """
        pixels = images.permute(0, 3, 1, 2) / 255.0  # float32, and channels last as they are
        x = self.convolutions(pixels).flatten(1)
        return x, self.head(x).unflatten(-1, self.shape)


class ImageDecoder(nn.Module):
    """Latent to image, ô = p(z) (eq. 4, decoder).

    Args:
        stem: As in the encoder.
        categoricals: K.
        classes: C.
        residual: Add the ``background`` buffer to the output: the network then draws the
            difference from it (setting ``background_residual``).
    """

    background: Tensor

    def __init__(self, stem: int, categoricals: int, classes: int, *, residual: bool) -> None:
        super().__init__()
        *hidden, first = stem_channels(stem)
        self.residual = residual
        self.first = first
        self.project = nn.Linear(categoricals * classes, first * MAP_SIZE**2, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(first), nn.ReLU(inplace=True)]
        previous = first
        for channels in reversed(hidden):
            layers += [
                nn.ConvTranspose2d(previous, channels, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            previous = channels
        layers.append(nn.ConvTranspose2d(previous, 3, 4, stride=2, padding=1))
        self.convolutions = _channels_last(nn.Sequential(*layers))
        self.register_buffer("background", torch.zeros(IMAGE_SIZE, IMAGE_SIZE, 3))

    def forward(self, z: Tensor) -> Tensor:
        """Draw (N, K·C) one-hot latents as (N, 64, 64, 3) float32, not clamped to [0, 1]."""
        maps = self.project(z).unflatten(-1, (self.first, MAP_SIZE, MAP_SIZE))
        maps = maps.contiguous(memory_format=torch.channels_last)
        images = self.convolutions(maps).permute(0, 2, 3, 1).float()
        return images + self.background if self.residual else images
