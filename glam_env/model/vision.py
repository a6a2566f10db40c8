"""The image model: strided convolutions, and their mirror image.

In the paper every categorical of the latent sees the whole image. With a grid they are divided
among its places: those of a place see what lies around it, and one layer serves all places.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGE_SIZE = 64
MAP_SIZE = 4  # side of the encoder's last feature map where there is no grid
GRIDS = (0, 4, 8)


def stem_channels(stem: int, grid: int = 0) -> list[int]:
    """Return the channels after each convolution: 32, 64, 128, 256 for a stem of 32.

    Args:
        stem: Channels of the first one.
        grid: Side of the last map; 0: ``MAP_SIZE``. With 8 the last convolution is missing.
    """
    channels, side = [stem], IMAGE_SIZE // 2
    while side > (grid or MAP_SIZE):
        channels.append(2 * channels[-1])
        side //= 2
    return channels


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
        grid: Side of the grid of places; 0: none. K must be a multiple of the places.
    """

    def __init__(self, stem: int, categoricals: int, classes: int, grid: int = 0) -> None:
        super().__init__()
        self.shape = (categoricals, classes)
        layers: list[nn.Module] = []
        previous = 3
        for channels in stem_channels(stem, grid):
            layers += [
                nn.Conv2d(previous, channels, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            previous = channels
        self.convolutions = _channels_last(nn.Sequential(*layers))
        self.feature_dim = previous * (grid or MAP_SIZE) ** 2
        self.places = grid**2
        if grid:
            self.head = nn.Linear(previous, categoricals * classes // self.places)
            self.place_bias = nn.Parameter(torch.zeros(self.places, self.head.out_features))
        else:
            self.head = nn.Linear(self.feature_dim, categoricals * classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (N, 64, 64, 3) uint8 images.

        Returns:
            x (N, ``feature_dim``), the flattened feature map, and the logits (N, K, C). With a
            grid the categoricals are ordered by places, row by row.
        """
        pixels = images.permute(0, 3, 1, 2) / 255.0  # float32, and channels last as they are
        maps = self.convolutions(pixels)
        x = maps.flatten(1)
        if not self.places:
            return x, self.head(x).unflatten(-1, self.shape)
        logits = self.head(maps.flatten(2).transpose(1, 2)) + self.place_bias
        return x, logits.reshape(-1, *self.shape)


class ImageDecoder(nn.Module):
    """Latent to image, ô = p(z) (eq. 4, decoder).

    Args:
        stem: As in the encoder.
        categoricals: K.
        classes: C.
        residual: Add the ``background`` buffer to the output: the network then draws the
            difference from it (setting ``background_residual``).
        grid: As in the encoder.

    Attributes:
        first: Channels of the first map.
        side: Side of the first map.
        places: Places of the grid; 0: none.
    """

    background: Tensor

    def __init__(
        self, stem: int, categoricals: int, classes: int, *, residual: bool, grid: int = 0
    ) -> None:
        super().__init__()
        *hidden, first = stem_channels(stem, grid)
        self.residual = residual
        self.first, self.side, self.places = first, grid or MAP_SIZE, grid**2
        if grid:
            self.project = nn.Linear(categoricals * classes // self.places, first, bias=False)
            self.place_bias = nn.Parameter(torch.zeros(self.places, first))
        else:
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
        if self.places:
            parts = self.project(z.unflatten(-1, (self.places, -1))) + self.place_bias
            maps = parts.transpose(1, 2)
        else:
            maps = self.project(z)
        maps = maps.reshape(len(z), self.first, self.side, self.side)
        maps = maps.contiguous(memory_format=torch.channels_last)
        images = self.convolutions(maps).permute(0, 2, 3, 1).float()
        return images + self.background if self.residual else images
