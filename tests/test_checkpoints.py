"""Checkpoint folders: a round trip, finding, older formats, and broken files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from glam_env.checkpoint import folder as checkpoints
from glam_env.checkpoint.config import FORMAT_VERSION, from_json, to_json
from glam_env.checkpoint.folder import (
    AGENT,
    CARD,
    CONFIG,
    CONTEXTS,
    WORLD_MODEL,
    Checkpoint,
    save_checkpoint,
    shipped_checkpoints,
    write_results,
)
from glam_env.errors import GlamError
from glam_env.evaluation.play.scores import play_of, stored_scores
from glam_env.training.config import TrainConfig
from glam_env.training.presets import PRESETS


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change config.json in place."""
    plain = json.loads((folder / CONFIG).read_text())
    edit(plain)
    (folder / CONFIG).write_text(json.dumps(plain))


def forge(folder: Path, name: str, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change tensors, and put size and hash of the new file into config.json."""
    tensors = safetensors.torch.load_file(folder / name)
    edit(tensors)
    safetensors.torch.save_file(tensors, folder / name)
    record(folder, name)


def record(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_config(folder, lambda plain: plain["files"].update({name: record}))


def load_everything(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    checkpoint.world_model()
    checkpoint.contexts()
    checkpoint.agent_state()


def refused(folder: Path) -> str:
    """Return the one line with which a folder is refused."""
    with pytest.raises(GlamError) as caught:
        load_everything(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


# --- round trip ----------------------------------------------------------------------------------


def test_what_is_saved_comes_back(
    tiny_checkpoint: Path, checkpoint_config, make_world_model, make_contexts
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    assert checkpoint.path == tiny_checkpoint
    assert replace(checkpoint.config, files={}) == checkpoint_config
    model = checkpoint.world_model()
    for name, value in make_world_model().export_state().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    contexts = checkpoint.contexts()
    assert torch.equal(contexts.codes, make_contexts().codes)
    assert torch.equal(contexts.actions, make_contexts().actions)
    assert torch.equal(checkpoint.agent_state()["actor.weight"], torch.arange(6.0).reshape(2, 3))
    assert {p.name for p in tiny_checkpoint.iterdir()} == {
        CONFIG,
        CARD,
        WORLD_MODEL,
        AGENT,
        CONTEXTS,
    }


def test_loading_draws_no_random_numbers(tiny_checkpoint: Path) -> None:
    before = torch.get_rng_state()
    Checkpoint.open(tiny_checkpoint).world_model()
    assert torch.equal(torch.get_rng_state(), before)


def test_bfloat16_halves_the_weights_and_loads_as_float32(
    tmp_path: Path, checkpoint_config, make_world_model, make_contexts
) -> None:
    folders = [
        save_checkpoint(
            tmp_path / dtype,
            config=checkpoint_config,
            world_model_state=make_world_model().export_state(),
            agent_state={},
            contexts=make_contexts(),
            card="",
            dtype=dtype,
        )
        for dtype in ("float32", "bfloat16")
    ]
    whole, half = ((folder / WORLD_MODEL).stat().st_size for folder in folders)
    assert half < 0.75 * whole  # the headers are not halved
    exact, rounded = (Checkpoint.open(folder).world_model().state_dict() for folder in folders)
    for name, value in exact.items():
        assert rounded[name].dtype == value.dtype
        if value.is_floating_point() and not name.startswith("variation_target"):
            torch.testing.assert_close(rounded[name], value, rtol=2**-8, atol=0.0)


@pytest.mark.parametrize("preset", PRESETS)
def test_any_dataclass_goes_through_json(preset: str) -> None:
    config = PRESETS[preset]
    assert from_json(TrainConfig, json.loads(json.dumps(to_json(config))), "here") == config


# --- finding -------------------------------------------------------------------------------------


def test_found_by_name_in_any_case_and_by_path(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(tiny_checkpoint.parent))
    assert shipped_checkpoints()["Pong"] == tiny_checkpoint
    assert Checkpoint.open("pong").path == Checkpoint.open("Pong").path == tiny_checkpoint
    assert Checkpoint.open(tiny_checkpoint).path == Checkpoint.open(str(tiny_checkpoint)).path
    monkeypatch.chdir(tiny_checkpoint.parent.parent)
    assert Checkpoint.open(tiny_checkpoint.parent.name + "/Pong").path.samefile(tiny_checkpoint)


def test_a_wheel_and_a_checkout_are_searched(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GLAM_CHECKPOINTS", raising=False)
    package = tmp_path / "site" / "glam_env"
    monkeypatch.setattr(checkpoints, "_PACKAGE", package)
    assert shipped_checkpoints() == {}
    checkout = package.parent / "checkpoints" / "Pong"
    checkout.parent.mkdir(parents=True)
    tiny_checkpoint.rename(checkout)
    assert Checkpoint.open("Pong").path == checkout
    wheel = package / "_checkpoints" / "Pong"
    wheel.parent.mkdir(parents=True)
    checkout.rename(wheel)
    assert Checkpoint.open("Pong").path == wheel


def test_a_game_without_a_checkpoint_says_how_to_make_one(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(tiny_checkpoint.parent))
    monkeypatch.setattr(checkpoints, "_PACKAGE", tiny_checkpoint / "nothing" / "here")
    with pytest.raises(GlamError, match=r"there is: Pong.*`glam train Frostbite`.*glam export"):
        Checkpoint.open("frostbite")


@pytest.mark.parametrize("name", ["Pnog", "/nowhere/Pong", "no/such/folder"])
def test_a_wrong_name_or_path_gets_one_line(name: str) -> None:
    with pytest.raises(GlamError) as caught:
        Checkpoint.open(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_opened_checkpoint_is_not_read_again(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    (tiny_checkpoint / CONFIG).unlink()
    assert Checkpoint.open(checkpoint) is checkpoint
    assert Checkpoint.open(checkpoint, game="Pong") is checkpoint
    assert checkpoint.contexts().count == checkpoint.config.contexts.count


def test_a_checkpoint_of_another_game_is_refused(tiny_checkpoint: Path) -> None:
    for name in (tiny_checkpoint, Checkpoint.open(tiny_checkpoint)):
        with pytest.raises(GlamError, match=r"is of Pong, not of Boxing"):
            Checkpoint.open(name, game="Boxing")


# --- broken files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CONFIG, WORLD_MODEL, AGENT, CONTEXTS])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "flipped"])
def test_a_damaged_file_is_refused(tiny_checkpoint: Path, name: str, damage: str) -> None:
    path = tiny_checkpoint / name
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        data[len(data) // 2] ^= 0x80
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2 if damage == "truncated" else 0])
    assert name in refused(tiny_checkpoint)


@pytest.mark.parametrize("name", [WORLD_MODEL, AGENT, CONTEXTS])
def test_what_is_no_safetensors_is_refused_even_with_the_right_hash(
    tiny_checkpoint: Path, name: str
) -> None:
    (tiny_checkpoint / name).write_bytes(b"\x80\x05 not a pickle to be run either")
    record(tiny_checkpoint, name)
    assert f"{name} is not a safetensors file" in refused(tiny_checkpoint)


WEIGHT = "prior.weight"
COUNTER = "encoder.convolutions.1.num_batches_tracked"


@pytest.mark.parametrize(
    ("name", "edit", "says"),
    [
        (WORLD_MODEL, lambda t: t.pop(WEIGHT), "missing"),
        (
            WORLD_MODEL,
            lambda t: t.update(extra=torch.zeros(1)),
            "'extra' is not part of this model",
        ),
        (WORLD_MODEL, lambda t: t.update({WEIGHT: torch.zeros(16, 17)}), "shape (16, 17)"),
        (WORLD_MODEL, lambda t: t.update({WEIGHT: torch.zeros(16)}), "shape (16,)"),
        (WORLD_MODEL, lambda t: t.update({WEIGHT: t[WEIGHT].double()}), "torch.float64"),
        (WORLD_MODEL, lambda t: t.update({WEIGHT: t[WEIGHT].int()}), "torch.int32"),
        (WORLD_MODEL, lambda t: t.update({COUNTER: torch.tensor(1.0)}), "torch.float32"),
        (WORLD_MODEL, lambda t: t[WEIGHT].fill_(float("nan")), "not finite"),
        (WORLD_MODEL, lambda t: t[WEIGHT][0, 0].fill_(float("inf")), "not finite"),
        (AGENT, lambda t: t["actor.weight"][0, 0].fill_(float("nan")), "not finite"),
        (CONTEXTS, lambda t: t.pop("actions"), "exactly codes and actions"),
        (CONTEXTS, lambda t: t.update(rewards=torch.zeros(20)), "exactly codes and actions"),
        (CONTEXTS, lambda t: t["codes"][3, 5].fill_(4), "codes holds 4"),
        (CONTEXTS, lambda t: t["actions"][3, 5].fill_(200), "actions holds 200"),
        (CONTEXTS, lambda t: t.update(codes=t["codes"].long()), "int64"),
        (CONTEXTS, lambda t: t.update(codes=t["codes"][:, 1:]), "codes has shape"),
        (
            CONTEXTS,
            lambda t: t.update(codes=t["codes"][:5], actions=t["actions"][:5]),
            "5 contexts",
        ),
        (CONTEXTS, lambda t: t.update(actions=t["actions"][:, 0]), "actions has shape"),
    ],
)
def test_a_forged_tensor_is_refused(tiny_checkpoint: Path, name: str, edit, says: str) -> None:
    def edit_contiguous(tensors: dict[str, torch.Tensor]) -> None:
        edit(tensors)
        tensors.update({k: v.contiguous() for k, v in tensors.items()})

    forge(tiny_checkpoint, name, edit_contiguous)
    message = refused(tiny_checkpoint)
    assert name in message
    assert says in message


def test_the_agent_is_held_to_what_its_class_expects(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    checkpoint.agent_state({"actor.weight": torch.zeros(2, 3)})
    with pytest.raises(GlamError, match=r"agent.safetensors.*actor.weight.*shape \(2, 3\)"):
        checkpoint.agent_state({"actor.weight": torch.zeros(3, 3)})


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda c: c.pop("format_version"), "a training run becomes a checkpoint with `glam"),
        (lambda c: c.update(format_version=5), "is 5, this glam-env reads 1, 2, 3 and 4; up"),
        (
            lambda c: c["files"]["agent.safetensors"].update(compression="zip"),
            "must be xz or empty",
        ),
        (lambda c: c.pop("game"), "'game' is missing"),
        (
            lambda c: c["world_model"].pop("num_actions"),
            "world_model: key 'num_actions' is missing",
        ),
        (lambda c: c["world_model"].update(depth=3), "unknown key 'depth'"),
        (lambda c: c["world_model"].update(width="16"), "width: expected int, got '16'"),
        (lambda c: c["world_model"].update(width=True), "width: expected int, got True"),
        (lambda c: c["world_model"].update(width=0), "world_model.width must be at least 1"),
        (lambda c: c["world_model"].update(width=32), "shape"),
        (
            lambda c: c["world_model"].update(core={"name": "glam", "local_window": 1}),
            "local_window must be at least 2",
        ),
        (lambda c: c["world_model"].update(classes=1000), "at most 256"),
        *(
            (
                lambda c, value=value: c["world_model"].update(unimix=value),
                "world_model.unimix must be in [1e-6, 1)",
            )
            for value in (0.0, -0.1, 1.0, 1.5)
        ),
        *(
            (
                lambda c, value=value: c["world_model"].update(draw_temperature=value),
                "world_model.draw_temperature must be finite",
            )
            for value in (0.0, -1.0)
        ),
        (lambda c: c["world_model"]["core"].update(name="gru"), "core.name must be one of"),
        (lambda c: c["world_model"]["core"].update(heads=3), "core: unknown key 'heads'"),
        (lambda c: c["world_model"].update(local_window=4), "unknown key 'local_window'"),
        (lambda c: c["world_model"].update(num_actions=7), "Pong has 6"),
        (lambda c: c.update(game="Tetris"), "no game of Atari 100k"),
        (
            lambda c: c.update(max_episode_steps=0),
            "max_episode_steps must be in [1, 1000000000], got 0",
        ),
        (lambda c: c.update(contexts=[]), "contexts: expected an object"),
        (lambda c: c.update(agent={}), "agent must name its class"),
        (lambda c: c["contexts"].update(count=21), "config.json says 21 of 16"),
        (lambda c: c["protocol"].update(repeat_action_probability=1.0), "must be in [0, 1)"),
        (lambda c: c["world_model"].update(width=10**12), "width must be at most 16384"),
        (lambda c: c["world_model"].update(stem=-1), "stem must be at least 1"),
        (lambda c: c["world_model"].update(width=2**63), "is too large a number"),
        (lambda c: c["world_model"]["core"].update(global_depth=10**5), "at most 65536"),
        (lambda c: c["world_model"]["core"].update(local_depth=33), "local_depth must be at most"),
        (lambda c: c["world_model"]["core"].update(expand=65), "core.expand must be at most 64"),
        (lambda c: c["world_model"].update(width=16_000, stem=1000), "weights; at most 67,108,864"),
        (lambda c: c.update(max_episode_steps=1e30), "max_episode_steps: expected int, got 1e+30"),
        (lambda c: c.update(max_episode_steps=10**10), "max_episode_steps must be in [1, 10000000"),
        (lambda c: c["contexts"].update(count=10**9), "take more than the possible"),
        (lambda c: c["results"].update(x=json.loads("[" * 33 + "]" * 33)), "more than 32 levels"),
        (lambda c: c["protocol"].update(noop_max=-1), "noop_max must be in [0,"),
        (lambda c: c["protocol"].update(frame_skip=2), "frame_skip is 2; this glam-env plays 4"),
        (lambda c: c["provenance"].update(hours=-1.0), "hours"),
        (lambda c: c["provenance"]["versions"].update(torch=2), "versions.torch: expected str"),
        (lambda c: c["files"].pop("agent.safetensors"), "files must name the three"),
        (lambda c: c["files"]["agent.safetensors"].update(bytes=1.5), "expected int, got 1.5"),
    ],
)
def test_a_wrong_config_value_is_refused(tiny_checkpoint: Path, edit, says: str) -> None:
    edit_config(tiny_checkpoint, edit)
    assert says in refused(tiny_checkpoint)


@pytest.mark.parametrize("name", ["unimix", "draw_temperature"])
@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_a_number_that_is_not_finite_is_refused(
    tiny_checkpoint: Path, name: str, number: str
) -> None:
    edit_config(tiny_checkpoint, lambda c: c["world_model"].update({name: "HERE"}))
    path = tiny_checkpoint / CONFIG
    path.write_text(path.read_text().replace('"HERE"', number))
    assert CONFIG in refused(tiny_checkpoint)


def as_format_1(plain: dict[str, Any]) -> None:
    """Rewrite a config of format 2 as the first version of glam-env wrote it."""
    core = plain["world_model"].pop("core")
    plain["world_model"] |= {name: value for name, value in core.items() if name != "name"}
    plain["format_version"] = 1


def test_format_2_is_read(tiny_checkpoint: Path) -> None:
    """It has neither compression nor 8-bit weights."""
    config = Checkpoint.open(tiny_checkpoint).config
    edit_config(tiny_checkpoint, lambda c: c.update(format_version=2))
    for name in (WORLD_MODEL, AGENT, CONTEXTS):
        edit_config(tiny_checkpoint, lambda c, name=name: c["files"][name].pop("compression"))
    assert Checkpoint.open(tiny_checkpoint).config == config
    load_everything(tiny_checkpoint)


def test_format_1_is_read_and_written_as_today_s(tiny_checkpoint: Path) -> None:
    config = Checkpoint.open(tiny_checkpoint).config
    edit_config(tiny_checkpoint, as_format_1)
    old = Checkpoint.open(tiny_checkpoint)
    assert old.config == config
    load_everything(tiny_checkpoint)
    write_results(tiny_checkpoint, replace(old.config, results={"score": 1}), card="")
    plain = json.loads((tiny_checkpoint / CONFIG).read_text())
    assert plain["format_version"] == FORMAT_VERSION
    assert plain["world_model"]["core"]["name"] == "glam"
    assert Checkpoint.open(tiny_checkpoint).config == replace(config, results={"score": 1})


def test_the_config_of_the_first_shipped_pong_opens(tmp_path: Path) -> None:
    text = (Path(__file__).parent / "data" / "pong_config_of_0_1.json").read_text()
    (tmp_path / CONFIG).write_text(text)
    plain = json.loads(text)
    assert plain["format_version"] == 1
    config = Checkpoint.open(tmp_path).config
    (score,) = stored_scores(config.results)
    assert (score["mean"], play_of(score).protocol) == (19.95, "atari100k")
    assert config.provenance.real_steps == 1_035_008
    core = config.world_model.core
    assert core.name == "glam"
    for field in dataclasses.fields(core):
        if field.name != "name":
            assert getattr(core, field.name) == plain["world_model"][field.name]


def test_a_field_with_a_default_may_be_absent(tiny_checkpoint: Path) -> None:
    config = Checkpoint.open(tiny_checkpoint).config
    edit_config(tiny_checkpoint, lambda c: c["world_model"].pop("unimix"))
    edit_config(tiny_checkpoint, lambda c: c["provenance"].pop("note"))
    edit_config(tiny_checkpoint, lambda c: c.pop("results"))
    assert Checkpoint.open(tiny_checkpoint).config == config


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format_version": NaN}', "\x00"])
def test_a_config_that_is_no_json_object_is_refused(tiny_checkpoint: Path, text: str) -> None:
    (tiny_checkpoint / CONFIG).write_text(text)
    assert CONFIG in refused(tiny_checkpoint)


# --- completely or not at all --------------------------------------------------------------------


@pytest.fixture
def save_again(checkpoint_config, make_world_model, make_contexts) -> Callable[..., Path]:
    """Save a second checkpoint, with another card and agent."""

    def save(folder: Path, **changes: Any) -> Path:
        arguments: dict[str, Any] = {
            "config": checkpoint_config,
            "world_model_state": make_world_model().export_state(),
            "agent_state": {"actor.weight": torch.ones(2, 3)},
            "contexts": make_contexts(),
            "card": "# Second\n",
        }
        return save_checkpoint(folder, **(arguments | changes))

    return save


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_second_save_replaces_the_first_and_keeps_other_files(
    tiny_checkpoint: Path, save_again
) -> None:
    (tiny_checkpoint / "dream.gif").write_bytes(b"GIF89a")
    save_again(tiny_checkpoint)
    load_everything(tiny_checkpoint)
    assert (tiny_checkpoint / "CARD.md").read_text() == "# Second\n"
    assert (tiny_checkpoint / "dream.gif").read_bytes() == b"GIF89a"
    assert bool((Checkpoint.open(tiny_checkpoint).agent_state()["actor.weight"] == 1).all())
    assert [p.name for p in tiny_checkpoint.parent.iterdir()] == ["Pong"]


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("fails_at", range(1, 11))
def test_a_save_that_fails_leaves_the_old_checkpoint(
    tiny_checkpoint: Path,
    save_again,
    monkeypatch: pytest.MonkeyPatch,
    fails_at: int,
    exchanges: bool,
) -> None:
    """The disk fails at each call in turn: five files, three folders, two renames."""
    last = 8 if exchanges else 10
    if fails_at > last:
        pytest.skip("an exchange needs no renames")
    if not exchanges:
        monkeypatch.setattr("glam_env.checkpoint.replace._exchange", lambda one, other: False)
    before = snapshot(tiny_checkpoint)
    calls = 0

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise OSError(28, "No space left on device")
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(Path, "rename", failing(Path.rename))
    monkeypatch.setattr(Path, "mkdir", failing(Path.mkdir))
    with pytest.raises(GlamError, match="No space left on device"):
        save_again(tiny_checkpoint)
    monkeypatch.undo()
    if fails_at < last:
        assert snapshot(tiny_checkpoint) == before
    else:  # after the exchange, while the parent folder is flushed: the new one is in place
        assert (tiny_checkpoint / "CARD.md").read_text() == "# Second\n"
    load_everything(tiny_checkpoint)
    save_again(tiny_checkpoint)
    assert (tiny_checkpoint / "CARD.md").read_text() == "# Second\n"
    assert [p.name for p in tiny_checkpoint.parent.iterdir()] == ["Pong"]


def test_a_save_killed_between_the_renames_loses_nothing(tiny_checkpoint: Path, save_again) -> None:
    before = snapshot(tiny_checkpoint)
    tiny_checkpoint.rename(tiny_checkpoint.with_name(".Pong.old"))
    with pytest.raises(GlamError, match="not finite"):
        save_again(tiny_checkpoint, agent_state={"x": torch.tensor([float("nan")])})
    assert snapshot(tiny_checkpoint.with_name(".Pong.old")) == before
    save_again(tiny_checkpoint)
    load_everything(tiny_checkpoint)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"agent_state": {"x": torch.tensor([float("inf")])}}, "not finite"),
        ({"world_model_state": {}}, "missing"),
        ({"dtype": "float8"}, "dtype must be one of int8, bfloat16, float32"),
    ],
)
def test_what_a_load_would_refuse_is_not_saved(
    tiny_checkpoint: Path, save_again, changes: dict[str, Any], says: str
) -> None:
    before = snapshot(tiny_checkpoint)
    with pytest.raises(GlamError, match=says):
        save_again(tiny_checkpoint, **changes)
    assert snapshot(tiny_checkpoint) == before


def test_more_contexts_than_the_config_says_are_not_saved(
    tmp_path: Path, save_again, make_contexts
) -> None:
    with pytest.raises(GlamError, match="holds 21 contexts"):
        save_again(tmp_path / "new", contexts=make_contexts(count=21))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path, save_again) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(GlamError, match="is not empty and holds no checkpoint"):
        save_again(tmp_path)
    assert snapshot(tmp_path) == {"diary.txt": b"mine"}


def test_an_unwritable_place_gets_one_line(tmp_path: Path, save_again) -> None:
    (tmp_path / "file").write_text("")  # unlike permissions, this stops root too
    for place in (tmp_path / "file", tmp_path / "file" / "Pong"):
        with pytest.raises(GlamError, match=r"cannot write .*; make its parent folder writable"):
            save_again(place)
