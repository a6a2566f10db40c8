"""The C++ stepper: independent rows, threads, float16, sizes and structures.

That its numbers are the model's is tested in test_inference.py and test_rendering.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from test_inference import make_model, tensors

from glam_env.checkpoint.folder import Checkpoint
from glam_env.errors import GlamError
from glam_env.fast import choose as native
from glam_env.fast.choose import make_stepper
from glam_env.fast.native import bindings
from glam_env.fast.native.bindings import vector_sizes
from glam_env.fast.native.build import BuildError
from glam_env.fast.native.stepper import NativeStepper
from glam_env.fast.plain import Stepper, put_rows
from glam_env.fast.step import TorchStepper
from glam_env.model.cores.glam import GlamConfig
from glam_env.model.structures import DreamState
from glam_env.model.world_model import WorldModel

pytestmark = pytest.mark.skipif(bool(native.missing()), reason=native.missing())

ROWS = 150  # more than two blocks, and the last one is not full


@pytest.fixture(params=[{}, {"embed_hidden": 48, "prior_hidden": 48}], ids=["plain", "hidden"])
def model(request: pytest.FixtureRequest) -> WorldModel:
    return make_model(**request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def start(model: WorldModel, rows: int = ROWS) -> DreamState:
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(5, (rows, 9, 3), generator=generator)
    return model.warm_up(codes, torch.randint(3, (rows, 8), generator=generator))


def rows_of(state: DreamState, index: slice | torch.Tensor) -> DreamState:
    return state.rows(index)


@pytest.fixture(params=["float32", "auto"])
def stepper(request: pytest.FixtureRequest, model: WorldModel) -> NativeStepper:
    """Make a stepper of each precision; they are the same without float16."""
    return NativeStepper(model, precision=request.param)


def play(stepper: Stepper, state: DreamState, index: slice) -> list[torch.Tensor]:
    """Step some rows ten times; return all outputs."""
    seen = []
    state = rows_of(state, index)
    for t in range(10):
        draw = torch.rand(ROWS, 3, generator=torch.Generator().manual_seed(t))[index]
        step = stepper.step(state, (torch.arange(ROWS) % 3)[index], draw, show=True)
        assert step.features is not None
        seen += [*tensors(step.state), *step[1:5], step.features]
        state = step.state
    return seen


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_rows_are_independent_of_batch_and_threads(stepper, model, threads, count) -> None:
    state = start(model)
    torch.set_num_threads(1)
    together = play(stepper, state, slice(None))
    torch.set_num_threads(count)
    for index in (slice(0, 1), slice(7, 20), slice(63, 129), slice(None)):
        for whole, part in zip(together, play(stepper, state, index), strict=True):
            assert torch.equal(whole[index], part)


def test_own_threads_without_openmp(stepper, model, threads) -> None:
    state = start(model)
    torch.set_num_threads(3)
    expected = play(stepper, state, slice(None))
    library = bindings.load_library()
    library.glam_share_threads(None)
    try:
        assert all(map(torch.equal, play(stepper, state, slice(None)), expected))
    finally:
        library.glam_share_threads(bindings.openmp_parallel())


def test_states_of_any_memory_order(stepper, model) -> None:
    state = start(model)
    expected = play(stepper, state, slice(None))
    core = state.core._replace(
        conv=state.core.conv.transpose(2, 3).contiguous().transpose(2, 3),
        ssm=state.core.ssm.transpose(0, 2).contiguous().transpose(0, 2),
        window=state.core.window.transpose(0, 1).contiguous().transpose(0, 1),
    )
    turned = state._replace(core=core, code=state.code.T.contiguous().T)
    assert all(map(torch.equal, play(stepper, turned, slice(None)), expected))


def test_outcomes_and_features_are_those_of_the_step(stepper, model) -> None:
    state = start(model)
    action, draw = torch.zeros(ROWS, dtype=torch.int64), torch.rand(ROWS, 3)
    step = stepper.step(state, action, draw, show=True)
    assert step.features is not None
    assert torch.equal(step.features, stepper.features(step.state))
    assert torch.equal(step.features, model.features(step.state))
    assert stepper.step(state, action, draw).features is None
    outcome = step.reward, step.reward_logits, step.termination_logit
    assert all(map(torch.equal, stepper.outcome(step.state.h), outcome))


def test_entropy_is_exact_where_the_prior_is_sure() -> None:
    """Probabilities near 0 add almost nothing to the entropy, and no NaN."""
    model = make_model()
    model.prior.weight.zero_()
    model.prior.bias.zero_()
    model.prior.bias.view(3, 5)[:, 2] = 300.0
    sure = make_model(unimix=1e-6)
    sure.load_state_dict(model.state_dict())
    step = NativeStepper(sure).step(
        start(sure), torch.zeros(ROWS, dtype=torch.int64), torch.rand(ROWS, 3)
    )
    assert bool((step.state.code == 2).all())
    assert step.prior_entropy.abs().max() < 1e-4


@pytest.mark.parametrize("bad", [-1, 5, 2**40])
def test_codes_and_actions_out_of_range_are_refused(stepper, model, bad) -> None:
    state = start(model)
    action, draw = torch.zeros(ROWS, dtype=torch.int64), torch.rand(ROWS, 3)
    wrong = state.code.clone()
    wrong[ROWS - 1, 1] = bad
    with pytest.raises(IndexError, match="out of range"):
        stepper.step(state._replace(code=wrong), action, draw)
    with pytest.raises(IndexError, match="out of range"):
        stepper.features(state._replace(code=wrong))
    action[7] = bad
    with pytest.raises(IndexError, match="out of range"):
        stepper.go_on(state, action, draw)


def test_other_number_types_are_converted(stepper, model) -> None:
    state = start(model)
    expected = play(stepper, state, slice(None))
    core = type(state.core)(*(part.double() for part in state.core))
    other = DreamState(state.code.int(), state.h.double(), core)
    assert all(map(torch.equal, play(stepper, other, slice(None)), expected))


def test_a_spent_state_is_stepped_in_place(stepper, model) -> None:
    state, own = start(model), start(model)
    own = stepper.arrange(own)  # so that a step does not copy it
    for t in range(6):
        action, draw = torch.arange(ROWS) % 3, torch.rand(ROWS, 3)
        places = [x.data_ptr() for x in (own.code, *own.core)]
        kept = stepper.step(state, action, draw)
        spent = stepper.step(own, action, draw, spend=True)
        assert [x.data_ptr() for x in (spent.state.code, *spent.state.core)] == places, t
        for one, other in zip(tensors(kept.state), tensors(spent.state), strict=True):
            assert torch.equal(one, other)
        assert all(map(torch.equal, kept[1:5], spent[1:5]))
        state, own = kept.state, spent.state


@pytest.mark.parametrize("arranged", [True, False])
def test_rows_are_put_in_place(stepper, model, arranged) -> None:
    state, source = start(model), start(model, 20)
    source = rows_of(source, torch.arange(20).flip(0))
    expected, rows = start(model), torch.tensor([149, 0, 7])
    put_rows(expected, rows, source, torch.tensor([3, 19, 3]))
    if arranged:
        state, source = stepper.arrange(state), stepper.arrange(source)
    stepper.put(state, rows, source, torch.tensor([3, 19, 3]))
    assert all(map(torch.equal, tensors(state), tensors(expected)))


@pytest.mark.parametrize(("row", "index"), [(ROWS, 0), (-1, 0), (0, 20), (0, -1)])
def test_rows_out_of_range_are_refused(stepper, model, row, index) -> None:
    state, source = stepper.arrange(start(model)), stepper.arrange(start(model, 20))
    before = [part.clone() for part in tensors(state)]
    with pytest.raises(IndexError, match="out of range"):
        stepper.put(state, torch.tensor([3, row]), source, torch.tensor([5, index]))
    assert all(map(torch.equal, tensors(state), before))


def test_flushing_subnormals_ends_with_the_step(stepper, model, threads) -> None:
    """The threads belong to PyTorch, which expects the mode unchanged."""
    torch.set_num_threads(2)
    play(stepper, start(model), slice(None))
    tiny = torch.full((1 << 20,), 1e-40)
    assert int((tiny * 0.5 != 0.0).sum()) == len(tiny)


# --- float16 -----------------------------------------------------------------------------------


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the root mean square error of b relative to a."""
    return float(((a - b).square().mean() / a.square().mean()).sqrt())


