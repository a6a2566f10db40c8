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
from glam_env.envs.dream.options import DreamOptions


class PlainSpec:
    """Mixin of envs whose ``spec`` holds keyword arguments in values that JSON knows.

    Gymnasium records in the spec what an env was made with. Here an options object becomes its
    keyword arguments, an autoreset mode its name, a path, a checkpoint and a device become
    strings, and numpy's numbers Python's: ``spec.to_json()`` works, and what is made of it is the
    same env. Arrays, as ``contexts`` may be, stay arrays, which JSON does not know.
    """

    _spec: EnvSpec | None = None

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
        self._spec = spec


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Checkpoint):
        return str(value.path)
    if isinstance(value, PurePath | torch.device):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value
