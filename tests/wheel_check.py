"""Build the wheel, install it without extras in an empty environment, and use it elsewhere.

Run by ``make wheel``. What a user without a checkout has is this wheel and nothing else: the ids,
the shipped checkpoints, the C++ sources and the command line must be in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

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


def main() -> None:
    """Build, install, use."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", ROOT]
        run(*build, "--wheel-dir", folder / "dist", cwd=folder)
        (wheel,) = (folder / "dist").glob("*.whl")
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        constraints = ["--constraint", ROOT / "constraints.txt"]
        run(python, "-m", "pip", "install", "--quiet", *constraints, wheel, cwd=folder)
        used = run(python, "-c", USE, cwd=folder).strip().splitlines()[-1]
        assert str(folder) in used, f"imported from elsewhere: {used}"
        glam = folder / "venv" / "bin" / "glam"
        assert "Pong" in run(glam, "info", "Pong", cwd=folder)
        assert "glam" in run(glam, "--help", cwd=folder)
        print(f"{wheel.name}, {wheel.stat().st_size / 2**20:.1f} MiB: {used}")


if __name__ == "__main__":
    main()
