"""All sequence cores: parallel pass and steps agree, and each is what its equation says."""

from itertools import pairwise

import pytest
import torch

from glam_env.model.cores.base import CORES, CoreConfig, SequenceCore, make_core
from glam_env.model.cores.double import DoubleCore
from glam_env.model.cores.transformer import PERIOD, TransformerConfig, TransformerCore
from glam_env.model.cores.window import WindowCore

WIDTH, LENGTH = 16, 300
WINDOW = 24  # of the transformers: the 300 steps go round their ring twelve times
DEPTHS = {
    "glam": ("global_depth", "local_depth"),
    "local": ("local_depth",),
    "global": ("global_depth",),
    "transformer": ("depth",),
    "double_mamba": ("depth",),
    "double_transformer": ("depth",),
}
CASES = [(name, depth) for name in DEPTHS for depth in (1, 2, 3)]


def config_of(name: str, depth: int) -> CoreConfig:
    sizes = dict.fromkeys(DEPTHS[name], depth)
    more = {"window": WINDOW, "heads": 2} if "transformer" in name else {}
    return CORES[name].config(**sizes, **more)


def make(name: str, depth: int = 1) -> SequenceCore:
    """Make a core in which the past matters far beyond the tolerance, and every weight matters."""
    torch.manual_seed(11)
    core = make_core(WIDTH, config_of(name, depth))
    with torch.no_grad():
        for key, parameter in core.named_parameters():
            if key.endswith("A_log"):
                parameter -= 4.0
            elif key.endswith("dt_proj.bias"):
                parameter += 2.0
            elif key.endswith(("norm.weight", "norm.bias", ".D")):
                parameter += 0.3 * torch.randn_like(parameter)
            elif key.endswith(("in_proj.weight", "x_proj.weight", "into.weight")):
                parameter *= 2.0
    return core.eval().requires_grad_(False)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_core_is_tested_here() -> None:
    assert set(DEPTHS) == {
        name for name, kind in CORES.items() if "glam_env" in kind.core.__module__
    }


