"""The noise ceiling: play that is repeated with other luck, and what is usual among repeats."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glam_env.checkpoint.folder import Checkpoint
from glam_env.envs.atari.rewind import RewindableGame
from glam_env.errors import GlamError
from glam_env.evaluation import examine as examination
from glam_env.evaluation.examine import Examination, examine_missing
from glam_env.evaluation.measures import MEASURES
from glam_env.evaluation.measures.base import Settings, Subject
from glam_env.evaluation.measures.ceiling import (
    REPEATS,
    CeilingReport,
    event_ceilings,
    find_usual,
    hold_each,
)
from glam_env.evaluation.measures.thresholds import CheckReport
from glam_env.evaluation.play.again import Play, play_from, repeat
from glam_env.evaluation.play.moments import RealMoment, find_moments
from glam_env.evaluation.play.policies import agent_policy
from glam_env.evaluation.report.summary import summarize
from glam_env.evaluation.report.tables import markdown_tables
from glam_env.games import find_game
from glam_env.protocols import PROTOCOLS, PlaySettings

PONG = Path(__file__).parents[1] / "checkpoints" / "Pong"
STICKY, PLAIN = PROTOCOLS["published"], PROTOCOLS["atari100k"]
LENGTH = 34


def random_act(features, generator):
    return torch.randint(6, (len(features),), generator=generator)


def silent(*_):
    pass


def events(*at: int) -> np.ndarray:
    row = np.zeros(LENGTH, np.int8)
    row[list(at)] = 1
    return row


# --- figures -------------------------------------------------------------------------------------


def test_what_is_usual_agrees_best_with_the_other_repeats():
    again = np.stack(
        [
            [events(3), events(10), events(11)],  # the last two are within two steps
            [events(3, 20), events(), events()],  # beyond the horizon nothing counts
            [events(), events(5), events()],
        ]
    )
    assert find_usual(again, 16).tolist() == [1, 1, 0]
    assert find_usual(again[:1, :1], 16).tolist() == [0]


def test_the_ceiling_of_events_by_hand():
    real = np.stack([events(10), events(5)])
    again = np.stack(
        [[events(3), events(9), events(9)], [events(5), events(5), events(9)]]
    )  # repeat 1: 1 of 2 found, 1 false; repeat 2: all found; repeat 3: 1 found, 1 false
    alive = np.ones(real.shape, bool)
    short, long = event_ceilings(real, again, alive)
    assert (short.horizon, long.horizon) == (16, 32)
    assert short.real == 2
    assert short.again == pytest.approx((0.5 + 1.0 + 0.5) / 3)
    assert short.usual == 1.0
    nothing = event_ceilings(np.zeros_like(real), again, alive)[0]
    assert (nothing.real, nothing.again, nothing.usual) == (0, None, None)


# --- the game ------------------------------------------------------------------------------------


@pytest.fixture
def moments(make_world_model) -> list[RealMoment]:
    game = RewindableGame(find_game("Breakout"), STICKY)
    game_of = {"count": 3, "stride": 8, "context": 8, "seed": 2, "on_moment": silent}
    model = make_world_model(-99.0)
    return find_moments(model, lambda *at: random_act(*at) % 4, game, **game_of)


def same(one: Play, other: Play) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.emulator
def test_the_same_luck_brings_the_same_play_and_other_luck_another(make_world_model, moments):
    model, game = make_world_model(-99.0), RewindableGame(find_game("Breakout"), STICKY)
    game.reset(0)
    for moment in moments:
        play = play_from(model, lambda *at: random_act(*at) % 4, game, moment, steps=LENGTH, seed=7)
        assert play.length == LENGTH
        assert not play.ended
        assert same(play, repeat(game, moment, play.actions.tolist(), seed=7))
        others = [repeat(game, moment, play.actions.tolist(), seed=seed) for seed in range(4)]
        assert not all(np.array_equal(play.frames, other.frames) for other in others)
        assert all(np.array_equal(play.actions, other.actions) for other in others)


@pytest.mark.emulator
def test_without_sticky_actions_a_repeat_is_the_same_play(moments):
    game = RewindableGame(find_game("Breakout"), PLAIN)
    game.reset(0)
    actions = np.random.default_rng(0).integers(4, size=20).tolist()
    for moment in moments:
        one, other = (repeat(game, moment, actions, seed=seed) for seed in (1, 2))
        assert same(one, other)
        returns = hold_each(game, moment, seed=3)
        if returns is not None:
            assert returns.shape == (1 + REPEATS, 4)
            assert (returns == returns[0]).all()


@pytest.mark.emulator
def test_a_play_ends_with_its_episode():
    game = RewindableGame(find_game("Pong"), PLAIN)
    game.reset(0)
    for _ in range(20):
        game.step(0)
    early = RealMoment(game.save(), None, None)  # type: ignore[arg-type]
    steps = 0
    while not game.step(0).terminated:
        steps += 1
    play = repeat(game, early, [0] * (steps + 50), seed=0)
    assert play.ended
    assert play.length == steps + 1
    assert play.shown == steps
    assert play.rewards.sum() <= -20
    assert play.life_lost[steps]
    assert not play.rewards[steps + 1 :].any()
    assert not play.frames[steps + 1 :].any()


@pytest.mark.emulator
@pytest.mark.parametrize("play", [PLAIN, STICKY], ids=["atari100k", "published"])
def test_the_report_on_a_game(make_world_model, play: PlaySettings):
    settings = Settings(ceiling_moments=2 if play == PLAIN else 6, context=8, play=play, seed=1)
    model = make_world_model(-99.0)
    subject = Subject(model, random_act, "Pong", settings)
    report = CeilingReport.measure(subject)
    assert report is not None
    assert "recording" not in vars(subject)  # it plays games of its own
    assert report.moments == (4 if play == PLAIN else 8)  # of four players
    assert len(report.error_again) == len(report.error_usual) == 32
    again = [error for error in report.error_again if error is not None]
    assert len(again) == 32
    if play == PLAIN:
        assert set(again) == {0.0} == set(report.error_usual)
        assert all(score.usual == score.again for score in report.rewards)
        assert {score.usual for score in report.rewards} <= {1.0, None}
    else:
        assert again[-1] > again[0] >= 0.0
        # The mean of eight frames is nearer to what happens than one of them.
        assert np.mean(again) > np.mean([e for e in report.error_usual if e is not None])
        assert report == CeilingReport.measure(Subject(model, random_act, "Pong", settings))
    assert report == CeilingReport.from_json(report.as_json())
    assert (
        CeilingReport.measure(
            Subject(model, random_act, "Pong", replace(settings, ceiling_moments=0))
        )
        is None
    )


@pytest.mark.parametrize("name", ["branch_steps", "ranking_moments", "ceiling_moments"])
def test_a_negative_amount_is_refused_before_anything_is_played(name: str):
    with pytest.raises(GlamError, match=f"{name} must be at least 0, not -1"):
        Settings(**{name: -1})


# --- beside the thresholds -----------------------------------------------------------------------


def measured(**ceiling: Any) -> Examination:
    """Return the shipped Pong's report with a ceiling of given figures."""
    plain = copy.deepcopy(dict(Checkpoint.open(PONG).config.results["fidelity"]))
    plain["ceiling"] = {
        "moments": 8,
        "repeats": REPEATS,
        "horizon": 32,
        "seed": 0,
        "rewards": [{"horizon": 16, "real": 20, "again": 0.9, "usual": 0.95}],
        "endings": [],
        "error_again": [0.02] * 32,
        "error_usual": [0.01] * 32,
        "decided": 4,
        "right": 0.97,
        "explained": 0.9,
        "regret": 0.05,
        **ceiling,
    }
    return Examination.from_json(plain).check_again()


