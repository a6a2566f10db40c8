"""Mamba-1, the selective state space layer (Gu and Dao 2023; eqs. 1 to 3).

Symbols, with their names in the ``mamba_ssm`` package where they have one:

    B, L        batch and length
    D           width of input and output (``d_model``)
    d_inner     width inside the layer, ``expand`` · D
    N           states of each inner channel (``d_state``)
    d_conv      width of the causal convolution
    x, y        input and output of the state space, (..., d_inner)
    z           gate, (..., d_inner)
    h           state, (..., d_inner, N)
    A           decay rates, (d_inner, N), below zero: A = −exp(``A_log``)
    B, C        input and output maps, (..., N), computed from x
    dt          step size, (..., d_inner), computed from x
    ``D``       skip from x to y, (d_inner)

:class:`Mamba` is the layer. The functions above it compute what runs along time in plain PyTorch.
:mod:`glam_env.fast.scan` replaces them by faster ones of the same numbers (:func:`use_operations`).

Not included: sequences that start from a state other than zero, complex A, Mamba-2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --- the state space ---------------------------------------------------------------------------


def discretize(x: Tensor, dt: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Integrate h' = A h + B x over a step dt of constant input (eq. 1).

    The zero-order hold of A is exp(dt A). For B, Mamba takes the first order, dt B.

    Args:
        x: (..., d_inner).
        dt: (..., d_inner).
        a: (d_inner, N).

    Returns:
        The decay exp(dt A), (..., d_inner, N), and dt x, (..., d_inner), which B acts on.
    """
    return torch.exp(dt.unsqueeze(-1) * a), dt * x


