"""The renderer of 8-bit integers for CPUs with VNNI.

They compute four times as many of these products as of float32. The frames of the shipped Pong are
off by 0.4 of 255 levels on average, and by more than 2.5 levels in one place of 10 000.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from glam_env.fast.render import (
    PART,
    FloatRenderer,
    Folded,
    RowSums,
    as_blocks,
    as_rows,
    background_rows,
    join_rows,
)
from glam_env.model.distributions import one_hot

CALIBRATION_FRAMES = 256

_CONV = torch.ops.onednn


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
        places: Equal parts of the codes, as in :class:`~glam_env.fast.render.Folded`.
        side: Side of the first map.
        first: From the codes of a part to its part of the first map; the bias is of the whole map.
        hidden: The hidden layers as :func:`~glam_env.fast.render.as_blocks`.
        rows: The last layer as :func:`~glam_env.fast.render.as_rows`, for both parities.
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
        [background_rows(folded.background, parity).round().to(torch.uint8) for parity in range(2)],
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
        return join_rows(rows, torch.uint8)


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
