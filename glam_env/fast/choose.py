"""Chooses the stepper and the renderer for a world model, a device and a machine."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor

from glam_env.errors import GlamError
from glam_env.fast.layout import suits_layout
from glam_env.fast.native import renderer, stepper
from glam_env.fast.native.bindings import missing, vector_sizes
from glam_env.fast.native.renderer import NativeRenderer
from glam_env.fast.native.stepper import NativeStepper
from glam_env.fast.plain import ModelStepper, Stepper
from glam_env.fast.precision import int8_pays
from glam_env.fast.quantized import IntegerRenderer, calibration, round_decoder
from glam_env.fast.render import FloatRenderer, Renderer, fold
from glam_env.fast.step import TorchStepper
from glam_env.model.config import WorldModelConfig
from glam_env.model.vision import ImageDecoder
from glam_env.model.world_model import WorldModel

BACKENDS = ("auto", "native", "torch")


@cache
def available() -> bool:
    """Return whether this machine can run the C++ library; warn once if it cannot."""
    if why := missing():
        warnings.warn(
            f"dreams run in PyTorch, which is slower: {why}",
            RuntimeWarning,
            stacklevel=2,
        )
    return not why


def describe() -> str:
    """Describe what steps dreams on this machine's CPU, for a person to read."""
    if why := missing():
        return f"PyTorch ({why})"
    return "C++, products of float16" if vector_sizes().halves else "C++, float32"


def describe_core(config: WorldModelConfig) -> str:
    """Describe what steps dreams of a world model on this machine's CPU, for a person to read."""
    core = config.core.name
    if not suits_layout(config):
        return f"PyTorch (the core {core!r} has no C++ steps)"
    if not missing() and not stepper.suits(config):
        return "PyTorch (C++ steps do not suit these sizes)"
    return describe()


def make_stepper(
    world_model: WorldModel,
    *,
    temperature: float = 1.0,
    backend: str = "auto",
    precision: str = "float32",
) -> Stepper:
    """Make the stepper of a world model whose weights are frozen.

    A model with a core other than ``glam``, and one that recomputes, steps by its own methods in
    PyTorch.

    Args:
        world_model: In eval mode, on its device.
        temperature: Of the latent's draw, times the model's own; 0 takes the likeliest classes.
        backend: ``"native"``, ``"torch"`` or ``"auto"``, which takes native steps on a CPU if the
            library can be compiled there and suits the model's core and sizes.
        precision: ``"float32"``, or ``"auto"``, which allows native steps in float16, see
            :class:`~glam_env.fast.native.stepper.NativeStepper`.

    Raises:
        GlamError: ``backend`` is ``"native"``, and the library cannot be compiled or does not suit.
    """
    plain = world_model.recomputes or not suits_layout(world_model.config)
    if backend == "native" and world_model.recomputes:
        raise GlamError("native steps carry the core's state on; with a window take 'torch'")
    if backend == "auto":
        on_cpu = world_model.device.type == "cpu"
        suited = on_cpu and not plain
        native = suited and available() and stepper.suits(world_model.config)
        backend = "native" if native else "torch"
    if backend == "native":
        return NativeStepper(world_model, temperature=temperature, precision=precision)
    return (ModelStepper if plain else TorchStepper)(world_model, temperature=temperature)


def make_renderer(
    decoder: ImageDecoder, codes: Tensor, precision: str = "auto", backend: str = "auto"
) -> Renderer:
    """Make the renderer of a decoder whose weights are frozen.

    Args:
        decoder: In eval mode, on its device.
        codes: (N, K) real latents of any integer dtype, on the same device.
        precision: One of :data:`~glam_env.fast.render.PRECISIONS`; ``"auto"`` takes the fastest
            that suits the device.
        backend: As for :func:`make_stepper`. It matters for ``int8`` only, and only CPUs with
            AVX512-VNNI render natively; elsewhere ``"native"`` renders in PyTorch.

    Raises:
        GlamError: ``precision`` is ``"int8"``, and the device does not have it.
    """
    device = decoder.background.device.type
    if precision == "auto":
        precision = "bfloat16" if device == "cuda" else "int8" if int8_pays(device) else "float32"
    if precision == "int8" and not int8_pays(device):
        raise GlamError("precision 'int8' needs a CPU with VNNI; take 'auto'")
    folded = fold(decoder, codes.shape[1])
    if precision != "int8":
        return FloatRenderer(folded, getattr(torch, precision))
    rounded = round_decoder(folded, calibration(codes))
    native = backend != "torch" and available() and renderer.can_draw()
    return (NativeRenderer if native and renderer.suits(rounded) else IntegerRenderer)(rounded)
