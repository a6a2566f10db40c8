"""A run's metrics, read back: phases, scores over the steps, curves, and torn files."""

import json
from pathlib import Path

import pytest

from glam_env.errors import GlamError
from glam_env.evaluation.report.history import (
    BEFORE,
    Curve,
    moving_average,
    read_history,
    save_curves,
    sparkline,
    summarize,
)
from glam_env.games import find_game


def line(steps, images, model, agent, seconds, **figures):
    return {
        "env_steps": steps,
        "image_updates": images,
        "model_updates": model,
        "agent_updates": agent,
        **figures,
        "seconds": seconds,
    }


def lines():
    """A run as the trainer logs it: a line bears the name of the work that follows."""
    joint = [
        line(100 + 10 * i, 20, 5 + i, i, 20 + i, phase="joint training", reward=1 / (i + 1))
        for i in range(1, 11)
    ]
    episodes = [
        line(100 + 10 * i, 20, 5 + i, i, 20 + i, episode_return=2.0 * i - 21, episode_length=9)
        for i in range(1, 11)
    ]
    return [
        line(40, 0, 0, 0, 1, episode_return=-21.0, episode_length=40),
        line(90, 0, 0, 0, 2, episode_return=-20.0, episode_length=50),
        line(100, 10, 0, 0, 4, phase="image warm-up", foreground_error=0.5),
        line(100, 20, 0, 0, 6, phase="model warm-up", foreground_error=0.1),
        line(100, 20, 5, 0, 20, phase="joint training", reward=2.0),
        *(each for pair in zip(joint, episodes, strict=True) for each in pair),
    ]


def test_phases_add_up_to_the_run():
    history = summarize(lines(), "a test")
    assert [(p.name, p.until) for p in history.phases] == [
        (BEFORE, 100),
        ("image warm-up", 100),
        ("model warm-up", 100),
        ("joint training", 200),
    ]
    before, image, model, joint = history.phases
    assert (before.env_steps, before.image_updates, before.seconds) == (100, 0, 2)
    assert (image.image_updates, image.model_updates, image.seconds) == (20, 0, 4)
    assert (model.model_updates, model.seconds) == (5, 14)
    assert (joint.env_steps, joint.model_updates, joint.agent_updates) == (100, 10, 10)
    assert sum(p.seconds for p in history.phases) == history.seconds == 30


def test_phases_of_version_0_1_have_todays_names():
    """A run with both, as when an earlier run is resumed, has one phase of each name."""
    run = [
        line(100, 10, 0, 0, 4, phase="image polish", polished=5),
        line(100, 20, 0, 0, 5, phase="image fine-tuning", phase_updates=5),
        line(100, 30, 0, 0, 6, phase="settling", settled=1),
        line(100, 30, 7, 0, 8, phase="adaptation", phase_updates=1),
        line(100, 30, 9, 0, 9, phase="joint training"),
        line(120, 30, 11, 2, 11, phase="joint training"),
    ]
    history = summarize(run, "a test")
    _, finetuning, adaptation, joint = history.phases
    assert (finetuning.name, finetuning.image_updates) == ("image fine-tuning", 30)
    assert (adaptation.name, adaptation.model_updates) == ("adaptation", 9)
    assert joint.name == "joint training"
    assert history.figures == {}  # counters of progress are none


@pytest.mark.parametrize(
    "file", sorted(Path(__file__).parents[1].glob("benchmarks/curves/*.jsonl"))
)
def test_committed_curves_are_read(file):
    history = read_history(file)
    assert history.phases
    assert not {"image polish", "settling"} & {phase.name for phase in history.phases}
    assert {"reward", "dynamics_kl"} <= history.figures.keys()
    assert not {"phase", "polished", "settled"} & history.figures.keys()


def test_a_phase_that_comes_back_is_another_one():
    again = [*lines(), line(200, 30, 15, 10, 40, phase="image warm-up")]
    again.append(line(210, 30, 16, 11, 44, phase="joint training"))
    names = [phase.name for phase in summarize(again, "a test").phases]
    assert names[-2:] == ["joint training", "image warm-up"]
    assert summarize(again, "a test").phases[-1].image_updates == 0


def test_scores_are_binned_over_the_steps():
    history = summarize(lines(), "a test")
    rows = history.scores(rows=4)
    assert [(row.since, row.until, row.episodes) for row in rows] == [
        (0, 50, 1),
        (50, 100, 1),
        (100, 150, 5),
        (150, 200, 5),
    ]
    assert (rows[2].mean, rows[2].lowest, rows[2].highest) == (-15.0, -19.0, -11.0)
    assert history.returns.steps[:3] == (40, 90, 110)


def test_curves_and_their_summary():
    history = summarize(lines(), "a test")
    assert history.figures["foreground_error"] == Curve((100, 100), (0.5, 0.1))
    assert "episode_return" not in history.figures
    plain = json.loads(json.dumps(history.as_json(), allow_nan=False))
    assert plain["figures"]["reward"]["highest"] == 2.0
    assert plain["phases"][-1]["name"] == "joint training"
    text = history.table()
    for words in ("image warm-up", "joint training", "reward", "mean return", "█"):
        assert words in text
    assert sparkline(Curve(tuple(range(8)), tuple(map(float, range(8))))) == "▁▂▃▄▅▆▇█"
    assert sparkline(Curve((1, 2), (3.0, 3.0))) == "▁▁"
    assert len(sparkline(Curve(tuple(range(100)), (0.5,) * 100), width=30)) == 30
    assert moving_average(Curve((1, 2, 3), (1.0, 3.0, 8.0)), 2).values == (1.0, 2.0, 5.5)


def write(path, figures, tail=""):
    path.write_text("".join(json.dumps(each) + "\n" for each in figures) + tail)
    return path


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    whole = read_history(write(tmp_path / "metrics.jsonl", lines()))
    assert read_history(tmp_path) == whole  # of a folder
    for tail in ('{"env_st', '{"env_steps": 3}'):
        assert read_history(write(tmp_path / "metrics.jsonl", lines(), tail)) == whole
    assert whole == summarize(lines(), "a test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no lines yet"),
        ("not a line\n{}\n", "line 1"),
        ('{"env_steps": 1}\n', "line 1: not a line of metrics"),
        ("[1]\n", "line 1"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "other.jsonl").write_text(text)
    with pytest.raises(GlamError, match=message) as error:
        read_history(tmp_path / "other.jsonl")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(GlamError, match="cannot be read"):
        read_history(tmp_path / "none.jsonl")


def test_curves_of_some_runs_go_into_one_picture(tmp_path):
    from PIL import Image

    histories = {"one": summarize(lines(), "a test"), "other": summarize(lines()[:3], "a test")}
    save_curves(tmp_path / "new" / "curves.png", histories, find_game("Pong"))
    with Image.open(tmp_path / "new" / "curves.png") as picture:
        assert picture.width > 1000
    for path in (tmp_path / "new" / "curves.zzz", tmp_path / "new" / "curves.png" / "no.png"):
        with pytest.raises(GlamError, match="cannot write"):
            save_curves(path, histories)
