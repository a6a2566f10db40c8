"""Functions of tensors as CUDA graphs: one launch instead of hundreds.

:class:`Captured` is for functions that change nothing, :class:`CapturedUpdate` for functions that
are called for what they change, such as weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from glam_env.model.structures import tree_map, tree_tensors

WARM_UPS = 3  # runs before the capture, in which libraries allocate memory and choose kernels

Recorder = Callable[[Callable[[], Any], torch.device], tuple[Any, Callable[[], None]]]
"""Takes a function without arguments. Returns its result, and what runs it again into the same
tensors."""


def on_side_stream(function: Callable[[], Any], device: torch.device) -> Any:
    """Run a function on a separate CUDA stream, as PyTorch requires before a capture."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        returned = function()
    torch.cuda.current_stream(device).wait_stream(side)
    return returned


def capture(function: Callable[[], Any], device: torch.device) -> tuple[Any, Callable[[], None]]:
    """Capture a function in a CUDA graph, without launching it.

    Args:
        function: It launches the same kernels on the same memory each time, and never waits for
            them.
        device: A CUDA device.

    Returns:
        What the function returned, in memory of the graph, and the graph's replay.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        returned = function()
    return returned, graph.replay


def record_cuda(
    function: Callable[[], Any], device: torch.device
) -> tuple[Any, Callable[[], None]]:
    """Run a function a few times, then :func:`capture` it; it must change nothing."""
    for _ in range(WARM_UPS):
        on_side_stream(function, device)
    return capture(function, device)


class Captured:
    """Run a function of tensors as a graph: copy the inputs in, and the outputs out.

    Inputs are not changed, and outputs belong to the caller. The first call fixes all shapes.

    Args:
        function: Takes and returns pytrees of tensors. Its shapes are static, it draws no random
            numbers and does not wait for the device.
        record: Makes the graph.
    """

    def __init__(self, function: Callable[..., Any], record: Recorder = record_cuda) -> None:
        self._function, self._record = function, record
        self._inputs: Any = None
        self._outputs: Any = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, *inputs: Any) -> Any:
        replay = self._replay or self._capture(inputs)
        self._copy_in(inputs)
        replay()
        return tree_map(torch.clone, self._outputs)

    def _capture(self, inputs: Any) -> Callable[[], None]:
        held = self._inputs = tree_map(torch.clone, inputs)
        device = tree_tensors(inputs)[0].device
        self._outputs, self._replay = self._record(lambda: self._function(*held), device)
        return self._replay

    def _copy_in(self, inputs: Any) -> None:
        for own, given in zip(tree_tensors(self._inputs), tree_tensors(inputs), strict=True):
            if own.shape != given.shape:
                raise ValueError(
                    f"this graph was captured for shape {tuple(own.shape)}, got "
                    f"{tuple(given.shape)}: make another Captured for it"
                )
            own.copy_(given)


class CapturedUpdate(Captured):
    """Run a function that changes more than it returns as a graph, once a call.

    The first calls run the function itself, on a side stream. Then the graph is captured, which
    changes nothing, and replayed. Random numbers come from the device's default generator. What a
    call returns is valid until the next call.

    Args:
        function: Takes and returns pytrees of tensors. What it changes keeps its place in memory,
            its shapes are static, and it does not wait for the device.
        record: Makes the graph without running it.
    """

    def __init__(self, function: Callable[..., Any], record: Recorder = capture) -> None:
        super().__init__(function, record)
        self._calls = 0

    def __call__(self, *inputs: Any) -> Any:
        self._calls += 1
        if self._calls <= WARM_UPS:
            with warnings.catch_warnings():  # from an optimiser that expects to be captured
                warnings.filterwarnings("ignore", "This instance was constructed with capturable")
                device = tree_tensors(inputs)[0].device
                return on_side_stream(lambda: self._function(*inputs), device)
        replay = self._replay or self._capture(inputs)
        self._copy_in(inputs)
        replay()
        return self._outputs
