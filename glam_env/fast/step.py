"""``TorchStepper``: dream steps of the core ``glam`` in PyTorch.

Beside what :mod:`glam_env.fast.layout` saves, the recurrence stays in the cache, and the latent is
drawn without normalising. Nothing here waits for the device, all shapes are static, and random
draws are arguments: a CUDA graph can capture the whole step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from glam_env.fast.layout import ScanWeights, lay_out
from glam_env.fast.plain import put_rows, require_finite
from glam_env.model.cores.glam import GlamState
from glam_env.model.cores.stack import stacked
from glam_env.model.distributions import one_hot, symexp
from glam_env.model.structures import DreamState, Prediction
from glam_env.model.world_model import WorldModel

CACHE_FLOATS = 1 << 17
"""Floats of a tensor that fits the cache of a CPU core together with two others like it."""


def scan_step(
    weights: ScanWeights, inputs: Tensor, conv: Tensor, ssm: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a Mamba between its projections for one position (eqs. 1-3).

    Args:
        weights: Of the Mamba.
        inputs: (E, d_inner).
        conv: (E, d_inner, d_conv − 1) last inputs of the convolution, oldest first.
        ssm: (E, d_inner, N).

    Returns:
        y (E, d_inner) with the skip and before the gate, and the new ``conv`` and ``ssm``.
    """
    taps = [*conv.unbind(-1), inputs]
    x = weights.bias
    for tap, weight in zip(taps, weights.taps.unbind(), strict=True):
        x = torch.addcmul(x, tap, weight)
    x, conv = F.silu(x), torch.stack(taps[1:], 1).transpose(1, 2)
    dt, b, c = _selection(weights, x)
    y, ssm = recur(dt, x, b, c, ssm, weights.a)
    return y.addcmul_(x, weights.skip), conv, ssm


def scan_last(weights: ScanWeights, inputs: Tensor) -> Tensor:
    """Run a Mamba between its projections for the last position of windows.

    Args:
        weights: Of the Mamba.
        inputs: (E, s, d_inner) windows, each from an empty state.

    Returns:
        y (E, d_inner) with the skip and before the gate.
    """
    x = torch.addcmul(weights.bias, inputs, weights.taps[-1])
    for back in range(1, min(len(weights.taps), inputs.shape[1])):
        x[:, back:].addcmul_(inputs[:, :-back], weights.taps[-1 - back])
    x = F.silu(x, inplace=True)
    dt, b, c = _selection(weights, x)
    drive, weight = dt * x, b * c[:, -1:]
    y = (drive[:, -1] * weight[:, -1].sum(-1, keepdim=True)).addcmul_(x[:, -1], weights.skip)
    spans = dt[:, 1:]  # Σ_{k>j} dt_k for all positions j but the last
    for j in range(spans.shape[1] - 2, -1, -1):
        spans[:, j] += spans[:, j + 1]
    kernel = read(spans.flatten(0, 1), weights.a_rows, weight[:, :-1].flatten(0, 1))
    for part, source in zip(kernel.view_as(spans).unbind(1), drive.unbind(1), strict=False):
        y.addcmul_(part, source)
    return y


