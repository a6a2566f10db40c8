"""The 26 games of Atari 100k: action sets, reference scores, published results.

This module is plain data and imports nothing heavy.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from glam_env.errors import GlamError


@dataclass(frozen=True)
class Game:
    """One game of Atari 100k.

    Attributes:
        name: public name, spelled as in Gymnasium's ``ALE/<name>-v5``.
        ale_id: the emulator's name of the ROM.
        num_actions: size of the minimal action set.
        action_meanings: what each action presses, in the emulator's order; 0 is always NOOP.
        random: score of uniformly random play, in points of the game.
        human: score of a professional human tester, in points of the game.
        published: score per method at 100k agent steps, in points of the game.
    """

    name: str
    ale_id: str
    num_actions: int
    action_meanings: tuple[str, ...]
    random: float
    human: float
    published: Mapping[str, float]


# Random and human play: the reference scores of the DQN line of papers, to one decimal (GLAM's
# table rounds them). Methods: GLAM's Table 1.
#
# In that table, Up N Down has eight numbers for nine columns. The row in the STORM paper ends with
# DreamerV3 7667 and STORM 7985. So the number under Hieros is STORM's, the one under STORM is
# GLAM's (7417, which gives the published mean of 130.6 % and median of 61.8 %), and that of Hieros
# is missing.
_SCORES = """
game           rom              random   human  SimPLe   TWM  IRIS DreamerV3 Hieros STORM  GLAM
Alien          alien             227.8  7127.7     617   675   420       959    828   984  1065
Amidar         amidar              5.8  1719.5      74   122   143       139    127   205   202
Assault        assault           222.4   742.0     527   683  1524       706   1764   801   646
Asterix        asterix           210.0  8503.3    1128  1116   854       932    899  1028   504
BankHeist      bank_heist         14.2   753.1      34   467    53       649    177   641   477
BattleZone     battle_zone      2360.0 37187.5    4031  5068 13074     12250  15140 13540 13190
Boxing         boxing              0.1    12.1       8    78    70        78     65    80    76
Breakout       breakout            1.7    30.5      16    20    84        31     10    16    11
ChopperCommand chopper_command   811.0  7387.8     979  1697  1565       420   1475  1888  1683
CrazyClimber   crazy_climber   10780.5 35829.4   62584 71820 59234     97190  50857 66776 71872
DemonAttack    demon_attack      152.1  1971.0     208   350  2034       303   1480   165   209
Freeway        freeway             0.0    29.6      17    24    31         0     31     0    23
Frostbite      frostbite          65.2  4334.7     237  1476   259       909   2901  1316  2792
Gopher         gopher            257.6  2412.5     597  1675  2236      3730   1473  8240  3149
Hero           hero             1027.0 30826.4    2657  7254  7037     11161   7890 11044  7599
Jamesbond      jamesbond          29.0   302.8     101   362   463       445    939   509   738
Kangaroo       kangaroo           52.0  3035.0      51  1240   838      4098   6590  4208  1900
Krull          krull            1598.0  2665.5    2204  6349  6616      7782   8130  8413 12649
KungFuMaster   kung_fu_master    258.5 22736.3   14862 24555 21760     21420  18793 26182 32680
MsPacman       ms_pacman         307.3  6951.6    1480  1588   999      1327   1771  2673  2094
Pong           pong              -20.7    14.6      13    19    15        18      5    11    18
PrivateEye     private_eye        24.9 69571.3      35    87   100       882   1507  7781   100
Qbert          qbert             163.9 13455.0    1289  3331   746      3405    770  4522  2434
RoadRunner     road_runner        11.5  7845.0    5641  9109  9615     15565  16950 17564 20030
Seaquest       seaquest           68.4 42054.7     683   774   661       618    560   525   511
UpNDown        up_n_down         533.4 11693.2    3350 15982  3546      7667      -  7985  7417
"""

# Minimal action sets as the emulator reports them; a game that is not listed has all 18 actions.
_ALL_ACTIONS = (
    "NOOP FIRE UP RIGHT LEFT DOWN UPRIGHT UPLEFT DOWNRIGHT DOWNLEFT UPFIRE RIGHTFIRE LEFTFIRE "
    "DOWNFIRE UPRIGHTFIRE UPLEFTFIRE DOWNRIGHTFIRE DOWNLEFTFIRE"
)
_MINIMAL_ACTIONS = {
    "Amidar": "NOOP FIRE UP RIGHT LEFT DOWN UPFIRE RIGHTFIRE LEFTFIRE DOWNFIRE",
    "Assault": "NOOP FIRE UP RIGHT LEFT RIGHTFIRE LEFTFIRE",
    "Asterix": "NOOP UP RIGHT LEFT DOWN UPRIGHT UPLEFT DOWNRIGHT DOWNLEFT",
    "Breakout": "NOOP FIRE RIGHT LEFT",
    "CrazyClimber": "NOOP UP RIGHT LEFT DOWN UPRIGHT UPLEFT DOWNRIGHT DOWNLEFT",
    "DemonAttack": "NOOP FIRE RIGHT LEFT RIGHTFIRE LEFTFIRE",
    "Freeway": "NOOP UP DOWN",
    "Gopher": "NOOP FIRE UP RIGHT LEFT UPFIRE RIGHTFIRE LEFTFIRE",
    "KungFuMaster": (
        "NOOP UP RIGHT LEFT DOWN DOWNRIGHT DOWNLEFT RIGHTFIRE LEFTFIRE DOWNFIRE "
        "UPRIGHTFIRE UPLEFTFIRE DOWNRIGHTFIRE DOWNLEFTFIRE"
    ),
    "MsPacman": "NOOP UP RIGHT LEFT DOWN UPRIGHT UPLEFT DOWNRIGHT DOWNLEFT",
    "Pong": "NOOP FIRE RIGHT LEFT RIGHTFIRE LEFTFIRE",
    "Qbert": "NOOP FIRE UP RIGHT LEFT DOWN",
    "UpNDown": "NOOP FIRE UP DOWN UPFIRE DOWNFIRE",
}


def _read_games() -> Mapping[str, Game]:
    header, *rows = (line.split() for line in _SCORES.strip().splitlines())
    games = {}
    for name, rom, random, human, *scores in rows:
        actions = tuple(_MINIMAL_ACTIONS.get(name, _ALL_ACTIONS).split())
        published = {
            method: float(score)
            for method, score in zip(header[4:], scores, strict=True)
            if score != "-"
        }
        games[name] = Game(
            name=name,
            ale_id=rom,
            num_actions=len(actions),
            action_meanings=actions,
            random=float(random),
            human=float(human),
            published=MappingProxyType(published),
        )
    return MappingProxyType(games)


GAMES: Mapping[str, Game] = _read_games()


def find_game(name: str) -> Game:
    """Look a game up by name, ignoring case, spaces, ``_`` and ``-``.

    The ids of Gymnasium's Atari envs and of this package's envs are accepted as well:
    ``ALE/Pong-v5``, ``PongNoFrameskip-v4``, ``GLAMDream-Pong-v0``.

    Raises:
        GlamError: there is no such game in Atari 100k; the message lists the nearest names.

    >>> find_game("ms_pacman").name
    'MsPacman'
    """
    by_key = {_key(game.name): game for game in GAMES.values()}
    key = _key(name)
    if key not in by_key and (id_ := _ATARI_ID.fullmatch(str(name))):
        key = _key(id_["game"])
    if key in by_key:
        return by_key[key]
    close = [by_key[match].name for match in difflib.get_close_matches(key, by_key, n=3)]
    advice = f"did you mean {' or '.join(close)}?" if close else f"choose from {', '.join(GAMES)}"
    raise GlamError(f"there is no game {name!r} in Atari 100k: {advice}")


def human_normalized_score(game: Game, score: float) -> float:
    """Return the score on the scale where random play is 0 and the human tester 1.

    >>> human_normalized_score(find_game("Pong"), 14.6)
    1.0
    """
    return (score - game.random) / (game.human - game.random)


_ATARI_ID = re.compile(
    r"(ALE/|GLAMDream-|GLAMReal-)?(?P<game>\w+?)(-ram|-?ramDeterministic|-?ramNoFrameskip|"
    r"Deterministic|NoFrameskip)?-v\d+",
    re.IGNORECASE,
)


def _key(name: str) -> str:
    return "".join(character for character in str(name).lower() if character.isalnum())
