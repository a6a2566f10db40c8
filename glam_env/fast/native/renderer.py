"""``NativeRenderer``: the :class:`IntegerRenderer` of a CPU with AVX512-VNNI and a compiler."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from glam_env.errors import GlamError
from glam_env.fast.native.build import load_library
from glam_env.fast.render import IntegerDecoder, Rounded
from glam_env.model.vision import IMAGE_SIZE

MOST_CATEGORICALS = 256  # of which sums of int8 fit 16 bits
_GROUP = 16  # outputs of a vector


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "scale", "bias")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
    ]


class _Decoder(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("categoricals", "classes")),
        *((name, ctypes.c_void_p) for name in ("table", "table_scale", "table_bias")),
        ("hidden", _Layer * 3),
        ("last", _Layer),
        ("background", ctypes.c_void_p),
    ]


def can_draw() -> bool:
    """Whether this CPU has the instructions."""
    function = load_library().glam_can_draw
    function.restype = ctypes.c_int64
    return bool(function())


def _channels(decoder: IntegerDecoder) -> list[int]:
    """Channels of the four maps."""
    return [*(layer.weight.shape[1] for layer in decoder.hidden), decoder.rows[0].weight.shape[1]]


def suits(decoder: IntegerDecoder) -> bool:
    """Whether ``render.cpp`` can draw with a decoder of these sizes."""
    first, second, third, last = _channels(decoder)
    categoricals = decoder.first.weight.shape[1] // decoder.classes
    return (
        first % 16 == second % 32 == third % 32 == last % 16 == 0
        and categoricals <= MOST_CATEGORICALS
    )


class NativeRenderer:
    """Draws with 8-bit integers: the frames of :class:`IntegerRenderer`, up to rounding of its
    sums to steps.

    Args:
        decoder: from :func:`~glam_env.fast.render.round_decoder`.

    Raises:
        GlamError: the library can't be had, the CPU has no such instructions, or the sizes do not
            suit it.
    """

    @torch.no_grad()
    def __init__(self, decoder: IntegerDecoder) -> None:
        if not can_draw() or not suits(decoder):
            raise GlamError("native drawing suits neither every CPU nor every decoder: not these")
        self._library = load_library()
        self._kept: list[Tensor] = []
        d, channels, steps = _Decoder(), _channels(decoder), decoder.steps
        weight, scale, bias = decoder.first
        self._categoricals = weight.shape[1] // decoder.classes
        d.categoricals, d.classes = self._categoricals, decoder.classes
        d.table = self._keep(weight.T, torch.int8)
        d.table_scale = self._keep(scale / steps[0])
        d.table_bias = self._keep(bias / steps[0])
        for at, layer in enumerate(decoder.hidden):
            d.hidden[at] = self._blocks(layer, steps[at], steps[at + 1])
        d.last = self._rows(decoder.rows, steps[-1], channels[-1])
        d.background = self._keep(
            torch.cat([_interleaved(decoder.background).flatten(), torch.zeros(_GROUP)]),
            torch.uint8,
        )
        self._decoder = d

    def _keep(self, x: Tensor, dtype: torch.dtype = torch.float32) -> int:
        """The address of the numbers, which live as long as this object."""
        self._kept.append(x.detach().to(dtype).contiguous())
        return self._kept[-1].data_ptr()

    def _blocks(self, layer: Rounded, step: float, after: float) -> _Layer:
        """Of the four kinds of pixels, the even rows and columns come first here."""
        total, inputs, *_ = layer.weight.shape
        outputs = total // 4

        def kinds(x: Tensor) -> Tensor:
            return x.unflatten(0, (2, 2, outputs)).flip(0, 1).flatten(0, 1)

        weight = kinds(layer.weight).permute(0, 3, 4, 2, 1)  # kind, row, column, in, out
        weight = weight.reshape(4, inputs, 4, outputs).transpose(2, 3)
        return _Layer(
            self._keep(weight, torch.int8),
            self._keep(kinds(layer.scale) * (step / after)),
            self._keep(kinds(layer.bias) / after),
            inputs,
            outputs,
        )

    def _rows(self, rows: list[Rounded], step: float, inputs: int) -> _Layer:
        def padded(x: Tensor) -> Tensor:
            return torch.nn.functional.pad(x, (0, _GROUP - x.shape[-1]))

        odd, even = rows
        weights = [part.weight.permute(2, 3, 1, 0) for part in (even, odd)]  # row, column, in, out
        weight = torch.stack([padded(part.reshape(-1, 4, part.shape[-1])) for part in weights])
        scales = torch.stack([padded(part.scale) for part in (even, odd)])
        return _Layer(
            self._keep(weight.transpose(2, 3), torch.int8),
            self._keep(scales * (255.0 * step)),
            self._keep(padded(255.0 * odd.bias)),
            inputs,
            len(odd.bias),
        )

    def __call__(self, codes: Tensor) -> Tensor:
        if codes.ndim != 2 or codes.shape[1] != self._categoricals or codes.dtype != torch.int64:
            raise ValueError(f"codes must be (E, {self._categoricals}) int64, got {codes.shape}")
        codes = codes.contiguous()
        frames = torch.empty(len(codes), IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)
        refused = self._library.glam_draw(
            ctypes.byref(self._decoder),
            ctypes.c_void_p(codes.data_ptr()),
            ctypes.c_void_p(frames.data_ptr()),
            ctypes.c_int64(len(codes)),
            ctypes.c_int64(torch.get_num_threads()),
        )
        if refused:
            raise IndexError("a code is none of the decoder's classes")
        return frames


def _interleaved(background: list[Tensor]) -> Tensor:
    """Both parities' (33, 17, 12) to the image's rows, (64, 17, 12)."""
    odd, even = background
    return torch.stack([even[:-1], odd[1:]], 1).flatten(0, 1)
