"""Categoricals, their samples and the two-hot code, compared with plain float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glam_env.model.distributions import (
    UNIMIX,
    SymlogTwoHot,
    categorical_entropy,
    categorical_kl,
    kl_to_logits,
    one_hot,
    one_hot_linear,
    running_sums,
    sample_codes,
    straight_through,
    symexp,
    symlog,
    unimix_log_probs,
)

PROPERTY = settings(deadline=None, max_examples=60, derandomize=True)
VALUES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def softmax64(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def chi_square(counts, expected):
    return float(((counts - expected) ** 2 / expected).sum())


# --- unimix ------------------------------------------------------------------------------


def test_unimix_is_one_percent_of_the_uniform_distribution():
    logits = torch.randn(5, 3, 7, generator=seeded()) * 5
    expected = 0.99 * softmax64(logits.double().numpy()) + 0.01 / 7
    assert UNIMIX == 0.01
    np.testing.assert_allclose(unimix_log_probs(logits).exp().numpy(), expected, rtol=1e-5)


def test_unimix_stays_finite_and_normalised_at_the_extremes():
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e30, 1e30, 1e30]], requires_grad=True)
    log_probs = unimix_log_probs(logits)
    log_probs.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2))
    assert log_probs.exp().min() >= 0.01 / 3 - 1e-8


# --- samples -----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_probabilities(temperature):
    draws, logits = 40_000, torch.tensor([2.0, 0.0, -1.0, 1.0, 0.5, -3.0])
    codes = sample_codes(logits.expand(draws, 6), temperature=temperature, generator=seeded())
    expected = draws * softmax64(logits.double().numpy() / temperature)
    # 5 degrees of freedom: above 26 for one in ten thousand seeds.
    assert chi_square(np.bincount(codes.numpy(), minlength=6), expected) < 26
    assert codes.dtype == torch.int64


def test_categoricals_and_rows_are_drawn_independently():
    draws, classes = 30_000, 4
    probs = torch.tensor([0.4, 0.3, 0.2, 0.1])
    codes = sample_codes(probs.log().expand(draws, 2, classes), generator=seeded()).numpy()
    joint = np.outer(probs, probs).ravel()
    within = np.bincount(codes[:, 0] * classes + codes[:, 1], minlength=classes**2)
    across = np.bincount(codes[:-1, 0] * classes + codes[1:, 0], minlength=classes**2)
    # 15 degrees of freedom: above 45 for one in ten thousand seeds; a shared draw gives thousands.
    assert chi_square(within, draws * joint) < 45
    assert chi_square(across, (draws - 1) * joint) < 45


def test_an_impossible_class_is_never_drawn():
    logits = torch.tensor([-1e9, 0.0, -1e9, 0.0, -1e9]).expand(20_000, 5)
    assert set(sample_codes(logits, generator=seeded()).tolist()) == {1, 3}


def test_a_generator_fixes_the_draw_and_leaves_the_global_one_alone():
    logits = torch.randn(50, 8, generator=seeded(1))
    before = torch.get_rng_state()
    first = sample_codes(logits, generator=seeded(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, sample_codes(logits, generator=seeded(2)))
    assert not torch.equal(first, sample_codes(logits, generator=seeded(3)))


def test_temperature_zero_takes_the_likeliest_class():
    logits = torch.randn(100, 3, 8, generator=seeded())
    assert torch.equal(sample_codes(logits, temperature=0.0), logits.argmax(-1))


# --- gradients and divergences -----------------------------------------------------------


def test_a_layer_read_from_codes_is_the_layer_on_their_one_hot_vectors():
    weight = torch.randn(7, 3 * 5 + 4, generator=seeded(0), requires_grad=True)
    codes = torch.randint(5, (2, 6, 3), generator=seeded(1))
    rest = torch.randn(2, 6, 4, generator=seeded(2), requires_grad=True)
    dense = torch.cat([one_hot(codes, 5).flatten(-2), rest], -1)
    results = []
    for out in (one_hot_linear(weight, codes, rest), dense @ weight.t()):
        gradients = torch.autograd.grad(out.square().sum(), (weight, rest))
        results.append((out, *gradients))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


def test_straight_through_has_the_value_of_the_code_and_the_gradient_of_the_probabilities():
    logits = torch.randn(6, 4, 5, generator=seeded(), requires_grad=True)
    weights = torch.randn(6, 4, 5, generator=seeded(1))
    log_probs = unimix_log_probs(logits)
    codes = sample_codes(log_probs, generator=seeded())
    z = straight_through(log_probs, codes)
    torch.testing.assert_close(z, one_hot(codes, 5))
    (through,) = torch.autograd.grad((z * weights).sum(), logits)

    plain = logits.detach().double().requires_grad_()
    probs = 0.99 * plain.softmax(-1) + 0.01 / 5
    (expected,) = torch.autograd.grad((probs * weights).sum(), plain)
    torch.testing.assert_close(through.double(), expected, atol=1e-7, rtol=1e-4)


def test_divergence_and_entropy_agree_with_torch():
    p, q = (unimix_log_probs(torch.randn(7, 3, 5, generator=seeded(s)) * 3) for s in (0, 1))
    reference = torch.distributions.Categorical(logits=p.double())
    other = torch.distributions.Categorical(logits=q.double())
    kl = torch.distributions.kl_divergence(reference, other).sum(-1)
    torch.testing.assert_close(categorical_kl(p, q).double(), kl, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        categorical_entropy(p).double(), reference.entropy(), atol=1e-6, rtol=1e-5
    )


# --- symlog two-hot ----------------------------------------------------------------------


@PROPERTY
@given(VALUES)
def test_symexp_undoes_symlog(values):
    x = torch.tensor(values)
    expected = np.sign(x.double().numpy()) * np.log1p(np.abs(x.double().numpy()))
    np.testing.assert_allclose(symlog(x).numpy(), expected, rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-5, atol=1e-30)


@PROPERTY
@given(VALUES)
def test_two_hot_is_two_neighbours_that_sum_to_one_and_decode_to_the_value(values):
    code, x = SymlogTwoHot(), torch.tensor(values)
    target = code.encode(x)
    assert target.shape == (len(values), 255)
    assert (target >= 0).all()
    torch.testing.assert_close(target.sum(-1), torch.ones(len(values)))
    for row in target:
        (bins,) = row.nonzero(as_tuple=True)
        assert bins.max() - bins.min() <= 1
    expected = x.double()
    decoded = symexp((target.double() * code.centers.double()).sum(-1))
    torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(code.mean(target.log()).double(), expected, rtol=1e-4, atol=1e-5)


def test_two_hot_of_a_bin_centre_is_one_hot_and_beyond_the_ends_the_last_bin():
    code = SymlogTwoHot(bins=5, low=-2.0, high=2.0)
    centres = symexp(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
    torch.testing.assert_close(code.encode(centres), torch.eye(5), atol=1e-6, rtol=0)
    ends = code.encode(torch.tensor([-1e9, 1e9]))
    torch.testing.assert_close(ends, torch.eye(5)[[0, 4]])


def test_two_hot_loss_is_the_cross_entropy():
    code, logits = SymlogTwoHot(), torch.randn(9, 255, generator=seeded())
    values = torch.linspace(-300.0, 21.0, 9)
    x = values.double().numpy()
    log_probs = np.log(softmax64(logits.double().numpy()))
    position = (np.sign(x) * np.log1p(np.abs(x)) + 20.0) / 40.0 * 254.0
    low = np.floor(position).astype(int)
    up = position - low
    rows = np.arange(9)
    expected = -((1 - up) * log_probs[rows, low] + up * log_probs[rows, low + 1])
    np.testing.assert_allclose(code.loss(logits, values).numpy(), expected, rtol=1e-4)


def test_two_hot_loss_of_two_bins_is_the_dense_one_in_float64_with_its_gradient():
    torch.manual_seed(1)
    code = SymlogTwoHot(255)
    values = torch.cat([3.0 * torch.randn(50), torch.tensor([0.0, 1e9, -1e9, 1.0])])
    logits = (4.0 * torch.randn(54, 255)).requires_grad_()
    weight = torch.rand(54)
    (weight * code.loss(logits, values)).sum().backward()
    dense = logits.detach().double().requires_grad_()
    losses = -(code.encode(values).double() * dense.log_softmax(-1)).sum(-1)
    (weight.double() * losses).sum().backward()
    torch.testing.assert_close(code.loss(logits, values).double(), losses, atol=1e-5, rtol=1e-5)
    assert logits.grad is not None
    assert dense.grad is not None
    torch.testing.assert_close(logits.grad.double(), dense.grad, atol=1e-6, rtol=1e-5)


def test_several_two_hot_losses_in_one_pass_are_each_its_own():
    torch.manual_seed(2)
    code, logits = SymlogTwoHot(41), torch.randn(3, 5, 41)
    values = torch.randn(3, 5), 10.0 * torch.randn(3, 5)
    for loss, value in zip(code.losses(logits, *values), values, strict=True):
        torch.testing.assert_close(loss, code.loss(logits, value))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kl_to_logits_is_the_kl_of_the_parts_in_float64_with_its_gradient(share, dtype):
    torch.manual_seed(3)
    target = unimix_log_probs(3.0 * torch.randn(4, 6, 5, 7), 0.01)
    logits = (3.0 * torch.randn(4, 6, 5, 7)).to(dtype).requires_grad_()
    weight = torch.rand(4, 6)
    kl, entropy = kl_to_logits(target, logits, share)
    (weight * kl).sum().backward()
    exact = logits.detach().double().requires_grad_()
    q = torch.log((1.0 - share) * exact.softmax(-1) + share / 7)
    expected = categorical_kl(target.double(), q)
    (weight.double() * expected).sum().backward()
    assert kl.dtype == torch.float32
    torch.testing.assert_close(kl.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        entropy.double(), categorical_entropy(q).sum(-1), atol=1e-5, rtol=1e-5
    )
    assert not entropy.requires_grad
    assert logits.grad is not None
    assert exact.grad is not None
    rounding = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(logits.grad.double(), exact.grad, atol=1e-6, rtol=rounding)


def test_running_sums_are_a_cumulative_sum():
    x = torch.rand(50, 32)
    torch.testing.assert_close(running_sums(x), x.cumsum(-1))
    with torch.autocast("cpu", torch.bfloat16):
        assert running_sums(x).dtype == torch.float32
    assert torch.equal(running_sums(torch.ones(2, 255)), torch.arange(1.0, 256).expand(2, 255))


@PROPERTY
@given(VALUES)
def test_an_expected_value_decodes_to_the_value_that_was_seen(values):
    code, x = SymlogTwoHot(expected=True), torch.tensor(values)
    code.see(x)
    target = code.encode(x)
    torch.testing.assert_close(target.sum(-1), torch.ones(len(values)))
    assert ((target > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(code.mean(target.log()), x, rtol=1e-4, atol=1e-5)


def test_an_expected_value_is_the_mean_over_the_range_seen_in_float64():
    code = SymlogTwoHot(expected=True)
    logits = torch.randn(50, 255, generator=seeded())
    assert (code.mean(logits).abs() < 0.1).all()  # nothing but zero and its neighbours yet
    code.see(torch.tensor([3.0, -1.0]))
    code.see(torch.tensor([[100.0], [0.5]]))
    assert code.seen.tolist() == [-1.0, 100.0]
    centers = np.linspace(-20.0, 20.0, 255)
    first = np.flatnonzero(centers <= -np.log1p(1.0))[-1]
    last = np.flatnonzero(centers >= np.log1p(100.0))[0]
    inside = slice(first, last + 1)
    probs = softmax64(logits[:, inside].double().numpy())
    values = np.sign(centers) * np.expm1(np.abs(centers))
    np.testing.assert_allclose(code.mean(logits).numpy(), probs @ values[inside], rtol=1e-4)
    outside = code.bounded(logits).softmax(-1)
    outside[:, inside] = 0.0
    assert (outside == 0).all()

    # Half a chance of 100 points counts as 50, not as 9.
    half = (0.5 * code.encode(torch.tensor(100.0)) + 0.5 * code.encode(torch.tensor(0.0))).log()
    assert code.mean(half).item() == pytest.approx(50.0, rel=1e-4)
    other = SymlogTwoHot()
    half = (0.5 * other.encode(torch.tensor(100.0)) + 0.5 * other.encode(torch.tensor(0.0))).log()
    assert other.mean(half).item() == pytest.approx(np.expm1(0.5 * np.log1p(100.0)), rel=1e-4)


def test_everything_stays_float32_under_bfloat16_autocast():
    """In bfloat16 with its 8 bits, 20.3 becomes 20."""
    code, values = SymlogTwoHot(), torch.tensor([-300.25, 0.01, 20.3, 1234.5])
    logits = torch.randn(4, 255, generator=seeded())
    kl_of = unimix_log_probs(logits), unimix_log_probs(logits.flip(0))

    def everything():
        return (
            code.encode(values),
            code.loss(logits, values),
            code.mean(logits),
            code.mean(code.encode(values).log()),
            unimix_log_probs(logits),
            categorical_kl(*kl_of),
            categorical_entropy(kl_of[0]),
        )

    plain = everything()
    with torch.autocast("cpu", torch.bfloat16):
        cast = everything()
        coarse = code.mean(code.encode(values).log().bfloat16())
    for a, b in zip(plain, cast, strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a, b)
    torch.testing.assert_close(cast[3], values, rtol=1e-4, atol=1e-6)
    assert coarse.dtype == torch.float32  # of bfloat16 logits too


@pytest.mark.parametrize("bins", [(1, -1.0, 1.0), (5, 1.0, 1.0)])
def test_impossible_bins_are_refused(bins):
    with pytest.raises(ValueError, match="two-hot bins"):
        SymlogTwoHot(*bins)


def test_a_mean_in_symlog_space_is_there_beside_expected_values():
    code, expected = SymlogTwoHot(), SymlogTwoHot(expected=True)
    expected.see(torch.tensor([0.0, 400.0]))
    tenth = (0.1 * code.encode(torch.tensor(400.0)) + 0.9 * code.encode(torch.tensor(0.0))).log()
    tenth = tenth.clamp(min=-1e4)
    assert float(expected.mean(tenth)) == pytest.approx(40.0, rel=0.01)
    assert float(expected.symlog_mean(tenth)) == pytest.approx(401**0.1 - 1.0, rel=1e-4)
    assert torch.equal(code.mean(tenth), expected.symlog_mean(tenth))
