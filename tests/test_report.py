"""`glam report`: tables and figures of 26 games with five runs each, of synthetic scores."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import mistake

from glam_env.cli.main import main
from glam_env.evaluation.report.benchmark import GameScores, summarize
from glam_env.evaluation.report.benchmark_tables import number
from glam_env.games import GAMES, human_normalized_score
from glam_env.protocols import PROTOCOLS

SEEDS = range(5)


def draw(seed: int, spread: float = 0.4) -> dict[str, np.ndarray]:
    """Draw scores around the published ones, (runs,) for each game."""
    generator = np.random.default_rng(seed)
    scores = {}
    for name, game in GAMES.items():
        around = game.published["GLAM"] - game.random
        scores[name] = game.random + around * generator.normal(1.0, spread, len(SEEDS))
    return scores


def write_run(folder: Path, game: str, variant: str, seed: int, **means: float) -> Path:
    """Write the folder of a run as far as a report reads it; scores by protocol."""
    run = folder / game / f"{variant}-seed{seed}"
    (run / "results").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"kind": "train", "game": game}))
    for protocol, mean in means.items():
        play = PROTOCOLS[protocol].emulator
        file = run / "results" / f"eval-{protocol}.json"
        file.write_text(json.dumps({"game": game, "mean": mean, **play}))
    return run


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 130 runs with scores under both protocols."""
    folder = tmp_path_factory.mktemp("sweeps") / "atari"
    both = {"atari100k": draw(1), "published": draw(2)}
    for game in GAMES:
        for seed in SEEDS:
            write_run(folder, game, "glam", seed, **{p: both[p][game][seed] for p in both})
    return folder


@pytest.fixture(scope="module")
def report(sweep: Path) -> dict[str, Any]:
    """Write the report once."""
    assert main(["report", str(sweep)]) == 0
    return json.loads((sweep / "report" / "report.json").read_text())


def normalized(scores: dict[str, np.ndarray]) -> np.ndarray:
    """(runs, games), as rliable has it."""
    return np.stack([human_normalized_score(GAMES[g], s) for g, s in scores.items()], axis=1)  # type: ignore[arg-type]


def test_figures_are_those_of_rliable(report) -> None:
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed")
    for seed, protocol in enumerate(PROTOCOLS, 1):
        scores = normalized(draw(seed))
        found = report[protocol]["variants"]["glam"]
        for name, figure in {
            "mean": metrics.aggregate_mean,
            "median": metrics.aggregate_median,
            "iqm": metrics.aggregate_iqm,
            "optimality_gap": metrics.aggregate_optimality_gap,
        }.items():
            one = found["aggregates"][name]
            assert one["value"] == pytest.approx(figure(scores))
            assert one["interval"][0] < one["value"] < one["interval"][1]
        raw = np.stack(list(draw(seed).values()), axis=1)
        published = np.array([[GAMES[game].published["STORM"] for game in GAMES]])
        over = next(one for one in found["improvements"] if one["over"] == "STORM")
        expected = metrics.probability_of_improvement(raw, published)
        assert over["estimate"]["value"] == pytest.approx(expected)
        assert over["games"] == 26
        hieros = next(one for one in found["improvements"] if one["over"] == "Hieros")
        assert hieros["games"] == 25  # its score of Up N Down is not published


def test_published_columns_have_the_figures_of_the_paper(report) -> None:
    methods = {one["name"]: one for one in report["published"]["published"]}
    assert methods["GLAM"]["mean"] == pytest.approx(1.306, abs=0.006)
    assert methods["GLAM"]["median"] == pytest.approx(0.618, abs=0.004)
    assert methods["STORM"]["mean"] == pytest.approx(1.223, abs=0.006)
    assert methods["GLAM"]["protocol"] == "published"
    assert methods["DreamerV3"]["protocol"] == "atari100k"
    assert methods["SimPLe"]["protocol"] == ""


