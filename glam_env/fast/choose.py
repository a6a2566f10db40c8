"""Dreams in C++, for CPUs: the step and the drawing; compiled on first use, which takes some
seconds, and kept."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor

from glam_env.errors import GlamError
from glam_env.fast.native import renderer, stepper
from glam_env.fast.native.build import BuildError, load_library
from glam_env.fast.native.renderer import NativeRenderer
from glam_env.fast.native.stepper import NativeStepper
from glam_env.fast.precision import int8_pays
from glam_env.fast.render import (
    FloatRenderer,
    IntegerRenderer,
    Renderer,
    calibration,
    fold,
    round_decoder,
)
from glam_env.fast.step import DreamStepper
from glam_env.model.vision import ImageDecoder
from glam_env.model.world_model import WorldModel

BACKENDS = ("auto", "native", "torch")


@cache
def missing() -> str:
    """Why there is no C++ for dreams on this machine; empty if there is."""
    try:
        load_library()
    except BuildError as error:
        return str(error)
    return ""


@cache
def available() -> bool:
    """Whether there is; if not, a warning has said why, once."""
    if why := missing():
        warnings.warn(
            f"dreams take PyTorch's slower way, since C++ can't be compiled here: {why}",
            RuntimeWarning,
            stacklevel=2,
        )
    return not why


def describe() -> str:
    """What steps dreams on this machine's CPU, for people."""
    if why := missing():
        return f"PyTorch ({why})"
    return "C++, products of float16" if stepper.layout().halves else "C++, float32"


def make_stepper(
    world_model: WorldModel,
    *,
    temperature: float = 1.0,
    backend: str = "auto",
    precision: str = "float32",
) -> DreamStepper:
    """The stepper of a world model whose weights stand still.

    Args:
        world_model: in eval mode, on its device.
        temperature: see :class:`DreamStepper`.
        backend: ``"native"``, ``"torch"``, or ``"auto"``: native on a CPU if it can be compiled
            and suits the model's sizes.
        precision: ``"float32"``, or ``"auto"``: coarser where that is faster and native, see
            :class:`NativeStepper`.

    Raises:
        GlamError: ``"native"`` was asked for, and it can't be compiled or does not suit.
    """
    on_cpu = world_model.prior.weight.device.type == "cpu"
    if backend == "auto":
        native = on_cpu and available() and stepper.suits(world_model.config)
        backend = "native" if native else "torch"
    if backend == "native":
        return NativeStepper(world_model, temperature=temperature, precision=precision)
    return DreamStepper(world_model, temperature=temperature)


def make_renderer(
    decoder: ImageDecoder, codes: Tensor, precision: str = "auto", backend: str = "auto"
) -> Renderer:
    """The renderer of a decoder whose weights stand still.

    Args:
        decoder: in eval mode, on its device.
        codes: (N, K) real latents of any integer dtype, on the same device.
        precision: one of :data:`~glam_env.fast.render.PRECISIONS`; ``"auto"`` takes the
            fastest that suits the device.
        backend: as :func:`make_stepper`; only ``int8`` knows the difference, and only CPUs with
            AVX512-VNNI draw natively.

    Raises:
        GlamError: ``int8`` was asked for where there is none.
    """
    device = decoder.background.device.type
    if precision == "auto":
        precision = "bfloat16" if device == "cuda" else "int8" if int8_pays(device) else "float32"
    if precision == "int8" and not int8_pays(device):
        raise GlamError("precision 'int8' is for CPUs with VNNI; take 'auto'")
    folded = fold(decoder, codes.shape[1])
    if precision != "int8":
        return FloatRenderer(folded, getattr(torch, precision))
    rounded = round_decoder(folded, calibration(codes))
    native = backend != "torch" and available() and renderer.can_draw()
    return (NativeRenderer if native and renderer.suits(rounded) else IntegerRenderer)(rounded)
