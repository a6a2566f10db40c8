"""The progress display, on a clock that these tests set."""

import io
from types import SimpleNamespace

import pytest

from glam_env.console import Progress, clock
from glam_env.training.logs import show_metrics
from glam_env.training.presets import PRESETS


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def hands():
    return SimpleNamespace(now=100.0)


def display(stream, hands) -> Progress:
    return Progress(stream, seconds=lambda: hands.now)


def test_plain_lines_come_every_15_seconds_and_at_the_end(hands):
    stream = io.StringIO()
    with display(stream, hands) as progress:
        for done in range(0, 41, 10):
            progress("play", done, 40, "steps", note=f"return {done}")
            hands.now += 10.0
    assert stream.getvalue().splitlines() == [
        "play: 20/40 steps | 1 steps/s, 0:00:20 left | return 20",
        "play: 40/40 steps | 1 steps/s | return 40",
    ]


def test_the_end_is_shown_once_though_it_comes_at_once(hands):
    stream = io.StringIO()
    with display(stream, hands) as progress:
        for _ in range(3):
            progress("play", 2_000, 2_000)
    assert stream.getvalue() == "play: 2,000/2,000\n"


def test_a_resumed_work_shows_its_own_speed(hands):
    stream = io.StringIO()
    with display(stream, hands) as progress:
        progress("training", 90_000, 100_000, "steps")
        hands.now += 20.0
        progress("training", 91_000, 100_000, "steps")
    assert stream.getvalue() == "training: 91,000/100,000 steps | 50 steps/s, 0:03:00 left\n"


def test_each_part_has_the_speed_of_its_own_time(hands):
    """Another part in between, and a part that begins again, do not count."""
    stream = io.StringIO()
    with display(stream, hands) as progress:
        progress("training", 0, 1_000, "steps")
        hands.now += 4.0
        progress("training", 40, 1_000, "steps")
        progress("fine-tuning", 0, 100, "updates")
        hands.now += 100.0
        progress("fine-tuning", 100, 100, "updates")
        hands.now += 16.0
        progress("training", 200, 1_000, "steps")
        progress("fine-tuning", 0, 100, "updates")
        hands.now += 50.0
        progress("fine-tuning", 25, 100, "updates")
    assert stream.getvalue().splitlines() == [
        "fine-tuning: 100/100 updates | 1 updates/s",
        "training: 200/1,000 steps | 10 steps/s, 0:01:20 left",
        "fine-tuning: 25/100 updates | 0.5 updates/s, 0:02:30 left",
    ]


def test_a_terminal_has_a_bar_for_each_part(hands):
    stream = Terminal()
    with display(stream, hands) as progress:
        progress("play", 0, 10, "games")
        hands.now += 1.0
        progress("play", 5, 10, "games", note="mean [red]")
        progress("dreams", 3, 3)
    last = stream.getvalue().split("play")[-1]
    assert "━" in last
    assert "5/10 games | 5 games/s, 0:00:01 left | mean [red]" in " ".join(last.split())
    assert "dreams" in last


def test_what_is_printed_meanwhile_goes_to_standard_output(hands, capsys):
    with display(Terminal(), hands) as progress:
        progress("play", 1, 10)
        print("result")
    assert capsys.readouterr().out == "result\n"


def test_metrics_are_shown_with_their_phase(hands):
    stream = io.StringIO()
    config = PRESETS["debug"]
    with display(stream, hands) as progress:
        show = show_metrics(config, progress)
        show({"episode_return": 3.0})  # no phase: the end of an episode
        for steps in (250, 300):
            show({"phase": "joint training", "env_steps": steps, "recent_return": -20.5, "x": 1})
            hands.now += 20.0
    assert stream.getvalue() == (
        "joint training: 300/600 steps | 2.5 steps/s, 0:02:00 left | return -20.5\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (1e6, "277:46:40")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text
