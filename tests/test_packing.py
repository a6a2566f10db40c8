"""Stored tensors: 8-bit weights and their scales, compression, and files that are neither."""

import json
import lzma
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import load as load_plain

from glam_env.checkpoint.config import ContextsConfig
from glam_env.checkpoint.contexts import Contexts
from glam_env.checkpoint.folder import Checkpoint, save_checkpoint, write_results
from glam_env.checkpoint.packing import DTYPES, as_stored, compression_of, pack, unpack
from glam_env.errors import GlamError
from glam_env.model.config import WorldModelConfig
from glam_env.model.world_model import WorldModel


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 128, generator=generator) * torch.logspace(-4, 2, 64)[:, None]
    weight[3] = 0.0
    return {
        "layer.weight": weight,
        "kernel.weight": torch.randn(32, 16, 4, 4, generator=generator),
        "norm.weight": torch.rand(5000, generator=generator),  # a vector
        "small.weight": torch.randn(3, 5, generator=generator),
        "A_log": torch.rand(64, 128, generator=generator),  # no weight of a layer
        "layer.scale": torch.rand(7, generator=generator),  # a name that packing uses, too
        "steps": torch.tensor(7),
    }


LARGE = ("layer.weight", "kernel.weight")


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_packed_comes_back_rounded_as_said(dtype):
    given = tensors()
    read = unpack(pack(given, dtype), compression_of(dtype))
    expected = as_stored(given, dtype)
    assert read.keys() == given.keys()
    for name, value in read.items():
        assert torch.equal(value.to(given[name].dtype), expected[name]), name
    if dtype == "float32":
        assert all(torch.equal(read[name], value) for name, value in given.items())


def test_large_weights_have_8_bits_for_each_row():
    """The error is at most half a step, of which a row's largest number has 127."""
    given, read = tensors(), unpack(pack(tensors(), "int8"), "xz")
    for name in LARGE:
        rows, error = given[name].flatten(1), (read[name] - given[name]).flatten(1).abs()
        step = rows.abs().amax(1, keepdim=True) / 127
        assert (error <= 0.501 * step).all()
        assert error.max() > 0
    stored = load_plain(lzma.decompress(pack(given, "int8")))
    numbers = {name for name, value in stored.items() if value.dtype == torch.int8}
    assert numbers == set(LARGE)
    assert stored["layer.weight.scale"].shape == (64,)
    for name in ("norm.weight", "small.weight", "A_log", "layer.scale"):
        assert stored[name].dtype == torch.bfloat16
    assert stored["steps"].dtype == torch.int64


def test_weights_of_more_than_a_million_numbers_have_6_bits():
    generator = torch.Generator().manual_seed(0)
    given = {
        "many.weight": torch.randn(1025, 1024, generator=generator),
        "fewer.weight": torch.randn(1024, 1024, generator=generator),
    }
    data = pack(given, "int8")
    read, stored = unpack(data, "xz"), load_plain(lzma.decompress(data))
    for name, levels in (("many.weight", 31), ("fewer.weight", 127)):
        assert stored[name].abs().max() == levels
        step = given[name].abs().amax(1, keepdim=True) / levels
        assert ((read[name] - given[name]).abs() <= 0.501 * step).all()
    bits = (
        8 * len(pack({"many.weight": given["many.weight"]}, "int8")) / given["many.weight"].numel()
    )
    assert bits < 6


def test_a_row_of_zeros_stays_zero():
    assert (unpack(pack(tensors(), "int8"), "xz")["layer.weight"][3] == 0).all()


def test_rounding_twice_changes_nothing():
    once = as_stored(tensors(), "int8")
    twice = as_stored(once, "int8")
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value, rtol=1e-6, atol=0.0)


def edited(edit) -> bytes:
    stored = load_plain(lzma.decompress(pack(tensors(), "int8")))
    edit(stored)
    return lzma.compress(safetensors.torch.save(stored))


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: t.update({"layer.weight.scale": torch.ones(63)}),
        lambda t: t.update({"layer.weight.scale": torch.ones(64, 1)}),
        lambda t: t.update({"layer.weight.scale": torch.ones(64, dtype=torch.float64)}),
        lambda t: t.update({"layer.weight": torch.ones(64, dtype=torch.int8)}),
    ],
)
def test_scales_that_do_not_fit_are_refused(edit):
    with pytest.raises(ValueError, match=r"no float32 scale for each row of .*'layer.weight'"):
        unpack(edited(edit), "xz")


