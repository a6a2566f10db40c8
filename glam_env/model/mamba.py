"""Mamba-1, the selective state space layer (Gu and Dao 2023; eqs. 1–3 of the GLAM paper).

One parameter set, named and shaped as in the ``mamba_ssm`` package so that a state dict moves
either way, and two ways to run it: :meth:`Mamba.forward` over a sequence and :meth:`Mamba.step`
for one position. The recurrence runs in float32. On a CUDA device the fused kernels of
``mamba_ssm`` and ``causal_conv1d`` are used where they are installed and load; everywhere else
PyTorch computes the same numbers.
"""

from __future__ import annotations

import importlib
import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MambaTrace(NamedTuple):
    """What a forward pass leaves for later steps, at every position.

    ``inputs`` (B, L, d_inner): the convolution's inputs; ``states`` (B, L, d_inner, N): the SSM
    state after each position, float32.
    """

    inputs: Tensor
    states: Tensor


@cache
def kernel_missing(module: str, function: str) -> str:
    """Why a CUDA kernel is not used; empty if it is.

    Such packages often install without their kernels, or with some that don't load: that must
    stop nobody, so whatever the import says becomes the reason.
    """
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        getattr(importlib.import_module(module), function)
    except (ImportError, OSError, AttributeError) as error:
        return f"{module}: {str(error).splitlines()[0]}"
    return ""


def scan_missing() -> str:
    """Why the scan of ``mamba_ssm`` is not used; empty if it is."""
    return kernel_missing("selective_scan_cuda", "fwd") or kernel_missing(
        "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"
    )


def convolution_missing() -> str:
    """Why the convolution of ``causal_conv1d`` is not used; empty if it is."""
    return kernel_missing("causal_conv1d", "causal_conv1d_fn")


def _use_fused_scan(x: Tensor) -> bool:
    return x.is_cuda and not scan_missing()


def _use_fused_convolution(x: Tensor) -> bool:
    return x.is_cuda and not convolution_missing()


class _SelectiveScan(torch.autograd.Function):
    """The recurrence position by position, forth and back, with the decays computed on the way.

    What is (B, d_inner, N) at one position stays in the cache; over all positions it would not,
    and each operation would wait for memory. Decays are computed again on the way back.
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


def selective_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t A) ⊙ h_{t−1} + dt_t B_t x_t from a zero state, and y_t = C_t h_t (eqs. 1–3).

    Args:
        x, dt: (B, L, d_inner); a: (d_inner, N), below zero; b, c: (B, L, N); all of one dtype.

    Returns:
        y (B, L, d_inner), and the states (B, L, d_inner, N), which carry no gradient. Cost O(L)
        forth and back.
    """
    return _SelectiveScan.apply(x, dt, a, b, c)  # type: ignore[no-any-return]


class _CausalTaps(torch.autograd.Function):
    """:meth:`Mamba._taps` of (d_conv, d_inner) taps, its gradient added up in place."""

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


class _WindowTaps(torch.autograd.Function):
    """:meth:`Mamba._window_taps` of (d_conv, d_inner) taps, its gradient added up in place."""

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
    """:func:`decayed_read` a few rows at a time, so that what is (rows, N, d_inner) stays in the
    cache; it is computed again on the way back."""

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
    """Σ_n weight_n exp(after_d A_dn): how much of an input is left to read some time after it.

    Args:
        after: (M, d_inner), the time; a: (d_inner, N); weight: (M, N).

    Returns:
        (M, d_inner).
    """
    if after.is_cuda:  # few launches count there, not the cache
        decay = (after.unsqueeze(1) * a.T).exp_()
        return (weight.unsqueeze(1) @ decay).squeeze(1)
    return _DecayedRead.apply(after, a, weight)  # type: ignore[no-any-return]


