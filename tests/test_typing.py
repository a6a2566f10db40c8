"""A user's script passes ``mypy --strict``, and options are checked by their types."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "scripts" / "user_script.py"

# Parts of PyTorch, and of what they import, that no type of ours uses: half of mypy's time.
UNUSED = (
    *("_dynamo", "_inductor", "distributed", "fx", "export", "_export", "_functorch", "onnx"),
    *("testing", "_higher_order_ops", "_subclasses", "utils", "ao", "jit", "package", "_refs"),
    *("_prims", "_decomp"),
)
SKIPPED = ",".join([*(f"torch.{name}.*" for name in UNUSED), "sympy.*", "networkx.*"])


def check(path: Path, cache: Path) -> str:
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "agents")))
    (cache / "mypy.ini").write_text(f"[mypy]\n[mypy-{SKIPPED}]\nfollow_imports = skip\n")
    words = [
        "--strict",
        "--config-file",
        cache / "mypy.ini",
        "--follow-imports=silent",
        "--cache-dir",
        cache,
        path,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *map(str, words)],
        env=os.environ | {"MYPYPATH": paths},
        cwd=cache,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def test_mypy_accepts_a_user_s_script_and_catches_a_mistyped_option(tmp_path) -> None:
    assert "Success" in check(SCRIPT, tmp_path)
    wrong = tmp_path / "wrong.py"
    wrong.write_text(SCRIPT.read_text().replace('obs_type="latent"', 'obs_type="latnet"'))
    found = check(wrong, tmp_path)
    assert re.search(r'Argument "obs_type" .*latnet.*; expected', found), found


def test_the_user_s_script_runs(monkeypatch, saved_checkpoint) -> None:
    environment = os.environ | {"GLAM_CHECKPOINTS": str(saved_checkpoint.parent)}
    done = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    assert "NOOP" in done.stdout
    assert "99" in done.stdout