@pytest.mark.parametrize("damage", ["cut", "flipped", "plain", "empty"])
def test_damaged_compression_is_refused(damage):
    data = bytearray(pack(tensors(), "int8"))
    if damage == "flipped":
        data[len(data) // 2] ^= 0x80
    broken = {"cut": data[:-9], "plain": b"\x08" + bytes(40), "empty": b""}.get(damage, data)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        unpack(bytes(broken), "xz")


def test_a_file_that_expands_without_end_is_refused():
    with pytest.raises(ValueError, match="cut off or too long"):
        unpack(pack(tensors(), "int8"), "xz", most=1000)


def test_a_file_that_asks_for_much_memory_is_refused():
    greedy = lzma.compress(b"numbers", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}])
    with pytest.raises(ValueError, match="Memory usage limit"):
        unpack(greedy, "xz")


# --- checkpoints ---------------------------------------------------------------------------------

SIZES = WorldModelConfig(num_actions=6, stem=16, width=128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, checkpoint_config) -> Path:
    """A checkpoint of the sizes of `small` with random weights, 1024 contexts and a large agent."""
    torch.manual_seed(0)
    contexts = Contexts(
        torch.randint(4, (1024, 17, 32), dtype=torch.uint8),
        torch.randint(6, (1024, 16), dtype=torch.uint8),
    )
    return save_checkpoint(
        tmp_path_factory.mktemp("packed") / "Pong",
        config=replace(
            checkpoint_config, world_model=SIZES, contexts=ContextsConfig(contexts.count, 16)
        ),
        world_model_state=WorldModel(SIZES).export_state(),
        agent_state={"actor.weight": torch.randn(512, 1152)},
        contexts=contexts,
        card="",
        dtype="int8",
    )


def test_a_checkpoint_in_8_bits_opens_as_float32(folder):
    checkpoint = Checkpoint.open(folder)
    model = checkpoint.world_model()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert checkpoint.agent_state()["actor.weight"].dtype == torch.float32
    assert checkpoint.contexts().count == 1024
    names = {path.name for path in folder.iterdir()}
    parts = {f"{part}.safetensors.xz" for part in ("world_model", "agent", "contexts")}
    assert names == {"config.json", "CARD.md", *parts}
    numbers = sum(p.numel() for p in model.parameters()) + 512 * 1152
    assert sum((folder / part).stat().st_size for part in parts) < 1.15 * numbers


def test_its_results_can_be_replaced(folder):
    config = Checkpoint.open(folder).config
    write_results(folder, replace(config, results={"scores": []}), card="# New\n")
    after = Checkpoint.open(folder)
    assert after.config.results == {"scores": []}
    after.world_model()
    assert (folder / "CARD.md").read_text() == "# New\n"


def test_another_export_leaves_no_file_of_the_old_one(
    tiny_checkpoint, checkpoint_config, make_world_model, make_contexts
):
    for dtype, end in (("int8", ".safetensors.xz"), ("bfloat16", ".safetensors")):
        save_checkpoint(
            tiny_checkpoint,
            config=checkpoint_config,
            world_model_state=make_world_model().export_state(),
            agent_state={},
            contexts=make_contexts(),
            card="",
            dtype=dtype,
        )
        parts = {f"{part}{end}" for part in ("world_model", "agent", "contexts")}
        names = {path.name for path in tiny_checkpoint.iterdir()}
        assert names == {"config.json", "CARD.md", *parts}
        Checkpoint.open(tiny_checkpoint).world_model()


@pytest.mark.parametrize("part", ["world_model", "agent", "contexts"])
def test_damage_names_the_compressed_file(folder, part, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "Pong"))
    path = copy / f"{part}.safetensors.xz"
    path.write_bytes(path.read_bytes()[:-100])
    checkpoint = Checkpoint.open(copy)
    read = getattr(checkpoint, "agent_state" if part == "agent" else part)
    with pytest.raises(GlamError, match=f"{part}.safetensors.xz has .* bytes where"):
        read()
    config = json.loads((copy / "config.json").read_text())
    assert config["files"][f"{part}.safetensors"]["compression"] == "xz"
