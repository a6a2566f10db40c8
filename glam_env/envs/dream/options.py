"""``DreamOptions``: the options of dream envs, checked in one place."""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, get_args

import torch
from gymnasium.vector import AutoresetMode

from glam_env.checkpoint.folder import Checkpoint
from glam_env.checks import read_autoreset_mode, require_choice, require_count
from glam_env.envs.context import CONTEXTS, Context
from glam_env.errors import GlamError, GlamTypeError
from glam_env.fast.choose import BACKENDS
from glam_env.fast.render import PRECISIONS
from glam_env.model.reward_values import REWARDS

ArrayType = Literal["numpy", "torch"]
ObsType = Literal["rgb", "latent", "grayscale"]
Termination = Literal["threshold", "sample"]
Reward = Literal["sample", "game", "mean"]
Backend = Literal["auto", "native", "torch"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]
RenderMode = Literal["rgb_array", "rgb_grid", "human"]
Autoreset = Literal["SAME_STEP", "NEXT_STEP", "DISABLED", "SameStep", "NextStep", "Disabled"]

OBS_TYPES = get_args(ObsType)
RENDER_MODES = get_args(RenderMode)
HORIZON_NAMES = frozenset({"max_episode_steps", "horizon"})
"""Two names of one option."""

RENAMED = {"max_doubt": "max_prior_entropy"}
"""Old names of options, which are still read, with a DeprecationWarning."""


