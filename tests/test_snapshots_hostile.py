"""Snapshots that were altered, or come from elsewhere: one clear error, and nothing has moved."""

from __future__ import annotations

import copy
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparison import assert_same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_checkpoint import TINY

from glam_env.checkpoint.folder import save_checkpoint
from glam_env.envs.dream.engine import EngineDraws, EngineState
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.envs.dream.snapshot import DreamSnapshot
from glam_env.errors import GlamError
from glam_env.fast import choose
from glam_env.model.cores.glam import GlamConfig, GlamState
from glam_env.model.structures import DreamState

pytestmark = pytest.mark.filterwarnings("ignore:.*(quantiz|nested tensors).*:UserWarning")

E = 3
GIGABYTE = 1 << 20  # in KB
CASES = int(os.environ.get("GLAM_FUZZ_CASES", "300"))  # for each backend
BACKENDS = ["torch", *([] if choose.missing() else ["native"])]


@pytest.fixture(scope="module", params=BACKENDS)
def envs(saved_checkpoint: Path, request: pytest.FixtureRequest) -> Iterator[DreamVectorEnv]:
    made = DreamVectorEnv(
        "Pong", E, checkpoint=str(saved_checkpoint), device="cpu", backend=request.param
    )
    made.reset(seed=0)
    made.step(np.arange(E))
    yield made
    made.close()


@pytest.fixture
def state(envs: DreamVectorEnv) -> DreamSnapshot:
    """Return a snapshot of dreams that go on."""
    envs.reset(seed=0)
    return envs.get_state()


def test_another_window_is_another_world_although_the_weights_are_the_same(
    envs, state, tmp_path, checkpoint_config, make_world_model, make_contexts
) -> None:
    """Its state is larger, and was once read as that of the env."""
    wider = replace(TINY, core=GlamConfig(local_window=9))
    elsewhere = save_checkpoint(
        tmp_path / "Pong",
        config=replace(checkpoint_config, world_model=wider),
        world_model_state=make_world_model().export_state(),
        agent_state={},
        contexts=make_contexts(),
        card="",
    )
    other = DreamVectorEnv("Pong", E, checkpoint=str(elsewhere), device="cpu")
    other.reset(seed=0)
    for one, foreign in ((envs, other.get_state()), (other, state)):
        with pytest.raises(GlamError, match="of another world model"):
            one.set_state(foreign)
    disguised = replace(other.get_state(), world=state.world)
    with pytest.raises(GlamError, match=r"dream\.core\.window must be torch\.float32 of shape"):
        envs.set_state(disguised)
    other.close()


# --- parts -------------------------------------------------------------------------------------

Alter = Callable[[Any], Any]
Place = tuple[str, ...]

FLOATS: list[Place] = [("engine", "dream", "h")]
FLOATS += [("engine", "dream", "core", name) for name in GlamState._fields]
INTEGERS: list[Place] = [
    ("engine", "dream", "code"),
    ("engine", "steps"),
    ("draws", "starts_drawn"),
]
TENSORS = [*FLOATS, *INTEGERS, ("done",), ("frames",), ("draws", "generator")]
TREES: list[Place] = [
    ("engine",),
    ("engine", "dream"),
    ("engine", "dream", "core"),
    ("draws",),
    ("draws", "start_key"),
    ("world",),
]


def read(tree: Any, place: Place) -> Any:
    for name in place:
        tree = getattr(tree, name, None)
    return tree


def altered(tree: Any, place: Place, value: Any) -> Any:
    """Return a snapshot with another value in one place; the same if the place is gone."""
    if not place:
        return value
    name, *rest = place
    if not hasattr(tree, name):
        return tree
    changed = {name: altered(getattr(tree, name), tuple(rest), value)}
    if isinstance(tree, DreamSnapshot):
        return replace(tree, **changed)
    return tree._replace(**changed) if hasattr(tree, "_replace") else tree


