"""The run of ``glam sb3``: it learns, stops, resumes, and is measured."""

from __future__ import annotations

import json
import signal
import statistics
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from glam_agents.sb3 import run as sb3_runner
from glam_agents.sb3.env import SB3VecEnv
from glam_agents.sb3.run import Sb3Run
from glam_agents.sb3.score import DREAM_SEED, DreamScore, show_report
from glam_agents.sb3.settings import Sb3Settings
from stable_baselines3 import DQN, PPO

from glam_env import console as interruption
from glam_env.checkpoint import folder
from glam_env.cli.main import main
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.errors import GlamError
from glam_env.training.run_folder import RunFolder, run_kind

SHORT = {"game": "Pong", "num_envs": 4, "horizon": 6, "dreams": 6, "device": "cpu"}
ROLLOUT = 128 * 4  # steps between two updates of ppo


@pytest.fixture(autouse=True)
def _environment(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(tiny_checkpoint.parent))
    monkeypatch.chdir(tmp_path)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.fixture
def begin() -> Iterator[Callable[..., Sb3Run]]:
    """Return a function that starts or resumes a short run; close all runs at the end."""
    made: list[Sb3Run] = []

    def make(**options: Any) -> Sb3Run:
        made.append(Sb3Run(Sb3Settings(**(SHORT | {"steps": ROLLOUT} | options))))
        return made[-1]

    yield make
    for run in made:
        run.close()


def quiet(*_: Any, **__: Any) -> None:
    """Show no progress."""


