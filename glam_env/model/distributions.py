"""The distributions of the world model and the agent.

Categorical latents with a uniform share and straight-through samples (DreamerV2 and V3), and the
symlog two-hot code for scalars (DreamerV3). Everything computes in float32, whatever the autocast
around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNIMIX = 0.01
"""Default share of the uniform distribution in every categorical."""


def unimix_log_probs(logits: Tensor, share: float = UNIMIX) -> Tensor:
    """Return log-probabilities of softmax(logits) mixed with the uniform distribution.

    Args:
        logits: (..., C), any float dtype.
        share: Of the uniform distribution, in (0, 1).

    Returns:
        (..., C) float32 log-probabilities, normalised.
    """
    probs = logits.float().softmax(-1)
    return torch.log((1.0 - share) * probs + share / logits.shape[-1])


def sample_codes(
    log_probs: Tensor, *, temperature: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Draw a class of every categorical, each by its own uniform random number.

    Args:
        log_probs: (..., C) log-probabilities or logits.
        temperature: Divides the log-probabilities; 0 takes the likeliest class.
        generator: On the tensor's device; the default generator if None.

    Returns:
        (...) int64 class indices.
    """
    if temperature == 0.0:
        return log_probs.argmax(-1)
    draw = torch.rand(log_probs.shape[:-1], generator=generator, device=log_probs.device)
    return sample_at(log_probs, draw, temperature)


