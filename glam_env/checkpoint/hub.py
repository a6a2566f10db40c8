"""Checkpoints from the Hugging Face Hub: ``hf://owner/name``, ``hf://owner/name@revision``."""

from __future__ import annotations

import re
from pathlib import Path

from glam_env.errors import GlamError

SCHEME = "hf://"

_ADDRESS = re.compile(r"hf://(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[^@\s]+))?")
_FILES = ["config.json", "CARD.md", "*.safetensors"]


def fetch_checkpoint(address: str) -> Path:
    """Downloads a checkpoint folder, or finds it where an earlier download left it.

    Args:
        address: ``hf://owner/name`` of a model repository, with ``@`` and a branch, tag or commit
            if it shall be another than its main branch.

    Returns:
        The folder, in the Hub's cache; it is checked when it is loaded, as any other.

    Raises:
        GlamError: another address, huggingface_hub not installed, or a download that failed.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise GlamError(f"{address!r} is no address on the Hub: write hf://owner/name[@revision]")
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
    except Exception as error:  # of a connection: the HTTP library differs between its versions
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise GlamError(
            f"{address} cannot be fetched ({reason}); check the name and the connection, "
            "or give a folder"
        ) from error
    return Path(folder)
