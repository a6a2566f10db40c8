"""Checkpoints from the Hugging Face Hub.

Their addresses are ``hf://owner/name`` and ``hf://owner/name@revision``.

The environment variable GLAM_HUB may name an owner on the Hub. A game without a checkpoint on this
machine then uses the owner's checkpoint ``GLAMDream-<Game>``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from glam_env.checkpoint.config import CONFIG, WORLD_MODEL
from glam_env.checkpoint.packing import XZ
from glam_env.errors import GlamError
from glam_env.files import shown

SCHEME = "hf://"

_ADDRESS = re.compile(r"hf://(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[^@\s]+))?")
_FILES = ["config.json", "CARD.md", "*.safetensors", "*.safetensors.xz"]


def address_of(game: str) -> str | None:
    """Return the address of a game's checkpoint of the owner in GLAM_HUB.

    It is None if GLAM_HUB is not set or empty.

    Args:
        game: name of a game.

    Raises:
        GlamError: GLAM_HUB is not the name of an owner.
    """
    owner = os.environ.get("GLAM_HUB", "").removeprefix(SCHEME).strip("/")
    if not owner:
        return None
    if not re.fullmatch(r"\w[\w.-]*", owner):
        raise GlamError(f"GLAM_HUB must name an owner on the Hub, got {shown(owner)}")
    return f"{SCHEME}{owner}/GLAMDream-{game}"


def fetch_checkpoint(address: str) -> Path:
    """Download a checkpoint folder, or find it in the Hub's cache.

    Args:
        address: ``hf://owner/name`` of a model repository, and optionally ``@`` with a branch, tag
            or commit.

    Returns:
        The folder in the Hub's cache; its content is not checked here.

    Raises:
        GlamError: the address is malformed, huggingface_hub is not installed, or the download
            failed.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise GlamError(
            f"{address!r} is not an address on the Hub: write hf://owner/name[@revision]"
        )
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise GlamError(
            f'{SCHEME} addresses need huggingface_hub: pip install "glam-env[hub]"'
        ) from error
    try:
        folder = huggingface_hub.snapshot_download(
            match["repo"], revision=match["revision"], allow_patterns=_FILES
        )
    except Exception as error:  # the library's HTTP errors differ between its versions
        raise GlamError(
            f"{address} cannot be fetched ({reason_of(error)}); check the name and the connection, "
            "or give a folder"
        ) from error
    return Path(folder)


def reason_of(error: BaseException) -> str:
    """Return the first line of an error of the library, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_cached(folder: Path) -> bool:
    """Return whether a folder is in the Hub's cache.

    The files of a folder in the cache are those of its commit.
    """
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:
        return False
    return folder.resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve())


def cached_checkpoints() -> dict[str, Path]:
    """Return the folders of the checkpoints in the Hub's cache, by address.

    Each address includes its commit. The result is empty without huggingface_hub or a cache.
    """
    try:
        from huggingface_hub import CacheNotFound, constants, scan_cache_dir
    except ModuleNotFoundError:
        return {}
    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return {}
    return {
        f"{SCHEME}{repository.repo_id}@{revision.commit_hash}": revision.snapshot_path
        for repository in sorted(repositories, key=lambda each: each.repo_id)
        for revision in sorted(repository.revisions, key=lambda each: each.last_modified)
        if repository.repo_type == "model" and _looks_like_ours(revision.snapshot_path)
    }


def _looks_like_ours(folder: Path) -> bool:
    """Return whether a folder has the files of a checkpoint.

    The folders of other libraries in the cache lack them.
    """
    weights = (WORLD_MODEL, f"{WORLD_MODEL}.{XZ}")
    return (folder / CONFIG).is_file() and any((folder / each).is_file() for each in weights)
