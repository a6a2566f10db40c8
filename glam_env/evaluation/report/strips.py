"""Pictures of a dream beside the game: strips of frames, and GIFs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from glam_env.errors import GlamError
from glam_env.evaluation.play.recording import reward_events
from glam_env.evaluation.play.windows import Window

STEPS_AHEAD = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64)
SCALE = 4  # pixels drawn for one of a frame
GAP = 4  # pixels between rows and columns
MARK = 8  # height of a row's reward marks
PAPER, INK = (24, 24, 24), (235, 235, 235)
WON, LOST = (60, 220, 60), (235, 60, 60)
MARGIN, HEAD, LETTERS = 170, 34, 26  # width of row names, height of column names, letter size
DIFFERENCE = "difference x 2"
CAPTION = 16  # height of a caption
GIF_COLORS = 160


def strip(window: Window, steps_ahead: Sequence[int] = STEPS_AHEAD) -> np.ndarray:
    """Draw three rows of frames: real | dream | difference.

    There is a column for each of `steps_ahead`. Beneath a real or a dreamt frame a green bar marks
    points won since the column before, a red one points lost.

    Args:
        window: The frames.
        steps_ahead: In increasing order; those beyond the window are left out.

    Returns:
        (H, W, 3) uint8.
    """
    columns = [ahead for ahead in steps_ahead if ahead <= len(window.real)]
    none = np.zeros_like(window.real_reward)
    rows = (
        ("real game", window.real, window.real_reward),
        ("dream", window.dream, window.dream_reward),
        (DIFFERENCE, difference(window.real, window.dream), none),
    )
    side, step = SCALE * window.real.shape[1], SCALE * window.real.shape[1] + GAP
    height = side + MARK + GAP
    shape = (HEAD + len(rows) * height, MARGIN + len(columns) * step, 3)
    image = np.full(shape, PAPER, np.uint8)
    texts = [(f"+{ahead}", 0, MARGIN + j * step) for j, ahead in enumerate(columns)]
    for i, (name, frames, reward) in enumerate(rows):
        top = HEAD + i * height
        texts.append((name, top, GAP))
        events, before = reward_events(reward), 0
        for j, ahead in enumerate(columns):
            left = MARGIN + j * step
            image[top : top + side, left : left + side] = enlarged(frames[ahead - 1])
            since, before = events[before:ahead], ahead
            for kind, color in ((1, WON), (-1, LOST)):
                if (since == kind).any():
                    image[top + side + 2 : top + side + MARK, left : left + side] = color
    return write_on(image, texts, LETTERS)


def save_strips(
    folder: Path, windows: Sequence[Window], draw: Callable[[Window], np.ndarray] = strip
) -> list[Path]:
    """Draw each window and write it as a PNG file; the folder is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{window.name}.png" for window in windows]
    for path, window in zip(paths, windows, strict=True):
        pillow().fromarray(draw(window)).save(path)
    return paths


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Double the absolute difference of uint8 pixels, to make it easier to see.

    The result is uint8, clipped at 255.
    """
    return np.minimum(2 * np.abs(one.astype(np.int16) - other), 255).astype(np.uint8)


def write_on(
    image: np.ndarray, texts: Sequence[tuple[str, int, int]], size: int = 12
) -> np.ndarray:
    """Write texts on a copy of an image.

    Args:
        image: (H, W, 3) uint8.
        texts: Each text with its top and its left.
        size: Size of the letters.
    """
    from PIL import ImageDraw

    canvas = pillow().fromarray(image)
    draw = ImageDraw.Draw(canvas)
    for text, top, left in texts:
        draw.text((left, top + 2), text, fill=INK, font_size=size)
    return np.array(canvas)


def side_by_side_gif(
    path: Path,
    frames_left: np.ndarray,
    frames_right: np.ndarray,
    *,
    captions: tuple[str, str] = ("dream", "real game"),
    frames_per_second: float = 15.0,
) -> None:
    """Write two films next to each other as a GIF that repeats.

    Args:
        path: The file; its folder is made if missing.
        frames_left, frames_right: (T, 64, 64, 3) uint8.
        captions: Written above each.
        frames_per_second: 15 is the game's own speed at four frames a step.
    """
    image = pillow()
    side = SCALE * frames_left.shape[2] + GAP
    head = np.full((CAPTION, 2 * side - GAP, 3), PAPER, np.uint8)
    head = write_on(head, [(caption, 0, GAP + i * side) for i, caption in enumerate(captions)])
    images = []
    for pair in zip(frames_left, frames_right, strict=True):
        left, right = map(enlarged, pair)
        bar = np.full((len(left), GAP, 3), PAPER, np.uint8)
        both = np.concatenate([head, np.concatenate([left, bar, right], axis=1)])
        images.append(image.fromarray(both))
    # One palette for all frames: colours that flicker would only cost bytes.
    some = np.concatenate(images[:: -(-len(images) // 8)])
    palette = image.fromarray(some).quantize(GIF_COLORS, method=image.Quantize.MAXCOVERAGE)
    images = [one.quantize(palette=palette, dither=image.Dither.NONE) for one in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=10 * round(100 / frames_per_second),  # a GIF counts hundredths of a second
        loop=0,
    )


def enlarged(frame: np.ndarray) -> np.ndarray:
    """Enlarge a frame by `SCALE`."""
    return frame.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def pillow() -> ModuleType:
    """Return Pillow's Image module.

    Raises:
        GlamError: If Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise GlamError('pictures need Pillow: pip install "glam-env[video]"') from error
    return Image
