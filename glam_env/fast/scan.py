"""Faster versions of what Mamba computes along time; same results up to rounding.

:mod:`glam_env.model.cores.mamba` has the plain versions. Here the recurrence, its closed form over
short windows and the causal convolution have their gradients written out, so that on a CPU tensors
of (…, d_inner, N) stay in the cache, and on a GPU the number of launches does not grow with the
length. On a CUDA device the fused kernels of ``mamba_ssm`` and ``causal_conv1d`` run instead where
they are installed and load.
"""

from __future__ import annotations

import importlib
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from glam_env.fast.native import scan as native
from glam_env.model.cores import mamba

# --- fused CUDA kernels ------------------------------------------------------------------------


@cache
def kernel_missing(module: str, function: str) -> str:
    """Return why a CUDA kernel is not used; empty if it is.

    Such packages are often installed without their kernels, or with kernels that do not load, and
    what an import of them then raises is up to them and to what they import. That must not stop
    anybody, so it becomes the reason, whatever it is.
    """
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        getattr(importlib.import_module(module), function)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too
        first, *_ = [*str(error).splitlines(), ""]
        return f"{module}: {type(error).__name__}: {first}".removesuffix(": ")
    return ""


def scan_missing() -> str:
    """Return why the scan of ``mamba_ssm`` is not used; empty if it is."""
    return kernel_missing("selective_scan_cuda", "fwd") or kernel_missing(
        "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"
    )


def convolution_missing() -> str:
    """Return why the convolution of ``causal_conv1d`` is not used; empty if it is."""
    return kernel_missing("causal_conv1d", "causal_conv1d_fn")


def fused_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Compute y of :func:`mamba.selective_scan` by the kernel of ``mamba_ssm``."""
    module = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    x, dt, b, c = (part.transpose(1, 2).contiguous() for part in (x, dt, b, c))
    return module.selective_scan_fn(x, dt, a, b, c).transpose(1, 2)


def fused_convolve(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """Compute :func:`mamba.convolve` by the kernel of ``causal_conv1d``."""
    function = importlib.import_module("causal_conv1d").causal_conv1d_fn
    return function(x.transpose(1, 2), taps.T, bias, activation="silu").transpose(1, 2)


# --- what Mamba calls --------------------------------------------------------------------------


def selective_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Compute :func:`mamba.selective_scan`; forward and backward cost O(L) on a CPU."""
    if x.is_cuda and not scan_missing():
        with torch.no_grad():  # the kernel does not return its states, which need no gradient
            _, states = ParallelScan.apply(x, dt, a, b, c)  # type: ignore[misc]
        return fused_scan(x, dt, a, b, c), states
    if native.suits(len(a), x, dt, a, b, c):
        return native.NativeScan.apply(x, dt, a, b, c)  # type: ignore[no-any-return]
    scan = LoopScan if x.device.type == "cpu" else ParallelScan
    return scan.apply(x, dt, a, b, c)  # type: ignore[no-any-return]