def weights(run: Sb3Run) -> list[torch.Tensor]:
    return [p.detach().clone() for p in run.model.policy.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail with exit code 2 and one line; return the line."""
    assert main(["sb3", *words]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("glam: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    return err


# --- learning and reporting ----------------------------------------------------------------------


@pytest.mark.emulator
def test_command_learns_in_dreams_and_plays_the_real_game(capsys, tmp_path):
    words = ["--num-envs", "4", "--horizon", "6", "--dreams", "6", "--device", "cpu"]
    words += ["--steps", str(ROLLOUT), "--episodes", "1"]
    assert main(["sb3", "Pong", *words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert f"learning: {ROLLOUT:,}/{ROLLOUT:,} steps" in err
    assert "real games: 1/1" in err
    report = json.loads(out)  # nothing else on stdout
    folder = tmp_path / "runs/sb3/Pong-ppo-latent"
    assert report == json.loads((folder / "report.json").read_text())
    assert (report["game"], report["algo"], report["obs"]) == ("Pong", "ppo", "latent")
    assert report["steps"] == ROLLOUT
    assert report["dream_first"] == json.loads((folder / "first.json").read_text())
    for score in (report["dream_first"], report["dream_last"]):
        assert score["dreams"] == 6
        assert 1 <= score["length"] <= 6
    real = report["real"]
    assert (len(real["scores"]), real["random"], real["human"]) == (1, -20.7, 14.6)
    assert -21 <= real["mean"] <= 21
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["steps"] == ROLLOUT
    assert line["dream_return"] is not None
    assert {p.name for p in folder.iterdir() if p.is_file()} == {
        "config.json",
        "first.json",
        "model.zip",
        "metrics.jsonl",
        "report.json",
        "lock",
    }
    assert PPO.load(folder / "model.zip").num_timesteps == ROLLOUT  # SB3's own format

    text = show_report(report)
    assert f"  real   {real['mean']:+.2f} points a game (1 whole games, atari100k (" in text
    assert f"{report['dream_last']['mean']:+.2f} ± " in text


@pytest.mark.emulator
def test_dqn_on_frames_plays_the_real_game(begin):
    run = begin(algo="dqn", obs="rgb", steps=32, episodes=1)
    assert run.path == Path("runs/sb3/Pong-dqn-rgb")
    assert isinstance(run.model, DQN)
    assert run.model.observation_space.shape == (12, 64, 64)
    assert run.learn(quiet)
    report = run.report(quiet)
    assert (report["frame_stack"], len(report["real"]["scores"])) == (4, 1)


def test_report_shows_dreams_above_the_real_game():
    score = {"dreams": 256, "mean": -1.4, "standard_error": 0.03, "length": 128.0}
    report = {
        "game": "Pong",
        "algo": "ppo",
        "obs": "latent",
        "horizon": 128,
        "steps": 1_000_000,
        "dream_first": score,
        "dream_last": score | {"mean": -0.2, "standard_error": 0.04},
        "real": {
            "mean": -13.3,
            "standard_error": None,
            "episodes": 1,
            "random": -20.7,
            "human": 14.6,
        },
        "run": "runs/x",
    }
    assert show_report(report).splitlines() == [
        "Pong: ppo on latent, 1,000,000 dream steps",
        "  dream  -1.40 ± 0.03 -> -0.20 ± 0.04 points a dream of at most 128 steps: "
        "+1.20 ± 0.05 (256 dreams before and after)",
        "  real   -13.30 points a game (1 whole games, atari100k (sticky actions 0, up to 30 "
        "no-ops); random -20.7, human 14.6)",
        "saved in runs/x",
    ]


def test_same_seed_learns_the_same(begin):
    learned, scores = [], []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = begin(run=Path(name), seed=seed)
        run.learn(quiet)
        learned.append(weights(run))
        scores.append(run.measure())
    assert same(learned[0], learned[1])
    assert scores[0] == scores[1]
    assert not same(learned[0], learned[2])


def test_measure_is_the_return_of_whole_dreams(begin, monkeypatch):
    """Compare with the bare env under a known policy; 70 dreams take two rounds."""
    run = begin(dreams=70)
    monkeypatch.setattr(run, "_choose", lambda seen: seen[:, :4].argmax(-1))
    before = torch.get_rng_state()
    score = run.measure()
    assert torch.equal(torch.get_rng_state(), before)  # learning is not disturbed
    assert score == run.measure()
    envs = DreamVectorEnv(
        "Pong", 64, device="cpu", obs_type="latent", max_episode_steps=6, autoreset_mode="NEXT_STEP"
    )
    with closing(envs):
        returns: list[float] = []
        for seed, count in ((DREAM_SEED, 64), (DREAM_SEED + 64, 6)):
            seen, _ = envs.reset(seed=seed)
            going, sums, length = np.ones(64, bool), np.zeros(64), np.zeros(64)
            while going.any():
                seen, reward, terminated, truncated, _ = envs.step(seen[:, :4].argmax(-1))
                sums += reward * going
                length += going
                going &= ~(terminated | truncated)
            returns += sums[:count].tolist()
    assert score.dreams == len(returns) == 70
    assert score.mean == pytest.approx(statistics.fmean(returns), abs=1e-5)
    assert score.standard_error == pytest.approx(statistics.stdev(returns) / 70**0.5, rel=1e-4)


def test_a_single_dream_has_no_error(begin):
    score = begin(dreams=1).measure().as_json()
    assert score["standard_error"] is None
    json.dumps(score, allow_nan=False)


# --- stopping and resuming -----------------------------------------------------------------------


def test_ppo_s_learning_rate_falls_over_the_whole_run(begin):
    """A resumed run goes on where the rate was; the last update still learns."""
    run = begin(steps=4 * ROLLOUT)
    rates: list[float] = []

    def stop_at(steps: int) -> Callable[..., None]:
        def show(_work: str, done: int, _total: int, **_: Any) -> None:
            rates.append(run.model.policy.optimizer.param_groups[0]["lr"])
            if done == steps:
                signal.raise_signal(signal.SIGTERM)

        return show

    assert not run.learn(stop_at(2 * ROLLOUT))
    run.close()
    run = begin(steps=4 * ROLLOUT, resume=True)
    assert run.learn(stop_at(0))
    rates.append(run.model.policy.optimizer.param_groups[0]["lr"])
    found = sorted(set(rates), reverse=True)
    # The rollout in which it was stopped is not learned from.
    assert found == pytest.approx([1e-3 * (1 - 0.95 * k / 4) for k in (0, 1, 3, 4)])
    policy = run.model.policy
    actor, critic = policy.pi_features_extractor, policy.vf_features_extractor
    assert actor is not critic
    for layers in (actor.layers, critic.layers):
        assert [layer.out_features for layer in layers[::3]] == [256, 256]
        assert [type(layer).__name__ for layer in layers[1::3]] == ["LayerNorm", "LayerNorm"]


def test_resumed_run_continues(begin, tmp_path):
    run = begin()
    assert run.learn(quiet)
    first, learned = run.first, weights(run)
    run.close()
    again = begin(steps=2 * ROLLOUT, resume=True)
    assert again.steps_done == ROLLOUT
    assert same(weights(again), learned)
    assert again.first == first
    shown: list[tuple[Any, ...]] = []
    assert again.learn(lambda *facts, unit, note: shown.append((*facts, unit, note[:12])))
    assert shown[-1] == ("learning", 2 * ROLLOUT, 2 * ROLLOUT, "steps", "dream return")
    assert shown[0][:3] == ("learning", ROLLOUT + 4, 2 * ROLLOUT)
    assert again.steps_done == 2 * ROLLOUT
    assert not same(weights(again), learned)
    lines = (tmp_path / "runs/sb3/Pong-ppo-latent/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps"] for line in lines] == [ROLLOUT, 2 * ROLLOUT]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_and_saves(begin, monkeypatch, number):
    run, step_wait, calls = begin(steps=4 * ROLLOUT), SB3VecEnv.step_wait, []

    def stop_at_ten(bridge: SB3VecEnv) -> Any:
        calls.append(0)
        if len(calls) == 10:
            signal.raise_signal(number)
            signal.raise_signal(number)  # as `timeout` sends it
        return step_wait(bridge)

    monkeypatch.setattr(SB3VecEnv, "step_wait", stop_at_ten)
    assert not run.learn(quiet)
    assert run.steps_done == 40
    run.close()
    assert begin(steps=4 * ROLLOUT, resume=True).steps_done == 40


def test_second_signal_kills(begin, monkeypatch):
    """A signal that comes a while after the first one does not wait for a save."""

    def insist(bridge: SB3VecEnv) -> None:
        clock = iter([100.0, 101.5])
        patch.setattr(interruption.time, "monotonic", lambda: next(clock))
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    run = begin(steps=4 * ROLLOUT)
    with monkeypatch.context() as patch:
        patch.setattr(signal, "SIG_DFL", signal.default_int_handler)  # this process lives on
        patch.setattr(SB3VecEnv, "step_wait", insist)
        with pytest.raises(KeyboardInterrupt):
            run.learn(quiet)


def test_stopped_command_says_how_to_continue(monkeypatch, capsys):
    def ask(bridge: SB3VecEnv) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return step_wait(bridge)

    step_wait = SB3VecEnv.step_wait
    words = ["--num-envs", "4", "--horizon", "6", "--dreams", "2", "--device", "cpu"]
    monkeypatch.setattr(Sb3Run, "measure", lambda run: DreamScore(2, 0.0, 1.0, 6.0))
    monkeypatch.setattr(SB3VecEnv, "step_wait", ask)
    assert main(["sb3", "Pong", *words]) == 0
    message = "stopped at step 4, saved in runs/sb3/Pong-ppo-latent; next: the same command with"
    assert message in capsys.readouterr().out


def test_kill_loses_only_what_was_not_saved(begin, monkeypatch):
    """A kill leaves only the files; here an exception stands for it."""
    run, step_wait = begin(steps=4 * ROLLOUT), SB3VecEnv.step_wait

    class Killed(BaseException):
        pass

    def die(bridge: SB3VecEnv) -> Any:
        if run.steps_done >= ROLLOUT + 20:
            raise Killed
        return step_wait(bridge)

    with monkeypatch.context() as patch:
        patch.setattr(sb3_runner, "SAVE_SECONDS", 0.0)
        patch.setattr(SB3VecEnv, "step_wait", die)
        with pytest.raises(Killed):
            run.learn(quiet)
    learned = weights(run)
    run.close()
    again = begin(steps=ROLLOUT + 30, resume=True)
    assert again.steps_done == ROLLOUT + 20
    assert same(weights(again), learned)
    assert again.first == run.first
    assert again.learn(quiet)


def test_kill_before_the_first_save_loses_nothing(begin):
    run = begin()
    learned, first = weights(run), run.first
    run.close()
    (run.path / "model.zip").unlink()
    (run.path / "first.json").unlink()
    again = begin(resume=True)
    assert same(weights(again), learned)
    assert again.first == first


def test_replay_buffer_fills_again_before_it_is_drawn_from(begin):
    """Each time that the run is resumed."""
    options = {"algo": "dqn", "steps": 16}
    run = begin(**options)
    starts = run.model.learning_starts
    for steps in (32, 48):
        assert run.learn(quiet)
        done = run.steps_done
        run.close()
        run = begin(**options | {"steps": steps}, resume=True)
        assert run.model.learning_starts == starts + done
        assert run.model.replay_buffer.size() == 0


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "GAME is missing"),
        (["Ping"], "Pong"),
        (["Pong", "--algo", "sac"], "ppo, a2c, dqn, qrdqn; got 'sac'"),
        (["Pong", "--obs", "ram"], "latent, rgb; got 'ram'"),
        (["Pong", "--steps", "0"], "steps must be a whole number >= 1"),
        (["Pong", "--dreams", "-3"], "dreams must be"),
        (["Pong", "--num-envs", "0"], "num_envs must be"),
        (["Pong", "--frame-stack", "2"], "leave out frame_stack with obs latent"),
        (["Pong", "--seed", "-1"], "seed must lie in"),
        (["Pong", "--device", "warp"], "warp"),
        (["Pong", "--step", "5"], "--steps"),
        (["Pong", "--resume"], "no run to resume"),
    ],
)
def test_mistakes_get_one_line(words, message, capsys, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert message in mistake(capsys, *words)
    assert sorted(tmp_path.iterdir()) == before  # and nothing was written


def test_a_game_without_a_checkpoint_names_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_PACKAGE", tmp_path / "glam_env")
    assert "glam train Krull" in mistake(capsys, "Krull")


def test_qrdqn_without_its_library(capsys, monkeypatch):
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("glam_agents.sb3.algorithms.importlib.import_module", absent)
    assert "pip install sb3-contrib" in mistake(capsys, "Pong", "--algo", "qrdqn")


def test_run_keeps_its_settings_and_its_folder(begin):
    run = begin()
    with pytest.raises(GlamError, match="trained by another process"):
        begin(resume=True)
    run.close()
    saved = (run.path / "model.zip").read_bytes()
    with pytest.raises(GlamError, match="--resume it or choose another --run"):
        begin()
    with pytest.raises(GlamError, match="has horizon 6, not 7"):
        begin(resume=True, horizon=7)
    with pytest.raises(GlamError, match="has algo 'ppo', not 'a2c'"):
        begin(resume=True, algo="a2c", run=run.path)
    assert (run.path / "model.zip").read_bytes() == saved


@pytest.mark.parametrize("name", ["model.zip", "first.json", "config.json"])
def test_broken_file_is_named(begin, name):
    run = begin()
    run.close()
    path = run.path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(GlamError, match=f"{name} (cannot be read|is not JSON)"):
        begin(resume=True)


def test_run_folder_is_of_its_kind(begin):
    run = begin()
    run.close()
    assert run_kind(run.path) == "sb3"
    with pytest.raises(GlamError, match="sb3"):
        RunFolder(run.path)  # of `glam train`
    path = run.path / "config.json"
    settings = json.loads(path.read_text())
    del settings["kind"]  # as older runs have it
    path.write_text(json.dumps(settings))
    assert begin(resume=True).steps_done == 0


def test_a_run_from_before_rewards_were_chosen_had_the_most_likely_ones(begin):
    run = begin(reward="game")
    run.close()
    path = run.path / "config.json"
    settings = json.loads(path.read_text())
    assert settings.pop("reward") == "game"
    path.write_text(json.dumps(settings))
    with pytest.raises(GlamError, match="has reward 'game', not 'sample'"):
        begin(resume=True)
    assert begin(resume=True, reward="game").steps_done == 0


def test_an_unknown_reward_is_refused(begin):
    with pytest.raises(GlamError, match="reward must be"):
        begin(reward="median")
