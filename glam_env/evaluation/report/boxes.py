"""Strips of game and dream, with boxes where real frames change most (figure 7)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glam_env.evaluation.play.windows import Window
from glam_env.evaluation.report.strips import (
    GAP,
    HEAD,
    LETTERS,
    MARGIN,
    PAPER,
    SCALE,
    enlarged,
    write_on,
)

SIDE = 14  # pixels of a frame, the side of a box
MOST = 2  # boxes in a frame
LEAST_SHARE = 0.3  # of the change in the first box, for a further one
LEAST_CHANGE = 30  # of 255, in the pixel that changes most: less is no change
STEPS_AHEAD = (1, 4, 8, 12, 16, 24, 32, 48, 64)
RED = (235, 60, 60)

Box = tuple[int, int]
"""Top and left of a box, in pixels of a frame."""


def changed_boxes(before: np.ndarray, after: np.ndarray) -> list[Box]:
    """Find the areas in which two frames differ most.

    Args:
        before, after: (H, W, 3) uint8.

    Returns:
        The boxes of :data:`SIDE` pixels, :data:`MOST` at most, the one with the most change first;
        none if nothing changes. No change is counted in two boxes.
    """
    change = np.abs(after.astype(np.int64) - before).max(-1)  # (H, W)
    boxes: list[Box] = []
    most = 0.0
    while len(boxes) < MOST and change.max() >= LEAST_CHANGE:
        sums = np.lib.stride_tricks.sliding_window_view(change, (SIDE, SIDE)).sum((-2, -1))
        if sums.max() < LEAST_SHARE * most:
            break
        most = max(most, float(sums.max()))
        top, left = np.unravel_index(sums.argmax(), sums.shape)
        part = change[top : top + SIDE, left : left + SIDE]
        # Many boxes may hold the same change: this one has it in its middle.
        box = (
            _around(part.sum(1), int(top), change.shape[0]),
            _around(part.sum(0), int(left), change.shape[1]),
        )
        boxes.append(box)
        change[top : top + SIDE, left : left + SIDE] = 0
        change[box[0] : box[0] + SIDE, box[1] : box[1] + SIDE] = 0
    return boxes


def _around(weights: np.ndarray, start: int, length: int) -> int:
    """Return the start of a box whose middle is the centre of some weights.

    Args:
        weights: Weights of consecutive pixels.
        start: The first of them.
        length: Pixels of the frame, within which the box stays.
    """
    centre = start + float((weights * np.arange(len(weights))).sum() / weights.sum())
    return min(max(0, round(centre - (SIDE - 1) / 2)), length - SIDE)


def boxed_strip(window: Window, steps_ahead: Sequence[int] = STEPS_AHEAD) -> np.ndarray:
    """Draw two rows, real | dream, with the same boxes in both.

    A column's boxes are where its real frame differs most from the real frame of one step before.

    Args:
        window: The frames.
        steps_ahead: In increasing order; those beyond the window are left out.

    Returns:
        (H, W, 3) uint8.
    """
    columns = [ahead for ahead in steps_ahead if ahead <= len(window.real)]
    step = SCALE * window.real.shape[1] + GAP
    image = np.full((HEAD + 2 * step, MARGIN + len(columns) * step, 3), PAPER, np.uint8)
    texts = [(f"+{ahead}", 0, MARGIN + j * step) for j, ahead in enumerate(columns)]
    texts += [("real game", HEAD, GAP), ("dream", HEAD + step, GAP)]
    frames = np.concatenate([window.seen[-1:], window.real])
    for j, ahead in enumerate(columns):
        real, dream = window.real[ahead - 1], window.dream[ahead - 1]
        boxes = changed_boxes(frames[ahead - 1], real)
        for i, frame in enumerate((real, dream)):
            drawn = enlarged(frame)
            for box in boxes:
                _outline(drawn, box)
            top, left = HEAD + i * step, MARGIN + j * step
            image[top : top + len(drawn), left : left + len(drawn)] = drawn
    return write_on(image, texts, LETTERS)


def _outline(image: np.ndarray, box: Box, width: int = 3) -> None:
    """Draw the outline of a box on an enlarged frame, in place."""
    top, left = (SCALE * edge for edge in box)
    inner = image[top : top + SCALE * SIDE, left : left + SCALE * SIDE]
    inner[:width] = inner[-width:] = RED
    inner[:, :width] = inner[:, -width:] = RED
