"""KL, entropy, draws and products of one-hot latents in C++: the plain functions' numbers."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from glam_env.fast import choose
from glam_env.fast import latents as fast
from glam_env.fast.native import latents as native
from glam_env.model import distributions as plain
from glam_env.model.distributions import unimix_log_probs

needs_library = pytest.mark.skipif(bool(choose.missing()), reason=choose.missing())
SHAPES = pytest.mark.parametrize(
    "shape", [(1, 1, 1, 16), (2, 9, 3, 32), (37, 5, 48), (2, 3, 2, 5), (3, 2, 7)]
)


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learned(kl_of_logits, target: Tensor, logits: Tensor, target_share: float | None):
    """Return KL, entropy, and the gradient of KLs with weights."""
    logits = logits.detach().requires_grad_()
    kl, entropy = kl_of_logits(target, logits, 0.02, target_share)
    weights = draw(*kl.shape, seed=7).to(kl.dtype)
    (grad,) = torch.autograd.grad((kl * weights).sum(), logits)
    assert not entropy.requires_grad
    return kl.detach(), entropy, grad


@SHAPES
@pytest.mark.parametrize("target_share", [None, 0.01])
def test_kl_entropy_and_gradient_are_those_of_the_formula(shape, target_share) -> None:
    logits, target = 4 * draw(*shape), 4 * draw(*shape, seed=1)
    if target_share is None:
        target = unimix_log_probs(target)

    def formula(target: Tensor, logits: Tensor, share: float, target_share: float | None):
        def mixed(x: Tensor, share: float) -> Tensor:
            return torch.log(x.softmax(-1) * (1 - share) + share / shape[-1])

        p = target if target_share is None else mixed(target, target_share)
        q = mixed(logits, share)
        entropy = -(q.exp() * q).sum((-2, -1)).detach()
        return (p.exp() * (p - q)).sum((-2, -1)), entropy

    expected = learned(formula, target.double(), logits.double(), target_share)
    for x, y in zip(
        learned(fast.kl_of_logits, target, logits, target_share), expected, strict=True
    ):
        torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=2e-6 * shape[-1])


@SHAPES
def test_entropies_are_the_plain_ones(shape) -> None:
    log_probs = unimix_log_probs(4 * draw(*shape))
    expected = plain.entropies(log_probs.double())
    torch.testing.assert_close(fast.entropies(log_probs).double(), expected, rtol=1e-5, atol=1e-5)
    learning = log_probs.requires_grad_()
    assert fast.entropies(learning).requires_grad  # where a gradient is wanted, PyTorch computes
    with torch.no_grad():
        assert not fast.entropies(learning).requires_grad


@SHAPES
@pytest.mark.parametrize("temperature", [1.0, 0.25, 1e-3, 3.0])
def test_draws_fall_where_the_cumulative_distribution_says(shape, temperature) -> None:
    """Up to rounding: a number is left out if it is very close to a border."""
    log_probs = unimix_log_probs(4 * draw(*shape))
    uniform = torch.rand(shape[:-1], generator=torch.Generator().manual_seed(1))
    codes = fast.draw_classes(log_probs, uniform, temperature)
    cumulative = (log_probs.double() / temperature).softmax(-1).cumsum(-1)
    clear = ((cumulative - uniform.unsqueeze(-1)).abs() > 1e-5).all(-1)
    assert clear.float().mean() > 0.9 or clear.numel() == 1
    expected = (cumulative <= uniform.unsqueeze(-1)).sum(-1)
    assert codes.dtype == torch.int64
    assert torch.equal(codes[clear], expected[clear])


@SHAPES
def test_draws_at_the_ends_and_of_nan_are_classes(shape) -> None:
    log_probs = unimix_log_probs(draw(*shape))
    ends = torch.stack([torch.zeros(shape[:-1]), torch.full(shape[:-1], 1.0 - 2**-24)])
    for uniform in ends:
        codes = fast.draw_classes(log_probs, uniform, 1.0)
        assert torch.equal(
            codes, torch.full_like(codes, 0 if uniform.max() == 0 else shape[-1] - 1)
        )
    nan = torch.full(shape, float("nan"))
    for codes in (f.draw_classes(nan, ends[0], 0.5) for f in (fast, plain)):
        assert torch.equal(codes, torch.full_like(codes, shape[-1] - 1))


@pytest.mark.parametrize(
    ("leading", "outputs"), [((1,), 16), ((2, 19), 80), ((70,), 144), ((3,), 5)]
)
def test_products_with_one_hot_vectors(leading, outputs) -> None:
    classes, categoricals, width = 6, 3, 4
    weight = draw(outputs, categoricals * classes + width)
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(classes, (*leading, categoricals), generator=generator)
    rest = draw(*leading, width, seed=2)
    results = []
    for operations in (plain.Operations(), fast.OPERATIONS):
        before = plain.use_operations(operations)
        try:
            learned = weight.clone().requires_grad_()
            y = plain.one_hot_linear(learned, codes, rest)
        finally:
            plain.use_operations(before)
        (y * draw(*y.shape, seed=3)).sum().backward()
        results.append((y.detach(), learned.grad))
    dense = torch.cat([plain.one_hot(codes, classes).flatten(-2), rest], -1) @ weight.T
    torch.testing.assert_close(results[0][0], dense)
    torch.testing.assert_close(*results)


@needs_library
def test_threads_and_memory_order_change_no_bit(threads) -> None:
    logits, target = draw(3, 30, 4, 32), unimix_log_probs(draw(3, 35, 4, 32, seed=1))[:, 2:32]
    uniform = torch.rand(3, 30, 4, generator=torch.Generator().manual_seed(1))
    codes = torch.randint(32, (90, 4), generator=torch.Generator().manual_seed(2))
    table = draw(160, 128).T

    def everything(*inputs: Tensor) -> list[Tensor]:
        target, logits, uniform, table, codes = inputs
        rows = table.detach().requires_grad_()
        sums = fast.sum_rows(rows, codes)
        assert torch.equal(fast.sum_rows(rows, codes[:20]), sums[:20])  # few are not copied for
        (sums * draw(*sums.shape, seed=3)).sum().backward()
        assert rows.grad is not None
        return [
            *learned(fast.kl_of_logits, target, logits, None),
            *learned(fast.kl_of_logits, target, logits, 0.01),
            fast.entropies(target),
            fast.draw_classes(target, uniform, 0.25),
            sums.detach(),
            rows.grad,
        ]

    torch.set_num_threads(1)
    inputs = (target, logits, uniform, table, codes)
    expected = everything(*(x.contiguous() for x in inputs))
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        turned = [x.mT.contiguous().mT for x in inputs]
        for given in (inputs, turned):
            assert all(map(torch.equal, everything(*given), expected))


@needs_library
def test_nan_stays_nan() -> None:
    logits, target = draw(2, 3, 4, 32), unimix_log_probs(draw(2, 3, 4, 32, seed=1))
    for place, share in ((0, None), (0, 0.01), (1, None)):
        given = [target.clone(), logits.clone()]
        given[place][1, 2, 3, 5] = float("nan")
        kl, entropy, grad = learned(fast.kl_of_logits, given[0], given[1], share)
        assert torch.equal(kl.isnan().nonzero(), torch.tensor([[1, 2]]))
        assert bool(entropy.isnan()[1, 2]) == (place == 1)
        assert bool(grad[1, 2, 3].isnan().all())
        assert not grad[0].isnan().any()
    target[1, 2, 3, 5] = float("nan")
    assert torch.equal(fast.entropies(target).isnan().nonzero(), torch.tensor([[1, 2, 3]]))


@needs_library
def test_wrong_codes_shapes_and_types_are_refused() -> None:
    table, codes = draw(12, 32), torch.zeros(5, 3, dtype=torch.int64)
    for bad in (-1, 4, 2**40):
        wrong = codes.clone()
        wrong[4, 2] = bad
        with pytest.raises(IndexError, match="out of range"):
            native.NativeSumRows.apply(table, wrong)
    for wrong in (codes.int(), codes[:, :1].expand(5, 5)):
        with pytest.raises(ValueError, match="codes must be int64"):
            native.NativeSumRows.apply(table, wrong)
    logits = draw(2, 3, 4, 32)
    for target, given in (
        (logits[:1], logits),
        (logits.double(), logits),
        (logits, logits[..., :8]),
    ):
        with pytest.raises(ValueError, match="must be float32"):
            native.NativeKL.apply(target, given, 0.01, None)
    with pytest.raises(ValueError, match="draw must be float32"):
        native.draw_classes(logits, draw(2, 3), 1.0)
    with pytest.raises(ValueError, match="log_probs must be float32"):
        native.entropies(logits.double())


@needs_library
def test_only_what_suits_goes_to_the_library() -> None:
    logits, target = draw(2, 3, 4, 32), unimix_log_probs(draw(2, 3, 4, 32, seed=1))
    with patch.object(native, "call", side_effect=AssertionError("called")):
        for x, y in (
            (target, logits.bfloat16()),
            (target, logits.double()),
            (target[..., :5], logits[..., :5]),
            (target[:0], logits[:0]),
        ):
            found = fast.kl_of_logits(x, y, 0.01, None)
            assert all(map(torch.equal, found, plain.kl_of_logits(x, y, 0.01, None)))
        with pytest.raises(AssertionError, match="called"):
            fast.kl_of_logits(target, logits, 0.01, None)
