"""The scripts of `benchmarks/` that use parts of training work with the current ones."""

import importlib.util
import json
import math
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from glam_agents.frozen import new_agent, save_with_agent
from short_games import cut_games

from glam_env.bench.world import make_world
from glam_env.checkpoint.folder import Checkpoint
from glam_env.cli.main import main
from glam_env.envs.atari import emulator
from glam_env.envs.atari.rewind import RewindableGame
from glam_env.errors import GlamError
from glam_env.games import find_game
from glam_env.protocols import find_protocol
from glam_env.training.presets import PRESETS

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.emulator
def test_an_iteration_of_this_code_is_measured_in_both_phases():
    of = {"preset": "debug", "agent": {}, "model_only": False}
    asked = [{"do": "turn", "phase": phase, **of} for phase in ("images", "latents")]
    asked.append({"do": "profile", "phase": "latents", "turns": 1, "rows": 3, **of})
    done = subprocess.run(
        [sys.executable, "benchmarks/training_iteration.py"],
        cwd=ROOT,
        input="".join(json.dumps(line) + "\n" for line in asked),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *turns, profile = map(json.loads, done.stdout.splitlines())
    for turn in turns:
        assert set(turn) == {"model", "imagine", "agent"}
        assert min(turn.values()) > 0
    assert len(profile["operators"]) == 3


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished debug run."""
    run = tmp_path_factory.mktemp("runs") / "Pong"
    words = ["train", "Pong", "--preset", "debug", "--total-steps", "200", "--run", str(run)]
    assert main([*words, "--random-steps", "100", "--threads", "1"]) == 0
    return run


@pytest.mark.emulator
@pytest.mark.slow
def test_the_limits_of_a_run_are_measured(run, tmp_path, monkeypatch, capsys):
    """Each row, on a debug run."""
    cut_games(monkeypatch)
    few = "--image-updates 4 --sequence-updates 2 --together-updates 2 --agent-updates 1"
    few += " --dreams 8 --horizon 3"
    words = f"Pong --run {run} {few} --steps 800 --games 1 --to {tmp_path / 'limits.json'}"
    words += " --threads 1"
    world_models = ["none", "sequence model", "images", "both", "end-to-end"]
    agents = ["agent", "soft prior", "size 8 16", "core transformer"]
    capsys.readouterr()
    named = ["--rows", *world_models, *agents]
    monkeypatch.setattr(sys, "argv", ["limits.py", *words.split(), *named])
    with pytest.raises(SystemExit) as ended:  # by its path: tests have a module of this name
        runpy.run_path(str(ROOT / "benchmarks" / "limits.py"), run_name="__main__")
    assert not ended.value.code
    rows = json.loads((tmp_path / "limits.json").read_text())["rows"]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    assert [row["young"] for row in rows] == [*world_models, *agents]
    with_dreams = [row for row in rows if row["young"] != "agent"]
    assert all(row["rewards"] > 0 and 0.0 <= row["reward_f1"] <= 1.0 for row in with_dreams)
    for name in ("replay_kl", "new_play_kl", "replay_reward_loss", "new_play_reward_loss"):
        assert all(row[name] > 0.0 for row in with_dreams)
    for row in rows[len(world_models) :]:
        assert -21.0 <= row["score"] <= 21.0
        assert math.isfinite(row["points_in_1000_dream_steps"])


@pytest.mark.slow
@pytest.mark.emulator
def test_cores_are_compared_on_one_replay(run, tmp_path, monkeypatch, capsys):
    """Rows are kept, those that are missing are added, and the table is the report's."""
    cut_games(monkeypatch, 50)
    for name in ("limits", "one_replay"):  # tests have a module `limits` of their own
        spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    few = {"sequence_updates": 8, "agent_updates": 1, "dreams": 8, "horizon": 3, "games": 1}
    args = module.Args(
        *("Pong", tmp_path / "one.json", run, ("transformer",), (0,)),
        **few,
        steps=400,
        branch_steps=0,
    )
    module.main(args)
    first = json.loads(args.to.read_text())["rows"]
    module.main(replace(args, variants=("transformer", "N16", "N32")))
    rows = json.loads(args.to.read_text())["rows"]
    assert rows[:1] == first
    assert [row["row"] for row in rows] == ["Ours w/o G&L", "", ""]
    transformer, short, long = rows
    assert transformer["fluctuation"]["deviations"]["loss"] > 0
    assert transformer["core_parameters"] != short["core_parameters"]
    assert short["fluctuation"] == long["fluctuation"]  # agents of one world model
    capsys.readouterr()
    module.main(replace(args, run=None))
    table = capsys.readouterr().out
    score = transformer["scores"]["published"][0]
    assert f"| transformer | Ours w/o G&L | {score:.1f}".replace("-", "−") in table
    assert "| N16 |  |" in table
    with pytest.raises(ValueError, match="no variant 'N17'"):
        module.main(replace(args, variants=("N17",)))
    study = SimpleNamespace(config=PRESETS["small"])
    assert module.configure(study, "G2L1") == "glam"
    core = study.config.model.core
    assert (core.global_depth, core.local_depth) == (2, 1)
    study.config = PRESETS["small"]
    assert module.configure(study, module.WITHOUT_VARIATION) == "glam"
    assert module.row_of("glam", study.config.loss.variation) == "Ours w/o L_var"


@pytest.fixture(scope="module")
def checkpoint(endless_checkpoint, tmp_path_factory) -> Path:
    """The tiny Pong with an agent."""
    source = Checkpoint.open(endless_checkpoint)
    agent, stored = new_agent("storm", source.world_model(), "debug")
    folder = tmp_path_factory.mktemp("with_agent") / "Pong"
    return save_with_agent(source, agent, stored, folder, "of a test")


@pytest.fixture
def frozen(monkeypatch) -> None:
    """Import from benchmarks/, and cut real games after 30 agent steps."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(emulator, "MAX_FRAMES", 120)


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.parametrize(("algo", "steps"), [("storm", 48), ("ppo", 512)])
def test_exploitability_is_measured_on_the_way(checkpoint, frozen, tmp_path, algo, steps):
    import exploitability

    few = {"num_envs": 4, "horizon": 6, "moments": 4, "score_horizon": 4, "futures": 1, "dreams": 2}
    sizes = {"algo": algo, "steps": steps, "points": 2, "games": 1, "to": tmp_path, **few}
    figures = exploitability.main(exploitability.Args(str(checkpoint), **sizes))
    written = json.loads((tmp_path / f"exploitability-{algo}.json").read_text())
    assert [row["steps"] for row in figures["rows"]] == [0, steps // 2, steps]
    for row, stored in zip(figures["rows"], written["rows"], strict=True):
        assert row["gap"] == pytest.approx(row["dream"] - row["game"])
        assert row["gap_interval"][0] <= row["gap"] <= row["gap_interval"][1]
        assert -21.0 <= row["score"] <= 21.0
        assert stored == json.loads(json.dumps(row))
    assert written["settings"]["steps"] == steps
    assert (tmp_path / f"exploitability-{algo}.png").stat().st_size > 10_000


@pytest.mark.emulator
def test_expected_values_are_compared_with_means_in_symlog_space(checkpoint, frozen, tmp_path):
    import expected_values

    stored = Checkpoint.open(checkpoint)
    code = stored.world_model().reward_code
    nothing, point = code.encode(torch.tensor([0.0, 1.0]))
    half = (0.5 * nothing + 0.5 * point).log().clamp(min=-1e4)  # a chance of 1 point
    means = [
        float(expected_values.world_model(stored, expected).reward_code.mean(half))
        for expected in (False, True)
    ]
    assert means == pytest.approx([2**0.5 - 1.0, 0.5], abs=0.01)

    sizes = {"updates": 3, "dreams": 4, "horizon": 3, "games": 2, "to": tmp_path / "figures.json"}
    assert expected_values.main(expected_values.Args(str(checkpoint), **sizes)) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["settings"]["updates"] == 3
    assert [row["expected"] for row in figures["rows"]] == [False, True]
    for found in figures["rows"]:
        assert set(found["scores"]) == {"atari100k", "published"}
        assert found["cpu_seconds"] > 0.0


@pytest.mark.emulator
def test_games_are_grouped_by_the_no_ops_that_open_them(checkpoint, frozen, tmp_path, monkeypatch):
    import opening_no_ops

    monkeypatch.setattr(opening_no_ops, "SKIPPED", 5)
    no_ops = opening_no_ops.find_no_ops("Pong", 3, seed=7, episodes=8)  # games are cut short
    assert len(no_ops) == 8
    assert len(set(no_ops)) > 2
    assert set(no_ops) <= set(range(31))
    real = {"game": "Pong", "num_envs": 3, "seed": 7, "scores": [n % 2 for n in no_ops]}
    real |= {"repeat_action_probability": 0.0, "noop_max": 30}
    (tmp_path / "report.json").write_text(json.dumps({"real": real}))
    sizes = {"play": str(checkpoint), "games": 12, "steps": 20, "to": tmp_path / "figures.json"}
    args = opening_no_ops.Args((tmp_path / "report.json",), **sizes)
    assert opening_no_ops.main(args) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    scores = figures["rows"][0]["scores"]
    assert (scores["even"]["mean"], scores["odd"]["mean"]) == (0.0, 1.0)
    assert sum(kind["games"] for kind in scores.values()) == 8
    assert sum(kind["games"] for kind in figures["kl"].values()) == 12
    assert all(kind["mean"] > 0.0 for kind in figures["kl"].values())
    with pytest.raises(GlamError, match="fewer --steps"):
        opening_no_ops.main(replace(args, steps=40))
    (tmp_path / "report.json").write_text(json.dumps(real | {"noop_max": 0}))
    with pytest.raises(GlamError, match="atari100k"):
        opening_no_ops.main(args)


@pytest.mark.emulator
def test_ghosts_are_counted(checkpoint, frozen, tmp_path, capsys):
    """A frame of known play is its own nearest one; a shifted one is as far as it says."""
    import ghosts

    known = torch.zeros(3, 64, 64, 3, dtype=torch.uint8)
    known[1], known[2] = 51, 255
    far = ghosts.nearest(torch.cat([known[1:2], known[:1] + 102]), known)
    assert far.tolist() == pytest.approx([0.0, 0.2 * (64 * 64 * 3) ** 0.5], rel=1e-3)

    file = tmp_path / "ghosts.json"
    few = {"steps": 400, "num_envs": 4, "windows": 3, "at": (1, 4), "to": file}
    assert ghosts.main(ghosts.Args((str(checkpoint),), **few)) == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["game"], row["windows"], row["known"]) == ("Pong", 3, 200)
    assert row["figures"].keys() == set(ghosts.KINDS)
    shown = [figures for kind in row["figures"].values() for figures in kind.values()]
    assert len(shown) == 6
    assert all(0 <= each["other_class"] <= 1 and each["nearest"] >= 0 for each in shown)
    assert capsys.readouterr().out.count("Pong") == 2
    assert ghosts.main(ghosts.Args((str(checkpoint),), **{**few, "num_envs": 3})) == 2


def test_balls_are_lost_returned_or_vanish(frozen):
    """Columns of a ball that comes from the left, 3 a step; the paddle is at column 57."""
    import rallies

    coming = 30.0 + 3.0 * np.arange(10)  # crosses column 48 at step 7
    back, none = 54.0 - 3.0 * np.arange(1, 22), np.full(21, np.nan)
    columns = np.stack([np.r_[coming, part] for part in (back, none, none, back)])
    columns[3] = 20.0  # no ball comes
    rewards = np.zeros((4, 30), np.float32)
    rewards[1, 11], rewards[2, 11] = -1.0, -0.25
    found = rallies.count(columns, rewards)
    assert found["balls"] == pytest.approx(1000 * 3 / (4 * 19))
    shares = [found[fate] for fate in ("lost", "returned", "vanishes", "undecided")]
    assert shares == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert found["seen"] == pytest.approx(1 - 42 / 124)
    assert (found["won_points"], found["lost_points"]) == (0, pytest.approx(1250 / 120))
    assert found["vanish_pays"] == -0.25


def test_balls_are_followed_from_the_last_frame_before_the_paddle(frozen):
    import rallies

    column, none = [43.0, 46.0, 49.0, 52.0, 55.0], [np.nan] * 11
    back = [52.0 - 3.0 * t for t in range(11)]
    columns = np.array([[20.0] * 4 + column + then for then in (back, [58.0, *none[1:]], none)])
    rewards, ended = np.zeros((3, 20), np.float32), np.zeros((3, 20), bool)
    rewards[1, 10] = -1.0
    balls, lost = rallies.find_contacts(columns, rewards, ended, 4)
    assert balls.tolist() == [[0, 8], [1, 8]]  # the third is neither lost nor seen to return
    assert lost.tolist() == [False, True]
    ended[0, 5] = ended[1, 12] = True  # another episode
    assert not len(rallies.find_contacts(columns, rewards, ended, 4)[0])
    assert len(rallies.find_contacts(columns, rewards, ended, 2)[0]) == 1

    found = rallies.fates(columns[:2, 9:18], rewards[:2, 8:17])
    assert found == {"returned": 0.5, "passes": 0.5, "paid": -0.5}


@pytest.mark.emulator
def test_rallies_are_followed_in_game_and_dreams(checkpoint, frozen, tmp_path, capsys):
    import rallies

    file = tmp_path / "rallies.json"
    few = {"steps": 400, "num_envs": 2, "windows": 3, "horizon": 12, "dreams": 2, "to": file}
    assert rallies.main(rallies.Args((str(checkpoint),), **few)) == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert list(row["worlds"]) == ["game", "dreams along its actions", "its own dreams"]
    assert row["worlds"]["game"]["seen"] > 0.2
    played = [contact for contact in row["contacts"] if contact["world"] == "game"]
    assert [each["returned"] for each in played] == [each["game"] == "returned" for each in played]
    assert rallies.main(rallies.Args(("Boxing",), **few)) == 2
    assert "the ball is Pong's" in capsys.readouterr().err


@pytest.mark.emulator
def test_the_true_positions_of_pong_are_those_on_the_screen(frozen):
    import perfect_pong

    game, rng, rows, columns = perfect_pong.Pong(0, 0.25), np.random.default_rng(0), [], []
    for action in rng.integers(6, size=200):
        game.step(int(action))
        screen, place = game.ale.getScreenRGB()[34:194], game.positions()
        paddle = (screen[:, 140:144] == (92, 186, 92)).all(-1).any(1).nonzero()[0]
        ball = (screen[:, 20:139] == (236, 236, 236)).all(-1)
        if len(paddle) == 16:  # the whole of it is in sight
            rows.append((paddle.mean(), place[2]))
        if ball.sum() == 8:
            columns.append((ball.any(0).nonzero()[0].mean(), place[0]))
    for found in (rows, columns):
        seen, stored = np.array(found, float).T
        assert len(seen) > 20
        assert np.ptp(seen) > 20
        assert np.abs(seen - stored - np.median(seen - stored)).max() <= 4.0


@pytest.mark.emulator
def test_an_agent_learns_in_a_perfect_pong(frozen, tmp_path, capsys):
    import perfect_pong

    few = {"updates": 2, "games": 2, "horizon": 3, "spread": 5}
    file = tmp_path / "perfect.json"
    assert perfect_pong.main(perfect_pong.Args(**few, to=file)) == 0
    (line,) = json.loads(file.read_text())["rows"]
    assert line["update"] == 2
    assert 1.5 < line["entropy"] <= np.log(6) + 1e-6
    assert perfect_pong.main(perfect_pong.Args(updates=0)) == 2
    assert "at least 1" in capsys.readouterr().err


def test_the_step_from_which_training_hurts(frozen):
    from exploitability import turning_point

    noise = np.random.default_rng(0).normal(0.0, 0.1, (6, 40))
    steps = [0, 1, 2, 3, 4, 5]
    falls = turning_point(steps, noise + np.array([[0, 1, 2, 1.98, 1, 0]]).T, seed=0)
    assert falls["best_step"] in (2, 3)
    assert falls["hurts_from"] == 4
    assert falls["changes"][-1]["change"] == pytest.approx(-2.0, abs=0.1)
    rises = turning_point(steps, noise + np.array([[0, 1, 2, 3, 4, 5]]).T, seed=0)
    assert rises == {"best_step": 5, "hurts_from": None, "changes": []}
    recovers = turning_point(steps, noise + np.array([[0, 3, 1, 1, 1, 3]]).T, seed=0)
    assert recovers["hurts_from"] is None


@pytest.mark.slow
@pytest.mark.emulator
def test_lift_is_measured_and_goes_on(checkpoint, frozen, tmp_path):
    import lift

    file = tmp_path / "lift.json"
    few = {"dream_steps": 96, "real_steps": 64, "num_envs": 2, "games": 1, "to": file}
    first = lift.main(lift.Args(str(checkpoint), ("storm",), **few))
    places = [(row["world"], row["steps"]) for row in first["rows"]]
    assert places == [("dream", 96), ("real", 64), ("real", 96)]
    whole = lift.main(lift.Args(str(checkpoint), ("storm", "dqn"), **few))
    assert [row["algo"] for row in whole["rows"]] == ["storm"] * 3 + ["dqn"] * 3
    assert json.loads(json.dumps(whole["rows"][:3])) == json.loads(json.dumps(first["rows"]))
    written = json.loads(file.read_text())
    assert written["lift"] == whole["lift"]
    assert whole["lift"]["storm"] == first["rows"][0]["score"] - first["rows"][1]["score"]
    with pytest.raises(SystemExit, match="figures of other settings"):
        lift.main(lift.Args(str(checkpoint), **{**few, "dream_steps": 95}))


@pytest.mark.emulator
@pytest.mark.slow
def test_runs_side_by_side_are_measured_by_turns(tmp_path):
    file = tmp_path / "side.json"
    words = f"--preset debug --iterations 2 --turns 1 --to {file}"
    done = subprocess.run(
        [sys.executable, "benchmarks/side_by_side.py", *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    (turn,) = figures["turns"]
    assert turn["ratio"] == turn["together"] / turn["alone"] == figures["ratio"]["median"]
    assert json.loads(done.stdout) == figures["ratio"]


def test_the_hours_of_the_benchmark_follow_from_what_was_measured(monkeypatch):
    """As docs/sweeps.md prints them, and by hand for a schedule of two phases."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_hours

    from glam_env.training.presets import PRESETS

    files = ("xeon-2-cores", "h200-training-graphs")
    measured = [ROOT / f"benchmarks/results/{name}.json" for name in files]
    table = gpu_hours.table(gpu_hours.Args(tuple(measured)))
    assert table in (ROOT / "docs" / "sweeps.md").read_text()
    part = {"name": gpu_hours.JOINT, "what": "images", "seconds": {"median": 0.5}}
    seconds = gpu_hours.run_seconds(PRESETS["paper"], [part])
    assert seconds == 0.5 * (100_000 - 1024)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["torchrl", "simulusion"])
