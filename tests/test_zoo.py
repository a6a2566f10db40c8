"""`glam list` and docs/zoo.md: the games, and what their checkpoints' results say."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import mistake

from glam_env.checkpoint.folder import Checkpoint, write_results
from glam_env.cli.main import main
from glam_env.evaluation.report.zoo import (
    HEAD,
    ZooEntry,
    ZooScore,
    aggregates,
    lines,
    page,
    read_zoo,
)
from glam_env.games import GAMES, find_game, human_normalized_score
from glam_env.protocols import PROTOCOLS

ROOT = Path(__file__).parents[1]


def score(game: str, protocol: str, points: list[float]) -> dict[str, Any]:
    """The part of a `ScoreReport` as JSON that the table reads."""
    mean = float(np.mean(points))
    return {
        "mean": mean,
        "standard_error": float(np.std(points, ddof=1) / len(points) ** 0.5),
        "human_normalized": human_normalized_score(find_game(game), mean),
        "scores": points,
        **PROTOCOLS[protocol].emulator,
    }


CEILING = {
    "moments": 8,
    "repeats": 8,
    "horizon": 32,
    "seed": 0,
    "rewards": [
        {"horizon": 16, "real": 20, "again": 0.75, "usual": 0.875},
        {"horizon": 32, "real": 30, "again": 0.5, "usual": 0.625},
    ],
    "endings": [],
    "error_again": [0.5],
    "error_usual": [0.25],
    "decided": 0,
    "right": None,
    "explained": None,
    "regret": None,
}


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of checkpoints in place of the shipped ones, with a measured Pong."""
    root = tmp_path / "checkpoints"
    shutil.copytree(tiny_checkpoint, root / "Pong")
    monkeypatch.setattr("glam_env.checkpoint.folder._PACKAGE", tmp_path / "elsewhere" / "package")
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(root))
    checkpoint = Checkpoint.open(root / "Pong")
    measured = Checkpoint.open(ROOT / "checkpoints" / "Pong").config.results["fidelity"]
    results = {
        "scores": [
            score("Pong", "atari100k", [10.0, 12.0, 17.0]),
            score("Pong", "published", [-3.0, -4.0, 1.0]),
        ],
        "fidelity": measured | {"latents_error": 0.03, "ceiling": CEILING},
    }
    earlier = {"environment_steps": 500, "hours": 1.25, "begun_from": {}}
    origin = replace(checkpoint.config.provenance, environment_steps=700, hours=0.5)
    origin = replace(
        origin, begun_from={"environment_steps": 40, "hours": 1.0} | {"begun_from": earlier}
    )
    write_results(
        checkpoint.path, replace(checkpoint.config, provenance=origin, results=results), "card"
    )
    return root


def test_the_page_of_the_documentation_is_that_of_the_checkpoints(monkeypatch) -> None:
    monkeypatch.delenv("GLAM_CHECKPOINTS", raising=False)
    assert (ROOT / "docs" / "zoo.md").read_text() == page(read_zoo()), (
        "write it again: glam list --to docs/zoo.md"
    )


def test_the_readme_shows_the_trained_games(monkeypatch) -> None:
    """Some columns of the table of all games."""
    monkeypatch.delenv("GLAM_CHECKPOINTS", raising=False)
    shown = "game", "atari100k", "published", "GLAM", "human = 100 %", "reward F1", "real steps"
    columns = [HEAD.index(name) for name in (*shown, "hours")]
    trained = [entry for entry in read_zoo() if entry.trained]
    table = [f"| {' | '.join(line[column] for column in columns)} |" for line in lines(trained)]
    assert "\n".join(table) + "\n\n" in (ROOT / "README.md").read_text()


