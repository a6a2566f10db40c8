"""`glam bench`: its figures, on a clock that these tests set."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from glam_env.bench import clock as speed
from glam_env.bench import dreams as dream_speed
from glam_env.bench import emulator as emulator_speed
from glam_env.bench import world as bench_world
from glam_env.bench.clock import Figure, Stepping, Turns, take_turns
from glam_env.bench.dreams import (
    DreamSpeed,
    LeftOut,
    measure_dreams,
    measure_long_dream,
    open_dreams,
)
from glam_env.bench.memory import Memory, PeakMemory
from glam_env.bench.report import (
    hardware_name,
    read_report,
    report_path,
    save_speed_plot,
    speed_table,
)
from glam_env.bench.world import find_weights, make_world
from glam_env.checkpoint import folder
from glam_env.cli.main import main
from glam_env.envs.dream.engine import DreamEngine

CPU = torch.device("cpu")


def silent(work, done, total):
    assert 0 <= done <= total


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows what the test adds to `now`."""
    hands = SimpleNamespace(now=100.0)
    for module in (speed, dream_speed):
        monkeypatch.setattr(module, "perf_counter", lambda: hands.now)
    return hands


@pytest.fixture(autouse=True)
def few_contexts(monkeypatch):
    monkeypatch.setattr(bench_world, "START_CONTEXTS", 3)


@pytest.fixture
def world(tmp_path):
    return make_world("Pong", "debug", None, tmp_path)


# --- timing --------------------------------------------------------------------------------------


def test_a_figure_has_median_and_spread_of_its_turns():
    figure = Figure((4.0, 1.0, 10.0, 2.0))
    assert (figure.median, figure.low, figure.high) == (3.0, 1.0, 10.0)
    expected = {"median": 3.0, "low": 1.0, "high": 10.0, "values": [4.0, 1.0, 10.0, 2.0]}
    assert figure.as_json() == expected
    # Turn by turn: the ratio of medians, 3 / 2, would show the drift of the machine.
    assert figure.over(Figure((2.0, 1.0, 5.0, 2.0))).values == (2.0, 1.0, 2.0, 1.0)
    with pytest.raises(ValueError, match="zip"):
        figure.over(Figure((1.0,)))


def test_turns_alternate_and_every_value_is_kept():
    played = []

    def player(name, value):
        def play():
            played.append(name)
            return value + len(played)

        return play

    rounds = []
    figures = take_turns(
        {"dream": player("dream", 0.0), "emulator": player("emulator", 100.0)},
        3,
        lambda: rounds.append(len(played)),
    )
    assert played == ["dream", "emulator"] * 3
    assert rounds == [2, 4, 6]
    assert figures == {
        "dream": Figure((1.0, 3.0, 5.0)),
        "emulator": Figure((102.0, 104.0, 106.0)),
    }


def test_a_rate_counts_the_steps_that_were_done(clock):
    seen = []

    def step(action):
        seen.append(action)
        clock.now += 0.5

    stepping = Stepping(step, ["left", "right", "up"], num_envs=8, device=CPU)
    assert stepping.run(2) == 1.0
    assert stepping.rate(4) == 4 * 8 / 2.0
    assert seen == ["left", "right", "up", "left", "right", "up"]
    assert stepping.done == 6


@pytest.mark.parametrize(("seconds_a_step", "steps"), [(0.01, 40), (0.1, 4), (3.0, 2)])
def test_a_turn_is_as_long_as_asked_for_but_never_one_step(clock, seconds_a_step, steps):
    def step(action):
        clock.now += seconds_a_step if stepping.done else 60.0  # the first one compiles, say

    stepping = Stepping(step, [None], num_envs=1, device=CPU)
    assert stepping.warm_up(0.4) == steps
    turns = Turns(repeats=1, steps=None, seconds=0.4)
    assert turns.steps_of(stepping) == steps
    assert replace(turns, steps=7).steps_of(stepping) == 7


