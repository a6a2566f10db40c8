"""Conversion of a module to an ONNX model.

Large weights are stored in the smallest type that represents them exactly.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from glam_env.errors import GlamError
from glam_env.model import distributions
from glam_env.model.cores import mamba

if TYPE_CHECKING:
    import onnx

OPSET = 20
LEAST = 1024  # numbers in an initializer that is stored in a smaller type
_LEVELS = 127  # as checkpoints quantise, see glam_env.checkpoint.packing
_NOISY = ("torch.onnx", "onnxscript", "onnx_ir")


def require_onnx() -> None:
    """Check that ONNX models can be made, before any work.

    Raises:
        GlamError: A library is missing.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise GlamError(f'ONNX files need {missing[0]}: pip install "glam-env[onnx]"')


def to_onnx(
    module: nn.Module, example: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Export a module as an ONNX model whose tensors share a dynamic first dimension.

    Args:
        module: A module whose forward takes the tensors one by one, or the last ones as ``*args``.
        example: Inputs of at least two rows.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
    """
    rows = torch.export.Dim("dreams", min=1, max=4096)
    # A flat signature gives each tensor its own dimension, whatever the module's own signature is.
    flat = _Flat(module.eval())
    with _plain_operations(), _quiet():
        program = torch.onnx.export(
            flat,
            tuple(example),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(tuple({0: rows} for _ in example),),
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    _shrink(model)
    return model


class _Flat(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> Any:
        return self.module(*tensors)


@contextmanager
def _plain_operations() -> Iterator[None]:
    """Let the models use the plain operations, which an exporter can trace."""
    scans = mamba.use_operations(mamba.Operations())
    draws = distributions.use_operations(distributions.Operations())
    try:
        yield
    finally:
        mamba.use_operations(scans)
        distributions.use_operations(draws)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings and log messages; errors still raise."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _strip(model: onnx.ModelProto) -> None:
    """Remove metadata about the exporting machine.

    They are stack traces and names of source files.
    """
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]


def _shrink(model: onnx.ModelProto) -> None:
    """Store large weights as they are in a checkpoint: 8 bits with scales, or 16 bits.

    A runtime expands them when it loads the model; the numbers are those of the float32 weights.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kept, added, nodes = [], [], []
    for initializer in model.graph.initializer:
        name = initializer.name
        values = numpy_helper.to_array(initializer)
        if initializer.data_type != TensorProto.FLOAT or values.size < LEAST:
            kept.append(initializer)
            continue
        stored = f"{name}.stored"
        if (eighths := _as_int8(values)) is not None:
            numbers, scale = eighths
            added += [
                numpy_helper.from_array(numbers, stored),
                numpy_helper.from_array(scale, f"{name}.scale"),
            ]
            # DequantizeLinear is not used: onnxruntime either fuses it with a product, which it
            # then computes in 8 bits, or expands the weight again at each step.
            given = [f"{name}.numbers", f"{name}.scale"]
            nodes.append(helper.make_node("Cast", [stored], given[:1], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Mul", given, [name]))
        elif not (values.view(np.uint32) & 0xFFFF).any():  # exact in bfloat16
            raw = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
            added.append(
                helper.make_tensor(stored, TensorProto.BFLOAT16, values.shape, raw, raw=True)
            )
            nodes.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
        else:
            kept.append(initializer)
    before = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend([*kept, *added])
    model.graph.node.extend([*nodes, *before])
    onnx.checker.check_model(model)


def _as_int8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return 8-bit numbers and scales whose product is exactly the values.

    The result is None if there are none.
    """
    if values.ndim < 2:
        return None
    for axis in range(min(values.ndim, 2)):
        found = (_scale(row) for row in np.moveaxis(values, axis, 0))
        scales = [*takewhile(lambda scale: scale is not None, found)]
        if len(scales) == values.shape[axis]:
            shape = [-1 if other == axis else 1 for other in range(values.ndim)]
            scale = np.array(scales, np.float32).reshape(shape)
            numbers = np.rint(values / np.where(scale > 0, scale, np.float32(1)))
            return numbers.astype(np.int8), scale
    return None


def _scale(row: np.ndarray) -> np.float32 | None:
    """Return a number of which all values are exact multiples, at most 127 times.

    The result is None if there is no such number. The largest value may be less than 127 times the
    result: a row of a layer may be split between two tensors, with its largest number in the other.
    """
    largest = np.abs(row).max()
    if largest == 0:
        return np.float32(0)
    for level in range(_LEVELS, 0, -1):
        scale = np.float32(largest / np.float32(level))
        for near in (scale, np.nextafter(scale, np.float32(0)), np.nextafter(scale, largest)):
            numbers = np.rint(row / near)
            if np.abs(numbers).max() <= _LEVELS and np.array_equal(numbers * near, row):
                return near
    return None