needs_halves = pytest.mark.skipif(
    bool(native.missing()) or not vector_sizes().halves, reason="this CPU does not multiply float16"
)


@needs_halves
def test_float16_is_close_to_float32(model) -> None:
    """Compare single steps from one state, since different draws diverge."""
    exact, coarse = NativeStepper(model, precision="float32"), NativeStepper(model)
    state = start(model)
    for t in range(10):
        draw = torch.rand(ROWS, 3, generator=torch.Generator().manual_seed(t))
        one, other = (s.step(state, torch.arange(ROWS) % 3, draw) for s in (exact, coarse))
        for a, b in zip(tensors(one.state)[1:], tensors(other.state)[1:], strict=True):
            assert error(a, b) < 2e-3
        for a, b in zip(one[1:5], other[1:5], strict=True):
            assert 0.0 < error(a, b) < 2e-2
        assert (one.state.code != other.state.code).float().mean() < 0.02
        state = one.state


@needs_halves
def test_float16_of_the_shipped_pong_is_as_close_as_documented() -> None:
    checkpoint = Checkpoint.open("Pong")
    model, contexts = checkpoint.world_model(), checkpoint.contexts()
    state = model.warm_up(contexts.codes.long(), contexts.actions.long())
    exact, coarse = NativeStepper(model, precision="float32"), NativeStepper(model)
    generator, errors, others = torch.Generator().manual_seed(0), [], []
    for _ in range(20):
        action = torch.randint(6, (contexts.count,), generator=generator)
        draw = torch.rand(contexts.count, model.config.categoricals, generator=generator)
        one, other = (s.step(state, action, draw) for s in (exact, coarse))
        errors.append(error(one.state.h, other.state.h))
        others.append(float((one.state.code != other.state.code).float().mean()))
        state = one.state
        assert (one.reward - other.reward).abs().max() < 0.05
    assert sum(errors) / 20 < 2.5e-3
    assert sum(others) / 20 < 2e-3


