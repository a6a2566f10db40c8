"""Renderers: the decoder laid out once for inference, from codes to uint8 frames.

BatchNorm is folded into the convolution before it. The first layer, which reads one-hot codes,
becomes a table. The last convolution writes whole rows of pixels. Since frames are rounded to 8
bits, the arithmetic before may be coarser where the hardware is faster with it: bfloat16 on CUDA
devices, and 8-bit integers on CPUs with VNNI, which compute four times as many of those products
as of float32. With 8-bit integers the frames of the shipped Pong are off by 0.4 of 255 levels on
average, and by more than 2.5 levels in one place of 10 000.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glam_env.model.distributions import one_hot
from glam_env.model.vision import IMAGE_SIZE, ImageDecoder

Renderer = Callable[[Tensor], Tensor]
"""Takes (E, K) int64 codes, returns new (E, 64, 64, 3) uint8 frames."""

PRECISIONS = ("auto", "float32", "bfloat16", "int8")
CALIBRATION_FRAMES = 256
PART = 64  # frames whose maps fit the cache of a CPU core

_CONV = torch.ops.onednn
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


def _background_rows(background: Tensor, parity: int) -> Tensor:
    """Shape (64, 64, 3) like :func:`as_rows`, (33, 17, 12), in levels of 255."""
    padded = F.pad(255.0 * background, (0, 0, 3, 1, 1, 1))
    return padded[parity::2].reshape(IMAGE_SIZE // 2 + 1, -1, 12).contiguous()


def _join_rows(rows: list[Tensor], dtype: torch.dtype) -> Tensor:
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
            _background_rows(folded.background, parity) + 255.0 * bias.repeat(4)
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
        return _join_rows(rows, torch.float32).round_().clamp_(0.0, 255.0).to(torch.uint8)

    def maps(self, codes: Tensor) -> list[Tensor]:
        """Return the maps (E, channels, side, side) after the ReLUs, channels last."""
        x = self._sums(codes).add_(self._first_bias)
        x = x.relu_().to(self._dtype).unflatten(1, self._shape).permute(0, 3, 1, 2)
        maps = [x]
        for weight, bias in self._hidden:
            x = F.conv_transpose2d(x, weight, bias, stride=2, padding=1).relu_()
            maps.append(x)
        return maps


class Rounded(NamedTuple):
    """A layer in 8-bit integers.

    Attributes:
        weight: (out, ...) int8.
        scale: (out) value of a step in each output channel.
        bias: (out).
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> Rounded:
        """Round weights to ±127 steps, of a size for each output channel."""
        flat = weight.flatten(1)
        scale = (flat.abs().amax(1) / 127.0).clamp_min(1e-12)
        return cls((flat / scale[:, None]).round().to(torch.int8).view(weight.shape), scale, bias)


class IntegerDecoder(NamedTuple):
    """A decoder in 8-bit integers: activations of 255 steps, weights of ±127.

    Attributes:
        classes: C.
        places: Equal parts of the codes, as in :class:`Folded`.
        side: Side of the first map.
        first: From the codes of a part to its part of the first map; the bias is of the whole map.
        hidden: The hidden layers as :func:`as_blocks`.
        rows: The last layer as :func:`as_rows`, for both parities.
        steps: Value of a step in each map.
        background: (33, 17, 12) uint8, for both parities.
    """

    classes: int
    places: int
    side: int
    first: Rounded
    hidden: list[Rounded]
    rows: list[Rounded]
    steps: list[float]
    background: list[Tensor]


