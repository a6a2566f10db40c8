"""The core of GLAM: parallel pass and steps agree, and each Mamba sees what it should."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from glam_env.model.cores.glam import GlamConfig, GlamCore, LMamba

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}  # between parallel pass and steps
DEPTHS = [(1, 1), (2, 3)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_core(global_depth=1, local_depth=1, width=24, **sizes):
    """Make a core in which old steps matter far beyond the tolerance, and every weight matters."""
    torch.manual_seed(11)
    config = GlamConfig(global_depth=global_depth, local_depth=local_depth, **sizes)
    core = GlamCore(width, config)
    with torch.no_grad():
        for name, parameter in core.named_parameters():
            if name.endswith("A_log"):
                parameter -= 4.0
            elif name.endswith("dt_proj.bias"):
                parameter += 2.0
            elif name.endswith(("norm.weight", "norm.bias", ".D")):
                parameter += 0.3 * torch.randn_like(parameter)
            elif name.endswith(("in_proj.weight", "x_proj.weight")):
                parameter *= 3.0
    return core.requires_grad_(False)


def run_steps(core, e, first):
    """Map (B, L, D) features and (B, L) resets to h (B, L, D), one step at a time."""
    state = core.initial_state(len(e))
    states = []
    for t in range(e.shape[1]):
        h, state = core.step(e[:, t], state, first[:, t])
        states.append(h)
    return torch.stack(states, 1)


def starting(batch, length):
    first = torch.zeros(batch, length, dtype=torch.bool)
    first[:, 0] = True
    return first


# --- the definition ----------------------------------------------------------------------


@pytest.mark.parametrize("depths", DEPTHS)
def test_h_is_the_sum_of_equations_6_and_7(depths):
    core, e, s = make_core(*depths), draw(2, 12, 24), 4
    output = core(e)

    def blocks_of(mamba, x):
        for block in mamba.blocks:
            x = x + block.mamba(F.layer_norm(x, (24,), block.norm.weight, block.norm.bias))
        return x

    g = core.gmamba
    d = torch.stack([e[:, t] - e[:, t - 1] for t in range(1, 12)], 1)
    norm = g.norm
    variation = F.silu(F.layer_norm(g.project(blocks_of(g, d)), (24,), norm.weight, norm.bias))
    assert output.h.shape == (2, 12 - s + 1, 24)
    for t in range(s - 1, 12):
        window = e[:, t - s + 1 : t + 1]
        local = core.lmamba.project(blocks_of(core.lmamba, window)[:, -1])
        u_g = variation[:, t - 1]  # d_t is the t-th difference
        torch.testing.assert_close(output.variation[:, t - s + 1], u_g, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(output.h[:, t - s + 1], u_g + local, atol=1e-5, rtol=1e-4)


# --- parallel ≡ stepwise -----------------------------------------------------------------


@pytest.mark.parametrize("depths", DEPTHS)
@pytest.mark.parametrize("sizes", [{}, {"local_window": 2, "conv_width": 2}, {"local_window": 6}])
def test_parallel_equals_stepwise_over_a_long_sequence(depths, sizes):
    core, e = make_core(*depths, **sizes), draw(3, 96, 24)
    h = run_steps(core, e, starting(3, 96))
    expected = core(e).h
    torch.testing.assert_close(h[:, core.config.local_window - 1 :], expected, **TOLERANCE)
    assert expected.std() > 0.1


@settings(deadline=None, max_examples=10, derandomize=True)
@given(st.sampled_from(DEPTHS), st.floats(0.01, 0.15), st.integers(0, 1000))
def test_parallel_equals_stepwise_between_random_resets_within_the_batch(depths, rate, seed):
    core, e, s = make_core(*depths, width=16), draw(4, 72, 16, seed=seed), 4
    chance = torch.rand(4, 72, generator=torch.Generator().manual_seed(seed))
    first = (chance < rate) | starting(4, 72)
    h = run_steps(core, e, first)
    for row in range(4):
        edges = [*first[row].nonzero().flatten().tolist(), 72]
        for begin, end in pairwise(edges):
            if end - begin >= s:
                alone = core(e[row : row + 1, begin:end]).h[0]
                torch.testing.assert_close(h[row, begin + s - 1 : end], alone, **TOLERANCE)


@pytest.mark.parametrize("depths", DEPTHS)
def test_a_reset_of_one_row_leaves_the_others_alone(depths):
    core, e = make_core(*depths), draw(3, 40, 24)
    once, twice = starting(3, 40), starting(3, 40)
    twice[1, 20] = True
    h, reset = run_steps(core, e, once), run_steps(core, e, twice)
    assert torch.equal(h[[0, 2]], reset[[0, 2]])
    assert torch.equal(h[1, :20], reset[1, :20])
    assert not torch.allclose(h[1, 24:], reset[1, 24:], atol=1e-3)
    fresh = run_steps(core, e[:, 20:], starting(3, 20))  # from the row's first step
    torch.testing.assert_close(reset[1, 20:], fresh[1], atol=1e-6, rtol=0.0)


def test_a_step_leaves_the_given_state_as_it_was():
    core, e = make_core(2, 2), draw(2, 3, 24)
    _, state = core.step(e[:, 0], core.initial_state(2), torch.tensor([True, True]))
    kept = [part.clone() for part in state]
    core.step(e[:, 1], state, torch.tensor([True, False]))
    for part, before in zip(state, kept, strict=True):
        assert torch.equal(part, before)
        assert part.dtype == torch.float32


@pytest.mark.parametrize("depths", DEPTHS)
@pytest.mark.parametrize("sizes", [{}, {"local_window": 2, "conv_width": 2}, {"local_window": 6}])
def test_steps_can_continue_a_pass_from_any_position(depths, sizes):
    core, e = make_core(*depths, **sizes), draw(3, 40, 24)
    s, output = core.config.local_window, core(e)
    rows = torch.tensor([0, 2, 1, 2, 0, 1])
    positions = torch.tensor([s - 1, 11, 30, s, 19, s + 1])
    state = core.state_at(output, rows, positions)
    for ahead in range(1, 9):
        h, state = core.step(e[rows, positions + ahead], state)
        expected = output.h[rows, positions + ahead - (s - 1)]
        torch.testing.assert_close(h, expected, **TOLERANCE)


# --- what each part sees -----------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3])
def test_lmamba_sees_its_window_and_nothing_older(depth):
    lmamba, e = make_core(1, depth).lmamba, draw(1, 12, 24)
    before = lmamba(e)[0]
    for age in range(6):
        changed = e.clone()
        changed[:, 8 - age] += draw(24, seed=1)  # LayerNorm removes a constant
        at_8 = lmamba(changed)[0][:, 8 - 3]
        assert torch.allclose(at_8, before[:, 8 - 3], atol=1e-6) == (age >= 4), age


@pytest.mark.parametrize("depth", [1, 2])
def test_gmamba_is_causal_and_sees_the_whole_past(depth):
    gmamba, d = make_core(depth).gmamba, draw(1, 40, 24)
    changed = d.clone()
    changed[:, 10] += draw(24, seed=1)
    difference = (gmamba(d)[0] - gmamba(changed)[0]).abs().amax((0, 2))
    assert (difference[:10] == 0).all()
    assert (difference[10:] > 5e-3).all()  # further than convolution or window reach


def test_h_does_not_look_ahead():
    core, e = make_core(2, 2), draw(1, 20, 24)
    changed = e.clone()
    changed[:, 12:] += draw(24, seed=1)
    assert torch.equal(core(e).h[:, : 12 - 3], core(changed).h[:, : 12 - 3])


def test_gmamba_sees_differences_only():
    core, e = make_core(), draw(2, 16, 24)
    shifted = core(e + 3.0 * draw(24, seed=1))
    torch.testing.assert_close(shifted.variation, core(e).variation, atol=1e-4, rtol=0.0)
    assert not torch.allclose(shifted.h, core(e).h, atol=1e-2)


@pytest.mark.parametrize(("part", "block"), [("gmamba", 1), ("lmamba", 1), ("lmamba", 2)])
def test_every_block_of_a_stack_counts(part, block):
    core, e = make_core(2, 3), draw(2, 12, 24)
    h, steps = core(e).h, run_steps(core, e, starting(2, 12))
    getattr(core, part).blocks[block].mamba.in_proj.weight.mul_(-0.5)
    assert not torch.allclose(core(e).h, h, atol=1e-3)
    assert not torch.allclose(run_steps(core, e, starting(2, 12))[:, 3:], steps[:, 3:], atol=1e-3)


def test_a_stacked_block_works_on_the_output_of_the_one_before():
    """Parallel branches would commute; blocks on top of each other do not."""
    core, e = make_core(2, 2), draw(2, 12, 24)
    h = core(e).h
    for mamba in (core.gmamba, core.lmamba):
        mamba.blocks = torch.nn.ModuleList(reversed(mamba.blocks))
    assert not torch.allclose(core(e).h, h, atol=1e-3)


def test_shared_projections_give_what_whole_windows_give():
    lmamba: LMamba = make_core().lmamba
    e = draw(3, 15, 24)
    close = {"atol": 1e-6, "rtol": 1e-5}
    outputs, inputs = lmamba(e)
    for t, u_l in enumerate(outputs.unbind(1), start=3):
        window = e[:, t - 3 : t + 1]
        own, kept = lmamba.step(window, lmamba.inputs(window[:, :-1]))
        torch.testing.assert_close(u_l, own, **close)
        torch.testing.assert_close(kept, inputs[:, t - 3 : t + 1], **close)
        block = lmamba.blocks[0]
        whole = window + block.mamba(block.norm(window))
        torch.testing.assert_close(u_l, lmamba.project(whole[:, -1]), **close)


# --- bad input ---------------------------------------------------------------------------


def test_a_sequence_shorter_than_the_window_is_refused():
    core = make_core()
    with pytest.raises(ValueError, match="at least 4 steps, got 3"):
        core(draw(1, 3, 24))
    assert core(draw(1, 4, 24)).h.shape == (1, 1, 24)


@pytest.mark.parametrize("sizes", [{"local_window": 1}, {"global_depth": 0}, {"local_depth": 0}])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="must be at least"):
        GlamCore(24, GlamConfig(**sizes))
