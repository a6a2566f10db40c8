"""What Mamba computes along time in C++, for training on a CPU in float32.

The functions are those of :mod:`glam_env.model.cores.mamba`, up to rounding, with their gradients.
``scan.cpp`` and ``gates.cpp`` keep the numbers of a few channels in the caches. A result depends
neither on the number of threads nor on what ran before, to the bit.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from glam_env.fast.native.bindings import load_library, missing, vector_sizes

_LOG2_E = math.log2(math.e)


@cache
def available() -> bool:
    """Return whether this machine can run the C++ library; warn once if it cannot."""
    if why := missing():
        warnings.warn(
            f"the sequence model runs in PyTorch, which is slower: {why}",
            RuntimeWarning,
            stacklevel=2,
        )
    return not why


def suits(channels: int, *tensors: Tensor) -> bool:
    """Return whether the functions here take tensors with a number of channels.

    They take float32 on a CPU, none of it empty, and channels that fill vectors.
    """
    usual = all(
        x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0 for x in tensors
    )
    return usual and available() and channels % vector_sizes().lanes == 0


def call(name: str, *arguments: Tensor | float | None) -> int | None:
    """Call a function of the library with tensors' addresses, numbers, and how many threads."""
    passed = [x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]
    return getattr(load_library(), name)(*passed, torch.get_num_threads())


