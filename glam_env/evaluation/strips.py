"""Pictures of a dream beside the game: strips of frames, and the two side by side in motion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from glam_env.dream.contexts import draw_frames
from glam_env.errors import GlamError
from glam_env.evaluation.events import reward_events
from glam_env.evaluation.fidelity import follow
from glam_env.evaluation.recording import Recording, window_starts
from glam_env.model.distributions import sample_codes
from glam_env.model.world_model import WorldModel

STEPS_AHEAD = (1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32)
SCALE = 4  # pixels to a pixel
GAP = 4  # pixels between rows and columns
MARK = 8  # height of a row's reward marks
PAPER, WON, LOST = (24, 24, 24), (60, 220, 60), (235, 60, 60)
CAPTION = 16  # height of a caption
GIF_COLORS = 160


def strip(
    real: np.ndarray,
    dream: np.ndarray,
    *,
    real_reward: np.ndarray | None = None,
    dream_reward: np.ndarray | None = None,
    steps_ahead: Sequence[int] = STEPS_AHEAD,
) -> np.ndarray:
    """Three rows, real | dream | difference, with a column for each of some steps ahead.

    Beneath a real or a dreamt frame a green bar marks points won since the column before, a red
    one points lost.

    Args:
        real, dream: (L, 64, 64, 3) uint8, the first one step ahead.
        real_reward, dream_reward: (L,) float32, what came with the step to each frame.
        steps_ahead: Growing; those beyond `L` are left out.

    Returns:
        (H, W, 3) uint8.
    """
    columns = [ahead for ahead in steps_ahead if ahead <= len(real)]
    none = np.zeros(len(real), np.float32)
    difference = np.abs(real.astype(np.int16) - dream).astype(np.uint8)
    rows = (
        (real, none if real_reward is None else real_reward),
        (dream, none if dream_reward is None else dream_reward),
        (difference, none),
    )
    side, step = SCALE * real.shape[1], SCALE * real.shape[1] + GAP
    height = side + MARK + GAP
    image = np.full((len(rows) * height, len(columns) * step, 3), PAPER, np.uint8)
    for i, (frames, reward) in enumerate(rows):
        events, before = reward_events(reward), 0
        for j, ahead in enumerate(columns):
            top, left = i * height, j * step
            image[top : top + side, left : left + side] = _enlarged(frames[ahead - 1])
            since, before = events[before:ahead], ahead
            for kind, color in ((1, WON), (-1, LOST)):
                if (since == kind).any():
                    image[top + side + 2 : top + side + MARK, left : left + side] = color
    return image


def save_strips(
    folder: Path,
    world_model: WorldModel,
    recording: Recording,
    *,
    count: int = 8,
    context: int = 16,
    horizon: int = 32,
    seed: int = 0,
    temperature: float = 1.0,
) -> list[Path]:
    """Writes strips of dreams along windows spread over a recording, as PNG files.

    Args:
        folder: Made if missing.
        world_model: In evaluation mode.
        recording: Held-out play.
        count: Number of strips; fewer if the recording has fewer windows.
        context: Real steps that warm a dream up.
        horizon: Steps dreamt.
        seed: Of the posterior's and the prior's draws.
        temperature: Of the prior's draws.

    Returns:
        The files, each named by its env and the step at which the dream parts from the game.

    Raises:
        GlamError: If no window fits into the recording.
    """
    starts = window_starts(recording, context, horizon, stride=1)
    first = starts[:, 1:] + context
    whole = ~recording.ended[starts[:, :1], first + np.arange(horizon)].any(1)
    if not whole.any():
        raise GlamError(f"no {context + horizon} steps of the recording are of one episode")
    starts = starts[whole]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for chosen in np.linspace(0, len(starts) - 1, min(count, len(starts))).round().astype(int):
        env, start = starts[chosen].tolist()
        real = slice(start + context, start + context + horizon)
        frames, reward = _dream(
            world_model, recording, env, start, context, horizon, seed, temperature
        )
        image = strip(
            recording.frames[env, real.start + 1 : real.stop + 1],
            frames,
            real_reward=recording.rewards[env, real],
            dream_reward=reward,
        )
        paths.append(folder / f"env{env}_step{real.start:05}.png")
        _pillow().fromarray(image).save(paths[-1])
    return paths


def side_by_side_gif(
    path: Path,
    frames_left: np.ndarray,
    frames_right: np.ndarray,
    *,
    captions: tuple[str, str] = ("dream", "real game"),
    frames_per_second: float = 15.0,
) -> None:
    """Writes two films next to each other as a GIF that plays over and over.

    Args:
        path: Where; its folder is made if missing.
        frames_left, frames_right: (T, 64, 64, 3) uint8.
        captions: Above either.
        frames_per_second: 15 is the game's own speed at four frames a step.
    """
    pillow = _pillow()
    from PIL import ImageDraw

    head = pillow.new("RGB", (2 * SCALE * frames_left.shape[2] + GAP, CAPTION), PAPER)
    for i, caption in enumerate(captions):
        left = i * (SCALE * frames_left.shape[2] + GAP)
        ImageDraw.Draw(head).text((left + GAP, 2), caption, fill=(255, 255, 255))
    images = []
    for pair in zip(frames_left, frames_right, strict=True):
        left, right = map(_enlarged, pair)
        bar = np.full((len(left), GAP, 3), PAPER, np.uint8)
        image = np.concatenate([head, np.concatenate([left, bar, right], axis=1)])
        images.append(pillow.fromarray(image))
    # One palette for all, of frames from all over: colours that flicker cost more than they show.
    some = np.concatenate(images[:: -(-len(images) // 8)])
    palette = pillow.fromarray(some).quantize(GIF_COLORS, method=pillow.Quantize.MAXCOVERAGE)
    images = [image.quantize(palette=palette, dither=pillow.Dither.NONE) for image in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=10 * round(100 / frames_per_second),  # a GIF counts in hundredths
        loop=0,
    )


@torch.no_grad()
def _dream(
    world_model: WorldModel,
    recording: Recording,
    env: int,
    start: int,
    context: int,
    horizon: int,
    seed: int,
    temperature: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Dreams along one window: (horizon, 64, 64, 3) uint8 frames and (horizon,) rewards."""
    device = world_model.prior.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    seen = torch.from_numpy(recording.frames[env, start : start + context + 1]).to(device)
    taken = torch.from_numpy(recording.actions[env, start : start + context + horizon]).to(device)
    codes = sample_codes(world_model.encode(seen), generator=generator)
    steps = list(follow(world_model, codes[None], taken[None], temperature, generator))
    frames = draw_frames(world_model, torch.cat([step.state.code for step in steps]))
    return frames.cpu().numpy(), torch.cat([step.reward for step in steps]).cpu().numpy()


def _enlarged(frame: np.ndarray) -> np.ndarray:
    return frame.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise GlamError('pictures need Pillow: pip install "glam-env[video]"') from error
    return Image