def scan_windows(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Compute :func:`mamba.scan_windows` in closed form.

    y = Σ_j (Σ_n C_n B_jn exp(A_n Σ_{k>j} dt_k)) dt_j x_j, so that only the decays are as large as
    d_inner · N at every position.
    """
    if native.suits(len(a), x, dt, a, b, c):
        return native.NativeWindows.apply(x, dt, a, b, c[-1])  # type: ignore[no-any-return]
    drive, weight = (dt * x).unbind(), b * c[-1]
    spans = list(dt[1:].unbind())  # Σ_{k>j} dt_k for all j but the last
    for j in range(len(spans) - 2, -1, -1):
        spans[j] = spans[j] + spans[j + 1]
    *earlier, now = weight.unbind()
    y = drive[-1] * now.sum(-1, keepdim=True)
    if earlier:
        rows = torch.stack(spans).flatten(0, -2), torch.stack(earlier).flatten(0, -2)
        kernel = decayed_read(rows[0], a, rows[1])
        for part, source in zip(kernel.chunk(len(earlier)), drive[:-1], strict=True):
            y = torch.addcmul(y, part.view_as(source), source)
    return y


def convolve(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """Compute :func:`mamba.convolve` of (B, L, d_inner)."""
    if x.is_cuda and not convolution_missing():
        return fused_convolve(x, taps, bias)
    if native.suits(len(bias), x, taps, bias):
        return native.NativeConvolution.apply(x, taps, bias, None)  # type: ignore[no-any-return]
    return F.silu(CausalTaps.apply(x, taps, bias))  # type: ignore[arg-type]


def convolve_windows(x: Tensor, taps: Tensor, bias: Tensor, window: int) -> Tensor:
    """Compute :func:`mamba.convolve_windows`."""
    if native.suits(len(bias), x, taps, bias):
        return native.NativeConvolution.apply(x, taps, bias, window)  # type: ignore[no-any-return]
    return F.silu(WindowTaps.apply(x, taps, bias, window))  # type: ignore[arg-type]


def softplus(x: Tensor) -> Tensor:
    """Compute :func:`mamba.softplus`."""
    if native.suits(x.shape[-1], x):
        return native.NativeSoftplus.apply(x)  # type: ignore[no-any-return]
    return mamba.softplus(x)


def gate(y: Tensor, x: Tensor, z: Tensor, skip: Tensor) -> Tensor:
    """Compute :func:`mamba.gate`."""
    if native.suits(len(skip), y, x, z, skip):
        return native.NativeGate.apply(y, x, z, skip)  # type: ignore[no-any-return]
    return mamba.gate(y, x, z, skip)


OPERATIONS = mamba.Operations(
    convolve, convolve_windows, selective_scan, scan_windows, softplus, gate
)
"""What ``import glam_env.fast`` gives to :func:`mamba.use_operations`."""

# --- gradients written out ---------------------------------------------------------------------


class LoopScan(torch.autograd.Function):
    """:func:`mamba.selective_scan` position by position, for a CPU.

    A tensor of (B, d_inner, N) for one position stays in the cache; for all positions it does not,
    and each operation then waits for memory. The backward pass computes the decays again.
    """

    @staticmethod
    def forward(ctx, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor):
        batch, length, inner = x.shape
        drive = dt * x
        states = x.new_empty(length, batch, inner, a.shape[-1])
        y = x.new_empty(length, batch, inner, 1)
        decay = torch.empty_like(states[0])
        sources = zip(drive.unbind(1), dt.unbind(1), b.unbind(1), c.unbind(1), strict=True)
        previous: Tensor | None = None
        for (drive_t, dt_t, b_t, c_t), state, y_t in zip(sources, states, y, strict=True):
            if previous is None:
                torch.mul(drive_t.unsqueeze(-1), b_t.unsqueeze(1), out=state)
            else:
                torch.mul(dt_t.unsqueeze(-1), a, out=decay).exp_()
                torch.mul(decay, previous, out=state)
                state.addcmul_(drive_t.unsqueeze(-1), b_t.unsqueeze(1))
            torch.bmm(state, c_t.unsqueeze(-1), out=y_t)
            previous = state
        ctx.save_for_backward(x, dt, a, b, c, states)
        trace = states.transpose(0, 1)
        ctx.mark_non_differentiable(trace)
        return y.squeeze(-1).transpose(0, 1), trace

    @staticmethod
    def backward(ctx, *grads: Tensor):
        x, dt, a, b, c, states = ctx.saved_tensors
        length, batch, inner, size = states.shape
        drive_grad, dt_grad = (
            x.new_empty(length, batch, inner, 1),
            x.new_zeros(length, batch, inner),
        )
        b_grad, c_grad = x.new_empty(length, batch, 1, size), x.new_empty(length, batch, 1, size)
        a_grad, state_grad = torch.zeros_like(states[0]), torch.zeros_like(states[0])
        decay, exponent_grad = torch.empty_like(states[0]), torch.empty_like(states[0])
        y_grads, drives = grads[0].unbind(1), (dt * x).unbind(1)
        dts, bs, cs = dt.unbind(1), b.unbind(1), c.unbind(1)
        for t in range(length - 1, -1, -1):
            state_grad.addcmul_(y_grads[t].unsqueeze(-1), cs[t].unsqueeze(1))
            torch.bmm(y_grads[t].unsqueeze(1), states[t], out=c_grad[t])
            torch.bmm(state_grad, bs[t].unsqueeze(-1), out=drive_grad[t])
            torch.bmm(drives[t].unsqueeze(1), state_grad, out=b_grad[t])
            if t > 0:
                torch.mul(dts[t].unsqueeze(-1), a, out=decay).exp_()
                state_grad.mul_(decay)  # now with respect to state t − 1
                torch.mul(state_grad, states[t - 1], out=exponent_grad)
                a_grad.addcmul_(exponent_grad, dts[t].unsqueeze(-1))
                torch.sum(exponent_grad.mul_(a), -1, out=dt_grad[t])
        drives_grad = drive_grad.squeeze(-1).transpose(0, 1)
        return (
            drives_grad * dt,
            torch.addcmul(dt_grad.transpose(0, 1), drives_grad, x),
            a_grad.sum(0),
            b_grad.squeeze(2).transpose(0, 1),
            c_grad.squeeze(2).transpose(0, 1),
        )


def doubled(decay: Tensor, state: Tensor) -> Tensor:
    """Compute h_t = decay_t ⊙ h_{t−1} + state_t along dim 1 in ⌈log₂ L⌉ rounds.

    After round k each position holds the sum over its last 2ᵏ inputs. Both arguments are
    overwritten.
    """
    span, length = 1, state.shape[1]
    while span < length:
        added = decay[:, span:] * state[:, :-span]
        if 2 * span < length:  # what the next round multiplies by
            decay[:, span:] = decay[:, span:] * decay[:, :-span]
        state[:, span:] += added
        span *= 2
    return state


class ParallelScan(torch.autograd.Function):
    """:func:`mamba.selective_scan` over all positions at once, for a GPU."""

    @staticmethod
    def forward(ctx, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor):
        decay = (dt.unsqueeze(-1) * a).exp_()
        states = doubled(decay, (dt * x).unsqueeze(-1) * b.unsqueeze(2))
        ctx.save_for_backward(x, dt, a, b, c, states)
        ctx.mark_non_differentiable(states)
        return (states @ c.unsqueeze(-1)).squeeze(-1), states

    @staticmethod
    def backward(ctx, *grads: Tensor):
        x, dt, a, b, c, states = ctx.saved_tensors
        y_grad = grads[0]
        decay = (dt.unsqueeze(-1) * a).exp_()
        # The gradient of state t: of y_t, plus the decayed gradient of state t + 1.
        later = torch.cat([decay[:, 1:], decay[:, :1]], 1).flip(1)
        state_grad = doubled(later, (y_grad.unsqueeze(-1) * c.unsqueeze(2)).flip(1)).flip(1)
        drive_grad = (state_grad @ b.unsqueeze(-1)).squeeze(-1)
        b_grad = ((dt * x).unsqueeze(2) @ state_grad).squeeze(2)
        c_grad = (y_grad.unsqueeze(2) @ states).squeeze(2)
        exponent_grad = state_grad[:, 1:] * decay[:, 1:] * states[:, :-1]
        dt_grad = drive_grad * x
        dt_grad[:, 1:] += (exponent_grad * a).sum(-1)
        a_grad = (exponent_grad * dt[:, 1:].unsqueeze(-1)).sum((0, 1))
        return drive_grad * dt, dt_grad, a_grad, b_grad, c_grad


class CausalTaps(torch.autograd.Function):
    """The convolution of :func:`mamba.convolve`, one product for each tap."""

    @staticmethod
    def forward(ctx, x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
        taps = taps.contiguous()
        out = torch.addcmul(bias, x, taps[-1])
        for back in range(1, min(len(taps), x.shape[1])):
            out[:, back:].addcmul_(x[:, :-back], taps[-1 - back])
        ctx.save_for_backward(x, taps)
        return out

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, taps = ctx.saved_tensors
        (grad,) = grads
        x_grad, taps_grad = grad * taps[-1], torch.zeros_like(taps)
        taps_grad[-1] = (grad * x).sum((0, 1))
        for back in range(1, min(len(taps), x.shape[1])):
            x_grad[:, :-back].addcmul_(grad[:, back:], taps[-1 - back])
            taps_grad[-1 - back] = (grad[:, back:] * x[:, :-back]).sum((0, 1))
        return x_grad, taps_grad, grad.sum((0, 1))


class WindowTaps(torch.autograd.Function):
    """The convolution of :func:`mamba.convolve_windows`, without a copy of windows."""

    @staticmethod
    def forward(ctx, inputs: Tensor, taps: Tensor, bias: Tensor, window: int) -> Tensor:
        batch, length, inner = inputs.shape
        count, taps = length - window + 1, taps.contiguous()
        out = inputs.new_empty(window, batch, count, inner)
        shifted = [inputs[:, i : i + count] for i in range(window)]
        for i in range(window):
            torch.addcmul(bias, shifted[i], taps[-1], out=out[i])
            for back in range(1, min(i + 1, len(taps))):
                out[i].addcmul_(shifted[i - back], taps[-1 - back])
        ctx.save_for_backward(inputs, taps)
        return out

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        inputs, taps = ctx.saved_tensors
        grad, count = grads[0], grads[0].shape[2]
        inputs_grad, taps_grad = torch.zeros_like(inputs), torch.zeros_like(taps)
        for i in range(len(grad)):
            for back in range(min(i + 1, len(taps))):
                at = slice(i - back, i - back + count)
                inputs_grad[:, at].addcmul_(grad[i], taps[-1 - back])
                taps_grad[-1 - back] += (grad[i] * inputs[:, at]).sum((0, 1))
        return inputs_grad, taps_grad, grad.sum((0, 1, 2)), None


class _DecayedRead(torch.autograd.Function):
    """:func:`decayed_read` a few rows at a time.

    Tensors of (rows, N, d_inner) then stay in the cache; the backward pass computes the decays
    again.
    """

    ROWS = 32

    @staticmethod
    def forward(ctx, after: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        rows, inner = after.shape
        transposed = a.T.contiguous()
        out = after.new_empty(rows, 1, inner)
        buffer = after.new_empty(min(_DecayedRead.ROWS, rows), *transposed.shape)
        for start in range(0, rows, _DecayedRead.ROWS):
            part = slice(start, start + _DecayedRead.ROWS)
            spans = after[part].unsqueeze(1)
            decay = torch.mul(spans, transposed, out=buffer[: len(spans)]).exp_()
            torch.bmm(weight[part].unsqueeze(1), decay, out=out[part])
        ctx.save_for_backward(after, a, weight)
        return out.squeeze(1)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        after, a, weight = ctx.saved_tensors
        grad, transposed = grads[0].contiguous(), a.T.contiguous()
        rows, inner = after.shape
        after_grad, a_grad = after.new_empty(rows, 1, inner), torch.zeros_like(transposed)
        weight_grad = weight.new_empty(*weight.shape, 1)
        size = min(_DecayedRead.ROWS, rows), *transposed.shape
        buffer, product = after.new_empty(size), after.new_empty(size)
        for start in range(0, rows, _DecayedRead.ROWS):
            part = slice(start, start + _DecayedRead.ROWS)
            spans, grads_out = after[part].unsqueeze(1), grad[part]
            decay = torch.mul(spans, transposed, out=buffer[: len(spans)]).exp_()
            torch.bmm(decay, grads_out.unsqueeze(2), out=weight_grad[part])
            by_a = torch.mul(decay, transposed, out=product[: len(spans)])
            torch.bmm(weight[part].unsqueeze(1), by_a, out=after_grad[part])
            decay.mul_((after[part] * grads_out).unsqueeze(1)).mul_(weight[part].unsqueeze(2))
            a_grad += decay.sum(0)
        return after_grad.squeeze(1).mul_(grad), a_grad.T, weight_grad.squeeze(2)


def decayed_read(after: Tensor, a: Tensor, weight: Tensor) -> Tensor:
    """Compute Σ_n weight_n exp(after_d A_dn), what is left of inputs some time later.

    Args:
        after: (M, d_inner), the time.
        a: (d_inner, N).
        weight: (M, N).

    Returns:
        (M, d_inner).
    """
    if after.device.type != "cpu":  # few launches matter there, not the cache
        decay = (after.unsqueeze(1) * a.T).exp_()
        return (weight.unsqueeze(1) @ decay).squeeze(1)
    return _DecayedRead.apply(after, a, weight)  # type: ignore[no-any-return]
