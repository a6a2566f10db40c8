"""The C++ of dreams: rows that do not see each other, threads that change nothing, and machines
without a compiler. (That its numbers are the model's: test_inference.py and test_rendering.py.)"""

from __future__ import annotations

import ctypes
import os
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_inference import make_model, tensors

from glam_env import native
from glam_env.errors import GlamError
from glam_env.model.inference import DreamStepper
from glam_env.model.structures import DreamState
from glam_env.model.world_model import WorldModel
from glam_env.native import build, make_stepper
from glam_env.native.build import BuildError
from glam_env.native.renderer import can_draw
from glam_env.native.stepper import NativeStepper, layout

pytestmark = pytest.mark.skipif(bool(native.missing()), reason=native.missing())

ROWS = 150  # more than two blocks, and no whole number of them


@pytest.fixture
def model() -> WorldModel:
    return make_model()


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def start(model: WorldModel, rows: int = ROWS) -> DreamState:
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(5, (rows, 9, 3), generator=generator)
    return model.warm_up(codes, torch.randint(3, (rows, 8), generator=generator))


def rows_of(state: DreamState, index: slice) -> DreamState:
    return DreamState(state.code[index], state.h[index], state.core.rows(index))


def play(stepper: DreamStepper, state: DreamState, index: slice) -> list[torch.Tensor]:
    """Ten steps of some rows: all that each step gives."""
    seen = []
    state = rows_of(state, index)
    for t in range(10):
        draw = torch.rand(ROWS, 3, generator=torch.Generator().manual_seed(t))[index]
        step = stepper.step(state, (torch.arange(ROWS) % 3)[index], draw)
        seen += [*tensors(step.state), *step[1:]]
        state = step.state
    return seen


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_row_does_not_hang_on_its_batch_nor_on_threads(model, threads, count) -> None:
    stepper, state = NativeStepper(model), start(model)
    torch.set_num_threads(1)
    together = play(stepper, state, slice(None))
    torch.set_num_threads(count)
    for index in (slice(0, 1), slice(7, 20), slice(63, 129), slice(None)):
        for whole, part in zip(together, play(stepper, state, index), strict=True):
            assert torch.equal(whole[index], part)


def test_without_openmp_it_has_threads_of_its_own(model, threads) -> None:
    stepper, state = NativeStepper(model), start(model)
    torch.set_num_threads(3)
    expected = play(stepper, state, slice(None))
    library = build.load_library()
    library.glam_share_threads(ctypes.c_void_p(None))
    try:
        assert all(map(torch.equal, play(stepper, state, slice(None)), expected))
    finally:
        library.glam_share_threads(build._openmp_parallel())


def test_states_of_any_layout_are_taken(model) -> None:
    stepper, state = NativeStepper(model), start(model)
    expected = play(stepper, state, slice(None))
    core = state.core._replace(
        conv=state.core.conv.transpose(2, 3).contiguous().transpose(2, 3),
        ssm=state.core.ssm.transpose(0, 2).contiguous().transpose(0, 2),
        window=state.core.window.transpose(0, 1).contiguous().transpose(0, 1),
    )
    turned = state._replace(core=core, code=state.code.T.contiguous().T)
    assert all(map(torch.equal, play(stepper, turned, slice(None)), expected))


def test_outcomes_alone_are_those_of_the_step(model) -> None:
    stepper, state = NativeStepper(model), start(model)
    step = stepper.step(state, torch.zeros(ROWS, dtype=torch.int64), torch.rand(ROWS, 3))
    told = stepper.outcome(step.state.h)
    assert all(map(torch.equal, told, (step.reward, step.reward_logits, step.termination_logit)))


def test_doubt_is_exact_where_the_prior_is_sure(model) -> None:
    """Probabilities that vanish add nothing to the entropy, and no NaN."""
    model.prior.weight.zero_()
    model.prior.bias.zero_()
    model.prior.bias.view(3, 5)[:, 2] = 300.0
    sure = make_model(unimix=0.0)
    sure.load_state_dict(model.state_dict())
    step = NativeStepper(sure).step(
        start(sure), torch.zeros(ROWS, dtype=torch.int64), torch.rand(ROWS, 3)
    )
    assert bool((step.state.code == 2).all())
    assert step.prior_entropy.abs().max() < 1e-5


