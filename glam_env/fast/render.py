"""Renderers: the decoder laid out once for inference, from codes to uint8 frames.

BatchNorm is folded into the convolution before it. The first layer, which reads one-hot codes,
becomes a table. The last convolution writes whole rows of pixels. Since frames are rounded to 8
bits, the arithmetic before may be coarser where the hardware is faster with it: bfloat16 on CUDA
devices, and 8-bit integers on some CPUs (:mod:`glam_env.fast.quantized`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glam_env.model.vision import IMAGE_SIZE, ImageDecoder

Renderer = Callable[[Tensor], Tensor]
"""Takes (E, K) int64 codes, returns new (E, 64, 64, 3) uint8 frames."""

PRECISIONS = ("auto", "float32", "bfloat16", "int8")
PART = 64  # frames whose maps fit the cache of a CPU core

_ROW = 17 * 12  # numbers in a row of the last layer: 3 pixels more on the left, 1 on the right


class Folded(NamedTuple):
    """A decoder without its BatchNorms.

    Attributes:
        table: (K, C, side²·channels / places), from codes to the first map before its ReLU,
            position by position, channels last.
        bias: (side²·channels) of the first map.
        layers: Weight (in, out, 4, 4) and bias (out) of each transposed convolution.
        background: (64, 64, 3), which the last layer's output is added to.
        side: Side of the first map.
        places: Equal parts of the codes, each of which makes an equal part of the first map.
    """

    table: Tensor
    bias: Tensor
    layers: list[tuple[Tensor, Tensor]]
    background: Tensor
    side: int
    places: int


@torch.no_grad()
def fold(decoder: ImageDecoder, categoricals: int) -> Folded:
    """Fold each BatchNorm, with its running statistics, into the layer before it.

    Args:
        decoder: In eval mode.
        categoricals: K.
    """

    def scale(norm: nn.Module) -> tuple[Tensor, Tensor]:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_var is not None
        assert norm.running_mean is not None
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return factor, norm.bias - norm.running_mean * factor

    first, *rest = (m for m in decoder.convolutions if not isinstance(m, nn.ReLU))
    factor, shift = scale(first)
    project, positions = decoder.project.weight, decoder.side**2
    if decoder.places:
        part = (project * factor[:, None]).T.unflatten(0, (categoricals // decoder.places, -1))
        table = part.repeat(decoder.places, 1, 1)
        first_bias = (decoder.place_bias * factor + shift).flatten()
    else:
        maps = project.view(decoder.first, positions, -1) * factor[:, None, None]
        table = maps.permute(2, 1, 0).reshape(categoricals, -1, maps[..., 0].numel())
        first_bias = shift.repeat(positions)
    layers = []
    for at in range(0, len(rest), 2):
        weight, bias = rest[at].weight, rest[at].bias
        assert isinstance(weight, Tensor)
        if at + 1 < len(rest):
            factor, bias = scale(rest[at + 1])
            weight = weight * factor[:, None, None]
        assert isinstance(bias, Tensor)
        layers.append((weight.detach(), bias.detach()))
    return Folded(
        table,
        first_bias,
        layers,
        decoder.background if decoder.residual else torch.zeros_like(decoder.background),
        decoder.side,
        max(1, decoder.places),
    )


class RowSums:
    """Sums rows of a table by codes, for each part of the codes by itself.

    Args:
        table: (K, C, M) float32.
        places: Equal parts of the K codes.
    """

    def __init__(self, table: Tensor, places: int) -> None:
        count, classes, _ = table.shape
        self._table, self._part = table.flatten(0, 1), count // places
        self._offsets = torch.arange(count, device=table.device) * classes

    def __call__(self, codes: Tensor) -> Tensor:
        """Map (E, K) codes to (E, places·M) sums."""
        rows = (codes + self._offsets).view(-1, self._part)
        return F.embedding_bag(rows, self._table, mode="sum").view(len(codes), -1)


# A transposed convolution of kernel 4 and stride 2 computes the output rows 2m − 1 and 2m from the
# input rows m − 1 and m, and columns likewise. In each dimension, outputs of parity p take the
# kernel's entries _TAPS[p].
_TAPS = ((2, 0), (3, 1))


def as_blocks(weight: Tensor) -> Tensor:
    """Turn a transposed convolution into a plain one with 2 × 2 blocks of pixels.

    Args:
        weight: (in, out, 4, 4), of kernel 4, stride 2, padding 1.

    Returns:
        (2·2·out, in, 2, 2). The input has a padding of one zero on each side. The output at (i, j)
        holds the pixels (2i − 1 … 2i, 2j − 1 … 2j), row by row, channels last.
    """
    taps = torch.tensor(_TAPS, device=weight.device)
    blocks = weight[:, :, taps][:, :, :, :, taps]  # (in, out, dy, iy, dx, ix)
    return blocks.permute(2, 4, 1, 0, 3, 5).flatten(0, 2)


def as_rows(weight: Tensor, parity: int) -> Tensor:
    """Turn a transposed convolution into a plain one with pieces of pixel rows.

    Args:
        weight: (in, out, 4, 4).
        parity: 0 for the rows 2i − 1, 1 for the rows 2i.

    Returns:
        (4·out, in, 2, 3), for a stride of (1, 2). The input has a padding of one zero on each side,
        and of one more on the left and on the right. The output at (i, k) holds the pixels
        4k − 3 … 4k of a row, channels last.
    """
    taps = torch.tensor(_TAPS, device=weight.device)
    pairs = weight[:, :, taps[parity]][:, :, :, taps].permute(3, 1, 0, 2, 4)  # dx, out, in, iy, ix
    rows = weight.new_zeros(2, *pairs.shape[:-1], 3)
    for half in range(2):
        rows[half, ..., half : half + 2] = pairs
    return rows.flatten(0, 2)


def background_rows(background: Tensor, parity: int) -> Tensor:
    """Shape (64, 64, 3) like :func:`as_rows`, (33, 17, 12), in levels of 255."""
    padded = F.pad(255.0 * background, (0, 0, 3, 1, 1, 1))
    return padded[parity::2].reshape(IMAGE_SIZE // 2 + 1, -1, 12).contiguous()


def join_rows(rows: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Join the (B, 33, 17, 12) of both parities to (B, 64, 64, 3)."""
    odd, even = (part.reshape(len(part), -1, _ROW)[:, :, 9 : 9 + 3 * IMAGE_SIZE] for part in rows)
    shape = len(odd), IMAGE_SIZE // 2, 2, 3 * IMAGE_SIZE
    frames = torch.empty(shape, dtype=dtype, device=odd.device)
    frames[:, :, 0], frames[:, :, 1] = even[:, :-1], odd[:, 1:]
    return frames.view(-1, IMAGE_SIZE, IMAGE_SIZE, 3)


