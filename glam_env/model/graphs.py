"""``Captured``: a function of tensors that runs as one CUDA graph from its first call on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 3  # runs before the capture, in which libraries allocate and choose

Recorder = Callable[[Callable[[], Any], torch.device], tuple[Any, Callable[[], None]]]
"""A function of nothing to what it returned and to what runs it again into the same tensors."""


def record_cuda(
    function: Callable[[], Any], device: torch.device
) -> tuple[Any, Callable[[], None]]:
    """Captures a function in a CUDA graph.

    Args:
        function: launches the same kernels on the same memory each time and never waits for them.
        device: a CUDA device.

    Returns:
        What the function returned, in the graph's own memory, and the graph's replay.
    """
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        returned = function()
    return returned, graph.replay


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors of nested tuples and lists, in order; None holds none."""
    if isinstance(tree, Tensor):
        return [tree]
    return [] if tree is None else [tensor for part in tree for tensor in tensors_of(part)]


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """A copy of nested (named) tuples and lists with a function applied to each tensor."""
    if tree is None or isinstance(tree, Tensor):
        return None if tree is None else function(tree)
    parts = [map_tensors(function, part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


class Captured:
    """Runs a function of tensors as a graph: inputs are copied in, outputs are copied out.

    The caller keeps her inputs and owns what she is given. The first call fixes all shapes.

    Args:
        function: of nested tuples of tensors, static in its shapes, with no random numbers of its
            own and no wait for the device.
        record: makes the graph.
    """

    def __init__(self, function: Callable[..., Any], record: Recorder = record_cuda) -> None:
        self._function, self._record = function, record
        self._inputs: Any = None
        self._outputs: Any = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, *inputs: Any) -> Any:
        if self._replay is None:
            held = self._inputs = map_tensors(torch.clone, inputs)
            device = tensors_of(inputs)[0].device
            self._outputs, self._replay = self._record(lambda: self._function(*held), device)
        pairs = zip(tensors_of(self._inputs), tensors_of(inputs), strict=True)
        for own, given in pairs:
            if own.shape != given.shape:
                raise ValueError(
                    f"this graph takes {tuple(own.shape)}, got {tuple(given.shape)}; make another"
                )
            own.copy_(given)
        self._replay()
        return map_tensors(torch.clone, self._outputs)
