"""The window of `glam play`, on SDL's dummy driver with posted events."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import mistake
from play_subject import make_subject
from torch.nn import Parameter

from glam_env.checkpoint.folder import Checkpoint
from glam_env.cli.main import main
from glam_env.envs.recordings.contexts import read_contexts
from glam_env.games import GAMES, find_game
from glam_env.play.session.session import Session, Subject
from glam_env.play.window.keys import COMMANDS, action_of

pygame = pytest.importorskip("pygame")

from glam_env.play.window import app as app_module  # noqa: E402
from glam_env.play.window.app import PlayWindow  # noqa: E402
from glam_env.play.window.drawing import END, ENTROPY, LOST, RECORDING, WON  # noqa: E402


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("SDL_AUDIODRIVER", "none")  # there is no such driver: no sound at all


@pytest.fixture(scope="module")
def subject(endless_checkpoint: Path) -> Subject:
    return make_subject(endless_checkpoint)


class Hand:
    """Presses keys in a window and lets time pass."""

    def __init__(self, window: PlayWindow) -> None:
        self.window, self.session = window, window.session

    def down(self, key: str) -> None:
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.key.key_code(key)))

    def up(self, key: str) -> None:
        pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.key.key_code(key)))

    def press(self, key: str, ticks: int = 1) -> bool:
        """Press and release a key, then wait."""
        self.down(key), self.up(key)
        return self.wait(ticks)

    def wait(self, ticks: int) -> bool:
        opened = [self.window.tick() for _ in range(ticks)]
        return all(opened)

    @property
    def actions(self) -> list[int]:
        return [step.action for step in self.session.steps]

    def shows(self, color: tuple[int, int, int]) -> int:
        """Count the pixels of a color."""
        picture = pygame.surfarray.array3d(self.window.surface)
        return int((picture == np.array(color)).all(-1).sum())


@pytest.fixture
def hand(subject: Subject, tmp_path: Path) -> Iterator[Hand]:
    window = PlayWindow(Session(subject, seed=1), to=tmp_path / "recordings", fps=0)
    yield Hand(window)
    window.close()


# --- keys that play ------------------------------------------------------------------------------


@pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)
def test_each_action_has_its_keys(game) -> None:
    for action, meaning in enumerate(game.action_meanings):
        parts = {part for part in ("UP", "RIGHT", "LEFT", "DOWN", "FIRE") if part in meaning}
        assert action_of(parts, game) == action


@pytest.mark.parametrize(
    ("game", "pressed", "meaning"),
    [
        ("Pong", {"UP"}, "RIGHT"),
        ("Pong", {"DOWN", "FIRE"}, "LEFTFIRE"),
        ("Breakout", {"UP"}, "NOOP"),
        ("Breakout", {"LEFT", "FIRE"}, "FIRE"),
        ("Breakout", {"LEFT", "RIGHT"}, "NOOP"),
        ("Freeway", {"UP", "RIGHT"}, "UP"),
        ("MsPacman", {"UP", "DOWN", "LEFT"}, "LEFT"),
    ],
)
def test_what_has_no_action_comes_as_close_as_it_can(game, pressed, meaning) -> None:
    found = find_game(game)
    assert found.action_meanings[action_of(pressed, found)] == meaning


def test_keys_are_held_and_even_a_short_press_counts(hand) -> None:
    hand.wait(1)
    hand.down("right")
    hand.wait(3)
    hand.down("space")
    hand.wait(2)
    hand.up("right"), hand.up("space")
    hand.wait(1)
    hand.press("left", 2)
    assert hand.actions == [0, 2, 2, 2, 4, 4, 0, 3, 0]
    hand.down("up")
    hand.wait(1)
    pygame.event.post(pygame.event.Event(pygame.WINDOWFOCUSLOST))
    hand.wait(1)
    assert hand.actions[-2:] == [2, 0], "a release outside the window is not seen"


# --- keys that command ---------------------------------------------------------------------------


def test_a_hands_over_and_takes_over(hand) -> None:
    hand.down("right")
    hand.press("a", 12)
    assert all(step.by_agent for step in hand.session.steps)
    assert len(set(hand.actions)) > 1
    hand.press("a", 3)
    assert [step.by_agent for step in hand.session.steps[-3:]] == [False] * 3
    assert hand.actions[-3:] == [2, 2, 2]


@pytest.mark.emulator
def test_r_switches_the_world(hand) -> None:
    hand.wait(2)
    hand.press("r", 3)
    assert hand.session.real
    assert "real game" in hand.window.message
    hand.press("r")
    assert not hand.session.real


def test_p_pauses_and_left_winds_back(hand) -> None:
    hand.wait(20)
    frame = hand.session.frame
    hand.wait(10)
    hand.press("p", 4)
    assert len(hand.actions) == 30
    for _ in range(3):
        hand.press("left")
    assert len(hand.actions) == 27
    hand.down("left")
    hand.wait(1 + app_module.HOLD + 6)  # held: the first one, and then one a tick
    hand.up("left")
    assert len(hand.actions) == 20
    assert np.array_equal(hand.session.frame, frame)
    hand.press("right")
    assert len(hand.actions) == 21
    assert hand.actions[-1] == 0
    hand.press("p", 2)
    assert len(hand.actions) == 23
    hand.press("p")
    hand.down("left")
    hand.wait(60)
    assert hand.actions == []
    assert hand.window.message == "no earlier step is kept"


def test_b_shows_four_futures_and_a_number_takes_one(hand) -> None:
    hand.wait(3)
    hand.press("b", 8)
    futures = hand.window.futures
    assert futures is not None
    assert len(hand.actions) == 3, "the session waits"
    assert len({frame.tobytes() for frame in futures.frames}) > 1
    frame = futures.frames[2].copy()
    hand.window.paused = True
    hand.press("3")
    assert hand.window.futures is None
    assert np.array_equal(hand.session.frame, frame)
    assert len(hand.actions) == 3 + 8
    hand.press("b"), hand.press("escape")
    assert hand.window.futures is None
    hand.press("3"), hand.press("b"), hand.press("b")
    assert hand.window.futures is None


def test_n_begins_again_and_h_shows_the_keys(hand) -> None:
    hand.wait(3)
    hand.press("n")
    assert len(hand.actions) == 1
    plain = hand.shows(END)
    hand.press("h", 3)
    assert len(hand.actions) == 1, "the play waits"
    assert hand.shows(END) > plain + 100
    hand.press("h")
    assert len(hand.actions) == 2


@pytest.mark.parametrize("key", ["q", "escape"])
def test_a_key_closes_the_window(hand, key) -> None:
    assert hand.wait(1)
    assert not hand.press(key)


def test_the_commands_that_are_listed_are_all(hand) -> None:
    """Each key of the help does something, and no other key does."""
    letters = {name for name in COMMANDS if len(name) == 1}
    commanded = set()
    for name in "abcdefghijklmnopqrstuvwxyz":
        hand.window.paused = True
        before = str((vars(hand.window), vars(hand.session), hand.session._dream.frame.tobytes()))
        hand.window._command(pygame.key.key_code(name))
        after = str((vars(hand.window), vars(hand.session), hand.session._dream.frame.tobytes()))
        if before != after:
            commanded.add(name)
    assert commanded == letters


# --- recordings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["imageio_ffmpeg", "PIL"])
def test_v_records_a_film_and_contexts(hand, subject, tmp_path, monkeypatch, library) -> None:
    pytest.importorskip(library)
    monkeypatch.setattr(
        "glam_env.play.session.film.find_spec", lambda name: name == library or None
    )
    hand.wait(2)
    hand.press("v", 20)
    assert hand.shows(RECORDING) > 20
    hand.press("v")
    assert hand.shows(RECORDING) == 0
    ending = {"imageio_ffmpeg": ".mp4", "PIL": ".gif"}[library]
    assert [path.suffix for path in hand.window.saved] == [".npz", ending]
    recording, film = hand.window.saved
    assert film.stat().st_size > 1000
    assert len(read_contexts(recording, subject.world_model, 16).codes) == 20 - 16
    if library == "PIL":
        from PIL import Image

        with Image.open(film) as opened:
            assert (opened.size, opened.info["duration"]) == ((384, 384), 70)
    else:
        from imageio_ffmpeg import count_frames_and_secs

        assert count_frames_and_secs(str(film))[0] == 20
    hand.press("v", 2), hand.press("v")
    assert len(set(hand.window.saved)) == 4, "another file"


def test_what_cannot_be_saved_is_said_and_the_play_goes_on(hand, tmp_path) -> None:
    (tmp_path / "recordings").write_text("no folder")
    hand.press("v", 2), hand.press("v", 2)
    assert "cannot write" in hand.window.message
    assert len(hand.actions) == 4
    (tmp_path / "recordings").unlink()
    hand.press("v")
    with np.load(hand.window.saved[0]) as saved:
        assert saved["actions"].shape == (1, 4), "nothing is lost"


def test_a_recording_under_way_is_saved_at_the_end(subject, tmp_path) -> None:
    window = PlayWindow(Session(subject), to=tmp_path, fps=0)
    hand = Hand(window)
    hand.press("v", 5)
    hand.down("q")
    window.run()
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".mp4", ".npz"]


# --- what is drawn -------------------------------------------------------------------------------


def test_rewards_ends_and_entropy_are_drawn(saved_checkpoint, tmp_path) -> None:
    """In a dream that ends every few steps."""
    window = PlayWindow(Session(make_subject(saved_checkpoint), seed=1), to=tmp_path, fps=0)
    hand = Hand(window)
    hand.wait(1)
    before = [hand.shows(color) for color in (WON, LOST, END)]
    assert hand.shows(ENTROPY) > 50
    hand.wait(60)
    outcomes = [step.outcome for step in hand.session.steps]
    expected = {
        WON: any(each.reward > 0 for each in outcomes),
        LOST: any(each.reward < 0 for each in outcomes),
        END: any(each.ended and not each.reward for each in outcomes),
    }
    assert sum(expected.values()) > 1
    for (color, drawn), none in zip(expected.items(), before, strict=True):
        assert (hand.shows(color) > none) is drawn
    window.close()


def test_the_window_can_have_any_size(hand) -> None:
    for size in ((1200, 500), (320, 400), (40, 30)):
        pygame.display.set_mode(size, pygame.RESIZABLE)
        pygame.event.post(pygame.event.Event(pygame.VIDEORESIZE, size=size, w=size[0], h=size[1]))
        hand.wait(1)
        assert hand.window.surface.get_size() == size
        hand.press("b"), hand.press("h"), hand.press("b"), hand.press("h")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow(subject, tmp_path) -> None:
    """Once the trail is full, more steps with all commands take no more memory."""
    window = PlayWindow(Session(subject, trail=30), to=tmp_path, fps=0)
    hand = Hand(window)

    def play_a_while() -> tuple[int, int]:
        hand.press("a", 40), hand.press("b", 8), hand.press("2", 12), hand.press("p", 2)
        hand.down("left"), hand.wait(10), hand.up("left")
        hand.press("p"), hand.press("n", 40)
        gc.collect()
        # Of tensors with memory: compiling, in other tests, leaves some that are only traced.
        tensors = [each for each in gc.get_objects() if type(each) in (torch.Tensor, Parameter)]
        tensors = [each for each in tensors if not each._has_symbolic_sizes_strides]
        tensors = [each for each in tensors if each.layout == torch.strided]
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return sum(each.nbytes for each in tensors), pages * resource.getpagesize()

    before = [play_a_while() for _ in range(2)][-1]
    after = [play_a_while() for _ in range(2)][-1]
    window.close()
    assert len(hand.session.steps) == 30
    assert after[0] <= before[0]
    # Other tests of the process leave memory to be taken; more than 200 surfaces of 1.5 MB were
    # drawn.
    assert after[1] <= before[1] + 2**26


# --- the command ---------------------------------------------------------------------------------


def test_glam_play_opens_plays_and_saves(endless_checkpoint, tmp_path, monkeypatch, capsys) -> None:
    """The whole command on a checkpoint of the tiny model, with a recording as its contexts."""
    from glam_agents.frozen import new_agent, save_with_agent

    checkpoint = Checkpoint.open(endless_checkpoint)
    agent, stored = new_agent("storm", checkpoint.world_model(), "debug")
    folder = save_with_agent(checkpoint, agent, stored, tmp_path / "own", "of a test")
    real_tick, keys = PlayWindow.tick, iter(["v", *[None] * 20, "a", None, "q"])

    def tick(window: PlayWindow) -> bool:
        if (key := next(keys)) is not None:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.key.key_code(key)))
        return real_tick(window)

    monkeypatch.setattr(PlayWindow, "tick", tick)
    monkeypatch.chdir(tmp_path)
    words = ["play", str(folder), "--fps", "0", "--seed", "1", "--device", "cpu"]
    assert main(words) == 0
    saved = [Path(line.split(" ", 1)[1]) for line in capsys.readouterr().out.splitlines()]
    assert [path.suffix for path in saved] == [".npz", ".mp4"]
    keys = iter([None, "q"])
    assert main([*words, "--contexts", str(saved[0]), "--agent", f"storm:{folder}"]) == 0


def test_mistakes_get_one_line(capsys, tmp_path, monkeypatch, endless_checkpoint) -> None:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(endless_checkpoint.parent))
    assert "fps must be" in mistake(capsys, "play", "Pong", "--fps", "-1")
    monkeypatch.setattr("glam_env.cli.play.find_spec", lambda name: None)
    assert 'pip install "glam-env[human]"' in mistake(capsys, "play", "Pong")
    monkeypatch.undo()
    monkeypatch.setattr("glam_env.cli.trained.find_spec", lambda name: None)
    assert "ale-py" in mistake(capsys, "play", "Pong", "--real")


def test_without_a_display_the_command_says_so(subject, tmp_path, monkeypatch) -> None:
    from glam_env.errors import GlamError

    monkeypatch.setenv("SDL_VIDEODRIVER", "no-such-driver")
    pygame.display.quit()
    with pytest.raises(GlamError, match="no window can be opened here"):
        PlayWindow(Session(subject), to=tmp_path)