class Mamba(nn.Module):
    """Mamba-1 layer: projection, causal depthwise convolution, selective scan, gate.

    Args:
        d_model: width D of input and output.
        d_state: SSM states N per channel.
        d_conv: width of the causal convolution.
        expand: d_inner = expand · D.
    """

    dt_min, dt_max, dt_floor = 1e-3, 0.1, 1e-4

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_conv = d_model, d_state, d_conv
        self.d_inner = expand * d_model
        self.dt_rank = math.ceil(d_model / 16)

        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(
            self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1
        )
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, d_state))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        if not self.A_log.is_meta:  # there are only shapes there, and arithmetic loads the compiler
            self._init_state_space()

    @torch.no_grad()
    def _init_state_space(self) -> None:
        """A = −1, −2, …, −N in each channel; dt log-uniform."""
        self.A_log.copy_(torch.arange(1, self.d_state + 1).log())
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        low, high = math.log(self.dt_min), math.log(self.dt_max)
        dt = torch.exp(torch.rand(self.d_inner) * (high - low) + low).clamp(min=self.dt_floor)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus of it gives dt

    def project(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(..., D) inputs to the convolution's input x and the gate z, each (..., d_inner)."""
        x, z = self.in_proj(u).chunk(2, dim=-1)
        return x, z

    def _selection(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dt (..., d_inner), B and C (..., N), all float32, from the convolved inputs."""
        dt, b, c = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return F.softplus(self.dt_proj(dt).float()), b.float(), c.float()

    def convolve(self, x: Tensor) -> Tensor:
        """Causal depthwise convolution and SiLU over (B, L, d_inner), zeros before the start."""
        if _use_fused_convolution(x):
            fused = importlib.import_module("causal_conv1d").causal_conv1d_fn
            weight, bias = self.conv1d.weight.squeeze(1).to(x.dtype), self.conv1d.bias
            assert bias is not None
            out = fused(x.transpose(1, 2), weight, bias.to(x.dtype), activation="silu")
            return out.transpose(1, 2)
        return F.silu(self._taps(x))

    def _taps(self, x: Tensor) -> Tensor:
        """The causal convolution as one product a tap: few taps, so no layout has to change."""
        weight, bias = self.conv1d.weight.squeeze(1).to(x.dtype), self.conv1d.bias
        assert bias is not None
        return _CausalTaps.apply(x, weight.T, bias.to(x.dtype))  # type: ignore[no-any-return]

    def scan(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The selective scan of (B, L, d_inner) convolved inputs from a zero state.

        Returns:
            y (B, L, d_inner) and the states (B, L, d_inner, N) without gradient, float32.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            dt, b, c = self._selection(x)
            return selective_scan(x, dt, -torch.exp(self.A_log.float()), b, c)

    def _gate(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """Adds the skip D·x, gates by SiLU(z) and projects to width D; leading dims are free."""
        return self.out_proj((y + self.D.float() * x.float()) * F.silu(z.float()))

    def forward(self, u: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D), causal, each row from a zero state."""
        inputs, z = self.project(u)
        x = self.convolve(inputs)
        return self._fused(x, z) if _use_fused_scan(u) else self._scanned(x, z)[0]

    def forward_traced(self, u: Tensor) -> tuple[Tensor, MambaTrace]:
        """As :meth:`forward`, with what a step needs to go on from any position."""
        inputs, z = self.project(u)
        x = self.convolve(inputs)
        if not _use_fused_scan(u):
            out, states = self._scanned(x, z)
            return out, MambaTrace(inputs, states)
        with torch.no_grad():  # the kernel keeps its states to itself; nothing learns from these
            _, states = self.scan(x)
        return self._fused(x, z), MambaTrace(inputs, states)

    def _scanned(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Output and states from (B, L, d_inner) convolved inputs and gates, by PyTorch."""
        y, states = self.scan(x)
        return self._gate(y, x, z), states

    def _fused(self, x: Tensor, z: Tensor) -> Tensor:
        """The same output by the kernel of ``mamba_ssm``, in float32 too."""
        module = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            dt, b, c = self._selection(x)
            y = module.selective_scan_fn(
                x.transpose(1, 2).contiguous(),
                dt.transpose(1, 2).contiguous(),
                -torch.exp(self.A_log.float()),
                b.transpose(1, 2).contiguous(),
                c.transpose(1, 2).contiguous(),
            )
        return self._gate(y.transpose(1, 2), x, z)

    def last(self, inputs: Tensor, z: Tensor, window: int) -> Tensor:
        """Output at the last position of every window of ``window`` positions, and only there.

        Each window starts from nothing, convolution included. The recurrence is written out:
        y = Σ_j (Σ_n C_n B_jn exp(A_n Σ_{k>j} dt_k)) dt_j x_j, so that only the decays are as
        large as d_inner · N at every position.

        Args:
            inputs: (B, L, d_inner), the first half of :meth:`project`.
            z: (B, W, d_inner), W = L − window + 1: the gates of the windows' last positions.
            window: s.

        Returns:
            (B, W, D).
        """
        x = F.silu(self._window_taps(inputs, window))
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            dt, b, c = self._selection(x)
            drive, weight = (dt * x).unbind(), b * c[-1]
            spans = list(dt[1:].unbind())  # Σ_{k>j} dt_k for all j but the last
            for j in range(len(spans) - 2, -1, -1):
                spans[j] = spans[j] + spans[j + 1]
            *earlier, now = weight.unbind()
            y = drive[-1] * now.sum(-1, keepdim=True)
            if earlier:
                rows = torch.stack(spans).flatten(0, -2), torch.stack(earlier).flatten(0, -2)
                kernel = decayed_read(rows[0], -torch.exp(self.A_log.float()), rows[1])
                for part, source in zip(kernel.chunk(len(earlier)), drive[:-1], strict=True):
                    y = torch.addcmul(y, part.view_as(source), source)
        return self._gate(y, x[-1], z)

    def _window_taps(self, inputs: Tensor, window: int) -> Tensor:
        """The convolution at each position of all windows, (s, B, W, d_inner).

        Position i of a window sees the window's first i + 1 inputs.
        """
        weight, bias = self.conv1d.weight.squeeze(1).to(inputs.dtype), self.conv1d.bias
        assert bias is not None
        return _WindowTaps.apply(inputs, weight.T, bias.to(inputs.dtype), window)  # type: ignore

    def step(self, u: Tensor, conv: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One position.

        Args:
            u: (B, D) input.
            conv: (B, d_inner, d_conv − 1) float32, the convolution's last inputs, oldest first.
            ssm: (B, d_inner, N) float32.

        Returns:
            (B, D) output and the two new states; the given ones are left as they are.
        """
        inputs, z = self.project(u)
        inputs, bias = inputs.float(), self.conv1d.bias
        assert bias is not None
        # Laid out tap by tap: each is then one run of memory.
        taps = [*conv.unbind(-1), inputs]
        x = bias.float()
        for tap, weight in zip(taps, self.conv1d.weight.float().squeeze(1).unbind(1), strict=True):
            x = torch.addcmul(x, tap, weight)
        x, conv = F.silu(x), torch.stack(taps[1:], 1).transpose(1, 2)
        with torch.autocast(u.device.type, enabled=False):
            dt, b, c = self._selection(x)
            decay = (dt.unsqueeze(-1) * -torch.exp(self.A_log.float())).exp_()
            ssm = (decay * ssm).addcmul_((dt * x).unsqueeze(-1), b.unsqueeze(-2))
            y = (ssm @ c.unsqueeze(-1)).squeeze(-1)
        return self._gate(y, x, z), conv, ssm
