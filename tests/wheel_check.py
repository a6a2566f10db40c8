"""Build the wheel, install it without extras in an empty environment, and use it elsewhere.

Run by ``make wheel``. What a user without a checkout has is this wheel and nothing else: the ids,
the shipped checkpoints, the C++ sources and the command line must be in it. What it requires is
linked from the environment that runs this, at the versions there, since unpacking PyTorch once more
would take a minute of a core. ``pip check`` then says whether anything is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

USE = """
import gymnasium as gym
import glam_agents, glam_env

env = gym.make("GLAMDream-Pong-v0")
env.reset(seed=0)
for _ in range(5):
    observation, reward, *_ = env.step(env.action_space.sample())
assert observation.shape == (64, 64, 3), observation.shape
env.close()

envs = gym.make_vec("GLAMDream-Pong-v0", num_envs=8, obs_type="latent", array_type="torch")
observations, _ = envs.reset(seed=0)
assert observations.shape[0] == 8 and bool(observations.isfinite().all())
envs.close()
print(glam_env.__version__, glam_env.__file__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the checkout; its output, or an error that shows it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def pack_sources(archive: Path) -> Path:
    """Pack the tracked files, as they are now, as a hosting site packs a source archive."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(archive, "w:gz") as packed:
        for name in filter(None, tracked.stdout.decode().split("\0")):
            packed.add(ROOT / name, f"glam-env/{name}")
    return archive


def inspect(wheel: Path) -> None:
    """Check what the wheel carries, and that its README has no links into the checkout."""
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        readme = packed.read(metadata).decode()
    assert not [name for name in names if name.endswith((".gif", ".png", "metrics.jsonl"))]
    for needed in ("glam_env/_checkpoints/Pong/config.json", "glam_env/py.typed"):
        assert needed in names, needed
    games = {name.split("/")[2] for name in names if name.startswith("glam_env/_checkpoints/")}
    assert games == {"Pong"}, games
    assert any(name.endswith("step.cpp") for name in names)
    links = [link for link in re.findall(r"\]\(([^)]*)\)", readme) if not link.startswith("http")]
    assert "GLAM Dream" in readme
    assert not links, links


def requirements(words: list[str]) -> Iterator[Distribution]:
    """Yield the distributions that requirements need, theirs included, each once."""
    seen: set[str] = set()
    left = [Requirement(word) for word in words]
    while left:
        needed = left.pop()
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        if (name := canonicalize_name(needed.name)) not in seen:
            seen.add(name)
            found = distribution(needed.name)
            yield found
            left += map(Requirement, found.requires or ())


def link(found: Distribution, site: Path) -> None:
    """Link, or copy, the files of a distribution that lie in its folder of packages."""
    for file in found.files or ():
        if ".." in file.parts or file.suffix == ".pyc":
            continue  # a command, which only a user needs
        source, target = found.locate_file(file), site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another disk, or the venv has one of its own
            shutil.copyfile(source, target)


def main() -> None:
    """Build, install, use."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = pack_sources(folder / "sources.tar.gz")
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", archive]
        run(*build, "--wheel-dir", folder / "dist", cwd=folder)
        (wheel,) = (folder / "dist").glob("*.whl")
        inspect(wheel)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        (site,) = (folder / "venv").glob("lib/python*/site-packages")
        with zipfile.ZipFile(wheel) as packed:
            (name,) = (name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
            needed = message_from_bytes(packed.read(name)).get_all("Requires-Dist") or []
        for found in requirements(needed):
            link(found, site)
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=folder)
        run(python, "-m", "pip", "check", cwd=folder)
        used = run(python, "-c", USE, cwd=folder).strip().splitlines()[-1]
        assert str(folder) in used, f"imported from elsewhere: {used}"
        glam = folder / "venv" / "bin" / "glam"
        assert "Pong" in run(glam, "info", "Pong", cwd=folder)
        assert "glam" in run(glam, "--help", cwd=folder)
        assert "1 of 26 games have a checkpoint" in run(glam, "list", cwd=folder)
        # What messages advise: the extra of the wheel that is installed, from the package index.
        advice = [python, "-m", "pip", "install", "--dry-run", "glam-env[atari]"]
        assert "ale" in run(*advice, cwd=folder).split("Would install")[1]
        print(f"{wheel.name}, {wheel.stat().st_size / 2**20:.1f} MiB: {used}")


if __name__ == "__main__":
    main()