@needs_halves
def test_numbers_beyond_float16_are_an_error_and_float32_takes_them() -> None:
    model = make_model()
    model.core.gmamba.project.bias[0] = 1e6  # added in float32, then read by products
    state = start(model)
    action, draw = torch.zeros(ROWS, dtype=torch.int64), torch.rand(ROWS, 3)
    NativeStepper(model, precision="float32").step(state, action, draw)
    NativeStepper(model).step(state, action, draw)
    wide = state._replace(core=state.core._replace(ssm=state.core.ssm * 1e9))
    step = NativeStepper(model, precision="float32").step(wide, action, draw)
    assert bool(step.state.h.isfinite().all())
    with pytest.raises(FloatingPointError, match="take precision 'float32'"):
        NativeStepper(model).step(wide, action, draw)


@needs_halves
def test_weights_beyond_float16_are_kept_in_float32() -> None:
    model = make_model()
    model.prior.bias.zero_()
    model.prior.weight[0, 0] = 1e6
    state, draw = start(model), torch.rand(ROWS, 3)
    action = torch.zeros(ROWS, dtype=torch.int64)
    one, other = (
        NativeStepper(model, precision=precision).step(state, action, draw)
        for precision in ("float32", "auto")
    )
    assert bool(other.prior_entropy.isfinite().all())
    assert (one.state.code != other.state.code).float().mean() < 0.02


# --- sizes and structures --------------------------------------------------------------------


def test_unsuitable_sizes_are_stepped_by_pytorch() -> None:
    deep = make_model(core=GlamConfig(global_depth=2))
    assert type(make_stepper(deep)) is TorchStepper
    with pytest.raises(GlamError, match="backend 'auto' or 'torch'"):
        make_stepper(deep, backend="native")


def wide(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x], -1)


@pytest.mark.parametrize("change", [lambda x: x[..., :-1], wide, lambda x: x[:-1], lambda x: x[0]])
@pytest.mark.parametrize("name", ["code", "action", "draw", "window", "conv", "ssm", "local"])
def test_shapes_are_checked_before_memory_is_read(stepper, model, name, change) -> None:
    state = start(model)
    action, draw = torch.zeros(ROWS, dtype=torch.int64), torch.rand(ROWS, 3)
    given = {"action": action, "draw": draw, "code": state.code, **state.core._asdict()}
    given[name] = change(given[name])
    core = state.core._replace(**{part: given[part] for part in state.core._fields})
    with pytest.raises(ValueError, match=r"must have shape \(\d+,"):
        stepper.go_on(DreamState(given["code"], state.h, core), given["action"], given["draw"])


