"""Start contexts from recorded real play: frames and actions, as files or arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glam_env.checkpoint.contexts import Contexts
from glam_env.checks import require_integers, require_range
from glam_env.envs.base import FRAME_SHAPE
from glam_env.envs.recordings.archives import as_tensor, read_arrays
from glam_env.errors import GlamError
from glam_env.files import expand
from glam_env.model.distributions import sample_codes
from glam_env.model.world_model import WorldModel

_ENCODE_BATCH = 64  # frames encoded at once
_SEED = 0  # of the latents' draws: the same recording gives the same contexts

Source = str | Path | Mapping[str, Any]


def read_contexts(source: Source, world_model: WorldModel, length: int) -> Contexts:
    """Read the start contexts of recorded episodes.

    Every frame with ``length`` steps before it in its episode gives a context. With one episode,
    context i is that of frame i + L. The episodes of a folder are ordered by file name, those of a
    batch by row.

    Args:
        source: a mapping with ``frames`` (T, 64, 64, 3) uint8 and ``actions`` (T) integers, each
            taken on seeing the frame; or both with a leading dimension E, as in
            ``vars(recording)`` of :class:`~glam_env.envs.recordings.recording.Recording`.
            An optional ``ended``, bool of the actions' shape, is true where an episode ended at
            this step; other names are not read. Or the path of such a mapping as ``.npz`` or
            ``.safetensors``, or of a folder of ``.npz`` files. A ``.safetensors`` file, which may
            be compressed (``.safetensors.xz``), may also be a checkpoint's contexts.
        world_model: encodes the frames; its dreams start from the contexts.
        length: L.

    Returns:
        The contexts, on the CPU.

    Raises:
        GlamError: there is no recording, or no episode is longer than L steps.
    """
    device = next(world_model.parameters()).device
    generator = torch.Generator(device).manual_seed(_SEED)
    codes, chosen, longest = [], [], 0
    for where, tensors in _read(source):  # one file after the other: only codes are kept
        if tensors.keys() == {"codes", "actions"}:
            return Contexts.from_tensors(tensors, world_model.config, where)
        for frames, actions in _episodes(tensors, world_model.config.num_actions, where):
            longest = max(longest, len(actions))
            if len(actions) > length:
                code = _encode(frames, world_model, generator)
                codes.append(code.unfold(0, length + 1, 1).transpose(1, 2))  # (N, L+1, K)
                chosen.append(actions[:-1].to(torch.uint8).unfold(0, length, 1))
    if not codes:
        raise GlamError(
            f"contexts: the longest recorded episode has {longest} steps; "
            f"one of at least {length + 1} is needed"
        )
    return Contexts(torch.cat(codes), torch.cat(chosen))


def _read(source: Source) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Read the mappings of a source as tensors, each with its name for messages."""
    if isinstance(source, Mapping):
        yield "contexts", _tensors(source, "contexts")
        return
    if not isinstance(source, str | Path):
        raise GlamError(
            f"contexts must be a path or a mapping of arrays, got {type(source).__name__}"
        )
    path = expand(source)
    try:
        files = sorted(path.glob("*.npz")) if os.path.isdir(path) else [path]
    except OSError as error:
        raise GlamError(f"contexts: {path} cannot be read ({error.strerror})") from error
    if not files:
        raise GlamError(f"contexts: {path} holds no .npz files")
    for file in files:
        yield str(file), _tensors(read_arrays(file, _NAMES), str(file))


_NAMES = ("frames", "actions", "ended", "codes")


def _tensors(arrays: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in _NAMES:
        if name in arrays:
            value = arrays[name]
            try:
                tensors[name] = value if isinstance(value, Tensor) else as_tensor(np.asarray(value))
            except (TypeError, ValueError) as error:
                raise GlamError(f"{where}: {name} is not an array of numbers") from error
    return tensors


def _episodes(
    tensors: Mapping[str, Tensor], num_actions: int, where: str
) -> list[tuple[Tensor, Tensor]]:
    """Check a mapping; return frames (T, 64, 64, 3) and actions (T) of each episode."""
    if missing := {"frames", "actions"} - tensors.keys():
        raise GlamError(
            f"{where}: {min(missing)} is missing; a recording has frames (T, 64, 64, 3) uint8 "
            "and actions (T)"
        )
    frames, actions = (
        tensors["frames"].cpu(),
        require_integers(f"{where}: actions", tensors["actions"]).cpu(),
    )
    ended = tensors.get("ended", torch.zeros(actions.shape, dtype=torch.bool)).cpu()
    if (
        frames.dtype != torch.uint8
        or actions.ndim not in (1, 2)
        or frames.shape != (*actions.shape, *FRAME_SHAPE)
    ):
        raise GlamError(
            f"{where}: frames must be uint8 of shape (T, 64, 64, 3) and actions of shape (T,), "
            f"got {frames.dtype} {tuple(frames.shape)} and {tuple(actions.shape)}"
        )
    if ended.dtype != torch.bool or ended.shape != actions.shape:
        raise GlamError(f"{where}: ended must be bool of shape {tuple(actions.shape)}")
    require_range(f"{where}: actions", actions, num_actions)
    if actions.ndim == 1:
        frames, actions, ended = frames[None], actions[None], ended[None]
    episodes = []
    for stream in range(len(actions)):
        ends = (ended[stream].nonzero().flatten() + 1).tolist()
        for start, stop in zip([0, *ends], [*ends, actions.shape[1]], strict=True):
            if stop > start:
                episodes.append((frames[stream, start:stop], actions[stream, start:stop]))
    return episodes


@torch.no_grad()
def _encode(frames: Tensor, world_model: WorldModel, generator: torch.Generator) -> Tensor:
    """Encode (T, 64, 64, 3) uint8 frames as (T, K) uint8 codes on the CPU."""
    return torch.cat(
        [
            sample_codes(world_model.encode(part.to(generator.device)), generator=generator)
            .to(torch.uint8)
            .cpu()
            for part in frames.split(_ENCODE_BATCH)
        ]
    )