def _selection(weights: ScanWeights, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return dt (..., d_inner), B and C (..., N) of (..., d_inner) convolved inputs."""
    rank, size = weights.dt.shape[1], weights.a.shape[1]
    dt, b, c = F.linear(x, weights.select).split([rank, size, size], -1)
    return F.softplus(F.linear(dt, weights.dt, weights.dt_bias)), b, c


def _parts(rows: int, floats_a_row: int, x: Tensor) -> list[slice]:
    """Return runs of rows that fit the caches of a CPU's cores; all rows elsewhere."""
    cores = torch.get_num_threads() if x.device.type == "cpu" else rows
    size = max(1, CACHE_FLOATS // floats_a_row * cores)
    return [slice(start, start + size) for start in range(0, rows, size)]


def recur(
    dt: Tensor, x: Tensor, b: Tensor, c: Tensor, ssm: Tensor, a: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute h' = exp(dt A) ⊙ h + dt B x and y = C h' (eqs. 1-3), without gradient.

    Args:
        dt: (E, d_inner).
        x: (E, d_inner).
        b: (E, N).
        c: (E, N).
        ssm: (E, d_inner, N) the state h; it is not changed.
        a: (d_inner, N).

    Returns:
        y (E, d_inner) and the new state.
    """
    rows, inner, size = ssm.shape
    y, new = dt.new_empty(rows, inner, 1), torch.empty(ssm.shape, device=ssm.device)
    drive, parts = dt * x, _parts(rows, inner * size, ssm)
    buffer = torch.empty(ssm[parts[0]].shape, device=ssm.device)
    for part in parts:
        spans = dt[part].unsqueeze(-1)
        decay = torch.mul(spans, a, out=buffer[: len(spans)]).exp_()
        h = torch.mul(decay, ssm[part], out=new[part])
        h.addcmul_(drive[part].unsqueeze(-1), b[part].unsqueeze(1))
        torch.bmm(h, c[part].unsqueeze(-1), out=y[part])
    return y.squeeze(-1), new


def read(after: Tensor, a: Tensor, weight: Tensor) -> Tensor:
    """Compute :func:`~glam_env.fast.scan.decayed_read` without gradient.

    Args:
        after: (M, d_inner) sums of dt after each position.
        a: (N, d_inner), the transpose of A.
        weight: (M, N).

    Returns:
        (M, d_inner).
    """
    rows = len(after)
    out, parts = after.new_empty(rows, 1, after.shape[1]), _parts(rows, a.numel(), after)
    buffer = after.new_empty(len(after[parts[0]]), *a.shape)
    for part in parts:
        spans = after[part].unsqueeze(1)
        decay = torch.mul(spans, a, out=buffer[: len(spans)]).exp_()
        torch.bmm(weight[part].unsqueeze(1), decay, out=out[part])
    return out.squeeze(1)


class TorchStepper:
    """Steps dreams of the core ``glam``; see :class:`~glam_env.fast.plain.Stepper`.

    Args:
        world_model: In eval mode.
        temperature: Of the latent's draw, times the model's own; 0 takes the likeliest classes.
    """

    @torch.no_grad()
    def __init__(self, world_model: WorldModel, *, temperature: float = 1.0) -> None:
        self._layout, c = lay_out(world_model), world_model.config
        self._temperature = temperature * c.prior_temperature
        device = self._layout.table.device
        self._offsets = torch.arange(c.categoricals, device=device) * c.classes
        # The product of rows with this is their running sums.
        classes = torch.arange(c.classes, device=device)
        self._up_to = (classes[:, None] <= classes).float()

    @torch.no_grad()
    def step(
        self,
        state: DreamState,
        action: Tensor,
        draw: Tensor,
        *,
        spend: bool = False,
        show: bool = False,
    ) -> Prediction:
        h, core = self.observe(state.code, action, state.core)
        probs = self._probs(h)
        entropy = -(probs * probs.log()).view(len(h), -1).sum(-1)
        new = DreamState(self._draw_latent(probs, draw), h, core)
        features = self.features(new) if show else None
        return require_finite(Prediction(new, *self.outcome(h), entropy, features))

    @torch.no_grad()
    def go_on(self, state: DreamState, action: Tensor, draw: Tensor) -> DreamState:
        h, core = self.observe(state.code, action, state.core)
        return DreamState(self._draw_latent(self._probs(h), draw), h, core)

    def embed(self, code: Tensor, action: Tensor) -> Tensor:
        """Return the features e (E, D) of (E, K) codes and (E) actions."""
        layout, c = self._layout, self._layout.config
        rows = torch.cat(
            [code + self._offsets, action.unsqueeze(1) + c.categoricals * c.classes], 1
        )
        x = F.embedding_bag(rows, layout.table, mode="sum")
        return layout.embed_out(layout.embed_norm(x).relu_())

    def observe(self, code: Tensor, action: Tensor, core: GlamState) -> tuple[Tensor, GlamState]:
        """Return h_t (E, D) and the core's state after (z_t, a_t).

        The same as :meth:`WorldModel.observe`.
        """
        layout = self._layout
        e = self.embed(code, action)  # (E, D)
        d, convs, ssms = e - core.window[:, -1], [], []
        for depth, block in enumerate(layout.lower):
            out, conv, ssm = block.mamba.step(
                block.norm(d), core.conv[:, depth], core.ssm[:, depth]
            )
            d = d + out
            convs.append(conv)
            ssms.append(ssm)
        window = torch.cat([core.window, e.unsqueeze(1)], 1)  # (E, s, D)
        base = torch.stack([d, e][: len(layout.scans)])  # (P, E, D)
        normed = F.layer_norm(base, base.shape[-1:])
        # (P, E, d_inner) each
        inputs, gates = torch.baddbmm(layout.into_bias, normed, layout.into).chunk(2, -1)
        y, conv, ssm = scan_step(layout.scans[0], inputs[0], core.conv[:, -1], core.ssm[:, -1])
        ys, local = [y], core.local
        if layout.stack is None:
            local = torch.cat([core.local, inputs[1].unsqueeze(1)], 1)  # (E, s, d_inner)
            ys, local = [y, scan_last(layout.scans[1], local)], local[:, 1:]
        gated = torch.stack(ys).mul_(F.silu(gates))
        out = torch.baddbmm(layout.out_bias, torch.cat([gated, base], -1), layout.out)  # (P, E, D)
        u_l = out[1] if layout.stack is None else layout.stack.step(window, local)[0]
        h = F.silu(layout.variation_norm(out[0]), inplace=True).add_(u_l)
        return h, GlamState(window[:, 1:], stacked([*convs, conv]), stacked([*ssms, ssm]), local)

    @torch.no_grad()
    def outcome(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layout = self._layout
        width = layout.heads_middle.shape[-1:]
        x = F.layer_norm((h @ layout.heads_into).unflatten(-1, (2, -1)), width)
        x = torch.addcmul(layout.first_shift, x, layout.first_scale).relu_().transpose(0, 1)
        x = F.layer_norm(x @ layout.heads_middle, width)
        x = torch.addcmul(layout.second_shift, x, layout.second_scale).relu_()  # (2, M, D)
        logits = F.linear(x[0], layout.reward, layout.reward_bias)
        reward = logits.softmax(-1) @ layout.bin_values
        if layout.expand:
            reward = symexp(reward)
        return reward, logits, layout.termination(x[1]).squeeze(-1)

    def _probs(self, h: Tensor) -> Tensor:
        """Return the next latent's probabilities, (E·K, C)."""
        layout, c = self._layout, self._layout.config
        if layout.prior_hidden is not None:
            linear, norm = layout.prior_hidden
            h = norm(linear(h)).relu_()
        probs = layout.prior(h).view(-1, c.classes).softmax(-1)
        return probs.mul_(1.0 - c.unimix).add_(c.unimix / c.classes)

    def _draw_latent(self, probs: Tensor, draw: Tensor) -> Tensor:
        """Draw codes (E, K) from (E·K, C) probabilities, which are overwritten."""
        temperature = self._temperature
        if temperature == 0.0:
            return probs.argmax(-1).view_as(draw)
        if temperature in (0.5, 0.25):  # products are far cheaper than a power
            probs = probs.square_() if temperature == 0.5 else probs.square_().square_()
        elif temperature != 1.0:  # the likeliest class keeps weight 1, however high the power
            probs = probs.div_(probs.amax(-1, keepdim=True)).pow_(1.0 / temperature)
        cumulative = probs @ self._up_to
        threshold = draw.view(-1, 1) * cumulative[:, -1:]
        code = torch.searchsorted(cumulative, threshold, right=True)
        return code.clamp_(max=self._layout.config.classes - 1).view_as(draw)

    def arrange(self, state: DreamState) -> DreamState:
        return state

    def put(self, state: DreamState, rows: Tensor, source: DreamState, indices: Tensor) -> None:
        put_rows(state, rows, source, indices)

    def features(self, state: DreamState) -> Tensor:
        z = one_hot(state.code, self._layout.config.classes).flatten(-2)
        return torch.cat([z, state.h], -1)