def selective_step(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance and read the state: h ← exp(dt A) h + dt B x, y = C h (eq. 2).

    Args:
        x: (..., d_inner).
        dt: (..., d_inner).
        a: (d_inner, N).
        b: (..., N).
        c: (..., N).
        h: (..., d_inner, N), not changed.

    Returns:
        y (..., d_inner) and the new state (..., d_inner, N).
    """
    decay, drive = discretize(x, dt, a)
    h = torch.addcmul(decay * h, drive.unsqueeze(-1), b.unsqueeze(-2))
    return (h @ c.unsqueeze(-1)).squeeze(-1), h


def selective_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Run :func:`selective_step` over a sequence, from a zero state.

    Args:
        x: (B, L, d_inner).
        dt: (B, L, d_inner).
        a: (d_inner, N).
        b: (B, L, N).
        c: (B, L, N).

    Returns:
        y (B, L, d_inner), and the states (B, L, d_inner, N) without gradient.
    """
    h, ys, states = x.new_zeros(len(x), *a.shape), [], []
    # Not x[:, t]: its backward pass writes a tensor as large as x at every step.
    for x_t, dt_t, b_t, c_t in zip(*(part.unbind(1) for part in (x, dt, b, c)), strict=True):
        y, h = selective_step(x_t, dt_t, a, b_t, c_t, h)
        ys.append(y)
        states.append(h.detach())
    return torch.stack(ys, 1), torch.stack(states, 1)


def scan_windows(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Run :func:`selective_step` over windows and return each one's last output.

    Args:
        x: (s, ..., d_inner), the position in the window first.
        dt: (s, ..., d_inner).
        a: (d_inner, N).
        b: (s, ..., N).
        c: (s, ..., N).

    Returns:
        (..., d_inner).
    """
    y, h = x[0], x.new_zeros(*x.shape[1:-1], *a.shape)
    for x_t, dt_t, b_t, c_t in zip(x, dt, b, c, strict=True):
        y, h = selective_step(x_t, dt_t, a, b_t, c_t, h)
    return y


def convolve(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """Apply the causal depthwise convolution, from zeros, and SiLU.

    Args:
        x: (..., L, d_inner).
        taps: (d_conv, d_inner), the current position's last.
        bias: (d_inner).

    Returns:
        (..., L, d_inner).
    """
    length = x.shape[-2]
    padded = F.pad(x, (0, 0, len(taps) - 1, 0))
    for k, tap in enumerate(taps):
        bias = bias + padded[..., k : k + length, :] * tap
    return F.silu(bias)


def convolve_windows(x: Tensor, taps: Tensor, bias: Tensor, window: int) -> Tensor:
    """Apply :func:`convolve` to every window of ``window`` positions, each on its own.

    Args:
        x: (B, L, d_inner).
        taps: (d_conv, d_inner).
        bias: (d_inner).
        window: s.

    Returns:
        (s, B, W, d_inner), W = L − s + 1, the position in the window first.
    """
    windows = x.unfold(1, window, 1).transpose(2, 3)  # (B, W, s, d_inner)
    return convolve(windows, taps, bias).movedim(2, 0)


def softplus(x: Tensor) -> Tensor:
    """Compute log(1 + exp(x)), which makes step sizes positive."""
    return F.softplus(x)


def gate(y: Tensor, x: Tensor, z: Tensor, skip: Tensor) -> Tensor:
    """Add what skips the state space, and gate: (y + ``D`` x) SiLU(z).

    Args:
        y: (..., d_inner) float32.
        x: (..., d_inner), any float dtype.
        z: (..., d_inner), any float dtype.
        skip: ``D``, (d_inner) float32.

    Returns:
        (..., d_inner) float32.
    """
    return (y + skip * x.float()) * F.silu(z.float())


class Operations(NamedTuple):
    """The functions that :class:`Mamba` calls between projections, by default the plain ones."""

    convolve: Callable[[Tensor, Tensor, Tensor], Tensor] = convolve
    convolve_windows: Callable[[Tensor, Tensor, Tensor, int], Tensor] = convolve_windows
    scan: Callable[..., tuple[Tensor, Tensor]] = selective_scan
    scan_windows: Callable[..., Tensor] = scan_windows
    softplus: Callable[[Tensor], Tensor] = softplus
    gate: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = gate


_operations = Operations()


def use_operations(operations: Operations) -> Operations:
    """Let all layers run other functions of the same results; return the former ones."""
    global _operations
    previous, _operations = _operations, operations
    return previous


# --- the layer ---------------------------------------------------------------------------------


class MambaTrace(NamedTuple):
    """What a pass over a sequence keeps, so that steps can continue from it.

    Attributes:
        inputs: (B, L, d_inner) the convolution's inputs.
        states: (B, L, d_inner, N) float32, the SSM state after each position, without gradient.
    """

    inputs: Tensor
    states: Tensor


class Mamba(nn.Module):
    """A Mamba-1 layer: project, convolve, scan, gate, project.

    The parameters have the names, shapes and initial values of ``mamba_ssm.Mamba``, so that state
    dicts move either way. The recurrence runs in float32, whatever the autocast around it.

    Args:
        d_model: Width D of input and output.
        d_state: N, states of each inner channel.
        d_conv: Width of the causal convolution.
        expand: d_inner / D.
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
        if not self.A_log.is_meta:  # on "meta" there are only shapes
            self._init_state_space()

    @torch.no_grad()
    def _init_state_space(self) -> None:
        """Set A to −1, −2, …, −N in each channel, and dt to log-uniform values."""
        self.A_log.copy_(torch.arange(1, self.d_state + 1).log())
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        low, high = math.log(self.dt_min), math.log(self.dt_max)
        dt = torch.exp(torch.rand(self.d_inner) * (high - low) + low).clamp(min=self.dt_floor)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

    def forward(self, u: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D), causally, each row from a zero state."""
        return self.forward_traced(u)[0]

    def forward_traced(self, u: Tensor) -> tuple[Tensor, MambaTrace]:
        """Run :meth:`forward`; return its output and what a step needs to continue it."""
        inputs, z = self.project(u)
        x = _operations.convolve(inputs, *self._taps(inputs.dtype))
        y, states = self.scan(x)
        return self._gate(y, x, z), MambaTrace(inputs, states)

    def last(self, inputs: Tensor, z: Tensor, window: int) -> Tensor:
        """Return the output at the last position of every window, each from a zero state.

        Args:
            inputs: (B, L, d_inner), the first part of :meth:`project`.
            z: (B, W, d_inner), W = L − s + 1: the gates of the windows' last positions.
            window: s.

        Returns:
            (B, W, D).
        """
        x = _operations.convolve_windows(inputs, *self._taps(inputs.dtype), window)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()  # (s, B, W, d_inner)
            dt, b, c = self.select(x)
            y = _operations.scan_windows(x, dt, self.a, b, c)
        return self._gate(y, x[-1], z)

    def step(self, u: Tensor, conv: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run one position.

        Args:
            u: (B, D) input.
            conv: (B, d_inner, d_conv − 1) float32, the convolution's last inputs, oldest first.
            ssm: (B, d_inner, N) float32.

        Returns:
            (B, D) output and the two new states; the given ones are not changed.
        """
        inputs, z = self.project(u)
        inputs, weights = inputs.float(), self.conv1d.weight.float().squeeze(1)
        assert self.conv1d.bias is not None
        # Laid out tap by tap: each is then one run of memory.
        taps = [*conv.unbind(-1), inputs]
        x = self.conv1d.bias.float()
        for tap, weight in zip(taps, weights.unbind(1), strict=True):
            x = torch.addcmul(x, tap, weight)
        x, conv = F.silu(x), torch.stack(taps[1:], 1).transpose(1, 2)
        with torch.autocast(u.device.type, enabled=False):
            dt, b, c = self.select(x)
            y, ssm = selective_step(x, dt, self.a, b, c, ssm)
        return self._gate(y, x, z), conv, ssm

    # --- parts -------------------------------------------------------------------------------

    def project(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Map (..., D) to the convolution's input x and the gate z, (..., d_inner) each."""
        x, z = self.in_proj(u).chunk(2, dim=-1)
        return x, z

    def select(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute dt, B and C from the input: the scan becomes selective (eq. 3).

        Args:
            x: (..., d_inner), convolved.

        Returns:
            dt (..., d_inner), B (..., N) and C (..., N), float32.
        """
        dt, b, c = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return _operations.softplus(self.dt_proj(dt).float()), b.float(), c.float()

    def scan(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run the selective scan over (B, L, d_inner) convolved inputs, from a zero state.

        Returns:
            y (B, L, d_inner) float32, and the states (B, L, d_inner, N) float32 without gradient.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            dt, b, c = self.select(x)
            return _operations.scan(x, dt, self.a, b, c)

    @property
    def a(self) -> Tensor:
        """A, (d_inner, N) float32."""
        return -torch.exp(self.A_log.float())

    def _taps(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the convolution's taps (d_conv, d_inner) and bias (d_inner)."""
        assert self.conv1d.bias is not None
        return self.conv1d.weight.squeeze(1).to(dtype).T, self.conv1d.bias.to(dtype)

    def _gate(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """Add the skip ``D`` · x, gate by SiLU(z), and project to width D."""
        return self.out_proj(_operations.gate(y, x, z, self.D.float()))