def test_a_library_s_env_around_our_model_dreams_the_same(monkeypatch, tmp_path, name):
    """It carries the whole state of the model from step to step."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    pytest.importorskip(f"{name}.envs", reason=f"{name} is not installed")
    from wrapped_models import LIBRARIES, WrappedModel

    world = make_world("Pong", "debug", None, tmp_path)
    spaces = gym.make_vec("GLAMDream-Pong-v0", checkpoint=str(world.folder), device="cpu")
    step, model = LIBRARIES[name](world, "rgb", spaces), WrappedModel(world, "rgb")
    state, actions = model.start(torch.tensor([0])), torch.tensor([[2], [3], [0], [5], [2], [2]])
    torch.manual_seed(5)
    expected = []
    for action in actions:
        state = model.advance(state, action)
        expected.append((model.show(state), *model.outcome(state.h)))
    torch.manual_seed(5)
    for action, shown in zip(actions, expected, strict=True):
        for one, other in zip(step(action), shown, strict=True):
            np.testing.assert_array_equal(np.asarray(one), other.numpy())
    assert not expected[0][0].equal(expected[-1][0])
    spaces.close()


@pytest.mark.filterwarnings("ignore")
def test_dreams_are_measured_beside_another_library_s(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    pytest.importorskip("torchrl.envs", reason="TorchRL is not installed")
    import peers

    few = {"preset": ("debug",), "num_envs": (2,), "repeats": 1, "seconds": 0.01}
    assert peers.main(peers.Args(peers=("torchrl",), **few, to=tmp_path / "peers.json")) == 0
    figures = json.loads((tmp_path / "peers.json").read_text())
    assert figures["libraries"]["torchrl"]["version"] in capsys.readouterr().out
    assert [row["obs_type"] for row in figures["rows"]] == ["rgb", "latent"]
    for row in figures["rows"]:
        assert row["dream"]["median"] > 0 < row["dream_torch"]["median"]
        ratio = row["dream"]["median"] / row["peer"]["median"]
        assert row["dream_ratio"]["median"] == pytest.approx(ratio)
    monkeypatch.setitem(sys.modules, "torchrl.envs", None)
    assert peers.main(peers.Args(peers=("torchrl",), **few)) == 2
    assert "pip install --no-deps torchrl" in capsys.readouterr().err


@pytest.mark.emulator
def test_a_branching_stream_goes_back_and_holds_other_actions(monkeypatch):
    """Its steps are those of one game, which the steps before each moment lead up to."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "limits", raising=False)  # tests have a module of this name
    import branching_replay as module

    args = module.Args("Pong", branches=2, scene=20, lead=5)
    play = find_protocol("published")
    stream = module.Stream(
        RewindableGame(find_game("Pong"), play), np.random.default_rng(0), args, True
    )
    rows, firsts, real = [], [], []
    for _ in range(20 * 7 + 5 * 4):  # through both branches of the second moment
        firsts.append(stream.first)
        before = stream.real_steps
        rows.append(stream.step(0))
        real.append(stream.real_steps > before)
    cuts = [t for t, row in enumerate(rows) if row.truncated]
    assert [t + 1 for t in cuts] == [t for t in np.flatnonzero(firsts).tolist() if t]
    assert cuts == [39, 64, 109, 134]
    assert not any(row.terminated for row in rows)
    assert [sum(not new for new in real[c + 1 : c + 6]) for c in cuts[:2]] == [5, 5]
    held = []
    for start in (20, 45):
        actions = [row.action for row in rows[start : start + 20]]
        held.append(actions[0])
        assert actions[:4] == [actions[0]] * 4
        assert set(actions[16:]) == {0}
    assert held[0] != held[1]
    assert [row.action for row in rows[70:90]] == [0] * 20  # plays on
    for start in (40, 65):  # the steps before the moment, and its frame
        for again, row in zip(rows[start : start + 5], rows[15:20], strict=True):
            np.testing.assert_array_equal(again.frame, row.frame)
            assert again[1:] == row[1:]
        np.testing.assert_array_equal(rows[start + 5].frame, rows[20].frame)
    assert any((rows[44 + t].frame != rows[19 + t].frame).any() for t in range(5, 20))


@pytest.mark.emulator
@pytest.mark.slow
def test_replays_of_branches_are_compared(run, tmp_path, monkeypatch, capsys):
    """On a debug run; both replays have the same real steps, one holds some of them twice."""
    few = "--real-steps 1200 --sequence-updates 2 --steps 1600 --branch-steps 400 --seeds 0"
    words = f"Pong --checkpoint {run} {few} --to {tmp_path / 'branching.json'}"
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "limits", raising=False)
    monkeypatch.setattr(sys, "argv", ["branching_replay.py", *words.split()])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks" / "branching_replay.py"), run_name="__main__")
    assert not ended.value.code
    rows = json.loads((tmp_path / "branching.json").read_text())["rows"]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    held, branching = rows
    assert (held["replay"], branching["replay"]) == ("held", "branching")
    assert held["steps"] == 1200
    assert 1200 < branching["steps"] < 1500
    assert held["moments"] == branching["moments"]
    assert all(row["new_play_kl"] > 0.0 for row in rows)
