"""The files of ``benchmarks/experiments`` are sweeps whose runs are those of the paper."""

from pathlib import Path

import pytest

from glam_env.cli.main import read_command
from glam_env.cli.sweep import _list_runs, check_follow_ups, check_variants
from glam_env.games import GAMES

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "experiments"
RUNS = {  # games × variants × seeds
    "table1": 26 * 1 * 5,
    "table2": 4 * 6 * 5,
    "fig3": 4 * 2 * 5,
    "fig6": 4 * 2 * 5,
    "layers": 1 * 4 * 5,
    "horizons": 1 * 3 * 5,
}


def test_every_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(RUNS)


@pytest.fixture(scope="module", params=RUNS)
def sweep(request: pytest.FixtureRequest):
    """A file's name, its runs, and the settings of each variant, as `glam sweep` reads them."""
    settings = read_command(["sweep", str(FOLDER / f"{request.param}.toml")])._settings()
    # Games have the same settings: reading them for two is enough here.
    small = type(settings)(**{**vars(settings), "games": settings.games[:2]})
    variants = check_variants(small)
    check_follow_ups(settings)
    runs = _list_runs(settings, variants, Path("runs") / request.param, "cpu", "")
    return request.param, runs, {each.name: each.config for each in variants}


def test_it_expands_to_its_runs(sweep) -> None:
    name, runs, _ = sweep
    assert len(runs) == len({run.path for run in runs}) == RUNS[name]
    assert {run.game for run in runs} <= set(GAMES)
    assert {run.seed for run in runs} == set(range(5))


def test_its_variants_differ_in_what_is_studied_alone(sweep) -> None:
    name, _, configs = sweep
    cores = {key: config.model.core.name for key, config in configs.items()}
    assert all(config.play.protocol == "published" for config in configs.values())
    assert {config.total_steps for config in configs.values()} == {100_000}
    if name == "table2":
        assert cores == {
            "double-transformer": "double_transformer",
            "double-mamba": "double_mamba",
            "without-g-l": "transformer",
            "without-g": "local",
            "without-variation": "glam",
            "ours": "glam",
        }
        weights = {key: config.loss.variation for key, config in configs.items()}
        assert weights["without-variation"] == 0.0
        assert weights["ours"] == 0.1
        assert {config.model.width for config in configs.values()} == {256}
    if name == "fig3":
        assert cores == {"glam": "glam", "storm": "transformer"}
        assert configs["storm"].model.width == 512
    if name == "fig6":
        assert {config.log_every for config in configs.values()} == {1}
    if name == "layers":
        depths = {(c.model.core.global_depth, c.model.core.local_depth) for c in configs.values()}
        assert depths == {(1, 1), (1, 2), (2, 1), (2, 2)}
    if name == "horizons":
        assert {key: config.horizon.maximum for key, config in configs.items()} == {
            "N16": 16,
            "N24": 24,
            "N32": 32,
        }
        assert len({config.horizon.at(0) for config in configs.values()}) == 1


@pytest.mark.parametrize("name", ["table2", "layers", "horizons"])
def test_it_runs_at_small_size_as_its_comment_says(name: str) -> None:
    words = ["sweep", "--preset", "small", "--games", "Pong", "--seeds", "0-1"]
    settings = read_command([*words, str(FOLDER / f"{name}.toml")])._settings()
    for each in check_variants(settings):
        assert each.preset == "small"
        assert (each.config.total_steps, each.config.model.width) == (400_000, 128)