def test_peak_memory_counts_what_is_freed_again():
    with PeakMemory(CPU) as watch:
        held = np.ones(40 << 20, np.uint8)
        del held
    if watch.memory.growth is None:
        pytest.skip("this system reports no memory")
    assert watch.memory.growth > 35 << 20
    with PeakMemory(CPU) as watch:
        held = np.ones(40 << 20, np.uint8)
        del held
        watch.forget_peak()
    assert watch.memory.growth < 20 << 20
    assert Memory(None, 7).growth is None


# --- the worlds ----------------------------------------------------------------------------------


def test_a_preset_is_timed_with_the_checkpoint_of_its_sizes(monkeypatch, tmp_path):
    found = find_weights("Pong", ("small", "paper"), None)
    assert found["small"] is not None
    assert found["small"].path.name == "Pong"
    assert found["paper"] is None
    monkeypatch.setattr(folder, "_PACKAGE", tmp_path / "glam_env")
    assert find_weights("Krull", ("small",), None) == {"small": None}


def test_random_weights_are_named_and_never_end_a_dream(world):
    assert "random" in world.weights
    assert world.as_json()["sizes"]["num_actions"] == 6
    with open_dreams(world, "latent", 4, CPU) as stepping:
        assert stepping.num_envs == 4
        ended = [stepping._step(action)[2] for action in stepping._actions]
    assert not torch.stack(ended).any()


def test_the_shipped_weights_are_timed_unchanged(tmp_path):
    weights = find_weights("Pong", ("small",), None)["small"]
    world = make_world("Pong", "small", weights, tmp_path)
    assert world.weights == "checkpoint Pong"
    from glam_env.checkpoint.folder import Checkpoint

    assert weights is not None
    written = Checkpoint.open(world.folder)
    own, shipped = written.world_model(), weights.world_model()
    assert all(
        torch.equal(value, shipped.export_state()[name])
        for name, value in own.export_state().items()
    )
    assert torch.equal(written.contexts().codes, weights.contexts().codes[:3])


# --- dreams --------------------------------------------------------------------------------------


def ticking(monkeypatch, clock, seconds):
    """Let each step of a dream engine take so many seconds of the clock; list its dreams."""
    stepped, step = [], DreamEngine.step

    def tick(engine, actions):
        clock.now += seconds(len(stepped)) if callable(seconds) else seconds
        stepped.append(engine.num_envs)
        return step(engine, actions)

    monkeypatch.setattr(DreamEngine, "step", tick)
    return stepped


def test_dreams_are_timed_by_turns_with_the_emulator(monkeypatch, clock, world):
    stepped = ticking(monkeypatch, clock, 0.25)
    rates = iter((10.0, 20.0, 40.0))
    order = []

    def emulator():
        order.append(len(stepped))
        return next(rates)

    turns = Turns(repeats=3, steps=5, seconds=0.4)
    (found,) = measure_dreams(world, "rgb", (8,), turns, CPU, emulator, silent)
    warm = len(stepped) - 3 * 5
    assert order == [warm + 5, warm + 10, warm + 15]
    assert found.dream.values == (8 / 0.25,) * 3
    assert found.ratio.values == (3.2, 1.6, 0.8)
    plain = found.as_json()
    assert plain["ratio"]["median"] == 1.6
    assert plain["microseconds_per_step"] == pytest.approx(1e6 * 0.25 / 8)
    assert (plain["steps"], plain["num_envs"], plain["obs_type"]) == (5, 8, "rgb")