def test_after_a_step_the_other_inputs_are_still_checked(stepper, model) -> None:
    """The stepper knows the shapes of the state that it returned last."""
    action, draw = torch.zeros(ROWS, dtype=torch.int64), torch.rand(ROWS, 3)
    state = stepper.go_on(start(model), action, draw)
    for wrong in ((action[:5], draw), (action, draw[:5]), (action[:5], draw[:5])):
        with pytest.raises(ValueError, match="must have shape"):
            stepper.go_on(state, *wrong)
    with pytest.raises(ValueError, match="on the CPU"):
        stepper.go_on(state, action.to("meta"), draw)
    with pytest.raises(ValueError, match="on the CPU"):
        stepper.go_on(state, action, draw.to("meta"))
    other = model.warm_up(torch.zeros(3, 9, 3, dtype=torch.int64), action[:24].view(3, 8))
    assert len(stepper.go_on(other, action[:3], draw[:3]).h) == 3  # another state may follow
    assert len(stepper.go_on(state, action, draw).h) == ROWS


def test_shapes_of_all_other_calls_are_checked(stepper, model) -> None:
    state, source = stepper.arrange(start(model)), stepper.arrange(start(model, 20))
    with pytest.raises(ValueError, match="h must have shape"):
        stepper.outcome(state.h[:, :-1])
    with pytest.raises(ValueError, match="h must have shape"):
        stepper.features(state._replace(h=wide(state.h)))
    with pytest.raises(ValueError, match="codes must have shape"):
        stepper.features(state._replace(code=state.code[:5]))
    with pytest.raises(ValueError, match="indices must have shape"):
        stepper.put(state, torch.tensor([1, 2]), source, torch.tensor([1]))
    before = state.h.clone()
    stepper.put(state, torch.tensor([1], dtype=torch.int32), source, torch.tensor([2]))
    before[1] = source.h[2]
    assert torch.equal(state.h, before)


def mirrored(base: type[ctypes.Structure], fields: list) -> type[ctypes.Structure]:
    return type(base.__name__, (ctypes.Structure,), {"_fields_": fields})


def wrong_structures() -> list:
    part = list(bindings.Part._fields_)
    shorter = mirrored(bindings.Part, part[:-1])
    longer = mirrored(bindings.Part, [*part, ("more", ctypes.c_int64)])
    swapped = mirrored(bindings.Part, [part[1], part[0], *part[2:]])
    narrow = mirrored(bindings.Part, [*part[:-1], ("bytes", ctypes.c_int32)])
    return [
        pytest.param(shorter, "Part is offset 0, size 32 in bindings.py", id="shorter"),
        pytest.param(longer, "Part is offset 0, size 48 in bindings.py", id="longer"),
        pytest.param(swapped, "Part.into is offset 0, size 8 in bindings.py", id="swapped"),
        pytest.param(narrow, "Part.bytes is offset 32, size 4 in bindings.py", id="narrow"),
    ]


@pytest.mark.parametrize(("wrong", "message"), wrong_structures())
def test_a_library_with_other_structures_is_refused(monkeypatch, wrong, message) -> None:
    structures = [wrong if part is bindings.Part else part for part in bindings.STRUCTURES]
    monkeypatch.setattr(bindings, "STRUCTURES", structures)
    bindings.load_library.cache_clear()
    try:
        with pytest.raises(BuildError, match=message):
            bindings.load_library()
    finally:
        bindings.load_library.cache_clear()


def test_a_structure_that_only_the_library_has_is_refused() -> None:
    reported = bindings.load_library().glam_structures().decode()
    bindings.check_structures(reported, bindings.STRUCTURES)
    with pytest.raises(BuildError, match=r"Decoder is missing in bindings\.py"):
        bindings.check_structures(reported, bindings.STRUCTURES[:-1])


def test_an_argument_of_another_type_is_refused() -> None:
    library = bindings.load_library()
    with pytest.raises(ctypes.ArgumentError):
        library.glam_step(ctypes.byref(bindings.Rows()), ctypes.byref(bindings.Rows()), 1, 1)
    with pytest.raises(TypeError):
        library.glam_step(1)