def test_an_entry_has_what_the_checkpoint_says(folder) -> None:
    entries = read_zoo()
    assert [entry.game for entry in entries] == sorted(GAMES)
    assert [entry.game for entry in entries if entry.trained] == ["Pong"]
    pong = next(entry for entry in entries if entry.trained)
    config = Checkpoint.open(folder / "Pong").config
    fidelity = config.results["fidelity"]
    assert pong.real_steps == 700 + 40 + 500
    assert pong.hours == 0.5 + 1.0 + 1.25
    assert pong.bytes == sum(file.stat().st_size for file in folder.glob("Pong/*.safetensors*"))
    assert pong.reward_f1 == next(r["f1"] for r in fidelity["rewards"] if r["horizon"] == 16)
    assert pong.foreground_error == fidelity["images"]["dream"]["foreground_error"][0]
    assert pong.latents_error == 0.03
    assert pong.reward_ceiling == 0.875
    (row,) = (row for row in page(entries).splitlines() if row.startswith("| Pong | 0.03 |"))
    assert row.split(" | ")[4:6] == [f"{pong.reward_f1:.2f}", "0.88"]
    assert pong.latent_kl == fidelity["latent_kl"]["dream"]
    net = fidelity["behavior"]["net"]
    assert pong.net_points == (net["dream"], net["game"])
    assert pong.failed == tuple(c["name"] for c in fidelity["checks"] if not c["passed"])
    (line,) = (line for line in lines(entries) if line[0] == "Pong")
    cells = dict(zip(HEAD, line, strict=True))
    assert cells["atari100k"] == "13.0 ± 2.1"  # the error with two digits
    assert cells["published"] == "−2.0 ± 1.5"
    assert (cells["GLAM"], cells["STORM"]) == ("18", "11")
    assert cells["human = 100 %"] == f"{100 * (-2.0 + 20.7) / (14.6 + 20.7):.0f} %"
    assert cells["real steps"] == "1,240"


def test_figures_over_all_games_are_of_the_mean_of_each_games_episodes() -> None:
    """Against plain sums; the interval is that of resampled episodes."""
    generator = np.random.default_rng(3)
    entries, means = [], []
    for game in ("Pong", "Boxing", "Breakout", "Krull", "Freeway"):
        reference = find_game(game)
        points = tuple(reference.random + generator.gamma(2.0, 9.0, 20))
        shares = [(p - reference.random) / (reference.human - reference.random) for p in points]
        means.append(sum(shares) / 20)
        played = ZooScore(float(np.mean(points)), None, means[-1], points)
        entries.append(ZooEntry(game, "folder", scores={"published": played}))
    found = aggregates([*entries, ZooEntry("Alien")], "published")
    assert aggregates(entries, "atari100k") == {}
    assert found["mean"].value == pytest.approx(sum(means) / 5)
    assert found["median"].value == pytest.approx(sorted(means)[2])
    assert found["iqm"].value == pytest.approx(sum(sorted(means)[1:4]) / 3)
    variances = [
        np.var(np.array(e.scores["published"].scores), ddof=0)
        / (find_game(e.game).human - find_game(e.game).random) ** 2
        for e in entries
    ]
    error = (sum(variances) / 20) ** 0.5 / 5  # of the mean over games
    low, high = found["mean"].interval or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.05)


def test_the_command_prints_a_table_json_and_a_page(folder, tmp_path, capsys) -> None:
    assert main(["list"]) == 0
    table = capsys.readouterr().out
    assert "13.0 ± 2.1" in table
    assert table.endswith("1 of 26 games have a checkpoint\n")
    to = tmp_path / "zoo.md"
    assert main(["list", "--json", "--to", str(to)]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert len(plain["games"]) == 26
    pong = next(game for game in plain["games"] if game["game"] == "Pong")
    assert pong["scores"]["atari100k"]["mean"] == 13.0
    assert pong["published"]["GLAM"] == 18
    value = plain["human_normalized"]["published"]["mean"]["value"]
    assert value == pytest.approx(pong["scores"]["published"]["human_normalized"])
    assert "| Pong | 13.0 ± 2.1 | −2.0 ± 1.5 |" in to.read_text()
    assert "cannot write" in mistake(capsys, "list", "--to", str(tmp_path / "no" / "zoo.md"))


def test_a_damaged_checkpoint_is_an_entry_with_a_problem(folder, capsys) -> None:
    (folder / "Pong" / "config.json").write_text("{")
    assert main(["list"]) == 0
    output = capsys.readouterr()
    assert output.out.endswith("0 of 26 games have a checkpoint\n")
    (line,) = output.err.splitlines()
    assert line.startswith("glam: Pong: ")
    assert "config.json" in line
