"""A measure is one file and one line: that of docs/add_a_measure.md shows up everywhere."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from toy_game import EmptyScreen, ToyModel, play, square, subject

from glam_env.checkpoint.folder import Checkpoint, write_results
from glam_env.errors import GlamError
from glam_env.evaluation.examine import Examination
from glam_env.evaluation.measures import MEASURES
from glam_env.evaluation.measures.base import Measure
from glam_env.evaluation.measures.behavior import BehaviorReport
from glam_env.evaluation.measures.objects import DETECTORS
from glam_env.evaluation.report.card import write_card
from glam_env.evaluation.report.plots import save_plots
from glam_env.evaluation.rows import Row

PAGE = Path(__file__).parents[1] / "docs" / "add_a_measure.md"
WITHOUT_A_GAME = ("open_loop", "images", "objects", "events", "latents")


def python_of_the_page():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def brightness(monkeypatch):
    """The page's class, registered by the page's line."""
    file, line, _ = python_of_the_page()
    module = ModuleType("brightness")
    monkeypatch.setitem(sys.modules, "brightness", module)
    exec(file, vars(module))
    monkeypatch.setitem(MEASURES, "brightness", None)  # so that the line is undone
    exec(line, {"MEASURES": MEASURES, **vars(module)})
    return MEASURES["brightness"]


def open_loop_report(model, *more):
    toy = subject(model, play(steps=100))
    for name in (*WITHOUT_A_GAME, *more):
        toy.reports[name] = MEASURES[name].measure(toy)
    return Examination(toy.reports)


def test_the_measure_of_the_page_is_in_table_json_and_card(brightness, checkpoint_config, tmp_path):
    examination = open_loop_report(ToyModel(), "brightness")
    report = examination.reports["brightness"]
    assert report.dream == pytest.approx(report.real, abs=0.1)
    low, high = report.dream_interval
    assert low == pytest.approx(high) == pytest.approx(report.dream)  # all frames are alike

    plain = json.loads(json.dumps(examination.as_json(), allow_nan=False))
    assert plain["brightness"]["dream"] == report.dream
    (real, dream) = (row for row in plain["rows"] if row["measure"] == "brightness")
    assert real["title"] == "brightness, real"
    assert dream["value"] == report.dream
    assert dream["interval"] == [low, high]
    assert dream["chance"] == report.background == 50.0
    assert Examination.from_json(plain).reports["brightness"] == report

    (line,) = (x for x in examination.table().splitlines() if x.startswith("brightness, dream"))
    assert f"{report.dream:.1f}" in line
    assert line.endswith("50.0")
    card = write_card(replace(checkpoint_config, results={"fidelity": plain}))
    (line,) = (x for x in card.splitlines() if x.startswith("| brightness, dream"))
    assert f"| {report.dream:.1f} | {low:.1f} to {high:.1f} | 50.0 |" in line
    paths = save_plots(tmp_path / "plots", examination.found)
    assert tmp_path / "plots" / "brightness.png" in paths


def test_a_card_is_written_again_from_stored_results(tiny_checkpoint):
    """By the page's lines, on a checkpoint whose card is of another time."""
    plain = json.loads(json.dumps(open_loop_report(ToyModel()).as_json()))
    checkpoint = Checkpoint.open(tiny_checkpoint)
    write_results(
        checkpoint.path, replace(checkpoint.config, results={"fidelity": plain}), "of another time"
    )
    *_, lines = python_of_the_page()
    exec(lines.replace('"Pong"', repr(str(tiny_checkpoint))), {})
    card = (tiny_checkpoint / "CARD.md").read_text()
    assert "foreground error, dream" in card
    assert Checkpoint.open(tiny_checkpoint).config.results == {"fidelity": plain}


def test_it_measures(brightness):
    empty = open_loop_report(EmptyScreen(), "brightness").reports["brightness"]
    assert empty.dream == empty.background < empty.real


def test_results_from_before_a_measure_are_still_read(brightness):
    plain = json.loads(json.dumps(open_loop_report(ToyModel(), "brightness").as_json()))
    del plain["brightness"], plain["rows"]
    examination = Examination.from_json(plain)
    assert examination.reports["brightness"] is None
    assert "brightness" not in examination.table()
    assert examination.as_json()["brightness"] is None


def test_broken_results_are_named(brightness):
    plain = json.loads(json.dumps(open_loop_report(ToyModel(), "brightness").as_json()))
    plain["brightness"]["real"] = "bright"
    with pytest.raises(GlamError, match=r"report: brightness\.real: expected .*float.*'bright'"):
        Examination.from_json(plain)
    del plain["brightness"]["real"]
    with pytest.raises(GlamError, match="key 'real' is missing"):
        Examination.from_json(plain)


def test_every_row_of_a_report_is_found_in_table_and_json(monkeypatch, brightness):
    monkeypatch.setitem(DETECTORS, "Toy", square)
    examination = open_loop_report(ToyModel(), "brightness")
    titles = {row["title"] for row in examination.as_json()["rows"]}
    assert len(titles) > 40
    table = examination.table()
    for title in titles:
        assert title in table, title


def test_a_report_that_is_needed_but_not_there_is_named():
    with pytest.raises(GlamError, match="BehaviorReport has no report"):
        subject(ToyModel(), play()).report(BehaviorReport)


def test_a_measure_must_have_all_its_parts():
    class Half(Measure):
        def rows(self):
            return [Row("half", 0.5)]

    with pytest.raises(TypeError, match="abstract"):
        Half()
