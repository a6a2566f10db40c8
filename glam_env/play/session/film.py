"""A film of a recording: MP4 with imageio-ffmpeg, else a GIF with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from glam_env.errors import GlamError

SCALE = 6  # enlarges frames to 384 pixels, a multiple of 16


def write_film(path: Path, frames: Sequence[np.ndarray], fps: float) -> Path:
    """Write frames as a film.

    Args:
        path: The file without its ending; its folder is made if missing.
        frames: (64, 64, 3) uint8 each, at least one.
        fps: Frames a second.

    Returns:
        The file, ``.mp4`` or ``.gif``.

    Raises:
        GlamError: Neither library is installed, or the file cannot be written.
    """
    known = [name for name in ("imageio_ffmpeg", "PIL") if find_spec(name) is not None]
    if not known:
        raise GlamError('films need imageio-ffmpeg or Pillow: pip install "glam-env[video]"')
    write, ending = (_write_mp4, ".mp4") if known[0] == "imageio_ffmpeg" else (_write_gif, ".gif")
    file = path.with_name(path.name + ending)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(file, frames, fps)
    except OSError as error:
        raise GlamError(f"cannot write {file} ({error}); choose a writable --to") from error
    return file


def _write_mp4(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    from imageio_ffmpeg import write_frames

    side = SCALE * len(frames[0])
    options = {"fps": fps, "quality": 7, "output_params": ["-threads", "1"]}
    writer = write_frames(str(path), (side, side), **options)
    writer.send(None)  # starts the encoder
    for frame in frames:
        writer.send(np.ascontiguousarray(_enlarged(frame)))
    writer.close()


def _write_gif(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    from PIL import Image

    first, *others = (Image.fromarray(_enlarged(frame)) for frame in frames)
    milliseconds = 10 * round(100 / fps)  # a GIF counts hundredths of a second
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)


def _enlarged(frame: np.ndarray) -> np.ndarray:
    return frame.repeat(SCALE, 0).repeat(SCALE, 1)
