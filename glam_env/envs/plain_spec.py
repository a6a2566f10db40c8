"""``PlainSpec``: an env's spec in plain values, so that it can be written as JSON and read back."""

from __future__ import annotations

import copy
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from glam_env.checkpoint.folder import Checkpoint
from glam_env.envs.callers import asked_horizon
from glam_env.envs.dream.options import HORIZON_NAMES, DreamOptions


class PlainSpec:
    """Mixin of envs whose ``spec`` holds keyword arguments in values that JSON knows.

    Gymnasium records in the spec what an env was made with. Here an options object becomes its
    keyword arguments, an autoreset mode its name, a path, a checkpoint and a device become
    strings, and numpy's numbers Python's: ``spec.to_json()`` works, and what is made of it is the
    same env. Arrays, as ``contexts`` may be, stay arrays, which JSON does not know.

    ``gymnasium.make(id, max_episode_steps=…)`` sets the env's horizon, although ``make`` does not
    pass it on; ``spec.max_episode_steps`` then is the horizon, as always in vector envs.
    """

    _spec: EnvSpec | None = None
    max_episode_steps: int

    def _set_horizon(self, steps: int) -> None:
        """Truncate episodes after so many steps from now on."""
        raise NotImplementedError

    @property
    def spec(self) -> EnvSpec | None:
        """What the env was made from; None if Gymnasium did not make it."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec = copy.copy(spec)
            given = dict(spec.kwargs)
            options = given.pop("options", None)
            if isinstance(options, DreamOptions):
                given = options.changed() | given
            spec.kwargs = {name: _plain(value) for name, value in given.items()}
            if (asked := asked_horizon()) is not None:
                self._set_horizon(asked)
                for name in HORIZON_NAMES & spec.kwargs.keys():
                    del spec.kwargs[name]
            if asked is not None or hasattr(self, "num_envs"):
                # make() would put a TimeLimit around a single env that it makes of its own horizon.
                spec.max_episode_steps = self.max_episode_steps
        self._spec = spec


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Checkpoint):
        return str(value.path)
    if isinstance(value, PurePath | torch.device):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value