def sample_at(log_probs: Tensor, draw: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the classes that given random numbers select; see :func:`sample_codes`.

    Args:
        log_probs: (..., C) log-probabilities or logits.
        draw: (...) in [0, 1).
        temperature: See :func:`sample_codes`.

    Returns:
        (...) int64 class indices.
    """
    if temperature == 0.0:
        return log_probs.argmax(-1)
    return _operations.draw(log_probs.float(), draw, temperature)


def sharpened(log_probs: Tensor, temperature: float) -> Tensor:
    """Return (..., C) normalised log-probabilities at a temperature above 0."""
    return log_probs if temperature == 1.0 else (log_probs / temperature).log_softmax(-1)


def draw_classes(log_probs: Tensor, draw: Tensor, temperature: float) -> Tensor:
    """Compute :func:`sample_at` for a temperature above 0, by the cumulative distribution.

    That takes one number for each categorical, not for each class. Instead of normalising the
    weights, the number is scaled by their sum.
    """
    scaled = log_probs if temperature == 1.0 else log_probs / temperature
    weights = (scaled - scaled.amax(-1, keepdim=True)).exp_()
    return fall_on(running_sums(weights), draw)


def running_sums(x: Tensor) -> Tensor:
    """Compute ``x.cumsum(-1)`` of (..., C) float32.

    On a CPU, for few classes, a product with a triangle of ones is far faster.
    """
    classes = x.shape[-1]
    if x.device.type != "cpu" or classes > 64:
        return x.cumsum(-1)
    at = torch.arange(classes)
    with torch.autocast("cpu", enabled=False):
        return x @ (at[:, None] <= at).to(x.dtype)


def fall_on(cumulative: Tensor, draw: Tensor) -> Tensor:
    """Return the class whose share of (..., C) running sums holds (...) in [0, 1)."""
    threshold = (draw * cumulative[..., -1]).unsqueeze(-1)
    found = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    return found.clamp_max_(cumulative.shape[-1] - 1)  # NaNs, and rounding at the end


def one_hot(codes: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map (...) int64 class indices to (..., C) one-hot vectors."""
    zeros = torch.zeros((*codes.shape, classes), dtype=dtype, device=codes.device)
    return zeros.scatter_(-1, codes.unsqueeze(-1), 1)


def one_hot_linear(weight: Tensor, codes: Tensor, rest: Tensor) -> Tensor:
    """Compute ``F.linear(cat([one_hot(codes), rest]), weight)`` as a sum of K rows.

    Args:
        weight: (outputs, K·C + R).
        codes: (..., K) int64 in [0, C).
        rest: (..., R).

    Returns:
        (..., outputs) float32.
    """
    width = weight.shape[1] - rest.shape[-1]
    added = embed_codes(weight[:, :width].float().t(), codes)
    return added + F.linear(rest.float(), weight[:, width:].float())


def embed_codes(table: Tensor, codes: Tensor) -> Tensor:
    """Map (..., K) codes to (..., outputs): the sum of their rows in a (K·C, outputs) table."""
    return _operations.sum_rows(table, codes)


def sum_rows(table: Tensor, codes: Tensor) -> Tensor:
    """Compute :func:`embed_codes`."""
    k = codes.shape[-1]
    index = codes.flatten(0, -2) + torch.arange(0, len(table), len(table) // k, device=codes.device)
    added = F.embedding_bag(index, table.contiguous(), mode="sum")
    return added.unflatten(0, codes.shape[:-1])


def straight_through(log_probs: Tensor, codes: Tensor) -> Tensor:
    """Return one-hot vectors of ``codes`` with the gradient of the probabilities.

    Args:
        log_probs: (..., C) float32 normalised log-probabilities.
        codes: (...) int64.

    Returns:
        (..., C) float32.
    """
    probs = log_probs.exp()
    return one_hot(codes, log_probs.shape[-1]) + probs - probs.detach()


def categorical_kl(p: Tensor, q: Tensor) -> Tensor:
    """Compute KL(p ‖ q) in nats, summed over the categoricals.

    Args:
        p: (..., K, C) float32 normalised log-probabilities.
        q: (..., K, C) float32 normalised log-probabilities.

    Returns:
        (...) float32.
    """
    return (p.exp() * (p - q)).sum((-2, -1))


class _KLToLogits(torch.autograd.Function):
    """See :func:`kl_to_logits`."""

    @staticmethod
    def forward(ctx, target: Tensor, logits: Tensor, share: float) -> tuple[Tensor, Tensor]:
        probs = logits.float().softmax(-1)
        mixed = probs.mul(1.0 - share).add_(share / logits.shape[-1])
        log_mixed, p = mixed.log(), target.exp()
        entropy = -_dot(mixed, log_mixed)
        kl = _dot(p, log_mixed.neg_().add_(target))
        ctx.save_for_backward(p.div_(mixed).mul_(probs), probs)
        ctx.share, ctx.dtype = share, logits.dtype
        ctx.mark_non_differentiable(entropy)
        return kl, entropy

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[None, Tensor, None]:
        weighted, probs = ctx.saved_tensors  # p/q ⊙ softmax, and softmax
        grad = torch.addcmul(weighted, probs, weighted.sum(-1, keepdim=True), value=-1.0)
        grad.mul_(((ctx.share - 1.0) * grads[0].float())[..., None, None])
        return None, grad.to(ctx.dtype), None


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Sum x ⊙ y over the last two dimensions without storing the product."""
    x, y = x.flatten(-2), y.flatten(-2)
    return (x.unsqueeze(-2) @ y.unsqueeze(-1)).squeeze(-1).squeeze(-1)


def kl_of_logits(
    target: Tensor, logits: Tensor, share: float, target_share: float | None
) -> tuple[Tensor, Tensor]:
    """Compute :func:`kl_to_logits` in a third of the passes that autograd would take."""
    if target_share is not None:
        target = unimix_log_probs(target, target_share)
    return _KLToLogits.apply(target, logits, share)  # type: ignore[no-any-return]


def kl_to_logits(
    target: Tensor, logits: Tensor, share: float = UNIMIX, target_share: float | None = None
) -> tuple[Tensor, Tensor]:
    """Compute KL(p ‖ q) for fixed p and q = softmax(logits) with a uniform share.

    It is :func:`categorical_kl` of :func:`unimix_log_probs` with the gradient written out.

    Args:
        target: (..., K, C) float32 normalised log-probabilities of p; gets no gradient.
        logits: (..., K, C), any float dtype.
        share: See :func:`unimix_log_probs`.
        target_share: If not None, ``target`` holds logits of p, which has this uniform share.

    Returns:
        The KL in nats, (...) float32, and the entropy of q without gradient; both are summed over
        the categoricals.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return _operations.kl(target.detach(), logits, share, target_share)


def categorical_entropy(log_probs: Tensor) -> Tensor:
    """Compute the entropy in nats of (..., C) normalised log-probabilities."""
    return _operations.entropy(log_probs)


def entropies(log_probs: Tensor) -> Tensor:
    """Compute :func:`categorical_entropy`."""
    return -(log_probs.exp() * log_probs).sum(-1)


class Operations(NamedTuple):
    """What has faster versions of the same results, by default the plain functions."""

    draw: Callable[[Tensor, Tensor, float], Tensor] = draw_classes
    kl: Callable[[Tensor, Tensor, float, float | None], tuple[Tensor, Tensor]] = kl_of_logits
    entropy: Callable[[Tensor], Tensor] = entropies
    sum_rows: Callable[[Tensor, Tensor], Tensor] = sum_rows


_operations = Operations()


def use_operations(operations: Operations) -> Operations:
    """Run other functions of the same results from now on; return the former ones."""
    global _operations
    previous, _operations = _operations, operations
    return previous


def symlog(x: Tensor) -> Tensor:
    """Compute sign(x) · log(1 + |x|), by which DreamerV3 squashes rewards and returns."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Compute the inverse of :func:`symlog`."""
    return x.sign() * x.abs().expm1()


class SymlogTwoHot(nn.Module):
    """A scalar as a distribution over bins that are evenly spaced in symlog space.

    By default the mean is taken in symlog space and then expanded, as in STORM. That is not the
    expected value: half a chance of 100 counts as 9. The expected value needs bounds, since with
    255 bins on [−20, 20] the outermost bins stand for 5e8, however improbable. It is taken over
    the bins between the least and the largest value that :meth:`see` has been given.

    Args:
        bins: Number of bins, at least 2.
        low: First bin centre, in symlog units.
        high: Last bin centre, in symlog units.
        expected: Whether :meth:`mean` is the expected value.

    Attributes:
        centers: (bins) centres of the bins, in symlog units.
        seen: (2) float32, the least and the largest value seen, and 0; only if ``expected``.

    Raises:
        ValueError: Fewer than 2 bins, or ``low`` is not below ``high``.
    """

    centers: Tensor
    seen: Tensor

    def __init__(
        self, bins: int = 255, low: float = -20.0, high: float = 20.0, *, expected: bool = False
    ) -> None:
        super().__init__()
        if bins < 2 or not low < high:
            raise ValueError(
                f"two-hot bins need bins >= 2 and low < high, got {bins=} {low=} {high=}"
            )
        self.low, self.high, self.expected = low, high, expected
        # Not linspace on the meta device, which imports SymPy and takes seconds.
        centers = torch.linspace(low, high, bins, device="cpu").to(torch.get_default_device())
        self.register_buffer("centers", centers, persistent=False)
        if expected:
            self.register_buffer("seen", torch.zeros(2))

    @torch.no_grad()
    def see(self, values: Tensor) -> None:
        """Widen the range of expected values to (...) finite values."""
        if self.expected:
            low = torch.minimum(self.seen[0], values.min())
            high = torch.maximum(self.seen[1], values.max())
            self.seen.copy_(torch.stack([low, high]))

    @property
    def values(self) -> Tensor:
        """The (bins) float32 values that the bins stand for."""
        return symexp(self.centers)

    @property
    def outside(self) -> Tensor:
        """What :meth:`bounded` adds: (bins) float32, 0 or, outside of the range seen, −1e4."""
        low, high = symlog(self.seen)
        width = (self.high - self.low) / (self.centers.numel() - 1)
        # Values between two bins are shares of both.
        inside = (self.centers > low - width) & (self.centers < high + width)
        return torch.zeros_like(self.centers).masked_fill(~inside, -1e4)

    def bounded(self, logits: Tensor) -> Tensor:
        """Leave the bins outside of the range seen no probability; no change by default."""
        return logits + self.outside if self.expected else logits

    @torch.no_grad()
    def _neighbours(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bins on both sides of (...) values, and their weights, (..., 2)."""
        bins = self.centers.numel()
        position = (symlog(values.float()).clamp(self.low, self.high) - self.low) * (
            (bins - 1) / (self.high - self.low)
        )
        below = position.floor().clamp(max=bins - 2)
        upper = position - below
        index = below.nan_to_num().long()  # a NaN stays in the weights
        if self.expected:  # such that the expected value is the value
            low, high = self.values[index], self.values[index + 1]
            upper = ((values.float() - low) / (high - low)).clamp(0.0, 1.0)
        return torch.stack([index, index + 1], -1), torch.stack([1.0 - upper, upper], -1)

    def encode(self, values: Tensor) -> Tensor:
        """Map (...) values to (..., bins) float32: two weights that sum to one."""
        index, weights = self._neighbours(values)
        target = torch.zeros(*values.shape, self.centers.numel(), device=values.device)
        return target.scatter_(-1, index, weights)

    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        """Compute the cross-entropy (nats) of (..., bins) logits and two-hot (...) values."""
        return self.losses(logits, values)[0]

    def losses(self, logits: Tensor, *values: Tensor) -> list[Tensor]:
        """Compute :meth:`loss` for each of several values, in one pass over the logits."""
        found = [self._neighbours(value) for value in values]
        index, weights = (torch.cat(parts, -1) for parts in zip(*found, strict=True))
        terms = weights * logits.float().log_softmax(-1).gather(-1, index)
        return [-part.sum(-1) for part in terms.split(2, -1)]

    def mean(self, logits: Tensor) -> Tensor:
        """Map (..., bins) logits to the (...) float32 values that they stand for."""
        with torch.autocast(logits.device.type, enabled=False):
            if self.expected:
                return self.bounded(logits.float()).softmax(-1) @ self.values
            return self.symlog_mean(logits)

    def symlog_mean(self, logits: Tensor) -> Tensor:
        """Map (..., bins) logits to (...) float32 means in symlog space, expanded."""
        with torch.autocast(logits.device.type, enabled=False):
            return symexp(logits.float().softmax(-1) @ self.centers)