class FloatRenderer:
    """Renders with floating-point numbers.

    Args:
        folded: The decoder.
        dtype: Of the products. Sums over codes and the last addition are float32.
    """

    def __init__(self, folded: Folded, dtype: torch.dtype = torch.float32) -> None:
        def lay_out(weight: Tensor) -> Tensor:
            return weight.to(dtype).contiguous(memory_format=torch.channels_last)

        *hidden, (weight, bias) = folded.layers
        self._sums, self._first_bias = RowSums(folded.table, folded.places), folded.bias
        self._shape = folded.side, folded.side, -1
        self._dtype = dtype
        self._hidden = [(lay_out(w), b.to(dtype)) for w, b in hidden]
        self._rows = [lay_out(255.0 * as_rows(weight, parity)) for parity in range(2)]
        self._base = [  # what the last convolution's output is added to
            background_rows(folded.background, parity) + 255.0 * bias.repeat(4)
            for parity in range(2)
        ]

    @torch.no_grad()
    def __call__(self, codes: Tensor) -> Tensor:
        if codes.device.type != "cpu":
            return self._draw(codes)
        return torch.cat([self._draw(part) for part in codes.split(PART * torch.get_num_threads())])

    def _draw(self, codes: Tensor) -> Tensor:
        x = self.maps(codes)[-1]
        x = F.pad(x, (1, 1, 1, 1))
        rows = [
            F.conv2d(x, weight, stride=(1, 2), padding=(0, 1)).permute(0, 2, 3, 1) + base
            for weight, base in zip(self._rows, self._base, strict=True)
        ]
        return join_rows(rows, torch.float32).round_().clamp_(0.0, 255.0).to(torch.uint8)

    def maps(self, codes: Tensor) -> list[Tensor]:
        """Return the maps (E, channels, side, side) after the ReLUs, channels last."""
        x = self._sums(codes).add_(self._first_bias)
        x = x.relu_().to(self._dtype).unflatten(1, self._shape).permute(0, 3, 1, 2)
        maps = [x]
        for weight, bias in self._hidden:
            x = F.conv_transpose2d(x, weight, bias, stride=2, padding=1).relu_()
            maps.append(x)
        return maps
