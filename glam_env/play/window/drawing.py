"""Drawing of the window: frames, a time line with marks, entropy, and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pygame

from glam_env.play.session.session import Step

PAPER, INK, FAINT = (24, 24, 28), (230, 230, 230), (110, 110, 120)
WON, LOST, END, ENTROPY = (60, 190, 90), (215, 70, 60), (240, 200, 70), (90, 140, 220)
RECORDING = (230, 60, 60)
LINE, BAR, GAP, EDGE = 36, 12, 6, 4
LETTERS = 22
SHOWN_STEPS = 150  # of the time line, ten seconds


class Pane(NamedTuple):
    """A frame with its title and its border.

    Attributes:
        frame: (64, 64, 3) uint8.
        title: Written above it.
        edge: Color of its border; None for no border.
    """

    frame: np.ndarray
    title: str
    edge: tuple[int, int, int] | None = None


class View(NamedTuple):
    """Everything that the window shows.

    Attributes:
        panes: Frames, side by side.
        steps: Steps of the time line, the oldest first.
        entropy: Entropy of the last prediction, in nats; None if there was none.
        most_entropy: Entropy at which the bar is full, in nats.
        status: A line of words, such as the score.
        message: Another line; may be empty.
        recording: Whether a recording is under way.
        help: Keys and what they do; empty to show none.
    """

    panes: Sequence[Pane]
    steps: Sequence[Step]
    entropy: float | None
    most_entropy: float
    status: str
    message: str
    recording: bool
    help: Sequence[tuple[str, str]]


def draw(surface: pygame.Surface, font: pygame.font.Font, view: View) -> None:
    """Draw a view on a surface of any size."""
    surface.fill(PAPER)
    width, height = surface.get_size()
    letter = font.get_linesize()
    foot = LINE + BAR + 2 * letter + 5 * GAP
    _draw_panes(surface, font, view.panes, pygame.Rect(0, 0, width, max(1, height - foot)))
    inside = pygame.Rect(GAP, max(0, height - foot) + GAP, max(1, width - 2 * GAP), LINE)
    _draw_line(surface, view, inside)
    inside = pygame.Rect(inside.left, inside.bottom + GAP, inside.width, BAR)
    _draw_entropy(surface, font, view, inside)
    _write(surface, font, view.status, inside.left, inside.bottom + GAP, INK)
    top = inside.bottom + GAP + letter
    _write(surface, font, view.message, inside.left, top, FAINT)
    if view.recording:
        pygame.draw.circle(surface, RECORDING, (width - 3 * GAP, 3 * GAP), 2 * GAP - 3)
    if view.help:
        _draw_help(surface, font, view.help)


def _draw_panes(
    surface: pygame.Surface, font: pygame.font.Font, panes: Sequence[Pane], area: pygame.Rect
) -> None:
    head = font.get_linesize() + EDGE
    columns = max(range(1, len(panes) + 1), key=lambda n: _side(area, len(panes), n, head))
    rows = -(-len(panes) // columns)
    side = max(1, _side(area, len(panes), columns, head))
    left = area.left + (area.width - columns * (side + 2 * EDGE)) // 2 + EDGE
    top = area.top + max(0, area.height - rows * (side + 2 * EDGE + head)) // 2
    for place, pane in enumerate(panes):
        row, column = divmod(place, columns)
        x = left + column * (side + 2 * EDGE)
        y = top + row * (side + 2 * EDGE + head) + head + EDGE // 2
        if pane.edge is not None:
            border = pygame.Rect(x - EDGE, y - EDGE, side + 2 * EDGE, side + 2 * EDGE)
            pygame.draw.rect(surface, pane.edge, border, EDGE)
        picture = pygame.surfarray.make_surface(pane.frame.swapaxes(0, 1))  # x comes first
        surface.blit(pygame.transform.scale(picture, (side, side)), (x, y))
        _write(surface, font, pane.title, x, y - head, INK)


def _side(area: pygame.Rect, count: int, columns: int, head: int) -> int:
    """Return the largest side of ``count`` frames in ``columns`` columns of an area."""
    rows = -(-count // columns)
    return min(area.width // columns, area.height // rows - head) - 2 * EDGE


def _draw_line(surface: pygame.Surface, view: View, box: pygame.Rect) -> None:
    """Draw the last steps: the entropy of each, and marks at rewards and ends."""
    pygame.draw.line(surface, FAINT, box.bottomleft, box.bottomright)
    steps = view.steps[-SHOWN_STEPS:]
    for place, step in enumerate(steps, SHOWN_STEPS - len(steps)):
        left = box.left + place * box.width // SHOWN_STEPS
        wide = max(1, box.left + (place + 1) * box.width // SHOWN_STEPS - left)
        share = min(1.0, step.outcome.entropy / view.most_entropy)
        tall = round(share * box.height)
        pygame.draw.rect(surface, ENTROPY, (left, box.bottom - tall, wide, tall))
        if (color := mark_of(step)) is not None:
            pygame.draw.rect(surface, color, (left, box.top, max(3, wide), box.height))


def mark_of(step: Step) -> tuple[int, int, int] | None:
    """Return the color of the mark at a step, or None for no mark.

    Points won, points lost, and the end of a life or an episode have a color each.
    """
    outcome = step.outcome
    if outcome.reward:
        return WON if outcome.reward > 0 else LOST
    return END if outcome.ended or outcome.life_lost else None


def _draw_entropy(
    surface: pygame.Surface, font: pygame.font.Font, view: View, box: pygame.Rect
) -> None:
    pygame.draw.rect(surface, FAINT, box, 1)
    if view.entropy is not None and math.isfinite(view.entropy):
        share = min(1.0, view.entropy / view.most_entropy)
        pygame.draw.rect(
            surface, ENTROPY, (box.left, box.top, round(share * box.width), box.height)
        )


def _draw_help(
    surface: pygame.Surface, font: pygame.font.Font, keys: Sequence[tuple[str, str]]
) -> None:
    width, height = surface.get_size()
    shade = pygame.Surface((width, height), pygame.SRCALPHA)
    shade.fill((*PAPER, 225))
    surface.blit(shade, (0, 0))
    letter = font.get_linesize()
    second = 4 * GAP + max(font.size(key)[0] for key, _ in keys)
    for row, (key, does) in enumerate(keys):
        top = 4 * GAP + round(1.4 * row * letter)
        _write(surface, font, key, 2 * GAP, top, END)
        _write(surface, font, does, second, top, INK)


def _write(
    surface: pygame.Surface,
    font: pygame.font.Font,
    text: str,
    left: int,
    top: int,
    color: tuple[int, int, int],
) -> None:
    if text:
        surface.blit(font.render(text, True, color), (left, top))
