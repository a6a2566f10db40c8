"""The ONNX files of a game compute what PyTorch computes, and hold nothing of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from glam_env.checkpoint.folder import Checkpoint, save_checkpoint
from glam_env.checkpoint.packing import LEAST
from glam_env.cli.main import main
from glam_env.cli.trained import Trained, load_trained
from glam_env.envs.dream.pool import draw_frames
from glam_env.fast.plain import ModelStepper
from glam_env.model.config import WorldModelConfig
from glam_env.model.distributions import sample_at
from glam_env.model.reward_values import RewardValues
from glam_env.model.structures import DreamState, tree_tensors
from glam_env.model.world_model import WorldModel
from glam_env.onnx import convert
from glam_env.onnx.export import read_states
from glam_env.onnx.graphs import DrawGraph
from glam_env.onnx.starts import context_states, joined

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

STARTS, STEPS = 10, {"bfloat16": 200, "int8": 60}


SLOW = pytest.param("bfloat16", marks=pytest.mark.slow)  # what is shipped has weights in 8 bits


@pytest.fixture(scope="module", params=[SLOW, "int8"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def source(dtype: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pong with weights in bfloat16, Boxing with large ones in 8 bits, as `glam export` does."""
    if dtype == "int8":
        return "Boxing"
    shipped = Checkpoint.open("Pong")
    folder = save_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "Pong",
        config=shipped.config,
        world_model_state=shipped.world_model().export_state(),
        agent_state=shipped.agent_state(),
        contexts=shipped.contexts(),
        card="",
        dtype=dtype,
    )
    return str(folder)


