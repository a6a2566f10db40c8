"""Functions of tensors that run as one CUDA graph: one launch in place of hundreds.

:class:`Captured` is for functions that change nothing, :class:`CapturedUpdate` for those that are
called for what they change: weights, say.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 3  # runs before the capture, in which libraries allocate and choose

Recorder = Callable[[Callable[[], Any], torch.device], tuple[Any, Callable[[], None]]]
"""A function of nothing to what it returned and to what runs it again into the same tensors."""


def aside(function: Callable[[], Any], device: torch.device) -> Any:
    """Runs a function on a CUDA stream of its own, as what is to be captured must have been run."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        returned = function()
    torch.cuda.current_stream(device).wait_stream(side)
    return returned


def capture(function: Callable[[], Any], device: torch.device) -> tuple[Any, Callable[[], None]]:
    """Captures a function in a CUDA graph, which launches nothing yet.

    Args:
        function: launches the same kernels on the same memory each time and never waits for them.
        device: a CUDA device.

    Returns:
        What the function returned, in the graph's own memory, and the graph's replay.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        returned = function()
    return returned, graph.replay


def record_cuda(
    function: Callable[[], Any], device: torch.device
) -> tuple[Any, Callable[[], None]]:
    """As :func:`capture`, of a function that may be run before as often as it takes."""
    for _ in range(WARM_UPS):
        aside(function, device)
    return capture(function, device)


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors of nested tuples, lists and dicts, in order; None holds none."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    return [] if tree is None else [tensor for part in tree for tensor in tensors_of(part)]


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """A copy of nested (named) tuples, lists and dicts with a function applied to each tensor."""
    if tree is None or isinstance(tree, Tensor):
        return None if tree is None else function(tree)
    if isinstance(tree, dict):
        return {name: map_tensors(function, part) for name, part in tree.items()}
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
        replay = self._replay or self._capture(inputs)
        self._give(inputs)
        replay()
        return map_tensors(torch.clone, self._outputs)

    def _capture(self, inputs: Any) -> Callable[[], None]:
        held = self._inputs = map_tensors(torch.clone, inputs)
        device = tensors_of(inputs)[0].device
        self._outputs, self._replay = self._record(lambda: self._function(*held), device)
        return self._replay

    def _give(self, inputs: Any) -> None:
        pairs = zip(tensors_of(self._inputs), tensors_of(inputs), strict=True)
        for own, given in pairs:
            if own.shape != given.shape:
                raise ValueError(
                    f"this graph takes {tuple(own.shape)}, got {tuple(given.shape)}; make another"
                )
            own.copy_(given)


class CapturedUpdate(Captured):
    """As :class:`Captured`, of a function that changes more than it returns: a call runs it once.

    The first calls run it as it is, aside; then the graph is captured, which changes nothing, and
    replayed. Random numbers come from the device's default generator. What is returned holds until
    the next call.

    Args:
        function: of nested tuples of tensors to nested tuples and dicts of them; what it changes
            lies where it lay, its shapes are static, and it does not wait for the device.
        record: makes the graph without running it.
    """

    def __init__(self, function: Callable[..., Any], record: Recorder = capture) -> None:
        super().__init__(function, record)
        self._calls = 0

    def __call__(self, *inputs: Any) -> Any:
        self._calls += 1
        if self._calls <= WARM_UPS:
            with warnings.catch_warnings():  # of an optimiser that expects to be captured
                warnings.filterwarnings("ignore", "This instance was constructed with capturable")
                return aside(lambda: self._function(*inputs), tensors_of(inputs)[0].device)
        replay = self._replay or self._capture(inputs)
        self._give(inputs)
        replay()
        return self._outputs