def test_every_game_has_its_mean_and_standard_error(report, sweep) -> None:
    text = (sweep / "report" / "report.md").read_text()
    for game, scores in draw(1).items():
        mean, error = scores.mean(), scores.std(ddof=1) / np.sqrt(5)
        own = report["atari100k"]["variants"]["glam"]["games"][game]
        assert own["mean"] == pytest.approx(mean)
        assert own["standard_error"] == pytest.approx(error)
        assert own["seeds"] == [*SEEDS]
        published = GAMES[game].published["GLAM"]
        row = f"{number(mean)} ± {number(error)}"
        assert any(
            line.startswith(f"| {game} |") and row in line and number(published) in line
            for line in text.splitlines()
        )
    assert "Not published: Hieros UpNDown." in text


def test_csv_and_latex_hold_the_same_figures(report, sweep) -> None:
    rows = list(csv.DictReader(io.StringIO((sweep / "report" / "report.csv").read_text())))
    assert len(rows) == 2 * 26
    for row in rows:
        own = report[row["protocol"]]["variants"]["glam"]["games"][row["game"]]
        assert float(row["mean"]) == own["mean"]
        assert float(row["standard_error"]) == own["standard_error"]
        assert row["Hieros"] or row["game"] == "UpNDown"
    text = (sweep / "report" / "report.tex").read_text()
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 2
    lines = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len(lines) == 2 * (1 + 26 + 4)
    assert {line.count(" & ") for line in lines} == {3 + 7}
    assert not {"±", "−"} & set(text)


def test_the_picture_is_drawn(report, sweep) -> None:
    data = (sweep / "report" / "report.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 20_000


def test_variants_are_compared_with_each_other() -> None:
    def games(seed: int) -> list[GameScores]:
        return [GameScores(g, tuple(SEEDS), tuple(s)) for g, s in draw(seed).items()]

    better = [
        GameScores(each.game, each.seeds, tuple(np.add(each.scores, 1e6))) for each in games(3)
    ]
    found = summarize("published", {"a": games(1), "b": better}, resamples=100)
    over = {(v.name, one.over): one for v in found.variants for one in v.improvements}
    assert over["b", "a"].estimate.value == 1.0
    assert over["a", "b"].estimate.value == 0.0
    assert over["b", "a"].games == 26


def test_a_part_of_the_games_and_of_the_seeds_is_reported_as_such(tmp_path, capsys) -> None:
    for seed in range(2):
        write_run(tmp_path, "Pong", "glam", seed, published=10.0 + seed)
    write_run(tmp_path, "Boxing", "glam", 0, published=50.0)
    write_run(tmp_path, "Boxing", "glam", 1)  # still in training
    assert main(["report", str(tmp_path), "--to", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "2 of 26 games, 1 to 2 runs each" in out
    assert "A game with a single run leaves no interval." in out
    assert "without a score, left out: Boxing/glam-seed1" in err
    assert "| Boxing | 0.1 | 12.1 | 50.0 |" in out
    assert "| Pong | −20.7 | 14.6 | 10.5 ± 0.5 |" in out
    assert (tmp_path / "out" / "report.png").is_file()


def test_an_exported_run_needs_no_eval(tmp_path, capsys) -> None:
    run = write_run(tmp_path, "Pong", "glam", 0)
    (run / "checkpoint").mkdir()
    scores = [{"mean": 7.0, **PROTOCOLS["published"].emulator}]
    (run / "checkpoint" / "config.json").write_text(json.dumps({"results": {"scores": scores}}))
    assert main(["report", str(tmp_path), "--protocol", "published", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["published"]["variants"]["glam"]["games"]["Pong"]["mean"] == 7.0


def test_mistakes_get_one_line(tmp_path, capsys) -> None:
    assert "holds no runs of a sweep" in mistake(capsys, "report", str(tmp_path))
    run = write_run(tmp_path, "Pong", "glam", 0)
    assert "run the sweep with --then eval" in mistake(capsys, "report", str(tmp_path))
    assert "protocol must be one of" in mistake(capsys, "report", str(tmp_path), "--protocol", "v5")
    (run / "results" / "eval-published.json").write_text('{"mean": "many"}')
    assert "eval-published.json is malformed" in mistake(capsys, "report", str(tmp_path))
    (run / "results" / "eval-published.json").write_text("{")
    assert "is not JSON" in mistake(capsys, "report", str(tmp_path))