def test_every_step_has_its_share_of_ends(world):
    with open_dreams(world, "latent", 8, CPU) as stepping:
        truncated = torch.stack([stepping._step(a)[3] for a in stepping._actions])
    assert len(truncated) == world.horizon
    assert (truncated.sum(0) == 1).all()  # each dream once in a horizon …
    assert truncated.any(1).nonzero().flatten().diff().eq(world.horizon // 8).all()  # … evenly


def test_dreams_that_do_not_fit_are_left_out_and_say_why(monkeypatch, world):
    monkeypatch.setattr(dream_speed, "free_memory", lambda device: 10_000)

    def measure(world, obs_type, num_envs, *others):
        one = Figure((1.0,))
        return DreamSpeed(obs_type, num_envs, 2, one, None, Memory(0, 100 * num_envs))

    monkeypatch.setattr(dream_speed, "_measure_dreams", measure)
    turns = Turns(repeats=1, steps=2, seconds=0.1)
    counts = (4096, 1, 32, 64)
    found = measure_dreams(world, "latent", counts, turns, CPU, None, silent)
    assert [one.num_envs for one in found] == [1, 32, 64, 4096]
    assert isinstance(found[-1], LeftOut)
    assert "GB" in found[-1].why
    assert all(isinstance(one, DreamSpeed) for one in found[:-1])


def test_a_long_dream_compares_its_tenths_and_no_horizon_ends_it(monkeypatch, clock, world):
    lengths = []
    stepped = ticking(monkeypatch, clock, lambda at: 0.25 if at < 128 + 50 else 0.5)
    reset = DreamEngine.reset

    def watch(engine, *args, **kwargs):
        lengths.append(engine.max_episode_steps)
        return reset(engine, *args, **kwargs)

    monkeypatch.setattr(DreamEngine, "reset", watch)
    long = measure_long_dream(world, "latent", 2, 100, CPU, silent)
    assert len(stepped) == 128 + 100
    assert (long.first, long.last, long.steps, long.ends) == (0.25, 0.5, 100, 0)
    assert long.as_json()["last_to_first"] == 2.0
    assert min(lengths) > 228


# --- the command ---------------------------------------------------------------------------------

TINY = ["--preset", "debug", "--repeats", "2", "--steps", "3", "--seconds", "0.01"]
TINY += ["--envs", "2", "4", "--long", "20", "--long-envs", "2"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report file of a tiny run."""
    folder = tmp_path_factory.mktemp("bench")
    patch = pytest.MonkeyPatch()
    patch.setattr(bench_world, "START_CONTEXTS", 3)
    patch.setattr(emulator_speed, "EMULATOR_ENVS", (1, 2))
    threads = torch.get_num_threads()
    assert main(["bench", "pong", *TINY, "--to", str(folder)]) == 0
    assert torch.get_num_threads() == threads
    patch.undo()
    (path,) = folder.iterdir()
    return path


@pytest.mark.emulator
def test_a_report_says_what_was_measured_and_on_what(written):
    report = json.loads(written.read_text())
    assert written == report_path(written.parent, report)
    assert (report["game"], report["device"], report["threads"]) == ("Pong", "cpu", 1)
    assert report["hardware"]
    assert report["versions"]["torch"] == torch.__version__
    emulator = report["emulator"]
    rates = [one["steps_per_second"] for one in emulator["tried"]]
    best = emulator["tried"][rates.index(max(rates))]
    chosen = emulator["num_envs"], emulator["num_threads"]
    assert chosen == (best["num_envs"], best["num_threads"])
    preset = report["presets"]["debug"]
    dreams = preset["dreams"]
    assert [(one["obs_type"], one["num_envs"]) for one in dreams] == [
        ("latent", 2),
        ("latent", 4),
        ("rgb", 2),
        ("rgb", 4),
    ]
    for one in dreams:
        pairs = zip(one["dream"]["values"], one["emulator"]["values"], strict=True)
        assert one["ratio"]["values"] == [dream / real for dream, real in pairs]
        assert len(one["ratio"]["values"]) == 2
        assert one["steps"] == 3
    assert [one["obs_type"] for one in preset["long"]] == ["latent", "rgb"]
    names = [(part["name"], part["what"]) for part in preset["training"]]
    assert names == [
        ("world-model update, images", "2 × 20 frames"),
        ("world-model update, stored latents", "2 × 24 latents"),
        ("imagination", "8 dreams × 4 steps"),
        ("agent update", "8 dreams × 4 steps"),
        ("acting", "1 frame encoded, filtered, acted on"),
        ("a step of joint training", "images"),
        ("a step of joint training", "stored latents"),
    ]
    assert all(part["seconds"]["low"] > 0 for part in preset["training"])


@pytest.mark.emulator
def test_the_table_shows_the_medians_of_the_report(written):
    report = read_report(written)
    table = speed_table(report)
    for one in report["presets"]["debug"]["dreams"]:
        assert f"{one['dream']['median']:,.0f} (" in table
        assert f"{one['ratio']['median']:,.2f} (" in table
    assert f"{report['emulator']['bare']['median']:,.0f} (" in table
    assert "random, of this preset's sizes" in table
    assert "imagination (8 dreams × 4 steps)" in table


@pytest.mark.emulator
def test_a_report_is_plotted(written, capsys, tmp_path):
    picture = tmp_path / "plots" / "speed.png"
    assert main(["bench", "--plot", str(written), str(written), "--to", str(picture)]) == 0
    assert str(picture) in capsys.readouterr().out
    from PIL import Image

    with Image.open(picture) as image:
        assert image.width > 1000  # two panels
    assert main(["bench", "--plot", str(written)]) == 2
    assert "--to PNG" in capsys.readouterr().err


def test_what_is_skipped_is_left_out(capsys):
    words = ["--skip", "emulator", "long", "training", "--envs", "2", "--obs", "latent", "--json"]
    assert main(["bench", "Krull", *TINY, *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["emulator"] is None
    (dreams,) = report["presets"]["debug"]["dreams"]
    assert dreams["ratio"] is dreams["emulator"] is None
    assert report["presets"]["debug"]["long"] == report["presets"]["debug"]["training"] == []
    assert " -" in speed_table(report)  # no ratio


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["Ping"], "Pong"),
        (["--preset", "huge"], "paper, small, debug"),
        (["--envs", "0"], "envs must be a whole number >= 1"),
        (["--obs", "sound"], "rgb, latent, grayscale"),
        (["--skip", "everything"], "emulator, dreams, long, training"),
        (["--repeats", "0"], "repeats"),
        (["--seconds", "0"], "seconds"),
        (["--device", "warp"], "warp"),
        (["--checkpoint", "nowhere/at/all"], "is not a checkpoint"),
        (["--preset", "paper", "--checkpoint", "Pong"], "name its own with --preset"),
        (["--plot", "nowhere.json", "--to", "x.png"], "nowhere.json cannot be read"),
        (["--to", "/proc/nothing/x.json"], "choose a writable --to"),
    ],
)
def test_mistakes_get_one_line_before_anything_is_measured(
    words, expected, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(emulator_speed, "make_envs", None)  # nothing may come so far
    assert main(["bench", *words]) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_report_or_hold_no_dreams_are_refused(capsys, tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"hardware": "a Xeon"}')
    assert main(["bench", "--plot", str(other), "--to", str(tmp_path / "x.png")]) == 2
    assert "no report of this `glam bench`" in capsys.readouterr().err
    other.write_text('{"bench_format": 1, "presets": {"small": {"dreams": []}}}')
    assert main(["bench", "--plot", str(other), "--to", str(tmp_path / "x.png")]) == 2
    assert "--skip dreams" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize(
    ("hardware", "threads", "device", "name"),
    [
        ("Intel(R) Xeon(R) Processor, 2 cores", 2, "cpu", "xeon-2-cores"),
        ("Intel(R) Xeon(R) Processor, 2 cores", 1, "cpu", "xeon-2-cores-1-thread"),
        ("AMD EPYC 7763 64-Core Processor, 4 cores", 4, "cpu", "epyc-7763-4-cores"),
        ("Intel(R) Core(TM) i7-9700 CPU @ 3.00GHz, 8 cores", 8, "cpu", "core-i7-9700-8-cores"),
        ("NVIDIA H200", 16, "cuda", "h200"),
    ],
)
def test_the_hardware_names_the_file(hardware, threads, device, name):
    report = {"hardware": hardware, "threads": threads, "device": f"{device}:0"}
    assert hardware_name(hardware, threads, device) == name
    assert report_path(Path("results"), report) == Path("results") / f"{name}.json"
    assert report_path(Path("mine.json"), report) == Path("mine.json")


def test_a_plot_needs_a_picture_to_write(tmp_path, written):
    from glam_env.errors import GlamError

    with pytest.raises(GlamError, match=r"writable \.png"):
        save_speed_plot(tmp_path / "speed.nothing", [read_report(written)])
