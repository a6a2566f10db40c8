"""README, documentation, docstrings, comments and messages use plain words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A retired word, and what is written instead.
RETIRED = {
    r"doubts?": "entropy, max_prior_entropy",
    r"lots?": "random draw, draws",
    r"foretell\w*|foretold": "predict",
    r"painters?": "baseline",
    r"polish\w*": "fine-tune",
    r"settl(e|es|ed|ing)": "adapt, converge",
    r"twins?": "RewindableGame; the two implementations",
    r"aside": "on_side_stream",
    r"anew": "again",
    r"told|tells": "reported, says",
    r"hangs?( \w+)? on": "depends on",
    r"stands? still|stood still": "is frozen, is fixed",
    r"as it stands|as they stand": "current",
    r"comes of|came of": "results from",
    r"falls? short": "fails, is missing",
    r"sets? out from": "starts from",
    r"wherein|thereof": "in which, of it",
}

# Names of older versions that are still read, and where.
OLD_NAMES = {
    *(("CHANGELOG.md", word) for word in ("doubt", "polish", "settle")),
    *(("benchmarks/experiments.md", word) for word in ("polish", "settle")),
    ("glam_env/envs/dream/options.py", "doubt"),
    *(
        ("glam_env/evaluation/report/history.py", word)
        for word in ("polish", "polished", "settled", "settling")
    ),
    *(
        ("glam_env/training/earlier_runs.py", word)
        for word in ("polish", "polished", "settle", "settled")
    ),
}


def _files() -> list[Path]:
    found = list(ROOT.glob("*.md"))
    for folder in ("docs", "glam_env", "agents", "benchmarks"):
        for pattern in ("*.md", "*.py", "*.cpp", "*.h"):
            found += (ROOT / folder).rglob(pattern)
    return sorted(found)


def _uses() -> list[tuple[str, str, str]]:
    """Each use of a retired word: the file, the word, and where with what to write."""
    uses = []
    for path in _files():
        name = path.relative_to(ROOT).as_posix()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            # Words within names count too: max_doubt, _foretell.
            words = re.sub(r"([a-z])([A-Z])", r"\1 \2", line).replace("_", " ")
            for pattern, instead in RETIRED.items():
                for match in re.finditer(rf"\b({pattern})\b", words, re.IGNORECASE):
                    where = f"{name}:{number}: {match[0]!r} (write: {instead}): {line.strip()}"
                    uses.append((name, match[0].lower(), where))
    return uses


def test_retired_words_are_gone() -> None:
    found = [where for name, word, where in _uses() if (name, word) not in OLD_NAMES]
    assert not found, "\n" + "\n".join(found)


def test_the_exceptions_are_used() -> None:
    assert {(name, word) for name, word, _ in _uses()} >= OLD_NAMES


@pytest.mark.parametrize("line", ["what it is told", "max_doubt = 3", "class Foretold:"])
def test_a_retired_word_is_found(line: str) -> None:
    words = re.sub(r"([a-z])([A-Z])", r"\1 \2", line).replace("_", " ")
    assert any(re.search(rf"\b({pattern})\b", words, re.IGNORECASE) for pattern in RETIRED)
