"""Keys of the window, for play and for commands."""

from __future__ import annotations

from collections.abc import Set
from types import MappingProxyType

from glam_env.games import Game

PARTS = ("UP", "RIGHT", "LEFT", "DOWN", "FIRE")
"""What an action can press."""

_OPPOSITES = ({"UP", "DOWN"}, {"LEFT", "RIGHT"})

# The paddle of Pong moves up and down, by actions that the emulator calls RIGHT and LEFT.
_ALSO = MappingProxyType({"Pong": {"UP": "RIGHT", "DOWN": "LEFT"}})

COMMANDS: dict[str, str] = {
    "arrows, space": "play",
    "a": "hand over to the agent, and take over again",
    "r": "switch between dream and real game",
    "p": "pause, and go on",
    "left, right": "in pause: wind back, go one step on",
    "b": "four futures of this moment, and back",
    "1 2 3 4": "continue in that future",
    "v": "start a recording, stop and save it",
    "n": "another episode",
    "h": "these keys",
    "q": "quit",
}
"""Each key of the window, and what it does."""


def action_of(pressed: Set[str], game: Game) -> int:
    """Return the action that comes closest to what is pressed.

    Opposite directions cancel each other. The action presses only what is pressed, and as much of
    it as the game has an action for.

    Args:
        pressed: Some of :data:`PARTS`.
        game: The game.
    """
    also = _ALSO.get(game.name, {})
    wanted = {also.get(part, part) for part in pressed}
    for pair in _OPPOSITES:
        if pair <= wanted:
            wanted -= pair
    fitting = [
        (len(parts), -action)
        for action, meaning in enumerate(game.action_meanings)
        if (parts := {part for part in PARTS if part in meaning}) <= wanted
    ]
    return -max(fitting)[1]
