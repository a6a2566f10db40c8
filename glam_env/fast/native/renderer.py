"""``NativeRenderer``: frames in C++, for CPUs with AVX512-VNNI."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from glam_env.errors import GlamError
from glam_env.fast.native.bindings import Decoder, Layer, Memory, load_library
from glam_env.fast.quantized import IntegerDecoder, Rounded
from glam_env.model.vision import IMAGE_SIZE

MOST_CATEGORICALS = 256  # more int8 numbers could overflow a sum of 16 bits
_GROUP = 16  # outputs in a vector


def can_draw() -> bool:
    """Return whether this CPU has the instructions."""
    return bool(load_library().glam_can_draw())


def _channels(decoder: IntegerDecoder) -> list[int]:
    """Return the channels of the maps."""
    return [*(layer.weight.shape[1] for layer in decoder.hidden), decoder.rows[0].weight.shape[1]]


def suits(decoder: IntegerDecoder) -> bool:
    """Return whether ``render.cpp`` can render with a decoder of these sizes."""
    if decoder.places > 1:
        return False
    first, second, third, last = _channels(decoder)
    categoricals = decoder.first.weight.shape[1] // decoder.classes
    return (
        first % 16 == second % 32 == third % 32 == last % 16 == 0
        and categoricals <= MOST_CATEGORICALS
    )


class NativeRenderer:
    """Renders with 8-bit integers, as ``IntegerRenderer`` up to rounding.

    Args:
        decoder: The result of :func:`~glam_env.fast.quantized.round_decoder`.

    Raises:
        BuildError: The library cannot be compiled or loaded.
        GlamError: The CPU does not have the instructions, or the decoder's sizes do not suit.
    """

    @torch.no_grad()
    def __init__(self, decoder: IntegerDecoder) -> None:
        if not can_draw() or not suits(decoder):
            raise GlamError(
                "native rendering needs a CPU with AVX512-VNNI, channels that are multiples of 16, "
                "32, 32 and 16, and at most 256 categoricals; take precision 'auto'"
            )
        self._library, self._memory = load_library(), Memory()
        channels, steps, keep = _channels(decoder), decoder.steps, self._memory.keep
        weight, scale, bias = decoder.first
        self._categoricals = weight.shape[1] // decoder.classes
        hidden = [
            self._blocks(layer, steps[at], steps[at + 1]) for at, layer in enumerate(decoder.hidden)
        ]
        background = _interleaved(decoder.background).flatten()
        self._decoder = Decoder(
            categoricals=self._categoricals,
            classes=decoder.classes,
            table=keep(weight.T, torch.int8),
            table_scale=keep(scale / steps[0]),
            table_bias=keep(bias / steps[0]),
            hidden=(Layer * 3)(*hidden),
            last=self._rows(decoder.rows, steps[-1], channels[-1]),
            background=keep(torch.cat([background, torch.zeros(_GROUP)]), torch.uint8),
        )

    def _blocks(self, layer: Rounded, step: float, after: float) -> Layer:
        """Pack a hidden layer, the kinds of pixels in the order of ``render.cpp``."""
        total, inputs, *_ = layer.weight.shape
        outputs, keep = total // 4, self._memory.keep

        def kinds(x: Tensor) -> Tensor:
            return x.unflatten(0, (2, 2, outputs)).flip(0, 1).flatten(0, 1)

        weight = kinds(layer.weight).permute(0, 3, 4, 2, 1)  # kind, row, column, in, out
        weight = weight.reshape(4, inputs, 4, outputs).transpose(2, 3)
        return Layer(
            weight=keep(weight, torch.int8),
            scale=keep(kinds(layer.scale) * (step / after)),
            bias=keep(kinds(layer.bias) / after),
            inputs=inputs,
            outputs=outputs,
        )

    def _rows(self, rows: list[Rounded], step: float, inputs: int) -> Layer:
        """Pack the last layer."""

        def padded(x: Tensor) -> Tensor:
            return torch.nn.functional.pad(x, (0, _GROUP - x.shape[-1]))

        (odd, even), keep = rows, self._memory.keep
        weights = [part.weight.permute(2, 3, 1, 0) for part in (even, odd)]  # row, column, in, out
        weight = torch.stack([padded(part.reshape(-1, 4, part.shape[-1])) for part in weights])
        scales = torch.stack([padded(part.scale) for part in (even, odd)])
        return Layer(
            weight=keep(weight.transpose(2, 3), torch.int8),
            scale=keep(scales * (255.0 * step)),
            bias=keep(padded(255.0 * odd.bias)),
            inputs=inputs,
            outputs=len(odd.bias),
        )

    def __call__(self, codes: Tensor) -> Tensor:
        if (
            codes.ndim != 2
            or codes.shape[1] != self._categoricals
            or codes.dtype != torch.int64
            or not codes.is_cpu
        ):
            raise ValueError(
                f"codes must be (E, {self._categoricals}) torch.int64 on the CPU, "
                f"got {tuple(codes.shape)} {codes.dtype} on {codes.device}"
            )
        codes = codes.contiguous()
        frames = torch.empty(len(codes), IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)
        refused = self._library.glam_draw(
            ctypes.byref(self._decoder),
            codes.data_ptr(),
            frames.data_ptr(),
            len(codes),
            torch.get_num_threads(),
        )
        if refused:
            raise IndexError("a code is out of range of the decoder's classes")
        return frames


def _interleaved(background: list[Tensor]) -> Tensor:
    """Join both parities' (33, 17, 12) to the image's rows, (64, 17, 12)."""
    odd, even = background
    return torch.stack([even[:-1], odd[1:]], 1).flatten(0, 1)
