"""``PlayWindow``: shows a session and plays it with the keyboard."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pygame

from glam_env.errors import GlamError
from glam_env.play.session.film import write_film
from glam_env.play.session.futures import Futures
from glam_env.play.session.session import Session
from glam_env.play.window.drawing import LETTERS, LOST, WON, Pane, View, draw
from glam_env.play.window.keys import COMMANDS, action_of

SIZE = (560, 680)
FUTURES = 4
FILM_FPS = 15.0  # of films, where the window has no limit
HOLD = 5  # ticks for which left or right is held before it repeats
FLASH = 4  # ticks for which a reward colors the border
MESSAGE = 45  # ticks for which a message is shown

_PARTS = {
    pygame.K_UP: "UP",
    pygame.K_RIGHT: "RIGHT",
    pygame.K_LEFT: "LEFT",
    pygame.K_DOWN: "DOWN",
    pygame.K_SPACE: "FIRE",
}


class PlayWindow:
    """A window that shows a session; :meth:`run` plays until it is closed.

    Args:
        session: What is played.
        to: Folder of recordings.
        fps: Steps a second at most; 0 for no limit.

    Attributes:
        paused: Whether play is paused.
        futures: The futures that are shown, or None.
        shows_help: Whether the keys are shown.
        message: The last message.
        surface: The surface of the window.
        saved: Files of recordings written so far.

    Raises:
        GlamError: There is no display.
    """

    def __init__(self, session: Session, *, to: Path, fps: float = 15.0) -> None:
        self.session, self._to, self._fps = session, to, fps
        self.paused = self.shows_help = False
        self.futures: Futures | None = None
        self.message, self._message_left = "", 0
        self.saved: list[Path] = []
        self._open = True
        self._held: dict[int, int] = {}  # keys, and the ticks since each was pressed
        self._pressed: set[int] = set()  # since the last tick, even if released by now
        self._flash, self._flash_left = WON, 0
        self._entropy: float | None = None
        sizes = session.subject.world_model.config
        # Half of the entropy of a uniform prediction: trained models rarely come near it.
        self._most_entropy = 0.5 * sizes.categoricals * math.log(sizes.classes)
        try:
            pygame.display.init()
            pygame.font.init()
            pygame.display.set_caption(f"GLAM Dream: {session.subject.game.name}")
            self.surface = pygame.display.set_mode(SIZE, pygame.RESIZABLE)
        except pygame.error as error:
            raise GlamError(
                f"no window can be opened here ({error}); `glam play` needs a display"
            ) from error
        self._font = pygame.font.Font(None, LETTERS)
        self._clock = pygame.time.Clock()
        self._say("h shows the keys")

    def run(self) -> None:
        """Play until the window is closed, and save the current recording."""
        try:
            while self.tick():
                pass
        finally:
            self.close()

    def close(self) -> None:
        """Save the current recording, and close the window."""
        try:
            if self.session.recorder:  # an empty one has nothing to save
                self._record()
        finally:
            pygame.display.quit()

    def tick(self) -> bool:
        """Read the keys, take a step, and draw; return whether the window is still open."""
        self._pressed.clear()
        for key in self._held:
            self._held[key] += 1
        for event in pygame.event.get():
            self._handle(event)
        if not self._open:
            return False
        if self.paused and self.futures is None:
            self._move_in_pause()
        elif not self.paused and not self.shows_help:
            self._advance()
        self._draw()
        self._clock.tick(self._fps)
        return True

    # --- events ----------------------------------------------------------------------------------

    def _handle(self, event: pygame.event.Event) -> None:
        if event.type == pygame.QUIT:
            self._open = False
        elif event.type == pygame.VIDEORESIZE:
            current = pygame.display.get_surface()
            assert current is not None
            self.surface = current
        elif event.type == pygame.WINDOWFOCUSLOST:
            self._held.clear()  # their release will not be seen
        elif event.type == pygame.KEYUP:
            self._held.pop(event.key, None)
        elif event.type == pygame.KEYDOWN:
            if event.key in _PARTS:
                self._held[event.key] = 0
                self._pressed.add(event.key)
            else:
                self._try(partial(self._command, event.key))

    def _try(self, what: Callable[[], None]) -> None:
        """Call a function; show an error that the user can correct as a message."""
        try:
            what()
        except GlamError as error:
            self._say(str(error))

    def _command(self, key: int) -> None:
        if key == pygame.K_a:
            self._say("the agent plays" if self.session.hand_over() else "you play")
        elif key == pygame.K_r:
            self.futures = None
            self._say("the real game" if self.session.switch() else "a dream")
            self._entropy = None
        elif key == pygame.K_p:
            self.paused = not self.paused
        elif key == pygame.K_b:
            self.futures = self.session.futures(FUTURES) if self.futures is None else None
        elif self.futures is not None and pygame.K_1 <= key < pygame.K_1 + FUTURES:
            self.session.take(self.futures, key - pygame.K_1)
            self.futures = None
            self._say(f"future {key - pygame.K_0}")
        elif key == pygame.K_v:
            self._record()
        elif key == pygame.K_n:
            self.futures = self._entropy = None
            self.session.begin()
        elif key == pygame.K_h:
            self.shows_help = not self.shows_help
        elif key == pygame.K_q:
            self._open = False
        elif key == pygame.K_ESCAPE:
            self._leave()

    def _leave(self) -> None:
        """Leave the help, the futures or the window."""
        if self.shows_help:
            self.shows_help = False
        elif self.futures is not None:
            self.futures = None
        else:
            self._open = False

    def _move_in_pause(self) -> None:
        def due(key: int) -> bool:
            return key in self._pressed or self._held.get(key, 0) > HOLD

        if due(pygame.K_LEFT):
            if not self.session.wind_back(1):
                self._say("no earlier step is kept")
            self._entropy = None
        elif due(pygame.K_RIGHT):
            self._step(0)

    # --- play ------------------------------------------------------------------------------------

    def _advance(self) -> None:
        keys = self._held.keys() | self._pressed
        action = action_of({_PARTS[key] for key in keys}, self.session.subject.game)
        if self.futures is not None:
            outcomes = self.futures.step(None if self.session.by_agent else action)
            alive = [outcome.entropy for outcome in outcomes if outcome.entropy]
            self._entropy = max(alive, default=None)
            return
        self._step(action)

    def _step(self, action: int) -> None:
        step = self.session.step(action)
        self._entropy = step.outcome.entropy
        if step.outcome.reward:
            self._flash = WON if step.outcome.reward > 0 else LOST
            self._flash_left = FLASH
        if self.session.recorder is not None and self.session.recorder.full:
            self._try(self._record)

    def _record(self) -> None:
        """Start a recording, or save and stop it; it continues if saving fails."""
        recorder = self.session.recorder
        if recorder is None:
            self.session.record()
            self._say("recording")
            return
        path = self._new_path()
        self.saved.append(recorder.save(path))
        self.session.record()
        self._say(f"saved {path}")
        self.saved.append(write_film(path.with_suffix(""), recorder.frames, self._fps or FILM_FPS))

    def _new_path(self) -> Path:
        """Return a path for a recording that does not exist yet."""
        name = f"{self.session.subject.game.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        path, count = self._to / f"{name}.npz", 1
        while path.exists():
            count += 1
            path = self._to / f"{name}-{count}.npz"
        return path

    # --- pictures --------------------------------------------------------------------------------

    def _say(self, message: str) -> None:
        self.message, self._message_left = message, MESSAGE

    def _draw(self) -> None:
        edge = self._flash if self._flash_left else None
        self._flash_left = max(0, self._flash_left - 1)
        self._message_left = max(0, self._message_left - 1)
        draw(
            self.surface,
            self._font,
            View(
                panes=self._panes(edge),
                steps=self.session.steps,
                entropy=self._entropy,
                most_entropy=self._most_entropy,
                status=self._status(),
                message=self.message if self._message_left else "",
                recording=self.session.recorder is not None,
                help=tuple(COMMANDS.items()) if self.shows_help else (),
            ),
        )
        pygame.display.flip()

    def _panes(self, edge: tuple[int, int, int] | None) -> list[Pane]:
        if self.futures is None:
            return [Pane(self.session.frame, "real game" if self.session.real else "dream", edge)]
        titles = [
            f"{row + 1}: {points:+g}{', ended' if ended else ''}"
            for row, (points, ended) in enumerate(
                zip(self.futures.points, self.futures.ended, strict=True)
            )
        ]
        return [Pane(f, title) for f, title in zip(self.futures.frames, titles, strict=True)]

    def _status(self) -> str:
        session = self.session
        words = [
            f"{session.score:g} points",
            f"{session.subject.policy.name} plays" if session.by_agent else "you play",
        ]
        if self._entropy is not None:
            words.append(f"entropy {self._entropy:.0f} nats")
        if self.paused:
            words.append("paused")
        return "   ".join(words)
