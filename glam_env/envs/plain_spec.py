"""``PlainSpec``: an env's spec in plain values, which JSON can store."""

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
    """Mixin of envs whose ``spec`` holds keyword arguments that JSON supports.

    Gymnasium records in the spec the arguments that an env was made with. Here an options object
    becomes its keyword arguments, and an autoreset mode its name. Paths, checkpoints and devices
    become strings, and numpy's numbers become Python's. So ``spec.to_json()`` works, and its result
    makes the same env. Arrays, as ``contexts`` may be, stay arrays, which JSON does not support.

    ``gymnasium.make(id, max_episode_steps=…)`` sets the env's horizon, although ``make`` does not
    pass it on; ``spec.max_episode_steps`` then is the horizon, as always in vector envs.
    """

    _spec: EnvSpec | None = None
    max_episode_steps: int

    def _set_horizon(self, steps: int) -> None:
        """Truncate episodes after ``steps`` steps from now on."""
        raise NotImplementedError

    @property
    def spec(self) -> EnvSpec | None:
        """Spec that the env was made from; None if Gymnasium did not make it."""
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
                # Not for a single env with its own horizon: make() would add a TimeLimit to it.
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
