"""``DreamStepper``: :meth:`WorldModel.step` with its weights laid out once, for many steps.

The same numbers up to rounding, in fewer and better-placed operations: one-hot products are sums of
table rows, both Mambas and all heads share their products, LayerNorms' scales and GMamba's output
projection are folded into the matrices that follow, the recurrence stays in the cache, and the
latent is drawn without normalising. What is remembered stays float32 throughout.

Nothing here waits for the device, every shape is static, and random numbers come in from outside:
the whole step can be captured in a CUDA graph.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glam_env.model.cores.glam import GlamCore, GlamState, GMamba, LMamba, MambaBlock, stacked
from glam_env.model.cores.mamba import Mamba
from glam_env.model.distributions import one_hot, symexp
from glam_env.model.structures import DreamState
from glam_env.model.world_model import Head, WorldModel

CACHE_FLOATS = 1 << 17
"""Floats of a tensor that stays in the cache of a CPU core together with two like it."""


class Foretold(NamedTuple):
    """One dreamt transition of E dreams.

    ``state`` after it; ``reward_logits`` (E, bins) and their mean ``reward`` (E) in the game's
    units; ``termination_logit`` (E); ``prior_entropy`` (E) nats, summed over the categoricals;
    ``features`` (E, K·C + D) of the state, if they were asked for; all float32.
    """

    state: DreamState
    reward: Tensor
    reward_logits: Tensor
    termination_logit: Tensor
    prior_entropy: Tensor
    features: Tensor | None = None


class Scan(NamedTuple):
    """A Mamba's weights between its two projections.

    ``taps`` (d_conv, d_inner) with the current input's last; ``bias`` (d_inner) of the
    convolution; ``select`` (dt_rank + 2N, d_inner); ``dt`` (d_inner, dt_rank) and ``dt_bias``;
    ``a`` (d_inner, N), below zero, and ``a_rows``, its transpose; ``skip`` (d_inner).
    """

    taps: Tensor
    bias: Tensor
    select: Tensor
    dt: Tensor
    dt_bias: Tensor
    a: Tensor
    a_rows: Tensor
    skip: Tensor

    @classmethod
    def of(cls, mamba: Mamba) -> Scan:
        assert mamba.conv1d.bias is not None
        a = -torch.exp(mamba.A_log)
        return cls(
            mamba.conv1d.weight.squeeze(1).T.contiguous(),
            mamba.conv1d.bias,
            mamba.x_proj.weight,
            mamba.dt_proj.weight,
            mamba.dt_proj.bias,
            a,
            a.T.contiguous(),
            mamba.D,
        )

    def selection(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dt (..., d_inner), B and C (..., N) from (..., d_inner) convolved inputs."""
        rank, size = self.dt.shape[1], self.a.shape[1]
        dt, b, c = F.linear(x, self.select).split([rank, size, size], -1)
        return F.softplus(F.linear(dt, self.dt, self.dt_bias)), b, c

    def step(self, inputs: Tensor, conv: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One position: (E, d_inner) inputs to y (E, d_inner) with the skip, and new states."""
        taps = [*conv.unbind(-1), inputs]
        x = self.bias
        for tap, weight in zip(taps, self.taps.unbind(), strict=True):
            x = torch.addcmul(x, tap, weight)
        x, conv = F.silu(x), torch.stack(taps[1:], 1).transpose(1, 2)
        dt, b, c = self.selection(x)
        y, ssm = recur(dt, x, b, c, ssm, self.a)
        return y.addcmul_(x, self.skip), conv, ssm

    def last(self, inputs: Tensor) -> Tensor:
        """As :meth:`Mamba.last` before the gate: (E, s, d_inner) windows to y (E, d_inner)."""
        x = torch.addcmul(self.bias, inputs, self.taps[-1])
        for back in range(1, min(len(self.taps), inputs.shape[1])):
            x[:, back:].addcmul_(inputs[:, :-back], self.taps[-1 - back])
        x = F.silu(x, inplace=True)
        dt, b, c = self.selection(x)
        drive, weight = dt * x, b * c[:, -1:]
        y = (drive[:, -1] * weight[:, -1].sum(-1, keepdim=True)).addcmul_(x[:, -1], self.skip)
        spans = dt[:, 1:]  # Σ_{k>j} dt_k for all positions j but the last
        for j in range(spans.shape[1] - 2, -1, -1):
            spans[:, j] += spans[:, j + 1]
        kernel = read(spans.flatten(0, 1), self.a_rows, weight[:, :-1].flatten(0, 1))
        for part, source in zip(kernel.view_as(spans).unbind(1), drive.unbind(1), strict=False):
            y.addcmul_(part, source)
        return y


def _parts(rows: int, floats_a_row: int, x: Tensor) -> list[slice]:
    """Runs of rows that a CPU's cores hold in their caches; everything at once elsewhere."""
    cores = torch.get_num_threads() if x.device.type == "cpu" else rows
    size = max(1, CACHE_FLOATS // floats_a_row * cores)
    return [slice(start, start + size) for start in range(0, rows, size)]


def recur(
    dt: Tensor, x: Tensor, b: Tensor, c: Tensor, ssm: Tensor, a: Tensor
) -> tuple[Tensor, Tensor]:
    """h' = exp(dt A) ⊙ h + dt B x and y = C h' (eqs. 1–3), without gradient.

    Args:
        dt, x: (E, d_inner); b, c: (E, N); ssm: (E, d_inner, N), left as it is; a: (d_inner, N).

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
    """:func:`~glam_env.model.cores.mamba.decayed_read` without gradient, of ``a`` (N, d_inner)."""
    rows = len(after)
    out, parts = after.new_empty(rows, 1, after.shape[1]), _parts(rows, a.numel(), after)
    buffer = after.new_empty(len(after[parts[0]]), *a.shape)
    for part in parts:
        spans = after[part].unsqueeze(1)
        decay = torch.mul(spans, a, out=buffer[: len(spans)]).exp_()
        torch.bmm(weight[part].unsqueeze(1), decay, out=out[part])
    return out.squeeze(1)


def _folded(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight (D, out) and bias (out) that act on what is normalised but not yet scaled."""
    weight, bias = linear.weight.double(), linear.weight.double() @ norm.bias.double()
    if linear.bias is not None:
        bias = bias + linear.bias.double()
    return (weight * norm.weight.double()).T.float().contiguous(), bias.float()


def _after(projection: nn.Linear, mamba: Mamba) -> Tensor:
    """(d_inner + D, D): what projects base + out_proj(y), applied to [y, base]."""
    weight = projection.weight.double()
    return torch.cat([weight @ mamba.out_proj.weight.double(), weight], 1).T.float()


class DreamStepper:
    """Steps dreams of one world model whose weights stand still.

    It holds copies in a layout of its own: make a new one when the weights have moved.

    Args:
        world_model: in eval mode.
        temperature: of the latent's draw, on top of the model's own; 0 takes its mode.
    """

    @torch.no_grad()
    def __init__(self, world_model: WorldModel, *, temperature: float = 1.0) -> None:
        model, c = world_model, world_model.config
        self.config, self.temperature = c, temperature * c.draw_temperature
        device = model.prior.weight.device
        self._offsets = torch.arange(c.categoricals, device=device) * c.classes
        first, self._embed_norm, _, self._embed_out = model.feature_encoder
        assert isinstance(first, nn.Linear)
        self._table = first.weight.T.contiguous()
        assert isinstance(model.core, GlamCore)
        self._lay_out_core(model.core.gmamba, model.core.lmamba)
        self._lay_out_heads(model, model.reward, model.termination)
        # Rows times this are their running sums, in one product.
        classes = torch.arange(c.classes, device=device)
        self._up_to = (classes[:, None] <= classes).float()

    def _lay_out_core(self, gmamba: GMamba, lmamba: LMamba) -> None:
        """The last block of GMamba and the only one of LMamba go side by side."""
        self._lower = [block for block in gmamba.blocks[:-1] if isinstance(block, MambaBlock)]
        self._lmamba = None if lmamba.cache_width else lmamba  # a stack runs as it is
        parts = [gmamba, lmamba] if lmamba.cache_width else [gmamba]
        tops = [part.blocks[-1] for part in parts]
        blocks = [block for block in tops if isinstance(block, MambaBlock)]
        inward = [_folded(block.norm, block.mamba.in_proj) for block in blocks]
        self._in = torch.stack([weight for weight, _ in inward])
        self._in_bias = torch.stack([bias for _, bias in inward]).unsqueeze(1)
        self._scans = [Scan.of(block.mamba) for block in blocks]
        pairs = zip(parts, blocks, strict=True)
        self._out = torch.stack([_after(part.project, block.mamba) for part, block in pairs])
        self._out_bias = torch.stack([part.project.bias for part in parts]).unsqueeze(1)
        self._variation_norm = gmamba.norm

    def _lay_out_heads(self, model: WorldModel, *heads: Head) -> None:
        (a1, n1, _, a2, n2, _, a3), (b1, m1, _, b2, m2, _, b3) = (head.layers for head in heads)
        self._prior = model.prior
        first: list[Tensor] = [next(layer.parameters()) for layer in (a1, b1)]
        self._heads_in = torch.cat(first).T.contiguous()
        self._heads_norms = [
            torch.stack([getattr(norm, name) for norm in pair]).unsqueeze(at)
            for pair, at in (((n1, m1), 0), ((n2, m2), 1))
            for name in ("weight", "bias")
        ]
        self._heads_mid = torch.stack([next(layer.parameters()).T for layer in (a2, b2)])
        self._reward, self._termination = a3, b3
        self._centers = model.reward_code.centers

    @torch.no_grad()
    def step(
        self,
        state: DreamState,
        action: Tensor,
        draw: Tensor,
        *,
        spend: bool = False,
        show: bool = False,
    ) -> Foretold:
        """Dreams one step on.

        Args:
            state: E dreams, left as they are unless they may be spent.
            action: (E) int64, taken on seeing z_t.
            draw: (E, K) float32 in [0, 1), for the next latent.
            spend: the new state may take the memory of the old one, which is worth nothing then.
            show: the features too.

        Returns:
            The transition, in fresh tensors but for what was spent.
        """
        h, core = self.remember(state.code, action, state.core)
        step = self._foretell(h, core, draw)
        return step._replace(features=self.features(step.state)) if show else step

    def embed(self, code: Tensor, action: Tensor) -> Tensor:
        """(E, K) codes and (E) actions to features e (E, D)."""
        c = self.config
        rows = torch.cat(
            [code + self._offsets, action.unsqueeze(1) + c.categoricals * c.classes], 1
        )
        x = F.embedding_bag(rows, self._table, mode="sum")
        return self._embed_out(self._embed_norm(x).relu_())

    def remember(self, code: Tensor, action: Tensor, core: GlamState) -> tuple[Tensor, GlamState]:
        """As :meth:`WorldModel.observe`: h_t (E, D) and the memory after (z_t, a_t)."""
        e = self.embed(code, action)
        d, convs, ssms = e - core.window[:, -1], [], []
        for depth, block in enumerate(self._lower):
            out, conv, ssm = block.mamba.step(
                block.norm(d), core.conv[:, depth], core.ssm[:, depth]
            )
            d = d + out
            convs.append(conv)
            ssms.append(ssm)
        window = torch.cat([core.window, e.unsqueeze(1)], 1)
        base = torch.stack([d, e][: len(self._scans)])
        normed = F.layer_norm(base, base.shape[-1:])
        inputs, gates = torch.baddbmm(self._in_bias, normed, self._in).chunk(2, -1)
        y, conv, ssm = self._scans[0].step(inputs[0], core.conv[:, -1], core.ssm[:, -1])
        ys, local = [y], core.local
        if self._lmamba is None:
            local = torch.cat([core.local, inputs[1].unsqueeze(1)], 1)
            ys, local = [y, self._scans[1].last(local)], local[:, 1:]
        gated = torch.stack(ys).mul_(F.silu(gates))
        out = torch.baddbmm(self._out_bias, torch.cat([gated, base], -1), self._out)
        u_l = out[1] if self._lmamba is None else self._lmamba.step(window, local)[0]
        h = F.silu(self._variation_norm(out[0]), inplace=True).add_(u_l)
        return h, GlamState(window[:, 1:], stacked([*convs, conv]), stacked([*ssms, ssm]), local)

    def _foretell(self, h: Tensor, core: GlamState, draw: Tensor) -> Foretold:
        probs = self._probs(h)
        entropy = -(probs * probs.log()).view(len(h), -1).sum(-1)
        code = self._draw_latent(probs, draw)
        return Foretold(DreamState(code, h, core), *self.outcome(h), entropy)

    @torch.no_grad()
    def go_on(self, state: DreamState, action: Tensor, draw: Tensor) -> DreamState:
        """The state of :meth:`step`, and nothing else of it."""
        h, core = self.remember(state.code, action, state.core)
        return DreamState(self._draw_latent(self._probs(h), draw), h, core)

    @torch.no_grad()
    def outcome(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`step` says of the transition that led to h (M, D).

        Returns:
            ``reward``, ``reward_logits`` and ``termination_logit`` of :class:`Foretold`.
        """
        w1, b1, w2, b2 = self._heads_norms
        width = self._heads_mid.shape[-1:]
        x = F.layer_norm((h @ self._heads_in).unflatten(-1, (2, -1)), width)
        x = torch.addcmul(b1, x, w1).relu_().transpose(0, 1)
        x = torch.addcmul(b2, F.layer_norm(x @ self._heads_mid, width), w2).relu_()
        logits = self._reward(x[0])
        reward = symexp(logits.softmax(-1) @ self._centers)
        return reward, logits, self._termination(x[1]).squeeze(-1)

    def _probs(self, h: Tensor) -> Tensor:
        """The next latent's probabilities, (E·K, C)."""
        c = self.config
        probs = self._prior(h).view(-1, c.classes).softmax(-1)
        return probs.mul_(1.0 - c.unimix).add_(c.unimix / c.classes)

    def _draw_latent(self, probs: Tensor, draw: Tensor) -> Tensor:
        """(E·K, C) probabilities, spoilt here, and (E, K) numbers to codes (E, K)."""
        c, temperature = self.config, self.temperature
        if temperature == 0.0:
            return probs.argmax(-1).view_as(draw)
        if temperature in (0.5, 0.25):  # products are far cheaper than a power
            probs = probs.square_() if temperature == 0.5 else probs.square_().square_()
        elif temperature != 1.0:
            probs = probs.pow_(1.0 / temperature)
        cumulative = probs @ self._up_to
        threshold = draw.view(-1, 1) * cumulative[:, -1:]
        code = torch.searchsorted(cumulative, threshold, right=True)
        return code.clamp_(max=c.classes - 1).view_as(draw)

    def arrange(self, state: DreamState) -> DreamState:
        """The same state in the order of memory that steps read fastest."""
        return state

    def put(self, state: DreamState, rows: Tensor, source: DreamState, indices: Tensor) -> None:
        """Writes the (N) rows ``indices`` of one state to the rows ``rows`` of another."""
        parts, into = ((s.code, s.h, *s.core) for s in (source, state))
        for part, own in zip(parts, into, strict=True):
            own.index_copy_(0, rows, part[indices])

    def features(self, state: DreamState) -> Tensor:
        """As :meth:`WorldModel.features`."""
        return torch.cat([one_hot(state.code, self.config.classes).flatten(-2), state.h], -1)
