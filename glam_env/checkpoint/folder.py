"""Reading and writing of checkpoint folders.

:class:`Checkpoint` reads a folder, and :func:`save_checkpoint` writes one. ``config.json``
describes the checkpoint and holds the size and the SHA-256 of ``world_model.safetensors``,
``agent.safetensors`` and ``contexts.safetensors``, which may be compressed (``.xz``). ``CARD.md``
is for people. Nothing is unpickled, and every value and every tensor is checked before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from glam_env.checkpoint.config import (
    AGENT,
    CONFIG,
    CONTEXTS,
    CURE,
    PARAMETERS,
    WORLD_MODEL,
    CheckpointConfig,
    FileRecord,
    check_values,
    read_config,
    require_weights,
    to_json,
    world_model_tensors,
)
from glam_env.checkpoint.contexts import Contexts
from glam_env.checkpoint.hub import SCHEME, address_of, fetch_checkpoint
from glam_env.checkpoint.packing import DTYPES, XZ, compression_of, pack, unpack
from glam_env.checkpoint.replace import replaced_folder, require_replaceable, standing
from glam_env.errors import GlamError
from glam_env.files import expand, file_size, read_bounded, shown
from glam_env.games import GAMES, find_game
from glam_env.model.world_model import WorldModel

CARD = "CARD.md"
FILE_BYTES = 4 * PARAMETERS + 2**20
"""Maximum size of a safetensors file: all weights in float32, and the header."""

_POINTER = b"version https://git-lfs.github.com/spec/"
_DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)

_PACKAGE = Path(__file__).resolve().parent.parent

# --- finding -----------------------------------------------------------------------------------


def shipped_checkpoints() -> dict[str, Path]:
    """Return the folders of the shipped checkpoints, by game.

    They are looked up in the folder named by the environment variable GLAM_CHECKPOINTS, in the
    installed wheel, and in the checkout that the package runs from; the first match counts.
    """
    roots = [_PACKAGE / "_checkpoints", _PACKAGE.parent / "checkpoints"]
    if own := os.environ.get("GLAM_CHECKPOINTS"):
        roots.insert(0, expand(own))
    found: dict[str, Path] = {}
    for game in GAMES:
        for root in roots:
            if os.path.isfile((folder := standing(root / game)) / CONFIG):
                found.setdefault(game, folder)
    return found


def _find_folder(name: str | Path) -> Path:
    """Return the folder that a game's name, a path or an ``hf://`` address stands for.

    Raises:
        GlamError: there is no such game or checkpoint, or a download failed.
    """
    if isinstance(name, str) and name.startswith(SCHEME):
        return fetch_checkpoint(name)
    path = standing(expand(name))
    is_name = isinstance(name, str) and (path.name == name or name.upper().startswith("ALE/"))
    if is_name and (name in GAMES or not os.path.isdir(path)):
        game = find_game(str(name)).name
        shipped = shipped_checkpoints()
        if game in shipped:
            return shipped[game]
        if address := address_of(game):
            return fetch_checkpoint(address)
        raise GlamError(
            f"there is no checkpoint of {game} (there is: {', '.join(shipped) or 'none'}); make "
            f"one with `glam train {game}`, then `glam export {game}`, name a folder of "
            "checkpoints in GLAM_CHECKPOINTS, or name an owner on the Hugging Face Hub in GLAM_HUB"
        )
    if not os.path.lexists(path / CONFIG):
        raise GlamError(
            f"{path} is not a checkpoint: give a game's name, a folder with {CONFIG}, "
            f"or {SCHEME}owner/name"
        )
    return path


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: its config is checked, its tensors are read on demand.

    Make one with :meth:`open`. Functions that take the name of a checkpoint also take an opened
    one; ``config.json`` is then not read again.

    Attributes:
        path: the folder.
        config: ``config.json``.
    """

    path: Path
    config: CheckpointConfig

    @classmethod
    def open(cls, name: str | Path | Checkpoint, game: str | None = None) -> Checkpoint:
        """Find a checkpoint and check its ``config.json``.

        Args:
            name: a game's name (its shipped checkpoint), a folder, or
                ``hf://owner/name[@revision]``; an opened checkpoint is returned as it is.
            game: the game that the checkpoint must be of; None allows any.

        Raises:
            GlamError: there is no such checkpoint, it is broken, or it is of another game.
        """
        if isinstance(name, Checkpoint):
            checkpoint = name
        else:
            path = _find_folder(name)
            checkpoint = cls(path, read_config(path))
        if game is not None and checkpoint.config.game != game:
            raise GlamError(
                f"checkpoint {checkpoint.path} is of {checkpoint.config.game}, not of {game}"
            )
        return checkpoint

    def world_model(self, device: torch.device | str = "cpu") -> WorldModel:
        """Read the world model: float32, in eval mode, without gradients.

        Raises:
            GlamError: the file or one of its tensors is not what it should be.
        """
        expected = world_model_tensors(self.config)
        where = str(self.path / WORLD_MODEL)
        state = check_tensors(self._read(WORLD_MODEL), expected, where)
        with torch.random.fork_rng(devices=[]):  # building a model draws; reading one must not
            world_model = WorldModel(self.config.world_model)
        world_model.load_exported(state)
        return world_model.to(device).eval().requires_grad_(False)

    def contexts(self, device: torch.device | str = "cpu") -> Contexts:
        """Read the start contexts.

        Raises:
            GlamError: the file or one of its tensors is not what it should be.
        """
        where = str(self.path / CONTEXTS)
        contexts = Contexts.from_tensors(self._read(CONTEXTS), self.config.world_model, where)
        _check_contexts(contexts, self.config, where)
        return contexts.to(device)

    def agent_state(self, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Read the agent's state dict, on the CPU.

        Args:
            expected: a state dict whose names, shapes and dtypes the agent's must have; the
                result has its dtypes. None leaves the tensors as they are stored.

        Raises:
            GlamError: the file or one of its tensors is not what it should be.
        """
        state = self._read(AGENT)
        return state if expected is None else check_tensors(state, expected, str(self.path / AGENT))

    def verify(self) -> None:
        """Check size and SHA-256 of all files; nothing is loaded.

        Raises:
            GlamError: a file is not what ``config.json`` says; the message names the first one.
        """
        for name in self.config.files:
            self._bytes(name)

    def _read(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file, after checking its size and SHA-256."""
        record, path = self.config.files[name], self._file(name)
        try:
            tensors = unpack(self._bytes(name), record.compression, FILE_BYTES)
        except ValueError as error:
            raise GlamError(f"{path} {error}; {CURE}") from error
        for key, tensor in tensors.items():
            if tensor.dtype not in _DTYPES:
                raise GlamError(f"{path}: tensor {shown(key)} has dtype {tensor.dtype}; {CURE}")
        _check_finite(tensors, str(path))
        return tensors

    def _file(self, name: str) -> Path:
        return self.path / self.config.files[name].file(name)

    def _bytes(self, name: str) -> bytes:
        """Read a file if its size is that of its record; check its SHA-256."""
        path, record = self._file(name), self.config.files[name]
        if (size := file_size(path, CURE)) != record.bytes:
            if size < 1024 and read_bounded(path, 1024, CURE).startswith(_POINTER):
                raise GlamError(f"{path} is a pointer of Git LFS; fetch the file: `git lfs pull`")
            sizes = f"has {size} bytes where {CONFIG} says {record.bytes}"
            raise GlamError(f"{path} {sizes}; {CURE}")
        data = read_bounded(path, FILE_BYTES, CURE)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise GlamError(f"{path} is not the file whose SHA-256 {CONFIG} gives; {CURE}")
        return data


# --- saving ------------------------------------------------------------------------------------


def save_checkpoint(
    folder: str | Path,
    *,
    config: CheckpointConfig,
    world_model_state: Mapping[str, Tensor],
    agent_state: Mapping[str, Tensor],
    contexts: Contexts,
    card: str,
    dtype: str = "float32",
    others: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a checkpoint, completely or not at all.

    It replaces an older checkpoint in the same folder.

    Args:
        folder: the destination; files in it that are not part of a checkpoint are kept.
        config: config of the checkpoint; its ``files`` are filled in here.
        world_model_state: result of
            :meth:`~glam_env.model.world_model.WorldModel.export_state`.
        agent_state: the agent's state dict.
        contexts: start contexts of the size in ``config.contexts``.
        card: the text of ``CARD.md``.
        dtype: dtype of the stored weights, one of :data:`~glam_env.checkpoint.packing.DTYPES`; they
            are read as float32.
        others: further files by name, such as ``metrics.jsonl``.

    Returns:
        The folder.

    Raises:
        GlamError: a value could not be read back, the folder holds something else, or it cannot be
            written. In that case nothing has been changed.
    """
    folder = require_replaceable(folder)
    if dtype not in DTYPES:
        raise GlamError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    check_values(config, str(folder / CONFIG))
    where = str(folder / WORLD_MODEL)
    world_model_state = check_tensors(world_model_state, world_model_tensors(config), where)
    require_weights(f"{folder}: agent", agent_state)
    _check_finite(agent_state, str(folder / AGENT))
    where = str(folder / CONTEXTS)
    contexts = Contexts.from_tensors(contexts.tensors(), config.world_model, where)
    _check_contexts(contexts, config, where)
    contents = {
        WORLD_MODEL: pack(world_model_state, dtype),
        AGENT: pack(agent_state, dtype),
        CONTEXTS: pack(contexts.tensors(), dtype),
    }
    compression = compression_of(dtype)
    records = {
        name: FileRecord(len(data), hashlib.sha256(data).hexdigest(), compression)
        for name, data in contents.items()
    }
    _write(folder, contents, replace(config, files=records), card, others or {})
    return folder


def write_results(
    folder: str | Path, config: CheckpointConfig, card: str, to: str | Path | None = None
) -> Path:
    """Replace the results and the card of a checkpoint, completely or not at all.

    Args:
        folder: folder of the checkpoint.
        config: config of the checkpoint, with other ``results``.
        card: the text of ``CARD.md``.
        to: another folder for the checkpoint with the new results; None replaces them in place.

    Returns:
        The folder that was written.

    Raises:
        GlamError: a folder cannot be read or written; in that case nothing has been changed.
    """
    written = require_replaceable(folder if to is None else to)
    folder = Path(folder)
    check_values(config, str(folder / CONFIG))
    contents = {
        name: read_bounded(folder / record.file(name), FILE_BYTES, CURE)
        for name, record in config.files.items()
    }
    _write(written, contents, config, card, {})
    return written


def _write(
    folder: Path,
    contents: Mapping[str, bytes],
    config: CheckpointConfig,
    card: str,
    others: Mapping[str, bytes],
) -> None:
    text = json.dumps(to_json(config), indent=2, allow_nan=False) + "\n"
    files = {config.files[name].file(name): data for name, data in contents.items()}
    files |= {**others, CONFIG: text.encode(), CARD: card.encode()}
    stale = [name + end for name in contents for end in ("", f".{XZ}")]  # of another format
    with replaced_folder(folder, {*files, *stale}) as staging:
        for name, data in files.items():
            (staging / name).write_bytes(data)


# --- checks --------------------------------------------------------------------------------------


def check_tensors(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Check names, shapes, dtypes and finiteness of tensors against a state dict.

    Args:
        state: the tensors.
        expected: a module's state dict.
        where: named in errors, such as the file.

    Returns:
        The tensors in the expected dtypes (weights may be stored as bfloat16).

    Raises:
        GlamError: a tensor does not fit; the message names it.
    """
    if missing := sorted(expected.keys() - state.keys()):
        raise GlamError(f"{where}: tensor {shown(missing[0])} is missing; {CURE}")
    if extra := sorted(state.keys() - expected.keys()):
        raise GlamError(f"{where}: tensor {shown(extra[0])} is not part of this model; {CURE}")
    checked = {}
    for name, like in expected.items():
        tensor = state[name]
        if tensor.shape != like.shape:
            shapes = f"shape {tuple(tensor.shape)}, not {tuple(like.shape)}"
            raise GlamError(f"{where}: tensor {shown(name)} has {shapes}; {CURE}")
        allowed = (torch.float32, torch.bfloat16) if like.is_floating_point() else (like.dtype,)
        if tensor.dtype not in (like.dtype, *allowed):
            dtypes = f"dtype {tensor.dtype}, not {like.dtype}"
            raise GlamError(f"{where}: tensor {shown(name)} has {dtypes}; {CURE}")
        checked[name] = tensor.to(like.dtype)
    _check_finite(checked, where)
    return checked


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise GlamError(
                f"{where}: tensor {shown(name)} holds numbers that are not finite; {CURE}"
            )


def _check_contexts(contexts: Contexts, config: CheckpointConfig, where: str) -> None:
    if (contexts.count, contexts.length) != (config.contexts.count, config.contexts.length):
        raise GlamError(
            f"{where}: holds {contexts.count} contexts of {contexts.length} steps where {CONFIG} "
            f"says {config.contexts.count} of {config.contexts.length}; {CURE}"
        )
