"""What an export says of the versions that made it."""

from __future__ import annotations

import importlib.metadata

import glam_env
from glam_env.training import export


def test_a_source_tree_that_is_not_installed_has_a_version(monkeypatch) -> None:
    def installed(name: str) -> str:
        if name == "glam-env":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", installed)
    versions = [export._version(name) for name in ("glam-env", "torch")]
    assert versions == [glam_env.__version__, "1.2.3"]