@torch.no_grad()
def round_decoder(folded: Folded, codes: Tensor) -> IntegerDecoder:
    """Round the weights of a decoder, and choose the steps of its maps.

    Args:
        folded: The decoder.
        codes: (N, K) int64 real latents. Their largest activations set the steps; larger
            activations saturate.
    """
    peaks = [x.amax((0, 2, 3)) for x in FloatRenderer(folded).maps(codes)]
    # ReLU commutes with positive factors. Each channel is scaled halfway to the largest one, and
    # the layer that reads it divides by the factor.
    lifts = [(p.max() / p.clamp_min(1e-3 * p.max() + 1e-12)).sqrt() for p in peaks]
    steps = [
        max(float((peak * lift).max()) / 255.0, 1e-12)
        for peak, lift in zip(peaks, lifts, strict=True)
    ]
    positions = folded.side**2
    weight = folded.table.flatten(0, 1) * lifts[0].repeat(positions // folded.places)
    first = Rounded.of(weight.T.contiguous(), folded.bias * lifts[0].repeat(positions))
    *hidden, (weight, bias) = folded.layers
    blocks = []
    for before, after, (inner, shift) in zip(lifts, lifts[1:], hidden, strict=False):
        weights = as_blocks(inner / before[:, None, None, None] * after[:, None, None])
        blocks.append(Rounded.of(weights, (shift * after).repeat(4)))
    weight = weight / lifts[-1][:, None, None, None]
    return IntegerDecoder(
        folded.table.shape[1],
        folded.places,
        folded.side,
        first,
        blocks,
        [Rounded.of(as_rows(weight, parity), bias.repeat(4)) for parity in range(2)],
        steps,
        [
            _background_rows(folded.background, parity).round().to(torch.uint8)
            for parity in range(2)
        ],
    )


class _Packed(NamedTuple):
    """Weights packed for oneDNN, the scale of :class:`Rounded`, zeros, and its bias."""

    packed: Tensor
    scale: Tensor
    zero: Tensor
    bias: Tensor


class _WholeFirst:
    """The first map of a decoder whose codes draw everywhere, by a product with one-hot codes."""

    def __init__(self, decoder: IntegerDecoder) -> None:
        weight, scale, bias = decoder.first
        zero = torch.zeros(len(scale), dtype=torch.int32)
        self._layer = _Packed(_CONV.qlinear_prepack(weight, None), scale, zero, bias)
        self._classes, self._step = decoder.classes, decoder.steps[0]

    def __call__(self, codes: Tensor) -> Tensor:
        """Map (E, K) codes to (E, side²·channels) uint8 numbers."""
        z = one_hot(codes, self._classes, torch.uint8).flatten(1)
        relu = torch.uint8, "relu", [], ""
        x: Tensor = _CONV.qlinear_pointwise(z, 1.0, 0, *self._layer, self._step, 0, *relu)
        return x


class _PlacesFirst:
    """The first map of a decoder whose codes have places: few rows for each."""

    def __init__(self, decoder: IntegerDecoder) -> None:
        weight, scale, bias = decoder.first
        table = weight.T.float().unflatten(0, (-1, decoder.classes))
        self._sums, step = RowSums(table, decoder.places), decoder.steps[0]
        self._scale, self._bias = (scale / step).repeat(decoder.places), bias / step

    def __call__(self, codes: Tensor) -> Tensor:
        """Map (E, K) codes to (E, side²·channels) uint8 numbers."""
        x = self._sums(codes).mul_(self._scale).add_(self._bias)  # sums of integers are exact
        return x.round_().clamp_(0.0, 255.0).to(torch.uint8)


class IntegerRenderer:
    """Renders with 8-bit integers on a CPU, through oneDNN.

    Sums are exact integers, so a frame does not depend on its batch.

    Args:
        decoder: The result of :func:`round_decoder`.
    """

    @torch.no_grad()
    def __init__(self, decoder: IntegerDecoder) -> None:
        self._steps = decoder.steps
        self._side = decoder.side
        self._first = _PlacesFirst(decoder) if decoder.places > 1 else _WholeFirst(decoder)
        self._hidden = [
            self._pack(at, layer, [1, 1], [1, 1] if at == 0 else [0, 0])
            for at, layer in enumerate(decoder.hidden)
        ]
        last = len(decoder.hidden)
        self._rows = [self._pack(last, layer, [1, 2], [0, 1]) for layer in decoder.rows]
        self._background = decoder.background

    def _pack(self, at: int, layer: Rounded, stride: list[int], padding: list[int]) -> _Packed:
        weight, scale, bias = layer
        packed = _CONV.qconv_prepack(
            weight, scale, self._steps[at], 0, stride, padding, [1, 1], 1, None
        )
        return _Packed(packed, scale, torch.zeros(len(scale), dtype=torch.int32), bias)

    @torch.no_grad()
    def __call__(self, codes: Tensor) -> Tensor:
        return torch.cat([self._draw(part) for part in codes.split(PART * torch.get_num_threads())])

    def _draw(self, codes: Tensor) -> Tensor:
        relu = torch.uint8, "relu", [], ""
        x = self._first(codes).view(len(codes), self._side, self._side, -1)
        for at, layer in enumerate(self._hidden):
            step, after = self._steps[at : at + 2]
            padding = [1, 1] if at == 0 else [0, 0]
            geometry = [1, 1], padding, [1, 1], 1
            x = _CONV.qconv2d_pointwise(
                x.permute(0, 3, 1, 2), step, 0, *layer, *geometry, after, 0, *relu
            )
            x = _spread(x.permute(0, 2, 3, 1))
        rows, geometry = [], ([1, 2], [0, 1], [1, 1], 1)
        for layer, background in zip(self._rows, self._background, strict=True):
            # The convolution adds to the background and saturates at black and white.
            base = background.repeat(len(codes), 1, 1, 1)
            weight, scale, zero, bias = layer
            out = _CONV.qconv2d_pointwise.binary(
                *(x.permute(0, 3, 1, 2), self._steps[-1], 0, weight, scale, zero),
                *(base.permute(0, 3, 1, 2), bias, *geometry, 1 / 255, 0, torch.uint8),
                *(1 / 255, 0, "sum", 1.0, None, [], None),
            )
            rows.append(out.permute(0, 2, 3, 1))
        return _join_rows(rows, torch.uint8)


def _spread(blocks: Tensor) -> Tensor:
    """Spread (B, s+1, s+1, 2·2·C) blocks to a map (B, 2s+2, 2s+2, C).

    Its border, where the blocks reach beyond the image, is the next layer's padding of zeros.
    """
    batch, side, _, width = blocks.shape
    x = blocks.reshape(batch, side, side, 2, 2, width // 4).permute(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch, 2 * side, 2 * side, width // 4)
    for edge in (x[:, 0], x[:, -1], x[:, :, 0], x[:, :, -1]):
        edge.zero_()
    return x


def calibration(codes: Tensor) -> Tensor:
    """Choose from (N, K) latents the (M, K) int64 ones for :func:`round_decoder`."""
    chosen = torch.linspace(0, len(codes) - 1, min(CALIBRATION_FRAMES, len(codes))).long()
    return codes[chosen].long()
