"""What a world model computes of its categorical latents in C++, on a CPU in float32.

The functions are those of :mod:`glam_env.model.distributions`, up to rounding. A result does not
depend on the number of threads, to the bit.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from glam_env.fast.native.scan import call, check


class NativeKL(torch.autograd.Function):
    """:func:`~glam_env.model.distributions.kl_of_logits`; the gradient is stored, not its parts."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, logits: Tensor, share: float, target_share: float | None):
        *leading, categoricals, classes = logits.shape
        check("logits", logits, logits.shape)
        check("target", target, logits.shape)
        logits = logits.contiguous()
        if len(leading) != 2:
            target = target.reshape(1, -1, categoricals, classes)
        if target.stride()[2:] != (classes, 1):
            target = target.contiguous()
        kl, entropy = logits.new_empty(leading), logits.new_empty(leading)
        grad = torch.empty_like(logits) if ctx.needs_input_grad[1] else None
        call(
            *("glam_kl", target, logits, kl, entropy, grad),
            *(*target.shape[:2], categoricals, classes, target.stride(0), target.stride(1)),
            *(share, target_share or 0.0),
        )
        ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(entropy)
        return kl, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        (grad,) = ctx.saved_tensors
        return None, grad * grads[0][..., None, None], None, None


def entropies(log_probs: Tensor) -> Tensor:
    """Compute :func:`~glam_env.model.distributions.entropies`, without gradient."""
    check("log_probs", log_probs, log_probs.shape)
    log_probs = log_probs.contiguous()
    entropy = log_probs.new_empty(log_probs.shape[:-1])
    call("glam_entropy", log_probs, entropy, entropy.numel(), log_probs.shape[-1])
    return entropy


def draw_classes(log_probs: Tensor, draw: Tensor, temperature: float) -> Tensor:
    """Compute :func:`~glam_env.model.distributions.draw_classes`."""
    check("log_probs", log_probs, log_probs.shape)
    check("draw", draw, log_probs.shape[:-1])
    log_probs, draw = log_probs.contiguous(), draw.contiguous()
    codes = torch.empty(draw.shape, dtype=torch.int64)
    sizes = draw.numel(), log_probs.shape[-1]
    call("glam_draw_classes", log_probs, draw, codes, *sizes, 1.0 / temperature)
    return codes


class NativeSumRows(torch.autograd.Function):
    """:func:`~glam_env.model.distributions.sum_rows`.

    Raises:
        IndexError: A code is out of range.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, codes: Tensor) -> Tensor:
        *leading, categoricals = codes.shape
        outputs = table.shape[-1]
        check("table", table, (len(table), outputs))
        if codes.dtype != torch.int64 or len(table) % categoricals:
            raise ValueError(
                f"codes must be int64 (..., K) and the table must have K times as many rows as "
                f"classes, got {codes.dtype} {tuple(codes.shape)} and {len(table)} rows"
            )
        transposed = table.stride(0) == 1 and table.stride(1) >= len(table)  # weights of a layer
        if not transposed:
            table = table.contiguous()
        codes = codes.contiguous()
        sums = table.new_empty(*leading, outputs)
        ctx.transposed = transposed
        ctx.sizes = math.prod(leading), categoricals, len(table) // categoricals, outputs
        stride = table.stride(1 if transposed else 0)
        if call("glam_one_hot", table, codes, sums, *ctx.sizes, stride, transposed):
            raise IndexError(f"a code is out of range; classes: {ctx.sizes[2]}")
        ctx.save_for_backward(codes)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        (codes,) = ctx.saved_tensors
        _, categoricals, classes, outputs = ctx.sizes
        grad = grads[0].contiguous()
        shape = categoricals * classes, outputs
        laid_out = grad.new_empty(shape[::-1] if ctx.transposed else shape)
        stride = laid_out.stride(0)
        call("glam_one_hot_back", grad, codes, laid_out, *ctx.sizes, stride, ctx.transposed)
        return laid_out.t() if ctx.transposed else laid_out, None
