"""What ``import glam_env`` does, and its public interface against ``docs/api.md``."""

from __future__ import annotations

import dataclasses
import enum
import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import glam_env
from glam_env.games import GAMES

ENVS = (glam_env.DreamEnv, glam_env.DreamVectorEnv, glam_env.RealEnv, glam_env.RealVectorEnv)
API = (Path(__file__).parents[1] / "docs" / "api.md").read_text()


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_import_registers_the_games_and_loads_nothing_heavy() -> None:
    code = (
        "import json, sys, gymnasium, glam_env;"
        "heavy = {'torch', 'ale_py', 'stable_baselines3', 'glam_agents', 'cv2'} & {*sys.modules};"
        "print(json.dumps([sorted(heavy), [i for i in gymnasium.registry if 'GLAMDream' in i]]))"
    )
    heavy, ids = json.loads(_python(code))
    assert heavy == []
    assert ids == [f"GLAMDream-{game}-v0" for game in GAMES]
    assert len(ids) == 26


def test_making_a_dream_loads_nothing_that_takes_seconds() -> None:
    code = (
        "import sys, gymnasium, glam_env;"
        "gymnasium.make('GLAMDream-Pong-v0').reset(seed=0);"
        "gymnasium.make_vec('GLAMDream-Pong-v0', num_envs=2).reset(seed=0);"
        "print(sorted({'sympy', 'torch._dynamo', 'stable_baselines3', 'cv2'} & {*sys.modules}))"
    )
    assert _python(code) == "[]\n"


def test_module_prefix_imports_the_package() -> None:
    code = (
        "import gymnasium as gym\n"
        "try: gym.make('glam_env:GLAMDream-Frostbite-v0', checkpoint='/nowhere/at/all')\n"
        "except ValueError as error: print(error)"
    )
    assert _python(code).startswith("/nowhere/at/all is not a checkpoint")


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


# --- the public interface ------------------------------------------------------------------------


def test_every_public_name_is_there() -> None:
    assert sorted(glam_env.__all__) == sorted(set(glam_env.__all__))
    for name in glam_env.__all__:
        assert getattr(glam_env, name) is not None
        assert name in dir(glam_env)
    with pytest.raises(AttributeError, match="no attribute 'DreamEnvs'"):
        _ = glam_env.DreamEnvs  # pyright: ignore[reportAttributeAccessIssue]
    assert (Path(glam_env.__file__).parent / "py.typed").is_file()


def test_type_checkers_see_every_public_name() -> None:
    source = Path(glam_env.__file__).read_text()
    guarded = source.split("if TYPE_CHECKING:")[1].split("\n\n")[0]
    imported = re.findall(r"^    from (\S+) import (.+)$", guarded, re.MULTILINE)
    assert {n: module for module, names in imported for n in names.split(", ")} == glam_env._MODULES


def test_the_page_lists_every_public_name() -> None:
    sections = re.split(r"^### `(\w+)`\n\n", API, flags=re.MULTILINE)
    names, texts = sections[1::2], sections[2::2]
    assert sorted(names) == sorted(glam_env.__all__)
    for name, text in zip(names, texts, strict=True):
        about = text.strip().split("\n\n")[0]
        assert about.endswith("."), name
        assert "\n" not in about, f"the account of {name} is one line"


def written(call: Any) -> str:
    """The parameters of a callable as the page writes them."""
    options = {f.name for f in dataclasses.fields(glam_env.RealOptions)}
    is_env = call in ENVS
    parts, starred = [], False
    for p in inspect.signature(call).parameters.values():
        if p.name == "self" or (is_env and p.name in options):
            continue
        if p.kind is p.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred |= p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        default = p.default if isinstance(p.default, enum.Enum) else repr(p.default)
        parts.append(stars + p.name + ("" if p.default is p.empty else f"={default}"))
    return ", ".join(parts + ["**options"] * is_env).replace("'", '"')


def members(cls: type) -> dict[str, Any]:
    """The public members of a class as the page writes them; None for what is no method."""
    bases = [base for base in cls.__mro__ if base.__module__.startswith("glam_env.")]
    found: dict[str, Any] = {}
    for base in reversed(bases):
        for name, member in vars(base).items():
            if isinstance(member, property):
                found[name] = None
            elif inspect.isfunction(member) or isinstance(member, classmethod):
                found[name] = written(getattr(cls, name))
    if cls in ENVS:
        del found["spec"]  # documented by Gymnasium
    if found.pop("close_extras", None) is not None:  # what Gymnasium's close() calls
        found["close"] = written(cls.close)
    return {name: parameters for name, parameters in found.items() if not name.startswith("_")}


def test_the_page_gives_every_signature() -> None:
    code = "".join(re.findall(r"```python\n(.*?)```", API, re.DOTALL))
    listed: dict[str, dict[str, str | None]] = {}
    code = code.replace("(\n    ", "(").replace(",\n    ", ", ").replace(",\n)", ")")
    for line in code.splitlines():
        match = re.fullmatch(r"(\w+)(?:\.(\w+))?(?:\((.*)\))?", line)
        assert match, line
        name, member, parameters = match.groups()
        if member is None:
            assert written(getattr(glam_env, name)) == parameters
        else:
            listed.setdefault(name, {})[member] = parameters
    for name, found in listed.items():
        expected = members(getattr(glam_env, name))
        if name == "Checkpoint":
            expected |= dict.fromkeys(("path", "config"))
        assert found == expected, name
    classes = {name for name in glam_env.__all__ if inspect.isclass(getattr(glam_env, name))}
    assert listed.keys() == classes - {"GlamError"}
