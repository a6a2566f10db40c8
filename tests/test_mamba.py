"""Mamba: the plain functions, the fast ones, the layer, and ``mamba_ssm``'s own Python code."""

import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from glam_env.cli.main import main
from glam_env.fast import scan as fast
from glam_env.fast.scan import CausalTaps, LoopScan, ParallelScan, WindowTaps, decayed_read
from glam_env.model.cores import mamba as plain
from glam_env.model.cores.glam import GlamConfig, GlamCore
from glam_env.model.cores.mamba import Mamba, Operations, use_operations


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lively_mamba(d_model=24, **sizes):
    """Make a Mamba in which every parameter matters, also those that start constant or at zero."""
    torch.manual_seed(3)
    mamba = Mamba(d_model, **sizes)
    with torch.no_grad():
        mamba.A_log += 0.3 * torch.randn_like(mamba.A_log)
        mamba.D += 0.3 * torch.randn_like(mamba.D)
        mamba.x_proj.weight *= 2.0
        mamba.dt_proj.bias += 2.0
    return mamba


# --- the recurrence ----------------------------------------------------------------------


def naive_scan(x, dt, a, b, c):
    """Compute the recurrence in numpy, one number of the state at a time."""
    x, dt, a, b, c = (part.detach().numpy() for part in (x, dt, a, b, c))
    batch, length, inner = x.shape
    h = np.zeros((batch, inner, a.shape[1]))
    y, states = np.zeros(x.shape), np.zeros((batch, length, inner, a.shape[1]))
    for i, t, d, n in np.ndindex(batch, length, inner, a.shape[1]):
        h[i, d, n] = (
            np.exp(dt[i, t, d] * a[d, n]) * h[i, d, n] + dt[i, t, d] * b[i, t, n] * x[i, t, d]
        )
        states[i, t, d, n] = h[i, d, n]
        y[i, t, d] += c[i, t, n] * h[i, d, n]
    return torch.from_numpy(y), torch.from_numpy(states)


@pytest.fixture
def use():
    """Yield ``use_operations``; restore the former operations afterwards."""
    before = use_operations(Operations())
    use_operations(before)
    yield use_operations
    use_operations(before)


def scan_arguments(batch, length, inner, size, seed):
    """Return float64 x, dt > 0, A < 0, B and C that require gradients."""
    shapes = [(batch, length, inner)] * 2 + [(inner, size)] + [(batch, length, size)] * 2
    x, dt, a, b, c = (draw(*s, seed=seed + i).double() for i, s in enumerate(shapes))
    return [v.requires_grad_() for v in (x, dt.sigmoid(), -a.exp(), b, c)]


@pytest.mark.parametrize("scan", [LoopScan, ParallelScan])
@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 20),
    inner=st.integers(1, 3),
    seed=st.integers(0, 10_000),
)
def test_scan_and_its_gradients_are_the_loops(scan, batch, length, inner, seed):
    arguments = scan_arguments(batch, length, inner, 2, seed)
    weights = draw(batch, length, inner, seed=seed + 9)
    expected, expected_states = plain.selective_scan(*arguments)
    assert not expected_states.requires_grad
    expected_grads = torch.autograd.grad(
        (expected * weights).sum(), arguments, allow_unused=True, materialize_grads=True
    )
    y, states = scan.apply(*arguments)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(states, expected_states)
    assert not states.requires_grad
    grads = torch.autograd.grad((y * weights).sum(), arguments)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad)
    single, _ = scan.apply(*(v.detach().float() for v in arguments))
    torch.testing.assert_close(single, expected.float(), rtol=1e-4, atol=1e-5)


