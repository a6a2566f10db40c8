"""What `import glam_env` does, in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import warnings

import gymnasium
import pytest

import glam_env
from glam_env.games import GAMES


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_import_registers_the_games_and_loads_nothing_heavy() -> None:
    code = (
        "import json, sys, gymnasium, glam_env;"
        "heavy = sys.modules.keys() & {'torch', 'ale_py', 'stable_baselines3', 'agents', 'cv2'};"
        "print(json.dumps([sorted(heavy), [i for i in gymnasium.registry if 'GLAMDream' in i]]))"
    )
    heavy, ids = json.loads(_python(code))
    assert heavy == []
    assert ids == [f"GLAMDream-{game}-v0" for game in GAMES]
    assert len(ids) == 26


def test_module_prefix_imports_the_package() -> None:
    code = (
        "import gymnasium as gym\n"
        "try: gym.make('glam_env:GLAMDream-Frostbite-v0', checkpoint='/nowhere/at/all')\n"
        "except ValueError as error: print(error)"
    )
    assert _python(code).startswith("/nowhere/at/all is no checkpoint")


def test_registering_twice_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        glam_env.register_envs()


@pytest.mark.parametrize("game", ["Pong", "MsPacman"])
def test_spec_is_plain_json(game: str) -> None:
    spec = gymnasium.spec(f"GLAMDream-{game}-v0")
    assert json.loads(spec.to_json())["kwargs"] == {"game": game}
    assert spec.max_episode_steps is None  # the dream truncates itself


def test_version_is_the_installed_one() -> None:
    assert importlib.metadata.version("glam-env") == glam_env.__version__
