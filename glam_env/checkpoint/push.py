"""Upload of checkpoints to the Hugging Face Hub, as one commit or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glam_env.checkpoint.config import CONFIG
from glam_env.checkpoint.folder import CARD, Checkpoint
from glam_env.checkpoint.hub import SCHEME, reason_of
from glam_env.errors import GlamError
from glam_env.files import shown

README = "README.md"  # the card of a repository, with the Hub's metadata
CURVES = "metrics.jsonl"

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def push_checkpoint(
    checkpoint: Checkpoint,
    name: str,
    card: str,
    *,
    revision: str | None = None,
    private: bool = False,
    replace: bool = False,
) -> str:
    """Upload a checkpoint to a model repository, as one commit.

    A missing repository is made. If the upload fails, a repository or branch that was made for it
    is removed again.

    Args:
        checkpoint: The checkpoint. Its files are checked first.
        name: ``owner/name`` of the repository.
        card: Text of its ``README.md``.
        revision: Branch, made if missing; None for the main one.
        private: Whether a new repository is private.
        replace: Whether a commit may be added to an existing repository or branch.

    Returns:
        The address of the commit, ``hf://owner/name@commit``.

    Raises:
        GlamError: The name is malformed or taken, huggingface_hub or a token is missing, a file of
            the checkpoint is damaged, or the upload failed.
    """
    if not _NAME.fullmatch(name):
        raise GlamError(f"{shown(name)} is not a name on the Hub: write OWNER/NAME")
    try:
        import huggingface_hub
        from huggingface_hub import CommitOperationAdd
    except ModuleNotFoundError as error:
        raise GlamError('`glam push` needs huggingface_hub: pip install "glam-env[hub]"') from error
    checkpoint.verify()
    if huggingface_hub.get_token() is None:
        raise GlamError("there is no token of the Hub: run `hf auth login`, or set HF_TOKEN")
    api = huggingface_hub.HfApi()
    undo: list[Callable[[], Any]] = []
    try:
        _require_free(api, name, revision, replace)
        operations = [CommitOperationAdd(path.name, path) for path in _files(checkpoint)] + [
            CommitOperationAdd(README, card.encode())
        ]
        if not api.repo_exists(name):
            api.create_repo(name, private=private)
            undo.append(lambda: api.delete_repo(name))
        if revision is not None and not api.revision_exists(name, revision):
            api.create_branch(name, branch=revision)
            undo.insert(0, lambda: api.delete_branch(name, branch=revision))
        message = f"{checkpoint.config.game}: a checkpoint of GLAM Dream"
        commit = api.create_commit(name, operations, commit_message=message, revision=revision)
    except GlamError:
        raise
    except BaseException as error:
        left = _undo(undo)
        if not isinstance(error, Exception):  # such as Ctrl-C
            raise
        raise GlamError(
            f"{name} cannot be pushed ({reason_of(error)}); check the token, the name and the "
            f"connection. {left}"
        ) from error
    return f"{SCHEME}{name}@{commit.oid}"


def _require_free(api: Any, name: str, revision: str | None, replace: bool) -> None:
    """Check that the repository or the branch is new, unless ``replace`` is set."""
    if replace or not api.repo_exists(name):
        return
    if revision is None:
        raise GlamError(f"{name} exists already: choose another name, or add to it by --replace")
    if api.revision_exists(name, revision):
        raise GlamError(
            f"{name} has a branch {shown(revision)} already: choose another --revision, or add to "
            "it by --replace"
        )


def _files(checkpoint: Checkpoint) -> list[Path]:
    """Return the files of a checkpoint, without other files in its folder."""
    folder, config = checkpoint.path, checkpoint.config
    required = [folder / record.file(name) for name, record in config.files.items()]
    optional = [path for name in (CARD, CURVES) if (path := folder / name).is_file()]
    return [folder / CONFIG, *required, *optional]


def _undo(steps: list[Callable[[], Any]]) -> str:
    """Run the steps that undo a push; return what is left, in words."""
    try:
        for step in steps:
            step()
    except Exception as error:  # the connection is gone, most likely
        return f"An empty repository or branch is left there ({reason_of(error)})"
    return "Nothing was pushed"
