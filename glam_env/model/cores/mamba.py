"""Mamba-1, the selective state space layer (Gu and Dao 2023; eqs. 1–3 of the GLAM paper).

One parameter set, named and shaped as in the ``mamba_ssm`` package so that a state dict moves
either way, and two ways to run it: :meth:`Mamba.forward` over a sequence and :meth:`Mamba.step`
for one position. The recurrence runs in float32. On a CUDA device the fused kernels of
``mamba_ssm`` and ``causal_conv1d`` are used where they are installed and load; everywhere else
PyTorch computes the same numbers (:mod:`glam_env.fast.scan`).
"""

from __future__ import annotations

import importlib
import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glam_env.fast.scan import CausalTaps, WindowTaps, decayed_read, selective_scan


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
        return CausalTaps.apply(x, weight.T, bias.to(x.dtype))  # type: ignore[no-any-return]

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
        return WindowTaps.apply(inputs, weight.T, bias.to(inputs.dtype), window)  # type: ignore

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