def test_the_plain_scan_is_the_recurrence_number_by_number():
    arguments = scan_arguments(2, 6, 3, 2, 0)
    for found, expected in zip(
        plain.selective_scan(*arguments), naive_scan(*arguments), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("scan", [plain.selective_scan, LoopScan.apply, ParallelScan.apply])
def test_scan_passes_gradcheck(scan):
    arguments = scan_arguments(2, 5, 3, 2, 0)
    assert torch.autograd.gradcheck(lambda *values: scan(*values)[0], arguments)


@pytest.mark.parametrize("rows", [1, 31, 32, 70])
def test_decayed_read_and_its_gradients_are_those_of_the_formula(rows):
    after, a, weight = (
        draw(*shape, seed=i).double() for i, shape in enumerate([(rows, 5), (5, 3), (rows, 3)])
    )
    arguments = [v.requires_grad_() for v in (after.exp(), -a.exp(), weight)]
    y = decayed_read(*arguments)
    after, a, weight = arguments
    expected = torch.einsum("mn,mdn->md", weight, torch.exp(after.unsqueeze(-1) * a))
    torch.testing.assert_close(y, expected)
    weights = draw(rows, 5, seed=8)
    grads = torch.autograd.grad((y * weights).sum(), arguments)
    expected_grads = torch.autograd.grad((expected * weights).sum(), arguments)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize(("window", "width"), [(1, 4), (3, 4), (4, 4), (5, 2)])
def test_fast_operations_are_the_plain_ones_gradients_included(window, width):
    x, bias, taps = (
        draw(2, 6, 5).double(),
        draw(5, seed=1).double(),
        draw(width, 5, seed=2).double(),
    )
    arguments = [value.requires_grad_() for value in (x, taps, bias)]
    assert_same_with_gradients(plain.convolve, fast.convolve, arguments)
    assert_same_with_gradients(
        lambda *values: plain.convolve_windows(*values, window),
        lambda *values: fast.convolve_windows(*values, window),
        arguments,
    )
    shapes = [(window, 2, 3, 5)] * 2 + [(5, 2)] + [(window, 2, 3, 2)] * 2
    x, dt, a, b, c = (draw(*s, seed=i).double() for i, s in enumerate(shapes))
    arguments = [v.requires_grad_() for v in (x, dt.sigmoid(), -a.exp(), b, c)]
    assert_same_with_gradients(plain.scan_windows, fast.scan_windows, arguments)


def assert_same_with_gradients(function, other, arguments):
    results = []
    for each in (function, other):
        out = each(*arguments)
        weights = draw(*out.shape, seed=8)
        grads = torch.autograd.grad(
            (out * weights).sum(), arguments, allow_unused=True, materialize_grads=True
        )
        results.append([out.detach(), *grads])
    torch.testing.assert_close(*results)


def test_layers_compute_the_same_with_plain_and_fast_operations(use):
    core = GlamCore(24, GlamConfig(global_depth=2))
    results = []
    for operations in (Operations(), fast.OPERATIONS):
        use(operations)
        e = draw(2, 12, 24).requires_grad_()
        output = core(e)
        (grad,) = torch.autograd.grad((output.h * draw(2, 9, 24, seed=1)).sum(), e)
        results.append([output.h.detach(), output.trace.blocks[1].states, grad])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


class Work(TorchDispatchMode):
    """Counts the elements that every operation writes, in the forward and the backward pass."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            many = result if isinstance(result, (tuple, list)) else [result]
            self.elements += sum(t.numel() for t in many if isinstance(t, torch.Tensor))
        return result


def work_of(run, length):
    u = draw(2, length, 24).requires_grad_()
    with Work() as work:
        run(u).sum().backward()
    return work.elements


def graph_nodes(tensor):
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return len(seen)


def indexed_loop(u):
    """The trap: the gradient of each u[:, t] is as large as u."""
    state, states = torch.zeros_like(u[:, 0]), []
    for t in range(u.shape[1]):
        state = 0.9 * state + u[:, t]
        states.append(state)
    return torch.stack(states, 1)


def test_forward_and_backward_cost_grows_with_the_length_not_its_square():
    core = GlamCore(24, GlamConfig(global_depth=2, local_depth=2))
    for run in (lively_mamba(), lambda e: core(e).h):
        assert work_of(run, 128) < 4.6 * work_of(run, 32)
        short, long = (graph_nodes(run(draw(2, n, 24).requires_grad_())) for n in (32, 128))
        assert short == long
    assert work_of(indexed_loop, 128) > 8 * work_of(indexed_loop, 32)  # the test would notice


# --- the layer ---------------------------------------------------------------------------


def selective_scan_layer(parameters, u):
    """Mamba-1 in float64, one position and one channel at a time (Gu and Dao 2023, algorithm 2).

    Args:
        parameters: a state dict; u: (L, D).
    """
    p = {name: value.double().numpy() for name, value in parameters.items()}
    d_inner, d_state = p["A_log"].shape
    width = p["conv1d.weight"].shape[-1]
    rank = p["dt_proj.weight"].shape[1]

    def silu(x):
        return x / (1 + np.exp(-x))

    xz = u.double().numpy() @ p["in_proj.weight"].T
    inputs, gate = xz[:, :d_inner], xz[:, d_inner:]
    state, outputs = np.zeros((d_inner, d_state)), []
    for t in range(len(u)):
        x = p["conv1d.bias"].copy()
        for tap in range(width):
            if t - tap >= 0:
                x += p["conv1d.weight"][:, 0, width - 1 - tap] * inputs[t - tap]
        x = silu(x)
        selected = p["x_proj.weight"] @ x
        dt = np.log1p(np.exp(p["dt_proj.weight"] @ selected[:rank] + p["dt_proj.bias"]))
        b, c = selected[rank : rank + d_state], selected[rank + d_state :]
        y = np.zeros(d_inner)
        for d in range(d_inner):
            a = -np.exp(p["A_log"][d])
            state[d] = np.exp(dt[d] * a) * state[d] + dt[d] * b * x[d]
            y[d] = state[d] @ c + p["D"][d] * x[d]
        outputs.append(p["out_proj.weight"] @ (y * silu(gate[t])))
    return np.stack(outputs)


@pytest.mark.parametrize("length", [1, 2, 3, 7])
@pytest.mark.parametrize("width", [1, 3, 4])
def test_causal_taps_are_a_padded_depthwise_convolution_and_pass_gradcheck(length, width):
    x, bias = draw(2, length, 5).double(), draw(5, seed=1).double()
    taps = draw(width, 5, seed=2).double()
    padded = F.pad(x.transpose(1, 2), (width - 1, 0))
    expected = F.conv1d(padded, taps.T.unsqueeze(1), bias, groups=5).transpose(1, 2)
    torch.testing.assert_close(CausalTaps.apply(x, taps, bias), expected)
    arguments = [value.requires_grad_() for value in (x, taps, bias)]
    assert torch.autograd.gradcheck(CausalTaps.apply, arguments)


@pytest.mark.parametrize(("window", "width"), [(1, 4), (3, 4), (4, 4), (5, 2)])
def test_window_taps_are_the_causal_taps_of_each_window_and_pass_gradcheck(window, width):
    x, bias = draw(2, 6, 5).double(), draw(5, seed=1).double()
    taps = draw(width, 5, seed=2).double()
    out = WindowTaps.apply(x, taps, bias, window)
    for start in range(6 - window + 1):
        alone = CausalTaps.apply(x[:, start : start + window], taps, bias)
        torch.testing.assert_close(out[:, :, start].transpose(0, 1), alone)
    arguments = [value.requires_grad_() for value in (x, taps, bias)]
    assert torch.autograd.gradcheck(lambda *values: WindowTaps.apply(*values, window), arguments)


@pytest.mark.parametrize("sizes", [{}, {"d_state": 5, "d_conv": 2, "expand": 3}])
def test_forward_is_the_selective_scan(sizes):
    mamba, u = lively_mamba(**sizes), draw(2, 12, 24)
    with torch.no_grad():
        output = mamba(u)
    for row in range(2):
        expected = selective_scan_layer(mamba.state_dict(), u[row])
        np.testing.assert_allclose(output[row].numpy(), expected, atol=1e-5)
    assert output.std() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("d_conv", [2, 4])
def test_stepping_gives_what_a_pass_over_the_sequence_gives(d_conv):
    mamba, u = lively_mamba(d_conv=d_conv), draw(3, 64, 24)
    expected, trace = mamba.forward_traced(u)
    conv = torch.zeros(3, mamba.d_inner, d_conv - 1)
    ssm = torch.zeros(3, mamba.d_inner, mamba.d_state)
    for t in range(64):
        given = conv.clone(), ssm.clone()
        output, new_conv, new_ssm = mamba.step(u[:, t], conv, ssm)
        torch.testing.assert_close(output, expected[:, t], atol=1e-4, rtol=0)
        torch.testing.assert_close(new_ssm, trace.states[:, t], atol=1e-4, rtol=0)
        torch.testing.assert_close(new_conv[..., -1], trace.inputs[:, t], atol=1e-4, rtol=0)
        assert torch.equal(conv, given[0])  # the given states are not changed
        assert torch.equal(ssm, given[1])
        conv, ssm = new_conv, new_ssm


@pytest.mark.parametrize("length", [1, 2, 4, 9])
def test_last_is_the_last_position_of_forward_gradients_included(length):
    mamba, u, weights = lively_mamba(), draw(5, length, 24), draw(5, 24, seed=1)
    results = []
    for short in (True, False):
        inputs, z = mamba.project(u)
        last = mamba.last(inputs, z[:, -1:], length).squeeze(1)
        output = last if short else mamba(u)[:, -1]
        grads = torch.autograd.grad(
            (output * weights).sum(), list(mamba.parameters()), materialize_grads=True
        )
        results.append([output.detach(), *grads])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_it_is_causal():
    mamba, u = lively_mamba(), draw(1, 20, 24)
    changed = u.clone()
    changed[:, 12] += 1.0
    before, after = mamba(u), mamba(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_recurrence_stays_float32_under_bfloat16_autocast():
    mamba, u = lively_mamba(), draw(2, 32, 24)
    inputs = plain.convolve(mamba.project(u)[0], *mamba._taps(torch.float32))
    y, states = mamba.scan(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        cast_y, cast = mamba.scan(inputs)
        step = mamba.step(u[:, 0], torch.zeros(2, 48, 3), torch.zeros(2, 48, 16))
    assert cast.dtype == cast_y.dtype == torch.float32
    assert torch.equal(cast, states)
    assert torch.equal(cast_y, y)
    assert step[1].dtype == step[2].dtype == torch.float32


# --- interchangeable with mamba_ssm ------------------------------------------------------

PAPER_SHAPES = {  # of mamba_ssm.Mamba(256).state_dict()
    "A_log": (512, 16),
    "D": (512,),
    "in_proj.weight": (1024, 256),
    "conv1d.weight": (512, 1, 4),
    "conv1d.bias": (512,),
    "x_proj.weight": (48, 512),
    "dt_proj.weight": (512, 16),
    "dt_proj.bias": (512,),
    "out_proj.weight": (256, 512),
}


def test_parameters_have_mamba_ssms_names_and_shapes():
    shapes = {name: tuple(value.shape) for name, value in Mamba(256).state_dict().items()}
    assert shapes == PAPER_SHAPES


def test_initial_values_are_mamba_ssms():
    torch.manual_seed(0)
    mamba = Mamba(256)
    dt = torch.log1p(mamba.dt_proj.bias.detach().double().exp())
    assert dt.min() >= 1e-3 * 0.999
    assert dt.max() <= 0.1 * 1.001
    # Log-uniform: the mean logarithm of 512 draws, three standard errors around the middle.
    middle, width = math.log(1e-2), math.log(100)
    assert abs(dt.log().mean() - middle) < 3 * width / math.sqrt(12 * 512)
    assert mamba.dt_proj.weight.abs().max() <= 16**-0.5
    expected = torch.arange(1.0, 17.0).log().expand(512, 16)
    torch.testing.assert_close(mamba.A_log.detach(), expected)
    assert torch.equal(mamba.D.detach(), torch.ones(512))


@pytest.fixture(scope="module")
def reference() -> Iterator[SimpleNamespace]:
    """Load ``mamba_ssm``'s own layer and its reference scan, both plain PyTorch.

    The package's ``__init__`` wants CUDA extensions, Triton and more; the two modules that are
    needed want them only for what is not run here, so they get empty stand-ins while they load.
    """
    spec = importlib.util.find_spec("mamba_ssm")
    if spec is None or importlib.util.find_spec("einops") is None:
        reason = "the sources of mamba-ssm, or einops, are not installed"
        if os.environ.get("GLAM_REQUIRE_MAMBA_SSM"):
            pytest.fail(f"{reason}, and GLAM_REQUIRE_MAMBA_SSM is set")
        pytest.skip(reason)
    import einops  # noqa: F401  (loaded before sys.modules is put back as it was)

    package = ModuleType("mamba_ssm")
    package.__path__ = list(spec.submodule_search_locations or [])
    layer_norm = ModuleType("mamba_ssm.ops.triton.layer_norm")
    for name in ("_layer_norm_fwd", "RMSNorm", "layer_norm_fn", "rms_norm_fn"):
        setattr(layer_norm, name, None)
    stand_ins = {
        "mamba_ssm": package,
        "mamba_ssm.ops.triton.layer_norm": layer_norm,
        "mamba_ssm.ops.triton.selective_state_update": None,  # None: importing it fails
        "selective_scan_cuda": ModuleType("selective_scan_cuda"),
        "causal_conv1d": None,
    }
    with patch.dict(sys.modules):
        for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
            del sys.modules[name]
        sys.modules.update(stand_ins)
        interface = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
        simple = importlib.import_module("mamba_ssm.modules.mamba_simple")
        simple.selective_scan_fn = interface.selective_scan_ref
        interface.selective_scan_fn = interface.selective_scan_ref
        yield SimpleNamespace(Mamba=simple.Mamba, scan=interface.selective_scan_ref)


SIZES = [{}, {"d_state": 5, "d_conv": 3, "expand": 3}]


@pytest.mark.parametrize("sizes", SIZES)
def test_state_dicts_move_to_mamba_ssm_and_back_and_the_outputs_agree(reference, sizes):
    ours = lively_mamba(40, **sizes)
    theirs = reference.Mamba(40, **sizes)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    u, weights = draw(2, 33, 40), draw(2, 33, 40, seed=1)
    output, expected = ours(u), theirs(u)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)

    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    grads = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name].grad, atol=1e-4, rtol=1e-3)

    theirs = reference.Mamba(40, **sizes)  # a new one, weights of its own
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(u), theirs(u), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_steps_agree_with_mamba_ssms(reference):
    ours = lively_mamba(40)
    theirs = reference.Mamba(40)
    theirs.load_state_dict(ours.state_dict())
    their_conv, their_ssm = theirs.allocate_inference_cache(2, 10)
    conv, ssm = torch.zeros(2, 80, 3), torch.zeros(2, 80, 16)
    for t in range(10):
        u = draw(2, 40, seed=t)
        output, conv, ssm = ours.step(u, conv, ssm)
        expected, their_conv, their_ssm = theirs.step(u.unsqueeze(1), their_conv, their_ssm)
        torch.testing.assert_close(output, expected[:, 0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ssm, their_ssm, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.usefixtures("reference")
def test_the_call_of_the_fused_scan_is_the_same_layer(use):
    """The arguments of the CUDA kernel, tried on the package's reference of it."""
    mamba, u = lively_mamba(), draw(2, 17, 24)
    expected = mamba(u)
    use(Operations(scan=lambda *parts: (fast.fused_scan(*parts), parts[0])))
    torch.testing.assert_close(mamba(u), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("way", ["forward", "step"])
def test_the_state_is_read_out_in_float32_under_autocast(way, monkeypatch):
    mamba = Mamba(24)
    monkeypatch.setattr(mamba, "_gate", lambda y, x, z: y)
    with torch.autocast("cpu", torch.bfloat16):
        if way == "forward":
            y = mamba(draw(2, 8, 24))
        else:
            y, _, _ = mamba.step(draw(2, 24), torch.zeros(2, 48, 3), draw(2, 48, 16))
    assert y.dtype == torch.float32


@torch.no_grad()
def test_the_call_of_the_fused_convolution_is_the_same_layer(monkeypatch, use):
    """The arguments of causal_conv1d, tried on its definition: y_t = Σ_k w_k x_{t−K+1+k}."""

    def causal_conv1d_fn(x, weight, bias, activation):
        assert activation == "silu"
        width = weight.shape[1]
        padded = nn.functional.pad(x, (width - 1, 0))
        windows = padded.unfold(-1, width, 1)  # (B, dim, L, width)
        return nn.functional.silu(torch.einsum("bdlk,dk->bdl", windows, weight) + bias[:, None])

    mamba, u = lively_mamba(), draw(2, 17, 24)
    expected = mamba(u)
    monkeypatch.setitem(
        sys.modules, "causal_conv1d", SimpleNamespace(causal_conv1d_fn=causal_conv1d_fn)
    )
    use(Operations(convolve=fast.fused_convolve))
    torch.testing.assert_close(mamba(u), expected, atol=1e-6, rtol=1e-5)


def test_kernels_that_do_not_load_are_reported_not_raised(monkeypatch):
    kernel_missing = fast.kernel_missing
    assert fast.scan_missing() == "no CUDA device" or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    kernel_missing.cache_clear()
    assert "no_such_kernel" in kernel_missing("no_such_kernel", "fwd")
    assert "sin_of" in kernel_missing("math", "sin_of")
    assert kernel_missing("math", "sin") == ""
    kernel_missing.cache_clear()


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("raise RuntimeError('0 active drivers\\nsee the log')", "RuntimeError: 0 active drivers"),
        ("undefined", "NameError: name 'undefined' is not defined"),
        ("assert False", "AssertionError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import sys; sys.exit()", "SystemExit"),
        ("class Odd(BaseException): ...\nraise Odd('odd')", "Odd: odd"),
        ("import no_such_triton", "ModuleNotFoundError: No module named 'no_such_triton'"),
    ],
)
def test_a_package_that_raises_anything_is_not_used_and_info_says_why(
    monkeypatch, tmp_path, capsys, statement, why
):
    for module in ("selective_scan_cuda", "causal_conv1d"):
        (tmp_path / f"{module}.py").write_text(statement)
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("glam_env.device.find_device", lambda name: name)
    fast.kernel_missing.cache_clear()
    try:
        assert fast.scan_missing() == f"selective_scan_cuda: {why}"
        assert fast.convolution_missing() == f"causal_conv1d: {why}"
        assert main(["info"]) == 0
    finally:
        fast.kernel_missing.cache_clear()
    assert f"mamba scan: PyTorch (selective_scan_cuda: {why})" in capsys.readouterr().out


def test_an_interrupt_of_an_import_is_not_kept_as_a_reason(monkeypatch, tmp_path):
    (tmp_path / "interrupted.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        fast.kernel_missing("interrupted", "fwd")
