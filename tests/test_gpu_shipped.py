"""CUDA: shipped checkpoints load, dream as on the CPU, play and are trained.

Run them with ``pytest -m gpu``. Without such a device they are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path

import cuda_stand_in
import gymnasium as gym
import pytest
import torch
from short_games import cut_games

import glam_env  # noqa: F401  (registers the ids)
from glam_env.checkpoint.folder import (
    Checkpoint,
    shipped_checkpoints,
)
from glam_env.cli.main import main
from glam_env.envs.dream.engine import DreamEngine
from glam_env.envs.dream.options import DreamOptions
from glam_env.evaluation.measures import ranking

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

SHIPPED = shipped_checkpoints()
E = 32


@pytest.mark.parametrize("game", SHIPPED)
def test_a_shipped_checkpoint_loads_and_dreams_as_on_the_cpu(game) -> None:
    """At temperature 0, without random draws, nearly all numbers are the same."""
    features, rewards = [], []
    for device in ("cpu", "cuda"):
        model = Checkpoint.open(SHIPPED[game]).world_model().to(device)
        assert {p.device.type for p in model.parameters()} == {device}
        engine = DreamEngine(
            model,
            Checkpoint.open(SHIPPED[game]).contexts(),
            E,
            DreamOptions(
                device=device,
                max_episode_steps=64,
                temperature=0.0,
                reward="game",
                precision="float32",
                obs_type="latent",
            ),
        )
        engine.reset(indices=torch.arange(E, device=device))
        seen = [engine.observe().cpu()]
        paid = []
        for t in range(16):
            actions = (torch.arange(E) + t) % engine.world_model.config.num_actions
            paid.append(engine.step(actions.to(device)).reward.cpu())
            seen.append(engine.observe().cpu())
        features.append(torch.stack(seen))
        rewards.append(torch.stack(paid))
    torch.testing.assert_close(features[1][0], features[0][0], atol=2e-3, rtol=2e-2)
    assert ((features[0] - features[1]).abs() < 0.05).float().mean() > 0.98
    assert ((rewards[0] - rewards[1]).abs() < 0.05).float().mean() > 0.98


@pytest.mark.parametrize("obs_type", ["rgb", "latent"])
def test_gym_make_dreams_there(obs_type) -> None:
    envs = gym.make_vec(
        "GLAMDream-Pong-v0", num_envs=E, device="cuda", array_type="torch", obs_type=obs_type
    )
    first, _ = envs.reset(seed=0)
    for _ in range(5):
        seen, *_ = envs.step(torch.ones(E, dtype=torch.int64, device="cuda"))
    assert seen.is_cuda
    assert bool((seen != first).any())
    envs.close()


@pytest.mark.emulator
def test_the_shipped_agent_plays_real_pong_from_there(capsys, monkeypatch) -> None:
    """It wins a whole game; the stand-in plays 450 steps, where random play loses ten points."""
    whole = not cuda_stand_in.installed()
    if not whole:
        cut_games(monkeypatch, 450)
    assert not main(["eval", "Pong", "--episodes", "1", "--device", "cuda", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["mean"] > (0 if whole else -5)


@pytest.mark.emulator
def test_a_run_trains_there_resumes_and_is_exported(tmp_path: Path, capsys, monkeypatch) -> None:
    run, exported = tmp_path / "run", tmp_path / "Pong"
    train = ["train", "Pong", "--preset", "debug", "--device", "cuda", "--run", str(run)]
    assert not main([*train, "--total-steps", "140", "--random-steps", "100"])
    settings = json.loads((run / "config.json").read_text())
    settings["train"]["total_steps"] = 280
    (run / "config.json").write_text(json.dumps(settings))
    assert not main([*train[:2], "--device", "cuda", "--run", str(run), "--resume"])
    assert "finished at step 280" in capsys.readouterr().out
    if cuda_stand_in.installed():
        return  # exports on it are those of test_gpu_script
    folders = ["--run", str(run), "--to", str(exported)]
    short = [
        "--episodes",
        "1",
        "--fidelity-steps",
        "400",
        "--behavior-steps",
        "400",
        "--branch-steps",
        "120",
        "--ranking-moments",
        "4",
        "--ceiling-moments",
        "0",
    ]
    cut_games(monkeypatch)
    standard = ranking.standard_policies
    monkeypatch.setattr(ranking, "standard_policies", lambda *given: standard(*given)[::4])
    assert not main(["export", "Pong", "--device", "cuda", *folders, *short])
    assert Checkpoint.open(exported).config.game == "Pong"
    for state in (
        Checkpoint.open(exported).world_model().state_dict(),
        Checkpoint.open(exported).agent_state(),
    ):
        assert all(bool(tensor.isfinite().all()) for tensor in state.values())


@pytest.mark.parametrize("graphs", ["--no-graphs", "--graphs"])
def test_speed_is_measured_there(capsys, graphs) -> None:
    """Graphs are of training: dreams, which take no such option, are measured once."""
    words = ["bench", "Pong", "--preset", "debug", "--device", "cuda", "--json", graphs]
    skipped = ["emulator"] if graphs == "--graphs" else ["emulator", "dreams", "long"]
    quick = ["--skip", *skipped, "--envs", "2", "--repeats", "1", "--seconds", "0.05"]
    assert not main([*words, *quick, "--long", "20", "--long-envs", "2"])
    report = json.loads(capsys.readouterr().out)
    assert report["device"] == "cuda"
    assert all(part["seconds"]["low"] > 0 for part in report["presets"]["debug"]["training"])
