"""Faster versions of what a world model computes of its latents; same results up to rounding.

:mod:`glam_env.model.distributions` has the plain versions. On a CPU, in float32, C++ computes in
one pass what takes PyTorch a pass for each operation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glam_env.fast.native import latents as native
from glam_env.fast.native.scan import suits
from glam_env.model import distributions


def draw_classes(log_probs: Tensor, draw: Tensor, temperature: float) -> Tensor:
    """Compute :func:`distributions.draw_classes`."""
    if suits(log_probs.shape[-1], log_probs, draw):
        return native.draw_classes(log_probs, draw, temperature)
    return distributions.draw_classes(log_probs, draw, temperature)


def kl_of_logits(
    target: Tensor, logits: Tensor, share: float, target_share: float | None
) -> tuple[Tensor, Tensor]:
    """Compute :func:`distributions.kl_of_logits`."""
    if suits(logits.shape[-1], target, logits):
        return native.NativeKL.apply(target, logits, share, target_share)  # type: ignore[no-any-return]
    return distributions.kl_of_logits(target, logits, share, target_share)


def entropies(log_probs: Tensor) -> Tensor:
    """Compute :func:`distributions.entropies`."""
    learns = log_probs.requires_grad and torch.is_grad_enabled()
    if not learns and suits(log_probs.shape[-1], log_probs):
        return native.entropies(log_probs)
    return distributions.entropies(log_probs)


def sum_rows(table: Tensor, codes: Tensor) -> Tensor:
    """Compute :func:`distributions.sum_rows`."""
    if suits(table.shape[-1], table) and codes.device.type == "cpu" and codes.numel() > 0:
        return native.NativeSumRows.apply(table, codes)  # type: ignore[no-any-return]
    return distributions.sum_rows(table, codes)


OPERATIONS = distributions.Operations(draw_classes, kl_of_logits, entropies, sum_rows)
"""What ``import glam_env.fast`` gives to :func:`distributions.use_operations`."""