def check(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Check a tensor before its address is used."""
    if x.shape != shape or x.dtype != torch.float32 or x.device.type != "cpu":
        raise ValueError(
            f"{name} must be float32 {shape} on a CPU, got {x.dtype} {tuple(x.shape)} on {x.device}"
        )


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """Flatten all dimensions but the last; return the rows and how far apart they lie."""
    rows = x.reshape(-1, x.shape[-1])
    if rows.stride(1) != 1 or (len(rows) > 1 and rows.stride(0) < rows.shape[1]):
        rows = rows.contiguous()
    return rows, rows.stride(0)


def _near(x: Tensor) -> Tensor:
    """Return x with channels that lie side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _rates(a: Tensor) -> Tensor:
    """Return log2(e) · A, (N, d_inner)."""
    return a.T.mul(_LOG2_E).contiguous()


class NativeScan(torch.autograd.Function):
    """:func:`~glam_env.model.cores.mamba.selective_scan`; the backward pass computes decays again.

    States are stored (B, L, N, d_inner), and returned as a view.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor):
        batch, length, inner = x.shape
        size = a.shape[-1]
        for name, part, shape in (
            *(("x", x, x.shape), ("dt", dt, x.shape), ("a", a, (inner, size))),
            *(("b", b, (batch, length, size)), ("c", c, (batch, length, size))),
        ):
            check(name, part, shape)
        x, dt, rates = x.contiguous(), dt.contiguous(), _rates(a)
        (b, stride), (c, other) = _rows(b), _rows(c)
        if stride != other:
            b, c, stride = b.contiguous(), c.contiguous(), size
        states, y = x.new_empty(batch, length, size, inner), torch.empty_like(x)
        sizes = batch, length, inner, size, stride
        call("glam_scan", x, dt, rates, b, c, states, y, *sizes)
        ctx.save_for_backward(x, dt, rates, b, c, states)
        ctx.sizes = sizes
        trace = states.transpose(2, 3)
        ctx.mark_non_differentiable(trace)
        ctx.set_materialize_grads(False)
        return y, trace

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None):
        if grads[0] is None:
            return (None,) * 5
        x, dt, rates, b, c, states = ctx.saved_tensors
        batch, length, _, size, _ = ctx.sizes
        x_grad, dt_grad, a_grad = map(torch.empty_like, (x, dt, rates))
        b_grad, c_grad = (x.new_empty(batch, length, size) for _ in range(2))
        y_grad = grads[0].contiguous()
        call(
            *("glam_scan_back", x, dt, rates, b, c, states, y_grad),
            *(x_grad, dt_grad, a_grad, b_grad, c_grad, *ctx.sizes),
        )
        return x_grad, dt_grad, a_grad.T, b_grad, c_grad


class NativeWindows(torch.autograd.Function):
    """:func:`~glam_env.model.cores.mamba.scan_windows`, without a state.

    y = Σ_j (Σ_n C_n B_jn exp(A_n Σ_{k>j} dt_k)) dt_j x_j. Of C, it takes the last position.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        window, *leading, inner = x.shape
        size = a.shape[-1]
        for name, part, shape in (
            *(("x", x, x.shape), ("dt", dt, x.shape), ("a", a, (inner, size))),
            *(("b", b, (window, *leading, size)), ("c", c, (*leading, size))),
        ):
            check(name, part, shape)
        x, dt, rates = x.contiguous(), dt.contiguous(), _rates(a)
        (b, stride), (c, c_stride) = _rows(b), _rows(c)
        y = x.new_empty(*leading, inner)
        sizes = window, math.prod(leading), inner, size, stride, c_stride
        call("glam_windows", x, dt, rates, b, c, y, *sizes)
        ctx.save_for_backward(x, dt, rates, b, c)
        ctx.sizes, ctx.leading = sizes, leading
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        x, dt, rates, b, c = ctx.saved_tensors
        window, _, _, size, *_ = ctx.sizes
        x_grad, dt_grad, a_grad = map(torch.empty_like, (x, dt, rates))
        b_grad, c_grad = (
            x.new_empty(window, *ctx.leading, size),
            x.new_empty(*ctx.leading, size),
        )
        y_grad = grads[0].contiguous()
        call(
            *("glam_windows_back", x, dt, rates, b, c, y_grad),
            *(x_grad, dt_grad, a_grad, b_grad, c_grad, *ctx.sizes),
        )
        return x_grad, dt_grad, a_grad.T, b_grad, c_grad


class NativeConvolution(torch.autograd.Function):
    """:func:`~glam_env.model.cores.mamba.convolve`, or ``convolve_windows`` of a window.

    The backward pass computes the convolution again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, bias: Tensor, window: int | None) -> Tensor:
        batch, length, inner = x.shape
        count = len(taps)
        check("x", x, x.shape)
        check("taps", taps, (count, inner))
        check("bias", bias, (inner,))
        x, taps, bias = _near(x), taps.contiguous(), bias.contiguous()
        if window is None:  # the whole sequence is one window
            out, span, windows = x.new_empty(batch, length, inner), length, 1
            places = inner, length * inner, 0
        else:
            windows, span = length - window + 1, window
            if windows < 1:
                raise ValueError(f"a window of {window} exceeds the {length} positions")
            out = x.new_empty(window, batch, windows, inner)
            places = batch * windows * inner, windows * inner, inner
        sizes = batch, windows, span, inner, count, x.stride(0), x.stride(1), *places
        call("glam_convolve", x, taps, bias, out, *sizes)
        ctx.save_for_backward(x, taps, bias)
        ctx.sizes = sizes
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        x, taps, bias = ctx.saved_tensors
        x_grad = x.new_empty(x.shape)
        taps_grad = x.new_empty(len(taps) + 1, x.shape[-1])
        grad = grads[0].contiguous()
        call("glam_convolve_back", x, taps, bias, grad, x_grad, taps_grad, *ctx.sizes)
        return x_grad, taps_grad[:-1], taps_grad[-1], None


class NativeSoftplus(torch.autograd.Function):
    """Softplus."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        check("x", x, x.shape)
        x = x.contiguous()
        y = torch.empty_like(x)
        call("glam_softplus", x, y, x.numel())
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        x_grad = torch.empty_like(x)
        call("glam_softplus_back", x, grads[0].contiguous(), x_grad, x.numel())
        return x_grad


class NativeGate(torch.autograd.Function):
    """:func:`~glam_env.model.cores.mamba.gate`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, z: Tensor, skip: Tensor) -> Tensor:
        inner = y.shape[-1]
        for name, part, shape in (
            *(("y", y, y.shape), ("x", x, y.shape), ("z", z, y.shape)),
            ("skip", skip, (inner,)),
        ):
            check(name, part, shape)
        y, x, skip = y.contiguous(), x.contiguous(), skip.contiguous()
        if z.dim() != 3:
            z = z.reshape(1, -1, inner)
        z = _near(z)
        sizes = z.shape[0], z.shape[1], inner, z.stride(0), z.stride(1)
        out = torch.empty_like(y)
        call("glam_gate", y, x, z, skip, out, *sizes)
        ctx.save_for_backward(y, x, z, skip)
        ctx.sizes = sizes
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        y, x, z, skip = ctx.saved_tensors
        y_grad, x_grad, z_grad = (torch.empty_like(y) for _ in range(3))
        skip_grad = torch.empty_like(skip)
        grad = grads[0].contiguous()
        call("glam_gate_back", y, x, z, skip, grad, y_grad, x_grad, z_grad, skip_grad, *ctx.sizes)
        return y_grad, x_grad, z_grad, skip_grad
