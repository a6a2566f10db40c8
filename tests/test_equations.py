"""Every equation of the paper is found by its number: in one docstring, and on the page."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "model.md"
HOME = re.compile(r"\((eq\. \d+|algorithm \d+)(?:, ([^)]*))?\)")
"""``(eq. 9)``, or one part of it, ``(eq. 9, dynamics)``, in the first line of a docstring."""

NUMBERS = [f"eq. {n}" for n in range(1, 13)] + ["algorithm 1"]


def first_lines(file: Path) -> list[tuple[str, str]]:
    """Names and first docstring lines of a module, its classes and its functions."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            found.append((getattr(node, "name", file.stem), text.splitlines()[0]))
    return found


@pytest.fixture(scope="module")
def homes() -> dict[str, list[tuple[Path, str, str]]]:
    """Where each number is at home: file, name, and which part of it."""
    found = defaultdict(list)
    for file in sorted((ROOT / "glam_env").rglob("*.py")):
        for name, line in first_lines(file):
            for number, part in HOME.findall(line):
                found[number].append((file, name, part))
    return found


@pytest.mark.parametrize("number", NUMBERS)
def test_each_has_one_home(homes, number: str) -> None:
    places = homes[number]
    assert places, f"({number}) is in no docstring's first line"
    assert len({file for file, _, _ in places}) == 1, places
    parts = [part for _, _, part in places]
    assert len(set(parts)) == len(parts), places
    assert len(places) == 1 or all(parts), places  # several homes only as named parts


@pytest.mark.parametrize("number", NUMBERS)
def test_the_page_explains_it_and_names_its_home(homes, number: str) -> None:
    heading = f"**{number.capitalize()}**"
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(heading) == 1
    for _, name, _ in homes[number]:
        passage = text.split(heading)[1].split("\n**")[0]
        assert re.search(rf"\b{name}\b", heading + passage) or name in before(text, heading)


def before(text: str, heading: str) -> str:
    """The line that a heading stands in, up to the heading."""
    return text.split(heading)[0].splitlines()[-1]


def test_there_are_no_others(homes) -> None:
    assert set(homes) == set(NUMBERS)


def test_code_that_the_page_names_exists() -> None:
    """``losses:total_loss`` is in a module of the model, ``training/config.py:X`` by its path."""
    named = re.findall(r"`([\w/]+(?:\.py)?):([\w.]+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 20
    package = ROOT / "glam_env"
    for module, name in named:
        by_stem = (package / "model").rglob(f"{module}.py")
        files = [package / module] if "/" in module else list(by_stem)
        assert len(files) == 1, (module, files)
        assert name.split(".")[-1] in {n for n, _ in first_lines(files[0])}, (module, name)


def test_files_that_the_page_names_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:[\w]+/)+[\w.]*)(?::[\w.]+)?`", text):
        assert any((root / name).exists() for root in (ROOT, ROOT / "glam_env")), name
    for link in re.findall(r"\]\(([\w.]+)\)", text):
        assert (PAGE.parent / link).exists(), link