@pytest.mark.parametrize("bad", [-1, 5, 2**40])
def test_what_lies_outside_the_tables_is_refused(model, bad) -> None:
    stepper, state = NativeStepper(model), start(model)
    action, draw = torch.zeros(ROWS, dtype=torch.int64), torch.rand(ROWS, 3)
    wrong = state.code.clone()
    wrong[ROWS - 1, 1] = bad
    with pytest.raises(IndexError, match="none of the world model's"):
        stepper.step(state._replace(code=wrong), action, draw)
    with pytest.raises(IndexError, match="none of the world model's"):
        stepper.features(state._replace(code=wrong))
    action[7] = bad
    with pytest.raises(IndexError, match="none of the world model's"):
        stepper.go_on(state, action, draw)


def test_other_number_types_are_converted(model) -> None:
    stepper, state = NativeStepper(model), start(model)
    expected = play(stepper, state, slice(None))
    core = type(state.core)(*(part.double() for part in state.core))
    other = DreamState(state.code.int(), state.h.double(), core)
    assert all(map(torch.equal, play(stepper, other, slice(None)), expected))


# --- compilers ---------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of its own, with nothing loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caches = (build.load_library, native.missing, native.available)
    for function in caches:
        function.cache_clear()
    yield tmp_path
    for function in caches:
        function.cache_clear()


def test_it_is_compiled_once(fresh: Path, monkeypatch, model) -> None:
    real = build.find_compiler()
    counted = fresh / "counted"
    compiler = fresh / "compiler"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {counted}\nexec {" ".join(real)} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    first, second = build.compile_library(), build.compile_library()
    assert first == second
    assert first.parent == fresh / "cache" / "glam_env"
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    assert sum("-o" in line.split() for line in counted.read_text().splitlines()) == 1
    assert isinstance(make_stepper(model), NativeStepper)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="options of that CPU")
@pytest.mark.parametrize(("option", "lanes"), [("-mno-avx512f", 8), ("-mno-avx", 4)])
def test_shorter_vectors_give_the_same_numbers(fresh, monkeypatch, option, lanes) -> None:
    """What other CPUs have; those that draw with 8-bit integers all have the long ones."""
    model = make_model()
    state = start(model)
    expected = play(DreamStepper(model), state, slice(None))
    monkeypatch.setenv("CXX", f"{' '.join(build.find_compiler())} {option}")
    assert layout()[0] <= lanes
    assert not can_draw()
    for one, other in zip(play(NativeStepper(model), state, slice(None)), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_without_a_compiler_auto_warns_once_and_pytorch_steps(fresh, monkeypatch, model) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(fresh))
    with pytest.warns(RuntimeWarning, match=r"no C\+\+ compiler found"):
        stepper = make_stepper(model)
    assert type(stepper) is DreamStepper
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(make_stepper(model)) is DreamStepper
    with pytest.raises(BuildError, match="no C"):
        make_stepper(model, backend="native")


def test_a_compiler_that_fails_is_quoted(fresh: Path, monkeypatch) -> None:
    compiler = fresh / "compiler"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho no room on device >&2\nexit 3\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(BuildError, match="no room on device"):
        build.compile_library()
    assert list(build.cache_folder().iterdir()) == []


def test_a_torn_library_is_named(fresh: Path) -> None:
    library = build.compile_library()
    library.write_bytes(library.read_bytes()[:200])
    with pytest.raises(BuildError, match=f"{library.name}.*remove it"):
        build.load_library()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_folder_that_cannot_be_written_is_named(fresh: Path) -> None:
    (fresh / "cache").mkdir(mode=0o500)
    with pytest.raises(BuildError, match="cannot write"):
        build.compile_library()


def test_sizes_that_do_not_suit_it_are_stepped_by_pytorch() -> None:
    deep = make_model(global_depth=2)
    assert type(make_stepper(deep)) is DreamStepper
    with pytest.raises(GlamError, match="backend 'auto' or 'torch'"):
        make_stepper(deep, backend="native")
