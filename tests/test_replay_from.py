"""`glam train --replay-from`: recorded games as the first steps of a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import mistake
from glam_agents.storm import AGENT_PRESETS, ActorCritic
from play_subject import make_subject

from glam_env.checkpoint.config import Provenance, from_json, to_json
from glam_env.cli.main import main
from glam_env.evaluation.report.card import write_card
from glam_env.play.session.session import Session
from glam_env.training.config import TrainConfig
from glam_env.training.export import load_run
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

pytestmark = pytest.mark.emulator

FIELDS = ("frames", "actions", "rewards", "life_lost", "ended")
CONFIG = replace(PRESETS["debug"], total_steps=240, replay_capacity=300)


@pytest.fixture(scope="module")
def files(endless_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two recordings: one of the emulator with a dream in between, one with two episodes' ends."""
    folder = tmp_path_factory.mktemp("recordings")
    session = Session(make_subject(endless_checkpoint), seed=1, real=True)
    session.record()
    for count in (40, 5, 30):  # of the game, of a dream, of the game
        for t in range(count):
            session.step((2, 3, 0, 5)[t // 3 % 4])
        session.switch()
    recorder = session.record()
    assert recorder is not None
    first = recorder.save(folder / "first.npz")
    played = dict(np.load(first))
    second = {name: played[name][:, :22] for name in (*FIELDS, "real")}
    second["actions"] = (second["actions"] + 1) % 6
    second["ended"][0, [6, 13]] = True
    second["life_lost"][0, [3, 6]] = True  # a life, a game; at 13 the game is cut off
    np.savez(folder / "second.npz", game=np.array("Pong"), **second)
    return str(first), str(folder / "second.npz")


def recorded(files: tuple[str, ...]) -> list[dict]:
    """Return the real steps of files in order, and whether the last of each ends a stretch."""
    steps = []
    for file in files:
        arrays = {name: array[0] for name, array in np.load(file).items() if name != "game"}
        here = [{name: arrays[name][t] for name in FIELDS} for t in np.flatnonzero(arrays["real"])]
        here[-1]["cut"] = True
        steps += here
    return steps


def make(path: Path, files: tuple[str, ...], config: TrainConfig = CONFIG) -> Trainer:
    exists = (path / "config.json").exists()
    config = replace(config, replay_from=files)
    settings = {"game": "Pong", "preset": "debug", "train": asdict(config)}
    run = RunFolder(path, None if exists else settings)

    def agent(width: int, actions: int) -> ActorCritic:
        return ActorCritic(AGENT_PRESETS["debug"], width, actions)

    return Trainer("Pong", config, run, agent)


def stored(trainer: Trainer, name: str) -> np.ndarray:
    """Return a field of all steps in the replay, (S, T, ...)."""
    streams = np.arange(trainer.replay.streams)[:, None]
    return trainer.replay.take(name, (streams, np.arange(trainer.replay.added)[None])).numpy()


def test_the_replay_begins_with_the_recorded_steps(files, tmp_path) -> None:
    trainer = make(tmp_path / "run", files)
    steps = recorded(files)
    assert len(steps) == 92
    length, left = divmod(len(steps), 2)
    assert left == 0
    assert trainer.env_steps == trainer.recorded_steps == 92
    terminated, truncated = stored(trainer, "terminated"), stored(trainer, "truncated")
    names = {"images": "frames", "actions": "actions", "rewards": "rewards"}
    for name, given in (names | {"life_lost": "life_lost"}).items():
        rows = stored(trainer, name)
        assert rows.shape[:2] == (2, length)
        for at, step in enumerate(steps):
            assert np.array_equal(rows[divmod(at, length)], step[given]), (name, at)
    flat = range(len(steps))
    over = [at for at in flat if steps[at]["ended"] and steps[at]["life_lost"]]
    ends = {at for at in flat if steps[at]["ended"] or "cut" in steps[at]} | {45, 91}
    assert np.flatnonzero(terminated).tolist() == over == [76]
    assert np.flatnonzero(truncated).tolist() == sorted(ends - {76}) == [39, 45, 69, 83, 91]
    # Random play makes up the rest, in new games: as a run without recordings begins.
    other = make(tmp_path / "other", ())
    for each in (trainer, other):
        while each.phase.name == "random play":
            each.advance()
        assert each.env_steps == each.config.random_steps == 200
    for name in ("images", "actions"):
        rest = stored(trainer, name)[:, length:]
        assert np.array_equal(rest, stored(other, name)[:, : rest.shape[1]])
    trainer.close()
    other.close()


def test_no_window_crosses_a_cut(files, tmp_path) -> None:
    trainer = make(tmp_path / "run", files)
    while trainer.phase.name == "random play":
        trainer.advance()
    stretches = np.full((2, trainer.replay.added), -1)  # those of random play follow
    number, steps = 0, recorded(files)
    for at, step in enumerate(steps):
        stretches[divmod(at, 46)] = number
        number += bool(step["ended"] or "cut" in step or at == 45)
    rng = np.random.default_rng(0)
    windows = trainer.replay.draw_windows(2000, 20, rng)
    found = stretches[windows.streams, windows.slots]
    seen = set()
    for row, valid in zip(found, windows.valid, strict=True):
        assert len(set(row[valid])) == 1
        seen.add(row[0])
    assert seen == {-1, *range(number)}, "each stretch is learned from"
    trainer.close()


def test_steps_that_do_not_fill_all_streams_are_left_out(files, tmp_path) -> None:
    trainer = make(tmp_path / "run", files, replace(CONFIG, num_envs=5, random_steps=200))
    assert trainer.recorded_steps == 90
    actions = [step["actions"] for step in recorded(files)[:90]]
    assert stored(trainer, "actions").flatten().tolist() == actions
    assert stored(trainer, "truncated")[:, -1].all()
    trainer.close()


def test_recordings_may_take_the_place_of_all_random_play(files, tmp_path) -> None:
    config = replace(CONFIG, random_steps=60)
    trainer = make(tmp_path / "run", files, config)
    trainer.advance()
    assert trainer.phase.name == "image warm-up"
    assert trainer.env_steps == 92
    assert trainer.world_model.decoder.background.abs().sum() > 0
    trainer.close()


def test_a_resumed_run_needs_the_files_no_more(files, tmp_path) -> None:
    whole = make(tmp_path / "whole", files)
    assert whole.train()
    whole.close()
    copies = tuple(shutil.copy(file, tmp_path) for file in files)
    first = make(tmp_path / "parts", copies)  # killed before its first step
    first.close()
    for copy in copies:
        Path(copy).unlink()
    for stop_at in (30, 10**9):
        trainer = make(tmp_path / "parts", copies)
        assert trainer.recorded_steps == 92
        work = iter(range(10**9))
        trainer.train(stop=lambda work=work, stop_at=stop_at: next(work) >= stop_at)
        trainer.close()
    one, other = (RunFolder(tmp_path / name).load_checkpoint() for name in ("whole", "parts"))
    assert one is not None
    assert other is not None
    assert one["counts"] == other["counts"]
    for name, value in one["world_model"].items():
        assert torch.equal(value.nan_to_num(), other["world_model"][name].nan_to_num()), name
    lines = [
        [
            {name: figure for name, figure in json.loads(line).items() if name != "seconds"}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "parts")
    ]
    assert lines[0] == lines[1]
    origin = load_run(RunFolder(tmp_path / "whole"), torch.device("cpu")).provenance
    assert (origin.environment_steps, origin.recorded_steps) == (240, 92)


def test_a_card_says_how_many_steps_were_recorded(checkpoint_config) -> None:
    config = checkpoint_config
    assert "recorded steps" not in write_card(config)
    earlier = replace(config.provenance, recorded_steps=1200)
    origin = replace(config.provenance, recorded_steps=92, begun_from=to_json(earlier))
    card = write_card(replace(config, provenance=origin))
    assert "| recorded steps of `glam play` among them | 1,292 |" in card
    plain = to_json(earlier)
    del plain["recorded_steps"]  # as checkpoints of before have it
    plain["versions"] = {"torch": "2.13.0"}
    assert from_json(Provenance, plain, "test").recorded_steps == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{none}"], r"none.npz cannot be read"),
        (["{first}", "{other}"], "is a recording of 'Boxing', not of Pong"),
        (["{dreamt}"], "holds dreams alone"),
        (["{wild}"], "actions"),
        (["{first}", "{first}"], "twice"),
        (["{first}", "--replay-capacity", "60"], "replay_capacity 60"),
        (["{first}", "--total-steps", "70"], "total_steps 70"),
        (["{few}"], "has 1 real steps, fewer than num_envs 2"),
    ],
)
def test_what_cannot_be_learned_from_gets_one_line(words, says, files, tmp_path, capsys) -> None:
    arrays = dict(np.load(files[0]))

    def save(name: str, **changed: np.ndarray) -> str:
        np.savez(tmp_path / f"{name}.npz", **{**arrays, **changed})
        return str(tmp_path / f"{name}.npz")

    real, one = arrays["real"], np.zeros_like(arrays["real"])
    one[0, 0] = True
    named = {
        "none": str(tmp_path / "none.npz"),
        "first": files[0],
        "other": save("other", game=np.array("Boxing")),
        "dreamt": save("dreamt", real=np.zeros_like(real)),
        "wild": save("wild", actions=arrays["actions"] + 6),
        "few": save("few", real=one),
    }
    run = tmp_path / "run"
    given = ["--preset", "debug", "--run", str(run), "--replay-from"]
    error = mistake(capsys, "train", "Pong", *given, *(word.format(**named) for word in words))
    assert says in error
    assert not run.exists()


def test_the_command_trains_from_recordings(files, tmp_path) -> None:
    words = ["--run", str(tmp_path / "run"), "--minutes", "0.0001"]
    assert main(["train", "Pong", "--preset", "debug", "--replay-from", *files, *words]) == 0
    assert main(["train", "Pong", "--resume", *words]) == 0
    trained = load_run(RunFolder(tmp_path / "run"), torch.device("cpu"))
    assert trained.config.replay_from == files
    assert trained.provenance.recorded_steps == 92
