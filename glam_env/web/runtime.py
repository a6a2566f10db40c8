"""onnxruntime-web, in the version of npm's lock file beside this module."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from glam_env.errors import GlamError

HERE = Path(__file__).resolve().parent
PACKAGE, LOCK = HERE / "package.json", HERE / "package-lock.json"
# The build for WebAssembly alone; the file names are those that its own loader asks for.
FILES = {
    "ort/ort.js": "dist/ort.wasm.bundle.min.mjs",
    "ort/ort-wasm-simd-threaded.wasm": "dist/ort-wasm-simd-threaded.wasm",
}
NOTICE = "ort/NOTICE.txt"


def read_runtime() -> dict[str, bytes]:
    """Return the files of onnxruntime-web by their names in a site.

    ``npm ci`` installs them from the lock file and checks their hashes. They are kept in the user's
    cache for the next site.

    Raises:
        GlamError: npm is missing or failed.
    """
    key = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = root / "glam-env" / f"onnxruntime-web-{key}"
    if not cache.is_dir():
        _install(cache)
    return {name: (cache / name).read_bytes() for name in (*FILES, NOTICE)}


def _install(cache: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise GlamError("glam web needs npm for onnxruntime-web: install Node.js 18 or later")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
            for source in (PACKAGE, LOCK):
                shutil.copy(source, folder)
            done = subprocess.run(
                [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=folder,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise GlamError(
                    f"npm ci of onnxruntime-web failed ({reason}); check the connection"
                )
            installed, made = Path(folder, "node_modules/onnxruntime-web"), Path(folder, "made")
            for name, source in FILES.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(installed / source, made / name)
            about = json.loads((installed / "package.json").read_text())
            (made / NOTICE).write_text(
                f"{about['name']} {about['version']}, licence {about['license']}\n"
                f"https://www.npmjs.com/package/{about['name']}/v/{about['version']}\n"
            )
            if not cache.is_dir():  # no other process was faster
                made.rename(cache)
    except OSError as error:
        raise GlamError(f"cannot write {cache} ({error.strerror}); set XDG_CACHE_HOME") from error
