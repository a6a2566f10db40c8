"""Films of windows: real | dream | difference.

A time line below the real and the dreamt frame shows their points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from glam_env.errors import GlamError
from glam_env.evaluation.play.recording import reward_events
from glam_env.evaluation.play.windows import Window
from glam_env.evaluation.report.strips import (
    DIFFERENCE,
    INK,
    LOST,
    PAPER,
    SCALE,
    WON,
    difference,
    enlarged,
    write_on,
)

FRAMES_PER_SECOND = 10  # two thirds of the game's own speed at four frames a step
HEAD, FOOT, GAP = 24, 24, 8  # so that both sides of a picture are multiples of 16
LINE = 12  # height of the time line
AHEAD = (110, 110, 110)  # color of the part of the time line that is still to come
PAUSE = 6  # pictures for which a film's last frame is held


def film(window: Window) -> Iterator[np.ndarray]:
    """Yield the pictures of a window's film, (304, 784, 3) uint8 each.

    The film first shows the real steps before the dream; in the place of the dream it shows them as
    encoder and decoder draw them. Then game and dream go on, the dream with the real actions.
    """
    side = SCALE * window.real.shape[1]
    real = np.concatenate([window.seen, window.real])
    dream = np.concatenate([window.seen_drawn, window.dream])
    seen = len(window.seen)
    events = [
        np.concatenate([np.zeros(seen, np.int8), reward_events(reward)])
        for reward in (window.real_reward, window.dream_reward)
    ]
    for now in range(len(real)):
        picture = np.full((HEAD + side + FOOT, 3 * side + 2 * GAP, 3), PAPER, np.uint8)
        panes = real[now], dream[now], difference(real[now], dream[now])
        for i, pane in enumerate(panes):
            left = i * (side + GAP)
            picture[HEAD : HEAD + side, left : left + side] = enlarged(pane)
            if i < len(events):
                _draw_line(picture[-(FOOT + LINE) // 2 :, left : left + side], events[i], now, seen)
        ahead = now + 1 - seen
        step = f"step +{ahead}" if ahead > 0 else "sees the game"
        captions = f"real game, step {window.step + ahead}", f"dream, {step}", DIFFERENCE
        yield write_on(picture, [(c, 3, 4 + i * (side + GAP)) for i, c in enumerate(captions)])


def _draw_line(box: np.ndarray, events: np.ndarray, now: int, seen: int) -> None:
    """Draw a time line, past steps bright and later ones dark.

    It is drawn into `box`, (LINE or more, side, 3) pixels.
    """
    box = box[:LINE]
    places = np.linspace(0, box.shape[1], len(events) + 1).round().astype(int)
    middle = slice(LINE // 2 - 1, LINE // 2 + 1)
    box[middle, places[seen] :] = AHEAD
    box[middle, places[seen] : places[now + 1]] = INK
    for step in np.flatnonzero(events[: now + 1]):
        color = WON if events[step] > 0 else LOST
        box[:, places[step] : places[step + 1] + 2] = color


def save_films(path: Path, windows: Sequence[Window]) -> Path:
    """Write one film of some windows, one after another.

    Args:
        path: An .mp4 file; its folder is made if missing.
        windows: At least one.

    Raises:
        GlamError: If imageio-ffmpeg is not installed.
    """
    try:
        from imageio_ffmpeg import write_frames
    except ModuleNotFoundError as error:
        raise GlamError('films need imageio-ffmpeg: pip install "glam-env[video]"') from error
    path.parent.mkdir(parents=True, exist_ok=True)
    height = HEAD + SCALE * windows[0].real.shape[1] + FOOT
    width = 3 * SCALE * windows[0].real.shape[2] + 2 * GAP
    writer = write_frames(
        str(path),
        (width, height),
        fps=FRAMES_PER_SECOND,
        quality=7,
        output_params=["-threads", "1"],
    )
    writer.send(None)  # starts the encoder
    for window in windows:
        for picture in film(window):
            writer.send(picture.tobytes())
        for _ in range(PAUSE):
            writer.send(picture.tobytes())
    writer.close()
    return path
