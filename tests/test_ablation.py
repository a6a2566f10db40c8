"""`glam report` of sequence cores: table 2, curves over seeds, fluctuation; boxes in strips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from glam_env.cli.main import main
from glam_env.errors import GlamError
from glam_env.evaluation.play.windows import Window
from glam_env.evaluation.report.ablation import TABLE_2, fidelity_figures, number, row_of
from glam_env.evaluation.report.boxes import (
    MOST,
    SIDE,
    boxed_strip,
    changed_boxes,
)
from glam_env.evaluation.report.fluctuation import fluctuation, read_fluctuation
from glam_env.evaluation.report.history import Curve, History, summarize
from glam_env.evaluation.report.strips import save_strips
from glam_env.evaluation.report.training_plot import band
from glam_env.protocols import PROTOCOLS

ROWS = {"ours": ("glam", 0.1), "flat": ("glam", 0.0), "without-g": ("local", 0.1)}
FIDELITY = {
    "rewards": [{"horizon": 16, "f1": 0.75}, {"horizon": 32, "f1": 0.5}],
    "images": {"dream": {"foreground_error": [0.1 * step for step in range(1, 17)]}},
    "branches": {"horizon": 16, "right": 0.9, "explained": None},
}


def line(update: int, loss: float, phase: str = "joint training", **more: float) -> dict:
    counts = {"env_steps": 10 * update, "image_updates": 0, "agent_updates": 0}
    figures = {"loss": loss, "dynamics_kl": 2 * loss, "reward": 0.0, "seconds": 0.1 * update}
    return {**counts, "model_updates": update, "phase": phase, **figures, **more}


def metrics(seed: int, size: float) -> list[dict]:
    """Lines of a run: an image phase, joint training with images, an adaptation, then without."""
    draws = np.random.default_rng(seed)
    lines = [line(u, 9.0 + size * draws.normal(), reconstruction=5.0) for u in range(1, 41)]
    lines += [line(u, 3.0, "adaptation") for u in range(41, 61)]
    lines += [line(u, 4.0 + size * draws.normal()) for u in range(61, 301)]
    episodes = [{**line(u, 0.0), "episode_return": float(seed + u / 100)} for u in range(5, 301, 5)]
    for episode in episodes:
        del episode["phase"], episode["loss"]
    return sorted(lines + episodes, key=lambda each: each["model_updates"])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three variants, two games, two seeds; the losses of ``without-g`` fluctuate most."""
    folder = tmp_path_factory.mktemp("sweeps") / "table2"
    for place, (variant, (core, weight)) in enumerate(ROWS.items()):
        for game in ("Pong", "Boxing"):
            for seed in range(2):
                run = folder / game / f"{variant}-seed{seed}"
                (run / "results").mkdir(parents=True)
                train = {"model": {"core": {"name": core}}, "loss": {"variation": weight}}
                settings = {"kind": "train", "game": game, "train": train}
                (run / "config.json").write_text(json.dumps(settings))
                rows = metrics(seed, 0.1 * (1 + place))
                (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
                score = {"mean": 10.0 * place + seed, **PROTOCOLS["published"].emulator}
                (run / "results" / "eval-published.json").write_text(json.dumps(score))
                (run / "results" / "fidelity.json").write_text(json.dumps(FIDELITY))
    assert main(["report", str(folder), "--resamples", "100"]) == 0
    return folder


def test_the_table_has_the_published_one_beside_it(sweep: Path) -> None:
    text = (sweep / "report" / "report.md").read_text()
    # Games come as the folder has them, in the order of their names.
    assert "| variant | row | Boxing | published | Pong | published |" in text
    assert "| ours | Ours | 0.500 ± 0.500 | 76.0 | 0.500 ± 0.500 | 18.0 |" in text
    assert "| flat | Ours w/o L_var | 10.5 ± 0.500 | 75.0 | 10.5 ± 0.500 | 11.0 |" in text
    assert "| without-g | Ours w/o G | 20.5 ± 0.500 | 71.0 | 20.5 ± 0.500 | 14.0 |" in text
    assert "compare with each other, not with them" in text
    (cells,) = {row for row in text.splitlines() if row.startswith("| ours | 2 |")}
    assert "| 0.750 ± 0.000 | 0.800 ± 0.000 | 0.900 ± 0.000 |" in cells


def test_the_figures_are_in_the_json(sweep: Path) -> None:
    found = json.loads((sweep / "report" / "report.json").read_text())
    runs = {(run["variant"], run["game"], run["seed"]): run for run in found["runs"]}
    assert len(runs) == 12
    one = runs["without-g", "Pong", 1]
    assert one["published"] == TABLE_2["Ours w/o G"]["Pong"] == 14.0
    assert one["scores"] == {"published": 21.0}
    assert one["fluctuation"]["every"] == 1
    own, other = (runs[name, "Pong", 0]["fluctuation"]["deviations"] for name in ("ours", "flat"))
    assert other["loss"] == pytest.approx(2 * own["loss"])


def test_fluctuation_is_the_deviation_of_differences_within_a_phase() -> None:
    lines = metrics(3, 0.2)
    losses = {each["model_updates"]: each["loss"] for each in lines if "loss" in each}
    before, after = ([losses[u] for u in span] for span in (range(1, 41), range(61, 301)))
    found = fluctuation(lines)
    assert found is not None
    differences = np.concatenate([np.diff(before), np.diff(after)])
    assert found.deviations["loss"] == pytest.approx(differences.std(ddof=1))
    assert found.deviations["dynamics_kl"] == pytest.approx(2 * differences.std(ddof=1))
    assert found.deviations["loss"] == pytest.approx(0.2 * 2**0.5, rel=0.1)  # the jump is not in it
    assert found.share("reward") is None
    assert found.share("termination") is None
    assert fluctuation(lines[:2]) is None
    thinned = fluctuation([each for each in lines if each["model_updates"] % 4 == 0])
    assert thinned is not None
    assert thinned.every == 4


def test_a_run_without_metrics_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(GlamError, match=r"metrics\.jsonl"):
        read_fluctuation(tmp_path)


def test_a_sweep_without_scores_has_curves(tmp_path: Path, capsys) -> None:
    run = tmp_path / "Pong" / "glam-seed0"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"kind": "train", "game": "Pong"}))
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in metrics(0, 0.1)))
    assert main(["report", str(tmp_path)]) == 0
    assert "without a score, left out: Pong/glam-seed0" in capsys.readouterr().err
    assert (tmp_path / "report" / "training.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "report" / "report.png").exists()


def test_the_training_picture_is_drawn(sweep: Path) -> None:
    assert len((sweep / "report" / "training.png").read_bytes()) > 20_000


def history(steps: list[int], returns: list[float]) -> History:
    return History(1, steps[-1], 1.0, (), Curve(tuple(steps), tuple(returns)), {})


def test_a_band_has_the_steps_that_all_seeds_have() -> None:
    one = band([history([0, 100, 200], [1.0, 1.0, 1.0]), history([50, 150], [3.0, 3.0])])
    assert one is not None
    assert (one.steps[0], one.steps[-1], one.seeds) == (50, 150, 2)
    assert np.allclose(one.mean, 2.0)
    assert np.allclose(one.low, 1.0)
    assert np.allclose(one.high, 3.0)
    single = band([summarize(metrics(0, 0.1), "a run")])
    assert single is not None
    assert np.array_equal(single.low, single.high)
    assert band([history([0], [1.0]), History(1, 1, 1.0, (), Curve((), ()), {})]) is None
    assert band([history([0, 1], [1.0, 1.0]), history([5, 6], [1.0, 1.0])]) is None


def test_rows_and_figures_that_are_missing() -> None:
    assert [row_of(*settings) for settings in ROWS.values()] == [
        "Ours",
        "Ours w/o L_var",
        "Ours w/o G",
    ]
    assert row_of("global", 0.1) == row_of("", 0.1) == ""
    assert row_of("transformer", 0.0) == "Ours w/o G&L"
    assert set(TABLE_2) == {row_of(core, 0.1) for core in CORES_OF_TABLE} | {"Ours w/o L_var"}
    assert fidelity_figures({}) == {}
    assert fidelity_figures({"rewards": [{"horizon": 16, "f1": None}]}) == {}
    assert number(-1234.5) == "−1,234"


CORES_OF_TABLE = ("glam", "local", "transformer", "double_mamba", "double_transformer")


# --- boxes ---------------------------------------------------------------------------------------


def test_boxes_are_around_what_changes_most() -> None:
    before = np.zeros((64, 64, 3), np.uint8)
    after = before.copy()
    after[30:34, 40:44] = 200  # the most
    after[5:8, 2:5, 1] = 250
    after[60, 60] = 90  # a tenth of the first: too little for a box
    boxes = changed_boxes(before, after)
    assert len(boxes) == MOST == 2
    for (top, left), (row, column) in zip(boxes, [(31.5, 41.5), (6, 3)], strict=True):
        assert top <= row < top + SIDE
        assert left <= column < left + SIDE
    assert boxes[0] == (25, 35)  # the change is in the middle
    assert boxes[1] == (0, 0)  # inside the frame
    assert changed_boxes(before, before) == []
    assert changed_boxes(before, before + np.uint8(3)) == []  # noise


def test_a_strip_has_the_same_boxes_in_both_rows(tmp_path: Path) -> None:
    real = np.zeros((8, 64, 64, 3), np.uint8)
    for t in range(8):
        real[t, 20:24, 6 * t : 6 * t + 4] = 255
    dream = np.full_like(real, 40)
    none = np.zeros(8, np.float32)
    window = Window(0, 7, real[:1], real[:1], real, dream, none, none)
    image = boxed_strip(window, (2, 8, 99))
    red = (image == (235, 60, 60)).all(-1)
    rows = np.flatnonzero(red.any(1))
    split = int(np.argmax(np.diff(rows))) + 1
    upper, lower = rows[:split], rows[split:]
    assert np.array_equal(red[upper], red[lower])
    assert image.shape[1] == 170 + 2 * (4 * 64 + 4)  # the step beyond the window is left out
    (path,) = save_strips(tmp_path / "new", [window], boxed_strip)
    assert path.name == "env0_step00007.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_pictures_measure_nothing_else(capsys, tmp_path: Path) -> None:
    words = ["fidelity", "Pong", "--pictures", str(tmp_path), "--check"]
    assert main(words) == 2
    assert "--pictures measures nothing: leave out" in capsys.readouterr().err