@dataclass(frozen=True)
class DreamOptions:
    """The options of dreams, each checked when the object is made.

    They are the keyword arguments of ``gymnasium.make``, ``gymnasium.make_vec``,
    :class:`~glam_env.envs.dream.env.DreamEnv` and
    :class:`~glam_env.envs.dream.env.DreamVectorEnv`.

    Args:
        device: where the dreams live; ``"auto"`` takes CUDA if there is any.
        array_type: ``"numpy"``, or ``"torch"`` for tensors that stay on the device.
        obs_type: ``"rgb"`` (64, 64, 3) uint8, ``"grayscale"`` (64, 64, 1) uint8, or ``"latent"``,
            the agent's features (K·C + D) float32.
        max_episode_steps: the horizon, after which a dream is truncated; None takes the
            checkpoint's.
        autoreset_mode: Gymnasium's ``AutoresetMode``, or its name or value.
        temperature: of the latent's draw; 0 takes the most likely class.
        termination: ``"threshold"`` ends a dream when an end is more likely than not, ``"sample"``
            draws it.
        reward: a ``"sample"`` of the values that the game pays, by their shares in the predicted
            distribution; the most likely of them (``"game"``), nearly always 0 where the model is
            seldom sure; or the ``"mean"``, the expected value, which is almost never exactly 0.
        max_prior_entropy: nats; a dream whose ``info["prior_entropy"]`` exceeds it is truncated
            at that step. None never truncates for this reason.
        checkpoint: a game's name, a folder, ``hf://owner/name[@revision]``, or an opened
            :class:`~glam_env.checkpoint.folder.Checkpoint`; None takes the game's shipped one.
        contexts: real play to start from instead of the checkpoint's contexts, see
            :func:`~glam_env.envs.recordings.contexts.read_contexts`.
        context: ``"recurrent"``, where the sequence core carries its state on; or ``"window"``,
            where each step computes it again over the last 16 steps, as the paper does. That is
            slower, and runs in PyTorch.
        backend: ``"native"`` (C++, on CPUs), ``"torch"``, or ``"auto"``, native where it can be
            built, see :func:`~glam_env.fast.choose.make_stepper`.
        precision: ``"auto"``, the fastest numbers that suit the hardware (8-bit and float16 on
            CPUs, bfloat16 on CUDA devices), or ``"float32"`` throughout.
        render_mode: None; ``"rgb_array"``, a tuple of frames; ``"rgb_grid"``, all frames in one
            picture; ``"human"``, that picture in a window at every reset and step.

    Raises:
        GlamError: a value is impossible.
    """

    device: str | torch.device = "auto"
    array_type: ArrayType = "numpy"
    obs_type: ObsType = "rgb"
    max_episode_steps: int | None = None
    autoreset_mode: AutoresetMode | Autoreset = AutoresetMode.SAME_STEP
    temperature: float = 1.0
    termination: Termination = "threshold"
    reward: Reward = "sample"
    max_prior_entropy: float | None = None
    checkpoint: str | Path | Checkpoint | None = None
    contexts: str | Path | Mapping[str, Any] | None = None
    context: Context = "recurrent"
    backend: Backend = "auto"
    precision: Precision = "auto"
    render_mode: RenderMode | None = None

    def __post_init__(self) -> None:
        require_choice("array_type", self.array_type, get_args(ArrayType))
        require_choice("obs_type", self.obs_type, OBS_TYPES)
        require_choice("termination", self.termination, get_args(Termination))
        require_choice("reward", self.reward, REWARDS)
        require_choice("context", self.context, CONTEXTS)
        require_choice("backend", self.backend, BACKENDS)
        require_choice("precision", self.precision, PRECISIONS)
        require_choice("render_mode", self.render_mode, (None, *RENDER_MODES))
        if not _is_number(self.temperature) or not 0.0 <= self.temperature < math.inf:
            raise GlamError(f"temperature must be a finite number >= 0, got {self.temperature!r}")
        limit = self.max_prior_entropy
        if limit is not None and not (_is_number(limit) and limit >= 0.0):
            raise GlamError(
                f"max_prior_entropy must be a number of nats >= 0, or None; got {limit!r}"
            )
        read = {
            "autoreset_mode": read_autoreset_mode(self.autoreset_mode),
            "temperature": float(self.temperature),
            "max_prior_entropy": None if limit is None else float(limit),
        }
        if self.max_episode_steps is not None:
            read["max_episode_steps"] = require_count("max_episode_steps", self.max_episode_steps)
        for name, value in read.items():
            object.__setattr__(self, name, value)

    def open_checkpoint(self, game: str) -> Checkpoint:
        """Open the checkpoint, by default the shipped one of the game.

        Raises:
            GlamError: it is missing, broken, or of another game.
        """
        return Checkpoint.open(game if self.checkpoint is None else self.checkpoint, game)

    def changed(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, by name."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value is not default}


class DreamKeywords(TypedDict, total=False):
    """The fields of :class:`DreamOptions` as keyword arguments.

    Type checkers and editors read them.
    """

    device: str | torch.device
    array_type: ArrayType
    obs_type: ObsType
    max_episode_steps: int | None
    autoreset_mode: AutoresetMode | Autoreset
    temperature: float
    termination: Termination
    reward: Reward
    max_prior_entropy: float | None
    checkpoint: str | Path | Checkpoint | None
    contexts: str | Path | Mapping[str, Any] | None
    context: Context
    backend: Backend
    precision: Precision
    render_mode: RenderMode | None


Options = TypeVar("Options", bound=DreamOptions)


def read_options(
    kind: type[Options], options: DreamOptions | None, given: Mapping[str, Any]
) -> Options:
    """Combine an options object and keyword arguments, which win.

    Args:
        kind: the class of the result.
        options: options of any class, or None.
        given: keyword arguments; old names are read with a DeprecationWarning.

    Raises:
        GlamTypeError: an option is unknown.
        GlamError: the value of an option is impossible.
    """
    names = [field.name for field in fields(kind)]
    chosen = {} if options is None else options.changed()
    for name, value in given.items():
        if name == "horizon":
            name = "max_episode_steps"
            if given.get(name, value) not in (None, value):
                raise GlamError("horizon and max_episode_steps are one option: give only one")
        if new := RENAMED.get(name):
            if new in given:
                raise GlamError(f"{name} is the old name of {new}: give only {new}")
            warnings.warn(f"the option {name} is now {new}", DeprecationWarning, stacklevel=3)
        chosen[new or name] = value
    if unknown := sorted(chosen.keys() - set(names)):
        close = difflib.get_close_matches(unknown[0], names, n=1)
        advice = f"did you mean {close[0]}? " if close else ""
        # TorchRL's GymEnv reads this wording, and then leaves out its frameskip.
        cause = f"unknown option: unexpected keyword argument {unknown[0]!r}"
        raise GlamTypeError(f"{cause}; {advice}known are {', '.join(names)}")
    return kind(**chosen)


Function = TypeVar("Function", bound=Callable[..., Any])


def shows_options(
    kind: type[DreamOptions], *, without: tuple[str, ...] = ()
) -> Callable[[Function], Function]:
    """Let ``help()`` show each option by name in place of a function's ``**kwargs``."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        own += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=field.type,
            )
            for field in fields(kind)
            if field.name not in without
        ]
        function.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        return function

    return decorate


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)
