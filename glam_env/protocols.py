"""Settings of the real game, and the protocols under which scores are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from glam_env.errors import GlamError


@dataclass(frozen=True)
class PlaySettings:
    """Settings of the real game.

    Attributes:
        repeat_action_probability: of sticky actions, in [0, 1).
        frame_skip: emulator frames in an agent step; 4 everywhere in this package.
        noop_max: the largest number of no-ops at a reset.
    """

    repeat_action_probability: float = 0.0
    frame_skip: int = 4
    noop_max: int = 30

    @property
    def protocol(self) -> str | None:
        """Name of the protocol with these settings; None if there is none."""
        return next((name for name, play in PROTOCOLS.items() if play == self), None)

    @property
    def emulator(self) -> dict[str, Any]:
        """The settings as keyword arguments of an emulator.

        These are ``repeat_action_probability`` and ``noop_max`` of
        :class:`~glam_env.envs.atari.emulator.Emulator`.
        """
        chance = self.repeat_action_probability
        return {"repeat_action_probability": chance, "noop_max": self.noop_max}

    @property
    def no_ops(self) -> str:
        """The no-ops at a reset, in words."""
        if not self.noop_max:
            return "no no-ops"
        return f"up to {self.noop_max} no-op{'s' if self.noop_max > 1 else ''}"

    @property
    def options(self) -> str:
        """The options of ``glam eval`` and ``glam train`` that choose these settings."""
        if self.protocol is not None:
            return f"--protocol {self.protocol}"
        return (
            f"--repeat-action-probability {self.repeat_action_probability:g} "
            f"--noop-max {self.noop_max}"
        )

    def __str__(self) -> str:
        words = f"sticky actions {self.repeat_action_probability:g}, {self.no_ops}"
        return words if self.protocol is None else f"{self.protocol} ({words})"


PROTOCOLS: Mapping[str, PlaySettings] = MappingProxyType(
    {
        "atari100k": PlaySettings(repeat_action_probability=0.0, noop_max=30),
        "published": PlaySettings(repeat_action_probability=0.25, noop_max=0),
    }
)
"""``atari100k``: the convention of the benchmark, ``<Game>NoFrameskip-v4``. ``published``: what the
code of GLAM and STORM plays, ``ALE/<Game>-v5``."""

METHODS: Mapping[str, PlaySettings] = MappingProxyType(
    {
        "TWM": PROTOCOLS["atari100k"],  # twm/utils.py
        "IRIS": PlaySettings(repeat_action_probability=0.0, noop_max=1),  # config/env/default.yaml
        "DreamerV3": PROTOCOLS["atari100k"],  # dreamerv3/configs.yaml
        "Hieros": PROTOCOLS["atari100k"],  # hieros/configs.yaml
        "STORM": PROTOCOLS["published"],
        "GLAM": PROTOCOLS["published"],
    }
)
"""Published methods, and the settings that their own code uses in the evaluation.

Those of SimPLe are not known here.
"""


def find_protocol(name: str) -> PlaySettings:
    """Look up a protocol by its name.

    Raises:
        GlamError: there is no such protocol.
    """
    if name not in PROTOCOLS:
        raise GlamError(f"protocol must be one of {', '.join(PROTOCOLS)}; got {name!r}")
    return PROTOCOLS[name]


def choose_play(
    play: PlaySettings,
    protocol: str | None = None,
    repeat_action_probability: float | None = None,
    noop_max: int | None = None,
) -> PlaySettings:
    """Override settings with a protocol, and then with single values.

    Args:
        play: the settings where nothing else is given.
        protocol: name of a protocol, which replaces all settings.
        repeat_action_probability, noop_max: fields of :class:`PlaySettings`.

    Raises:
        GlamError: there is no such protocol.
    """
    given = {"repeat_action_probability": repeat_action_probability, "noop_max": noop_max}
    chosen = play if protocol is None else find_protocol(protocol)
    return replace(chosen, **{name: value for name, value in given.items() if value is not None})