def test_thresholds_show_the_ceiling_of_their_figure():
    checks = {check.name: check for check in measured().checks}
    assert checks["reward F1 to step 16"].ceiling == 0.95
    assert checks["foreground error, 1 step ahead"].ceiling == 0.01
    assert checks["held actions, variance explained"].ceiling == 0.9
    assert checks["held actions, pairs ordered right"].ceiling == 0.97
    assert checks["held actions, points at stake lost"].ceiling == 0.05
    assert sum(check.ceiling is not None for check in checks.values()) == 5
    assert all(check.within_reach for check in checks.values())
    (report,) = (r for r in measured().found.values() if isinstance(r, CheckReport))
    head = next(line for line in markdown_tables([report]) if "noise ceiling" in line)
    assert head == "|  | value | noise ceiling |   |"
    row = next(line for line in markdown_tables([report]) if "reward F1" in line)
    assert row.split("|")[3].strip() == "0.950"


def test_a_card_says_what_even_the_game_does_not_keep():
    beyond = measured(explained=0.3, right=None)
    checks = {check.name: check for check in beyond.checks}
    assert not checks["held actions, variance explained"].within_reach
    assert checks["held actions, pairs ordered right"].within_reach  # nothing is known of it
    missed = [check for check in beyond.checks if not check.passed]
    assert "held actions, variance explained" in {check.name for check in missed}
    line = (
        "The game itself, played again with other sticky actions, misses 1 of these: "
        "held actions, variance explained 0.300."
    )
    assert line in summarize(list(beyond.found.values()))
    assert not any("played again" in one for one in summarize(list(measured().found.values())))


def test_only_missing_measures_run(make_world_model, monkeypatch):
    known = measured()
    reports = {name: report for name, report in known.reports.items() if name != "ceiling"}
    before = Examination({**reports, "ceiling": None})
    ran = []
    for name, kind in MEASURES.items():

        def measure(subject, name=name):
            ran.append(name)
            assert [policy.name for policy in subject.policies] == ["greedy"]
            return known.reports[name]

        monkeypatch.setattr(kind, "measure", measure)
    greedy = agent_policy("greedy", random_act)
    after = examine_missing(before, make_world_model(-99.0), random_act, "Pong", policies=[greedy])
    missing = {name for name, report in before.reports.items() if report is None}
    assert set(ran) == missing >= {"ceiling"}
    assert after.figures() == known.figures()
    assert examination.Examination.from_json(after.as_json()).figures() == known.figures()
