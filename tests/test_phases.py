"""The schedule of a run: its phases in order, and how far along them a run is."""

from dataclasses import replace

import pytest

from glam_env.training.config import FreezeConfig, TrainConfig
from glam_env.training.phases import FREEZING, count_freezes, progress, schedule
from glam_env.training.presets import PRESETS

SMALL, DEBUG, PAPER = (PRESETS[name] for name in ("small", "debug", "paper"))


def listed(config: TrainConfig) -> list[tuple[str, str, int]]:
    return [(phase.name, phase.unit, phase.total) for phase in schedule(config)]


def test_small_preset():
    assert listed(SMALL) == [
        ("random play", "steps", 40_000),
        ("image warm-up", "updates", 1_200),
        ("image fine-tuning", "updates", 4_000),
        ("adaptation", "updates", 2_000),
        ("end-to-end training", "updates", 1_000),
        ("adaptation", "updates", 2_000),
        ("joint training", "steps", 240_000),
        ("end-to-end training", "updates", 1_000),
        ("adaptation", "updates", 2_000),
        ("joint training", "steps", 400_000),
    ]
    assert count_freezes(schedule(SMALL)) == 3


def test_paper_preset_is_algorithm_1():
    assert listed(PAPER) == [("random play", "steps", 1024), ("joint training", "steps", 100_000)]


def test_after_a_warm_start_the_agent_plays_first():
    assert listed(replace(PAPER, warm_start="Pong"))[0] == ("first play", "steps", 1024)


def test_model_warm_up_counts_the_adaptation_before_it():
    config = replace(
        DEBUG, model_warmup=5, freeze=replace(DEBUG.freeze, at=(0.0,), adapt=2, end_to_end=0)
    )
    assert listed(config)[2:] == [
        ("image fine-tuning", "updates", 2),
        ("adaptation", "updates", 2),
        ("model warm-up", "updates", 3),
        ("joint training", "steps", 600),
    ]
    enough = replace(config, model_warmup=2)
    assert "model warm-up" not in [phase.name for phase in schedule(enough)]


def test_no_adaptation_to_latents_that_change_again_at_once():
    """Both freezes are due when random play ends, at step 200 of 600."""
    names = [
        name for name, *_ in listed(replace(DEBUG, freeze=FreezeConfig((0.0, 0.3), 4, adapt=7)))
    ]
    assert names[2:4] == ["image fine-tuning"] * 2
    assert names[4:] == ["adaptation", "joint training"]


def test_the_margin_begins_within_the_fine_tuning():
    freeze = FreezeConfig((0.9,), 10, margin=4, margin_weight=9.0, margin_from=0.25)
    config = replace(DEBUG, freeze=freeze, loss=replace(DEBUG.loss, margin=1, margin_weight=2.0))
    (phase,) = [phase for phase in schedule(config) if phase.step in FREEZING]
    used = [(own.margin, own.margin_weight) for own in (phase.loss(config, n) for n in range(10))]
    assert used == [(1, 2.0)] * 3 + [(4, 9.0)] * 7


def test_the_fine_tuning_has_a_focus_of_its_own():
    for own, expected in ((0.0, 2.0), (4.0, 4.0)):
        freeze = FreezeConfig((0.5,), 3, end_to_end=2, focus=own)
        config = replace(DEBUG, freeze=freeze, loss=replace(DEBUG.loss, focus=2.0))
        used = {phase.step in FREEZING: phase.loss(config, 0).focus for phase in schedule(config)}
        assert used == {True: expected, False: 2.0}


def test_a_freeze_without_fine_tuning_is_a_phase():
    config = replace(DEBUG, freeze=FreezeConfig(at=(0.5,)))
    assert ("image fine-tuning", "updates", 0) in listed(config)
    assert "adaptation" not in [phase.name for phase in schedule(config)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"phase": "random play", "env_steps": 80}, (80, 200, "steps")),
        ({"phase": "image warm-up", "env_steps": 200, "phase_updates": 2}, (2, 3, "updates")),
        ({"phase": "adaptation", "env_steps": 420, "phase_updates": 1}, (1, 2, "updates")),
        ({"phase": "joint training", "env_steps": 300}, (300, 600, "steps")),
    ],
)
def test_progress_of_a_line_of_metrics(line, expected):
    assert progress(DEBUG, line) == expected