def without_memory(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def with_first(value: Any) -> Alter:
    def change(x: torch.Tensor) -> torch.Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        x.view(-1)[:1] = value
        return x

    return change


def repeated(*shape: int) -> Alter:
    """Return another shape that takes no memory."""
    return lambda x: x.new_zeros(1).expand(*shape)


SHAPES: dict[str, Alter] = {
    "no rows": lambda x: x[:0],
    "fewer rows": lambda x: x[:-1],
    "more rows": lambda x: torch.cat([x, x]),
    "a dimension more": lambda x: x[..., None],
    "a dimension less": lambda x: x.flatten(),
    "a number": lambda x: x.flatten()[0],
    "no columns": lambda x: x[..., :0],
    "wide": lambda x: torch.cat([x, x], -1),
    "turned": lambda x: x.mT if x.ndim > 1 else x[None],
    "huge": repeated(E, 1 << 40),
    "huge rows": repeated(1 << 40),
}
TYPES: dict[str, Alter] = {
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "int8": lambda x: x.to(torch.int8),
    "int32": lambda x: x.int(),
    "complex": lambda x: x.to(torch.complex64),
    "quantised": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "nested": lambda x: torch.nested.nested_tensor([row.float() for row in x]),
    "a parameter": lambda x: torch.nn.Parameter(x.float()),
    "memory shared by rows": lambda x: x[:1].expand(len(x), *x.shape[1:]),
    "no memory": without_memory,
    "an array": lambda x: x.numpy(),
    "a list": lambda x: x.tolist(),
    "none": lambda x: None,
    "text": lambda x: "abc",
    "a number of Python": lambda x: 5,
    "a dict": lambda x: {"x": x},
}
VALUES: dict[str, Alter] = {
    "nan": lambda x: with_first(float("nan"))(x.float()).to(x.dtype),
    "infinite": lambda x: with_first(float("inf"))(x.float()).to(x.dtype),
    "large": with_first(100),
    "negative": lambda x: with_first(-1)(x.long()).to(x.dtype),
    "largest": lambda x: with_first(
        torch.finfo(x.dtype).max if x.is_floating_point() else 2**63 - 1
    )(x if x.is_floating_point() else x.long()),
}


def endless() -> list:
    """Return a list that contains itself."""
    found: list = []
    found.append(found)
    return found


OBJECTS: dict[str, Alter] = {
    "none": lambda x: None,
    "an empty tuple": lambda x: (),
    "a tuple": lambda x: tuple(x) if isinstance(x, tuple) else (x, x),
    "a list without end": lambda x: endless(),
    "a number of Python": lambda x: 1 << 200,
    "a fraction": lambda x: 0.5,
    "text": lambda x: "abc",
    "too few": lambda x: tuple.__new__(type(x), tuple(x)[:1]) if isinstance(x, tuple) else b"",
    "too many": lambda x: tuple.__new__(type(x), (*x, None)) if isinstance(x, tuple) else [1],
    "a dict": lambda x: {},
}


def refused(envs: DreamVectorEnv, state: Any) -> None:
    with pytest.raises(GlamError) as caught:
        envs.set_state(state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", TENSORS, ids=".".join)
@pytest.mark.parametrize("kind", [*SHAPES, *TYPES])
def test_a_part_of_another_shape_or_type_is_refused_and_nothing_moves(
    envs, state, place, kind
) -> None:
    part = read(state, place)
    change = (SHAPES | TYPES)[kind]
    try:
        wrong = change(part.clone())
    except RuntimeError:
        pytest.skip("there is no such tensor")
    if wrong is None and place in (("frames",), ("draws",)):
        pytest.skip("it may be left out")
    if is_the_same(wrong, part):
        pytest.skip("it is the same")
    before = envs.get_state()
    refused(envs, altered(state, place, wrong))
    assert_same(
        [part.numpy() for part in parts_of(envs.get_state())],
        [part.numpy() for part in parts_of(before)],
    )


def is_the_same(x: Any, part: torch.Tensor) -> bool:
    """Return whether x is a tensor like the part, such as one of int64 after a change to int64."""
    if type(x) is not torch.Tensor or x.is_nested or x.layout is not torch.strided:
        return False
    if (x.device, x.shape, x.dtype) != (part.device, part.shape, part.dtype):
        return False
    return x.untyped_storage().nbytes() >= part.numel() * part.element_size()


def parts_of(state: DreamSnapshot) -> list[torch.Tensor]:
    found = [read(state, place) for place in TENSORS]
    assert all(isinstance(part, torch.Tensor) for part in found)
    return found


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        *((place, kind) for place in FLOATS for kind in ("nan", "infinite")),
        *((place, kind) for place in INTEGERS for kind in ("negative", "largest")),
        (("engine", "dream", "code"), "large"),
    ],
)
def test_numbers_that_no_dream_has_are_refused(envs, state, place, kind) -> None:
    refused(envs, altered(state, place, VALUES[kind](read(state, place))))


@pytest.mark.parametrize("place", TREES, ids=".".join)
@pytest.mark.parametrize("kind", OBJECTS)
def test_another_structure_is_refused(envs, state, place, kind) -> None:
    wrong = OBJECTS[kind](read(state, place))
    if place == ("draws",) and wrong is None:
        pytest.skip("draws may be left out")
    refused(envs, altered(state, place, wrong))


