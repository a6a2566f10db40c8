"""The table of games, against the paper's aggregates, Gymnasium and the emulator."""

import statistics
import subprocess
import sys

import gymnasium
import pytest

from glam_env.errors import GlamError
from glam_env.games import GAMES, find_game, human_normalized_score

# Human-normalised mean and median in per cent, from the last two rows of GLAM's Table 1. GLAM
# prints 58.4 % for STORM's median, which its own STORM column does not give; and Hieros's Up N
# Down score is missing there, so that its aggregates cannot be checked.
PUBLISHED = {
    "SimPLe": (33, 13),
    "TWM": (96, 51),
    "IRIS": (105, 29),
    "DreamerV3": (112, 49),
    "STORM": (122.3, None),
    "GLAM": (130.6, 61.8),
}


def test_there_are_26_games_and_each_is_consistent():
    assert len(GAMES) == 26
    for name, game in GAMES.items():
        assert game.name == name
        assert game.ale_id.replace("_", "") == name.lower()
        assert game.num_actions == len(game.action_meanings) == len(set(game.action_meanings))
        assert game.action_meanings[0] == "NOOP"
        assert game.random < game.human
    assert len({game.ale_id for game in GAMES.values()}) == 26


@pytest.mark.parametrize("method", PUBLISHED)
def test_published_aggregates_come_out(method):
    normalized = [human_normalized_score(game, game.published[method]) for game in GAMES.values()]
    mean, median = PUBLISHED[method]
    # Half a unit of a rounded percentage; GLAM's table rounds the scores themselves, Breakout's
    # 1.7 and Pong's -20.7 among them, which moves its mean by less than 0.2 %.
    tolerance = 0.2 if isinstance(mean, float) else 0.6
    assert 100 * statistics.fmean(normalized) == pytest.approx(mean, abs=tolerance)
    if median is not None:
        assert 100 * statistics.median(normalized) == pytest.approx(median, abs=tolerance)


def test_only_hieros_on_up_n_down_is_unknown():
    methods = set(GAMES["Pong"].published)
    assert methods == {*PUBLISHED, "Hieros"}
    missing = [(g.name, m) for g in GAMES.values() for m in methods if m not in g.published]
    assert missing == [("UpNDown", "Hieros")]


def test_human_normalized_score_is_0_for_random_play_and_1_for_the_human():
    for game in GAMES.values():
        assert human_normalized_score(game, game.random) == 0.0
        assert human_normalized_score(game, game.human) == 1.0
    assert human_normalized_score(GAMES["Pong"], 18.0) == pytest.approx(38.7 / 35.3)


@pytest.mark.parametrize("name", ["MsPacman", "mspacman", "ms_pacman", "Ms Pacman", "MS-PACMAN"])
def test_find_game_forgives_spelling(name):
    assert find_game(name) is GAMES["MsPacman"]


def test_a_wrong_name_gets_the_nearest_ones():
    with pytest.raises(GlamError, match=r"'Pnog'.*Pong"):
        find_game("Pnog")
    with pytest.raises(GlamError, match=r"choose from Alien, .*UpNDown"):
        find_game("???")


def test_games_are_read_only():
    with pytest.raises(TypeError):
        GAMES["Pong"] = GAMES["Boxing"]
    with pytest.raises(TypeError):
        GAMES["Pong"].published["GLAM"] = 21.0


def test_the_module_needs_no_heavy_import():
    code = (
        "import sys, glam_env.games, glam_env.envs.atari\n"
        "print(sorted({'torch', 'ale_py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.emulator
@pytest.mark.parametrize("game", GAMES.values(), ids=lambda game: game.name)
def test_the_emulator_has_the_same_minimal_actions(game):
    import ale_py

    gymnasium.register_envs(ale_py)
    assert f"ALE/{game.name}-v5" in gymnasium.registry
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(ale_py.roms.get_rom_path(game.ale_id))
    assert tuple(action.name for action in ale.getMinimalActionSet()) == game.action_meanings
