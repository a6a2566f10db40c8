"""Mamba's scan, convolution and gate in C++: the plain functions' numbers, whatever the threads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from glam_env.fast import choose
from glam_env.fast import scan as fast
from glam_env.fast.native import bindings
from glam_env.fast.native import scan as native
from glam_env.model.cores import mamba as plain
from glam_env.model.cores.glam import GlamConfig, GlamCore

needs_library = pytest.mark.skipif(bool(choose.missing()), reason=choose.missing())

Arguments = list[Tensor]
Compute = Callable[..., Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parts(x: Tensor, *widths: int) -> list[Tensor]:
    """Split the last dimension: rows then have gaps between them."""
    return list(x.split(list(widths), -1))


def scan_arguments(batch: int, length: int, inner: int, size: int) -> Arguments:
    x, dt = draw(batch, length, inner), draw(batch, length, inner, seed=1).exp()
    a = -draw(inner, size, seed=2).exp()
    _, b, c = parts(draw(batch, length, 3 + 2 * size, seed=3), 3, size, size)
    return [x, dt, a, b, c]


def window_arguments(window: int, batch: int, windows: int, inner: int, size: int) -> Arguments:
    x = draw(window, batch, windows, inner)
    dt = draw(window, batch, windows, inner, seed=1).exp()
    a = -draw(inner, size, seed=2).exp()
    _, b, c = parts(draw(window, batch, windows, 3 + 2 * size, seed=3), 3, size, size)
    return [x, dt, a, b, c]


def convolution_arguments(batch: int, length: int, inner: int, taps: int) -> Arguments:
    x, _ = parts(draw(batch, length, 2 * inner), inner, inner)
    return [x, draw(inner, taps, seed=1).T, draw(inner, seed=2)]


def gate_arguments(*shape: int) -> Arguments:
    inner = shape[-1]
    z = draw(*shape[:-1], 2 * inner, seed=2)[..., inner:]
    return [draw(*shape), draw(*shape, seed=1), z, draw(inner, seed=3)]


def read(scan: Callable[..., tuple[Tensor, Tensor]]) -> Compute:
    return lambda *arguments: scan(*arguments)[0]


def in_windows(convolve: Callable[..., Tensor], window: int) -> Compute:
    return lambda *arguments: convolve(*arguments, window)


def results(function: Compute, arguments: Arguments) -> list[Tensor]:
    """Return the output and all gradients for a loss that weights every number differently."""
    arguments = [x.detach().requires_grad_() for x in arguments]
    y = function(*arguments)
    grads = torch.autograd.grad(
        (y * draw(*y.shape, seed=8).to(y.dtype)).sum(),
        arguments,
        allow_unused=True,
        materialize_grads=True,
    )
    return [y.detach(), *grads]


SCANS = [(1, 1, 8, 1), (1, 2, 16, 3), (2, 7, 48, 16), (3, 20, 136, 5), (2, 33, 272, 16)]
WINDOWS = [(1, 1, 1, 16, 2), (2, 3, 5, 48, 16), (4, 2, 37, 144, 16), (5, 3, 43, 272, 3)]
CONVOLUTIONS = [(1, 1, 8, 4), (2, 3, 48, 4), (3, 9, 144, 1), (2, 17, 272, 6)]
GATES = [(1, 1, 8), (3, 70, 48), (5, 136), (2, 3, 4, 16)]
CASES: list[tuple[str, Compute, Compute, Arguments]] = [
    *(
        (
            f"scan{sizes}",
            read(plain.selective_scan),
            read(fast.selective_scan),
            scan_arguments(*sizes),
        )
        for sizes in [*SCANS, (2, 5, 7, 3)]
    ),
    *(
        (f"windows{sizes}", plain.scan_windows, fast.scan_windows, window_arguments(*sizes))
        for sizes in [*WINDOWS, (4, 2, 3, 5, 2)]
    ),
    *(
        (f"convolve{sizes}", plain.convolve, fast.convolve, convolution_arguments(*sizes))
        for sizes in [*CONVOLUTIONS, (2, 5, 7, 4)]
    ),
    *(
        (
            f"convolve{sizes}in{window}",
            in_windows(plain.convolve_windows, window),
            in_windows(fast.convolve_windows, window),
            convolution_arguments(*sizes),
        )
        for sizes, window in [
            ((1, 1, 8, 4), 1),
            ((2, 9, 48, 4), 4),
            ((3, 9, 144, 2), 5),
            ((2, 7, 16, 6), 7),
            ((2, 9, 7, 4), 4),
        ]
    ),
    *(
        (f"gate{sizes}", plain.gate, fast.gate, gate_arguments(*sizes))
        for sizes in [*GATES, (2, 3, 7)]
    ),
    *(
        (f"softplus{sizes}", plain.softplus, fast.softplus, [10 * draw(*sizes)])
        for sizes in [(1, 8), (3, 5, 48), (130, 272), (2, 7)]
    ),
]
LANES = 0 if choose.missing() else bindings.vector_sizes().lanes
NAMES = ("reference", "function", "arguments")
FUNCTIONS = pytest.mark.parametrize(NAMES, [pytest.param(*case, id=name) for name, *case in CASES])
NATIVE = pytest.mark.parametrize(
    NAMES,
    [
        pytest.param(reference, function, arguments, id=name)
        for name, reference, function, arguments in CASES
        if LANES and arguments[0].shape[-1] % LANES == 0
    ],
)


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@FUNCTIONS
def test_numbers_and_gradients_are_the_plain_ones(reference, function, arguments) -> None:
    expected = results(reference, [x.double() for x in arguments])
    found = results(function, arguments)
    for x, y in zip(found, expected, strict=True):
        # Sums are compared by the size of what is added up.
        torch.testing.assert_close(x.double(), y, rtol=2e-4, atol=2e-6 * float(y.abs().max() + 1))


@needs_library
@NATIVE
def test_memory_order_changes_no_bit(reference, function, arguments) -> None:
    expected = results(function, [x.contiguous() for x in arguments])
    for turned in (
        arguments,
        [x.mT.contiguous().mT if x.dim() > 1 else x for x in arguments],
        [x.repeat_interleave(2, -1)[..., ::2] for x in arguments],
        [torch.cat([x, x])[: len(x)] if x.dim() > 1 else x for x in arguments],
        [x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 2 else x for x in arguments],
    ):
        assert all(map(torch.equal, results(function, turned), expected))


@needs_library
@NATIVE
def test_threads_change_no_bit(reference, function, arguments, threads) -> None:
    torch.set_num_threads(1)
    expected = results(function, arguments)
    for count in (2, 3, 5):
        torch.set_num_threads(count)
        assert all(map(torch.equal, results(function, arguments), expected))


@needs_library
def test_own_threads_without_openmp(threads) -> None:
    arguments = scan_arguments(3, 5, 144, 4)
    torch.set_num_threads(3)
    expected = results(read(fast.selective_scan), arguments)
    library = bindings.load_library()
    library.glam_share_threads(None)
    try:
        assert all(map(torch.equal, results(read(fast.selective_scan), arguments), expected))
    finally:
        library.glam_share_threads(bindings.openmp_parallel())


@needs_library
@NATIVE
def test_nan_goes_through_and_harms_nothing_else(reference, function, arguments) -> None:
    """Every NaN of the same function in PyTorch is one here, too."""
    for place in range(len(arguments)):
        with_nan = [x.clone() for x in arguments]
        with_nan[place][(0,) * arguments[place].dim()] = float("nan")
        found = results(function, with_nan)
        with patch.object(native, "suits", return_value=False):
            expected = results(function, with_nan)
        for x, y in zip(found, expected, strict=True):
            assert bool((x.isnan() | ~y.isnan()).all())
        assert not any(x.isnan().any() for x in results(function, arguments))


@needs_library
@pytest.mark.parametrize("sizes", SCANS)
def test_states_are_those_of_the_plain_scan(sizes) -> None:
    arguments = scan_arguments(*sizes)
    _, expected = plain.selective_scan(*(x.double() for x in arguments))
    y, states = fast.selective_scan(*(x.requires_grad_() for x in arguments))
    assert y.requires_grad
    assert not states.requires_grad
    torch.testing.assert_close(states.double(), expected, rtol=1e-4, atol=1e-5)


@needs_library
def test_extreme_exponents_decay_to_nothing() -> None:
    x, dt, a, b, c = scan_arguments(1, 6, 16, 4)
    y, states = fast.selective_scan(x, dt * 1e6, a, b, c)
    expected, expected_states = plain.selective_scan(x, dt * 1e6, a, b, c)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(states, expected_states)
    x = torch.tensor([-1e30, -200.0, -50.0, 0.0, 30.0, 88.0, 1e4, 1e30]).repeat(2, 2)
    torch.testing.assert_close(fast.softplus(x), plain.softplus(x))


@needs_library
@pytest.mark.parametrize(
    ("name", "sizes"), [("NativeScan", SCANS[2]), ("NativeWindows", WINDOWS[1])]
)
def test_shapes_and_types_are_checked_before_anything_is_read(name, sizes) -> None:
    make = scan_arguments if name == "NativeScan" else window_arguments
    good = make(*sizes)
    if name == "NativeWindows":
        good[4] = good[4][-1]
    function = getattr(native, name)
    for place in range(5):
        for bad in (good[place][:, :-1], good[place].double(), good[place].unsqueeze(0)):
            arguments = [bad if at == place else x for at, x in enumerate(good)]
            with pytest.raises(ValueError, match=r"must be float32|unpack"):
                function.apply(*arguments)


@needs_library
def test_wrong_shapes_around_the_scan_are_refused() -> None:
    x, taps, bias = convolution_arguments(2, 5, 16, 4)
    for wrong in ((x, taps[:, :8], bias), (x, taps, bias[:8]), (x.double(), taps, bias)):
        with pytest.raises(ValueError, match="must be float32"):
            native.NativeConvolution.apply(*wrong, None)
    with pytest.raises(ValueError, match="exceeds the 5 positions"):
        native.NativeConvolution.apply(x, taps, bias, 6)
    y, x, z, skip = gate_arguments(2, 3, 16)
    for wrong in ((y[:1], x, z, skip), (y, x, z[..., :8], skip), (y, x, z, skip[:8])):
        with pytest.raises(ValueError, match="must be float32"):
            native.NativeGate.apply(*wrong)


@needs_library
def test_only_what_suits_goes_to_the_library() -> None:
    x, taps, bias = convolution_arguments(2, 5, 48, 4)
    with patch.object(native, "call", side_effect=AssertionError("called")):
        for arguments in (
            [part.double() for part in (x, taps, bias)],
            [part.bfloat16() for part in (x, taps, bias)],
            [part[..., :5] for part in (x, taps, bias)],
            [x[:0], taps, bias],
        ):
            assert torch.equal(
                fast.convolve(*arguments),
                torch.nn.functional.silu(fast.CausalTaps.apply(*arguments)),
            )
        with pytest.raises(AssertionError, match="called"):
            fast.convolve(x, taps, bias)


def test_without_a_compiler_the_layer_runs_in_pytorch_and_warns_once() -> None:
    arguments = scan_arguments(2, 5, 48, 4)
    native.available.cache_clear()
    try:
        with (
            patch.object(native, "missing", return_value="no C++ compiler found"),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            for _ in range(2):
                y, _ = fast.selective_scan(*arguments)
    finally:
        native.available.cache_clear()
    assert torch.equal(y, fast.LoopScan.apply(*arguments)[0])
    assert [str(warning.message) for warning in caught] == [
        "the sequence model runs in PyTorch, which is slower: no C++ compiler found"
    ]


@pytest.mark.parametrize("depth", [1, 2])
def test_the_core_learns_the_same(depth) -> None:
    """Output, gradients of all parameters, and the states for steps that go on."""
    torch.manual_seed(0)
    core = GlamCore(24, GlamConfig(global_depth=depth, local_depth=depth))
    for parameter in core.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    e, found = draw(2, 9, 24), []
    rows, positions = torch.tensor([0, 1]), torch.tensor([4, 8])
    for operations in (plain.Operations(), fast.OPERATIONS):
        before = plain.use_operations(operations)
        try:
            core.zero_grad()
            output = core(e)
            (output.h * draw(2, 6, 24, seed=1)).sum().backward()
            grads = [p.grad for p in core.parameters() if p.grad is not None]
            state = core.state_at(output, rows, positions)
            h, _ = core.step(e[:, 0], state)
        finally:
            plain.use_operations(before)
        found.append([output.h.detach(), *grads, *state, h.detach()])
    assert len(found[0]) == 6 + len(list(core.parameters()))
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(y, x, rtol=1e-3, atol=1e-5 * (1 + float(x.norm())))