def test_a_generator_s_state_of_other_bytes_is_refused(envs, state) -> None:
    wrong = torch.full_like(state.draws.generator, 255)
    refused(envs, altered(state, ("draws", "generator"), wrong))


def test_whoever_trains_through_a_state_gets_no_gradients_in_the_env(envs, state) -> None:
    """A tensor may require gradients: what the env makes of it does not."""
    h = state.engine.dream.h.clone().requires_grad_()
    envs.set_state(altered(state, ("engine", "dream", "h"), h))
    assert not any(part.requires_grad for part in parts_of(envs.get_state()))


@pytest.mark.parametrize(
    "use",
    [
        lambda state: state.rows([0]),
        lambda state: state.to("cpu"),
    ],
    ids=["rows", "to"],
)
@pytest.mark.parametrize("kind", ["fewer rows", "huge", "sparse", "meta", "text", "no memory"])
def test_a_damaged_snapshot_has_no_rows_and_does_not_move(state, use, kind) -> None:
    place = ("engine", "dream", "core", "ssm")
    wrong = altered(state, place, (SHAPES | TYPES)[kind](read(state, place)))
    with pytest.raises(GlamError, match="the snapshot is damaged"):
        use(wrong)


@pytest.mark.parametrize("index", [torch.tensor([0]).to("meta"), torch.tensor([1]).to_sparse()])
def test_an_index_without_numbers_is_refused(state, index) -> None:
    with pytest.raises(GlamError, match="must be a dense tensor with numbers"):
        state.rows(index)


def test_an_index_of_any_integers_is_read(state) -> None:
    for kind in (np.uint16, np.uint32, np.uint64):
        assert torch.equal(state.rows(np.array([2], kind)).done, state.done[2:])


def test_a_device_that_is_not_there_gets_one_line(state) -> None:
    with pytest.raises(GlamError, match="cannot be used here"):
        state.to("nowhere")


# --- fuzzing -----------------------------------------------------------------------------------


@st.composite
def alterations(draw: st.DrawFn) -> list[tuple[Place, Alter]]:
    """Return one to three changes of a snapshot, of any part and kind."""

    def one() -> tuple[Place, Alter]:
        if draw(st.integers(0, 4)) == 0:
            return draw(st.sampled_from(TREES)), draw(st.sampled_from(list(OBJECTS.values())))
        changes = [*SHAPES.values(), *TYPES.values(), *VALUES.values(), *VALUES.values()]
        return draw(st.sampled_from(TENSORS)), draw(st.sampled_from(changes))

    return [one() for _ in range(draw(st.integers(1, 3)))]


@pytest.fixture(scope="module", params=BACKENDS)
def latents(saved_checkpoint: Path, request: pytest.FixtureRequest) -> Iterator[DreamVectorEnv]:
    """Make dreams without frames, which are faster; a snapshot of them may have frames."""
    made = DreamVectorEnv(
        "Pong",
        E,
        checkpoint=str(saved_checkpoint),
        device="cpu",
        obs_type="latent",
        backend=request.param,
    )
    yield made
    made.close()


@settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(alterations(), st.lists(st.integers(0, 5), min_size=E, max_size=E))
def test_no_alteration_crashes_or_gets_anything_but_a_glam_error(latents, changes, actions) -> None:
    """What is accepted is stepped; more than a GB is never taken."""
    envs = latents
    envs.reset(seed=0)
    frames = torch.zeros(E, 64, 64, 3, dtype=torch.uint8)
    whole = state = replace(envs.get_state(), frames=frames)
    for place, change in changes:
        with suppress(RuntimeError, TypeError, AttributeError, ValueError, IndexError):  # none such
            # Of the whole one: to read a tensor without memory would crash the test itself.
            state = altered(state, place, change(read(whole, place)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    uses: list[Callable[[], Any]] = [
        lambda: state.rows([1, 1]),
        lambda: state.to("cpu"),
        lambda: envs.set_state(state),
        lambda: envs.step(np.array(actions)),
        lambda: envs.set_state(copy.deepcopy(envs.get_state())),
        lambda: envs.step(np.array(actions)),
    ]
    for use in uses:
        with suppress(GlamError):
            use()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIGABYTE


def test_the_names_of_the_parts_are_those_of_a_snapshot() -> None:
    """Else the tests above would alter nothing."""
    names = {name for place in TENSORS for name in place}
    assert names >= {*DreamState._fields, *GlamState._fields, "steps", "done", "frames"}
    assert {*EngineState._fields} <= {name for place in [*TENSORS, *TREES] for name in place}
    assert {*EngineDraws._fields} <= {name for place in [*TENSORS, *TREES] for name in place}