@pytest.mark.parametrize(("name", "depth"), CASES)
def test_parallel_equals_stepwise_with_resets_within_the_batch(name: str, depth: int) -> None:
    core, e = make(name, depth), draw(3, LENGTH, WIDTH)
    first = torch.zeros(3, LENGTH, dtype=torch.bool)
    first[:, 0] = True
    first[1, [7, 9, 10, 150]] = first[2, [40]] = True  # the first row never starts again
    state, steps = core.initial_state(3), []
    for t in range(LENGTH):
        h, state = core.step(e[:, t], state, first[:, t] if first[:, t].any() else None)
        steps.append(h)
    h = torch.stack(steps, 1)
    assert h.std() > 0.1
    for row in range(3):
        for begin, end in pairwise([*first[row].nonzero().flatten().tolist(), LENGTH]):
            if end - begin >= core.context:
                alone = core(e[row : row + 1, begin:end]).h[0]
                own = h[row, begin + core.context - 1 : end]
                torch.testing.assert_close(own, alone, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(("name", "depth"), CASES)
def test_steps_continue_from_any_state_of_a_parallel_pass(name: str, depth: int) -> None:
    core, e = make(name, depth), draw(2, 80, WIDTH)
    output = core(e)
    # Before the transformers' ring is full, when it just is, and when it has gone round.
    starts = torch.tensor([core.context - 1, 10, WINDOW - 1, WINDOW, 70])
    rows = torch.tensor([0, 1, 0, 1, 1])
    state = core.state_at(output, rows, starts)
    for t in range(1, 10):
        h, state = core.step(e[rows, starts + t], state)
        expected = output.h[rows, starts + t - core.context + 1]
        torch.testing.assert_close(h, expected, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(("name", "depth"), [case for case in CASES if case[1] != 3])
def test_no_output_depends_on_a_later_input(name: str, depth: int) -> None:
    core, e, at = make(name, depth), draw(1, 60, WIDTH), 31
    changed = e.clone()
    changed[:, at] = draw(WIDTH, seed=9)
    before, after = core(e).h[0], core(changed).h[0]
    place = at - core.context + 1
    assert torch.equal(before[:place], after[:place])
    assert (before[place] - after[place]).abs().max() > 1e-3
    reach = {"local": 3, "transformer": depth * (WINDOW - 1)}.get(name)
    if reach is not None and place + reach + 1 < len(before):  # local: the window, then nothing
        assert torch.equal(before[place + reach + 1 :], after[place + reach + 1 :])


def test_stale_numbers_of_a_row_that_starts_again_have_no_influence() -> None:
    for name in DEPTHS:
        core, e = make(name, 2), draw(2, WIDTH)
        spoilt = [core.initial_state(2), core.initial_state(2)]
        spoilt[1] = torch.utils._pytree.tree_map(
            lambda part: torch.full_like(part, torch.nan if part.is_floating_point() else 99),
            spoilt[1],
        )
        clean, other = (core.step(e, state, torch.tensor([True, True]))[0] for state in spoilt)
        assert torch.equal(clean, other), name


@pytest.mark.parametrize("name", ["double_mamba", "double_transformer"])
def test_two_cores_of_equal_weights_are_twice_one(name: str) -> None:
    core, e = make(name, 2), draw(2, 40, WIDTH)
    assert isinstance(core, DoubleCore)
    one, two = core.first(e).h, core.second(e).h
    torch.testing.assert_close(core(e).h, one + two)
    assert not torch.allclose(one, two, atol=0.1)
    core.second.load_state_dict(core.first.state_dict())
    torch.testing.assert_close(core(e).h, 2 * one)
    start = core.initial_state(2), torch.tensor([True, True])
    single = core.first.initial_state(2), torch.tensor([True, True])
    torch.testing.assert_close(
        core.step(e[:, 0], *start)[0], 2 * core.first.step(e[:, 0], *single)[0]
    )


# --- the transformer -----------------------------------------------------------------------------


def attention(core: TransformerCore, e: torch.Tensor) -> torch.Tensor:
    """State the transformer in float64: (L, D) features to (L, D), one position at a time.

    A pair of numbers of a head is a complex number, and a position turns it.
    """
    c, weights = core.config, {k: v.double() for k, v in core.state_dict().items()}
    length, size = len(e), WIDTH // c.heads

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        frequency = core.rotary.turns.double() * 2 * torch.pi / PERIOD
        half = size // 2
        return torch.complex(x[:half], x[half:]) * torch.exp(1j * frequency * position)

    x = norm(e.double(), "norm")
    for layer in range(c.depth):
        name = f"layers.{layer}"
        q, k, v = (x @ weights[f"{name}.into.weight"].T).split(WIDTH, -1)
        mixed = torch.zeros_like(x)
        for t in range(length):
            seen = range(max(0, t - c.window + 1), t + 1)
            for head in range(c.heads):
                part = slice(head * size, (head + 1) * size)
                scores = torch.stack(
                    [
                        (turned(q[t, part], t).conj() * turned(k[p, part], p)).real.sum()
                        for p in seen
                    ]
                )
                share = torch.exp(scores / size**0.5)
                share = share / share.sum()
                mixed[t, part] = sum(share[i] * v[p, part] for i, p in enumerate(seen))
        x = norm(x + mixed @ weights[f"{name}.out.weight"].T, f"{name}.norm")
        hidden = x @ weights[f"{name}.feed_forward.0.weight"].T
        hidden = (hidden + weights[f"{name}.feed_forward.0.bias"]).clamp_min(0.0)
        y = hidden @ weights[f"{name}.feed_forward.2.weight"].T
        x = norm(x + y + weights[f"{name}.feed_forward.2.bias"], f"{name}.last_norm")
    return x


def test_the_transformer_is_attention_over_its_window() -> None:
    core, e = make("transformer", 2), draw(1, 2 * WINDOW, WIDTH, seed=3)
    assert isinstance(core, TransformerCore)
    torch.testing.assert_close(core(e).h[0].double(), attention(core, e[0]), atol=1e-5, rtol=0.0)


def test_the_ring_goes_on_past_the_period_of_its_angles() -> None:
    core, e = make("transformer", 2), draw(2, 3 * WINDOW, WIDTH)
    state = core.initial_state(2)._replace(age=torch.tensor([0, PERIOD - 2 * WINDOW - 5]))
    first, last = torch.tensor([True, False]), []
    for t in range(e.shape[1]):  # the second row's ring is full of zeros until it has gone round
        h, state = core.step(e[0, t].expand(2, -1), state, first if t == 0 else None)
        last.append(h)
    assert state.age.tolist() == [3 * WINDOW, PERIOD + WINDOW - 5]
    young, old = torch.stack(last[-5:])[:, 0], torch.stack(last[-5:])[:, 1]
    torch.testing.assert_close(old, young, atol=1e-4, rtol=0.0)


def test_counts_that_no_dream_has_address_no_other_memory() -> None:
    """A snapshot may come from anybody: its counts may be anything."""
    core = make("transformer")
    for name, one in (("age", core), ("count", WindowCore(core, WIDTH))):
        for value in (-5, 2**62, -(2**62)):
            state = one.initial_state(2)
            state = state._replace(**{name: torch.full((2,), value)})
            h, after = one.step(draw(2, WIDTH), state)
            assert h.shape == (2, WIDTH)
            assert [part.shape for part in after] == [part.shape for part in state]


def test_the_order_of_the_past_matters() -> None:
    core, e = make("transformer"), draw(1, 12, WIDTH)
    swapped = e[:, [1, 0, *range(2, 12)]]
    assert (core(e).h[0, -1] - core(swapped).h[0, -1]).abs().max() > 1e-3


def test_dropout_is_for_training_only() -> None:
    core, e = make("transformer"), draw(1, 12, WIDTH)
    state, first = core.initial_state(1), torch.tensor([True])
    h = core(e).h
    core.train()
    assert not torch.equal(core(e).h, h)
    torch.testing.assert_close(
        core.step(e[:, 0], state, first)[0], h[:, 0]
    )  # dreams while training
    core.eval()
    assert torch.equal(core(e).h, h)


def test_a_sequence_within_the_window_needs_no_band() -> None:
    """The short path, L ≤ W, and the banded one agree where both hold."""
    core, e = make("transformer"), draw(1, WINDOW + 8, WIDTH)
    torch.testing.assert_close(core(e).h[:, :WINDOW], core(e[:, :WINDOW]).h, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 3}, "width 16 is not a multiple of 2 \\* core.heads = 6"),
        ({"dropout": 1.0}, "core.dropout must be in \\[0, 1\\), got 1.0"),
        ({"window": 0}, "core.window must be at least 1"),
        ({"window": 5000}, "core.window must be at most 4096"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_core(WIDTH, TransformerConfig(**sizes))