@pytest.fixture(scope="module")
def folder(source: str, tmp_path_factory: pytest.TempPathFactory, onnx_once: None) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "files"
    assert main(["export", source, "--onnx", str(folder), "--starts", str(STARTS)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(source: str) -> Trained:
    return load_trained(source, "cpu")


@pytest.fixture(scope="module")
def sessions(folder: Path) -> dict[str, ort.InferenceSession]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return {
        name: ort.InferenceSession(folder / f"{name}.onnx", options)
        for name in ("step", "draw", "agent")
    }


@pytest.fixture(scope="module")
def starts(trained: Trained, source: str) -> DreamState:
    contexts = Checkpoint.open(source).contexts()
    return joined(context_states(trained.world_model, contexts, STARTS))


def numpy_state(state: DreamState, names: list[str]) -> dict[str, np.ndarray]:
    parts = [state.code.int(), state.h, *tree_tensors(state.core)]
    return {name: part.numpy() for name, part in zip(names, parts, strict=True)}


def read_starts(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    manifest = json.loads((folder / "manifest.json").read_text())
    return manifest, read_states(manifest, (folder / "starts.bin").read_bytes())


def test_the_start_states_are_those_of_the_contexts(folder: Path, starts: DreamState) -> None:
    manifest, found = read_starts(folder)
    assert manifest["starts"] == STARTS
    for name, expected in numpy_state(starts, list(found)).items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_step_and_drawing_are_those_of_pytorch(
    folder: Path,
    trained: Trained,
    sessions: dict[str, ort.InferenceSession],
    starts: DreamState,
    dtype: str,
) -> None:
    """Both sides dream on their own, from the same starts with the same actions and draws."""
    steps = STEPS[dtype]
    model = trained.world_model
    values = RewardValues(model.reward_code, trained.reward_values)
    stepper, generator = ModelStepper(model), torch.Generator().manual_seed(3)
    _, given = read_starts(folder)
    core = [name for name in given if name.startswith("core.")]
    torch_state, code = starts, given.pop("code")
    given.pop("h")
    errors = dict.fromkeys(("expected reward", "frame", "entropy", "h"), 0.0)
    points = 0
    for t in range(steps):
        action = torch.randint(model.config.num_actions, (STARTS,), generator=generator)
        draw = torch.rand(code.shape, generator=generator)
        reward_draw = torch.rand(STARTS, generator=generator)
        draws = {"draw": draw.numpy(), "reward_draw": reward_draw.numpy()}
        feeds = {"code": code, "action": action.int().numpy(), **draws, **given}
        names = [output.name for output in sessions["step"].get_outputs()]
        out = dict(zip(names, sessions["step"].run(None, feeds), strict=True))
        step = stepper.step(torch_state, action, draw)
        torch_state, code = step.state, out["next.code"]
        given = {name: out[f"next.{name}"] for name in core}
        np.testing.assert_array_equal(code, step.state.code.numpy(), err_msg=f"step {t}")
        drawn = values.sample(step.reward_logits, reward_draw).numpy()
        np.testing.assert_array_equal(out["reward"], drawn)
        points += int((drawn != 0).sum())
        chance = step.termination_logit.sigmoid().numpy()
        np.testing.assert_allclose(out["end_probability"], chance, atol=1e-4)
        (frame,) = sessions["draw"].run(None, {"code": code})
        expected = draw_frames(model, step.state.code).numpy()
        pairs = {
            "expected reward": (out["expected_reward"], values.mean(step.reward_logits).numpy()),
            "frame": (frame.astype(np.int16), expected.astype(np.int16)),
            "entropy": (out["prior_entropy"], step.prior_entropy.numpy()),
            "h": (out["next.h"], step.state.h.numpy()),
        }
        for name, (found, right) in pairs.items():
            errors[name] = max(errors[name], float(np.abs(found - right).max()))
    print(f"largest differences over {STARTS} starts of {steps} steps: {errors}; {points} points")
    assert points > 0, "no reward was compared"
    assert errors["expected reward"] <= 1e-4
    assert errors["frame"] <= 1
    assert errors["entropy"] <= 1e-2
    assert errors["h"] <= 1e-3


def test_the_agent_is_that_of_pytorch(
    trained: Trained, sessions: dict[str, ort.InferenceSession], starts: DreamState
) -> None:
    draw = torch.rand(STARTS, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        logits = trained.agent.actor(trained.world_model.features(starts))  # type: ignore[attr-defined]
    feeds = {"code": starts.code.int().numpy(), "h": starts.h.numpy(), "draw": draw.numpy()}
    action, probabilities = sessions["agent"].run(None, feeds)
    np.testing.assert_allclose(probabilities, logits.softmax(-1).numpy(), atol=1e-5)
    np.testing.assert_array_equal(action, sample_at(logits, draw).numpy())
    assert len(set(action.tolist())) > 1


def test_large_weights_in_8_bits_stay_so(dtype: str, folder: Path) -> None:
    import onnx
    from onnx import TensorProto

    stored = [
        tensor
        for name in ("step", "draw", "agent")
        for tensor in onnx.load(folder / f"{name}.onnx").graph.initializer
        if np.prod(tensor.dims) >= LEAST and len(tensor.dims) > 1
    ]
    kinds = {tensor.name: TensorProto.DataType.Name(tensor.data_type) for tensor in stored}
    size = sum(path.stat().st_size for path in folder.glob("*.onnx"))
    print(f"{dtype}: {size / 1e6:.2f} MB of graphs")
    assert ("INT8" in kinds.values()) == (dtype == "int8")


def test_the_manifest_describes_the_files(folder: Path) -> None:
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_text())
    assert {path.name for path in folder.iterdir()} == {*manifest["files"], "manifest.json"}
    for name, record in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (record["bytes"], record["sha256"])
        for trace in (b"site-packages", b"glam_env/", str(Path.home()).encode() + b"/"):
            assert trace not in data, f"{name} holds {trace!r}"
    low, high = manifest["usual_entropy"]
    assert 0 < low < high


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--onnx", "{file}"], "is a file"),
        (["--onnx", "{new}", "--episodes", "3"], "--episodes"),
        (["--onnx", "{new}", "--starts", "0"], "starts must be"),
    ],
)
def test_mistakes_get_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    words = [word.format(file=tmp_path / "file", new=tmp_path / "new") for word in words]
    assert main(["export", "Pong", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "new").exists()


def test_weights_in_8_bits_are_found_in_parts_of_their_rows() -> None:
    """The part of a layer that reads the latents need not hold a row's largest number."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(-90, 91, (40, 300)).astype(np.float32)
    numbers[3] = 0
    values = numbers * rng.random((40, 1), np.float32)
    for given in (values, values.T):
        found = convert._as_int8(given)
        assert found is not None
        assert found[0].dtype == np.int8
        np.testing.assert_array_equal(found[0].astype(np.float32) * found[1], given)
    assert convert._as_int8(rng.random((40, 300), np.float32)) is None


def test_latents_with_places_are_drawn_as_in_pytorch() -> None:
    torch.manual_seed(0)
    sizes = WorldModelConfig(
        num_actions=3, stem=4, categoricals=64, classes=5, latent_grid=8, width=16
    )
    model = WorldModel(sizes).eval().requires_grad_(False)
    torch.nn.init.normal_(model.decoder.place_bias)
    codes = torch.randint(5, (3, 64))
    data = convert.to_onnx(DrawGraph(model), [codes.int()], ["code"], ["frame"])
    session = ort.InferenceSession(data.SerializeToString())
    (drawn,) = session.run(None, {"code": codes.int().numpy()})
    expected = draw_frames(model, codes).numpy()
    assert expected.std() > 5
    assert np.abs(drawn.astype(int) - expected.astype(int)).max() <= 1
