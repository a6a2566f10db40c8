"""Base class of the measures, and the subject that they measure.

A measure is one class: its fields are the figures, `measure` computes them, and `rows` returns
them. `glam_env.evaluation.measures.MEASURES` lists the classes; table, card, JSON and plots follow
from that list.
"""

from __future__ import annotations

import dataclasses
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import (
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from glam_env.checkpoint.contexts import CONTEXT_LENGTH
from glam_env.envs.latent_filter import Act, FilteredPolicy
from glam_env.envs.recordings.recording import Recording
from glam_env.errors import GlamError
from glam_env.evaluation.play.open_loop import OpenLoop, dream_along
from glam_env.evaluation.play.policies import Policy
from glam_env.evaluation.play.recording import add_noise, record_play
from glam_env.evaluation.rows import Row
from glam_env.model.reward_values import seen_values
from glam_env.model.world_model import WorldModel
from glam_env.protocols import PlaySettings

PLAYERS = {
    "the agent": 0.0,
    "the agent, 1 in 4 actions random": 0.25,
    "the agent, 1 in 2 actions random": 0.5,
    "random": 1.0,
}
"""Who plays the held-out games, and the chance that an action is random."""

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

M = TypeVar("M", bound="Measure")


@dataclass(frozen=True)
class Settings:
    """Settings of the measures.

    Attributes:
        steps: Real steps to dream along, shared by the players.
        behavior_steps: Real steps that the policy plays by itself.
        branch_steps: Real steps with moments at which each action is tried, shared like `steps`; 0
            tries none.
        ranking_moments: Real moments from which policies are ranked, shared like `steps`; 0 ranks
            none.
        ceiling_moments: Real moments from which the game is played again, shared like `steps`; 0
            leaves the noise ceiling out.
        context: Real steps before a dream.
        horizon: Steps of an open-loop dream.
        stride: Steps from one window of open loop to the next.
        dream_horizon: Steps of the policy's own dreams.
        temperature: Temperature of the prior's draws in open loop.
        seed: Seed of all random draws.
        play: Settings of the real game.
        reward_values: The values that the game pays; empty for those of the recording.

    Raises:
        GlamError: `branch_steps`, `ranking_moments` or `ceiling_moments` is negative.
    """

    steps: int = 8000
    behavior_steps: int = 8192
    branch_steps: int = 4000
    ranking_moments: int = 48
    ceiling_moments: int = 160
    context: int = CONTEXT_LENGTH
    horizon: int = 64
    stride: int = 16
    dream_horizon: int = 64
    temperature: float = 1.0
    seed: int = 0
    play: PlaySettings = field(default_factory=PlaySettings)
    reward_values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("branch_steps", "ranking_moments", "ceiling_moments"):
            if (value := getattr(self, name)) < 0:
                raise GlamError(f"{name} must be at least 0, not {value}")


class Subject:
    """A trained game that is measured, and the play that its measures share.

    `recording` and `open_loop` are made when a measure first reads them.

    Args:
        world_model: In evaluation mode.
        act: The policy.
        game: Name of the game.
        settings: How much is measured.
        on_progress: See `OnProgress`.
        recording: Held-out play to dream along; None records it.
        players: Who plays, with the chance of a random action; each has an env of the recording.
        policies: Further policies to rank.

    Attributes:
        reports: Reports so far, by the measure's name.
    """

    def __init__(
        self,
        world_model: WorldModel,
        act: Act,
        game: str,
        settings: Settings | None = None,
        *,
        on_progress: OnProgress | None = None,
        recording: Recording | None = None,
        players: Mapping[str, float] | None = None,
        policies: Sequence[Policy] = (),
    ) -> None:
        self.world_model, self.act, self.game = world_model, act, game
        self.settings = settings or Settings()
        self.on_progress = on_progress or (lambda work, done, total: None)
        self.policies = tuple(policies)
        self.players = PLAYERS if players is None else players
        self._given = recording is not None and players is None
        self.reports: dict[str, Measure | None] = {}
        if recording is not None:
            self.recording = recording

    @cached_property
    def recording(self) -> Recording:
        """Held-out real play, an env for each of the players."""
        settings = self.settings
        noise = tuple(self.players.values())
        noisy = add_noise(self.act, self.world_model.config.num_actions, noise)
        return record_play(
            FilteredPolicy(self.world_model, noisy),
            self.game,
            steps=settings.steps,
            num_envs=len(noise),
            seed=settings.seed,
            play=settings.play,
            on_step=self.step_counter(
                "real play to dream along (steps)", settings.steps, len(noise)
            ),
        )

    @property
    def recorded_players(self) -> tuple[str, ...]:
        """Player of each env of the recording; empty if `players` is empty.

        For a given recording without `players` it is "the recording" in each env.
        """
        if self._given:  # without names of its players
            return ("the recording",) * len(self.recording.actions)
        return tuple(self.players)

    @property
    def reward_values(self) -> tuple[float, ...]:
        """The values that the game pays."""
        return self.settings.reward_values or seen_values(self.recording.rewards)

    @cached_property
    def open_loop(self) -> OpenLoop:
        """Dreams along the recording, with the real actions."""
        settings = self.settings
        return dream_along(
            self.world_model,
            self.recording,
            context=settings.context,
            horizon=settings.horizon,
            stride=settings.stride,
            seed=settings.seed,
            temperature=settings.temperature,
            reward_values=self.reward_values,
            on_progress=self.on_progress,
        )

    def step_counter(self, work: str, total: int, envs: int = 1) -> Callable[[int], None]:
        """Make a callback that reports how many of `total` steps are done.

        It is called with the number of steps that each of `envs` envs has played.
        """
        return lambda done: self.on_progress(work, min(envs * done, total), total)

    def report(self, kind: type[M]) -> M:
        """Return the report of another measure.

        Raises:
            GlamError: If it has not run before, or found nothing.
        """
        return find_report(self.reports.values(), kind)


@overload
def find_report(
    reports: Iterable[Measure | None], kind: type[M], optional: Literal[False] = False
) -> M: ...
@overload
def find_report(
    reports: Iterable[Measure | None], kind: type[M], optional: Literal[True]
) -> M | None: ...
def find_report(
    reports: Iterable[Measure | None], kind: type[M], optional: bool = False
) -> M | None:
    """Return the report of a kind.

    Raises:
        GlamError: If there is none and it is not optional.
    """
    for report in reports:
        if isinstance(report, kind):
            return report
    if optional:
        return None
    raise GlamError(f"{kind.__name__} has no report; list it before the measure that needs it")


class Measure(ABC):
    """A measure and its report.

    A subclass is a frozen dataclass whose fields are the figures.

    Attributes:
        flat: Whether the fields lie at the top of the whole report's JSON, rather than in an
            object under the measure's name.
    """

    flat: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def measure(cls: type[M], subject: Subject) -> M | None:
        """Measure a subject; None if its settings leave the measure out."""

    @property
    @abstractmethod
    def about(self) -> str:
        """What was measured and how, in a sentence or two."""

    @abstractmethod
    def rows(self) -> list[Row]:
        """Return the figures, in the order in which they are shown."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields, ready for `json.dumps`."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def held_by(cls, plain: Mapping[str, Any]) -> bool:
        """Return whether plain JSON holds the fields that have no default."""
        return all(f.name in plain for f in _fields(cls) if f.default is dataclasses.MISSING)

    @classmethod
    def from_json(cls: type[M], plain: Mapping[str, Any], where: str = "report") -> M:
        """Read the JSON of `as_json`.

        Other keys are ignored, and fields with defaults may be missing.

        Args:
            plain: The fields.
            where: Named in errors.

        Raises:
            GlamError: If a key is missing or holds something else.
        """
        return _read(cls, plain, where)


def _fields(kind: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


@cache  # a report holds hundreds of objects of one class
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: Any, value: Any, where: str) -> Any:
    """Read a value of some annotated type from plain JSON."""
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        hints = _hints(kind)
        fields = _fields(kind)
        for field in fields:
            if field.name not in value and field.default is dataclasses.MISSING:
                raise GlamError(f"{where}: key {field.name!r} is missing; measure again")
        known = [field.name for field in fields if field.name in value]
        build: Any = kind
        return build(**{name: _read(hints[name], value[name], f"{where}.{name}") for name in known})
    if origin in (types.UnionType, Union):  # a type or None
        (other,) = (one for one in arguments if one is not type(None))
        return None if value is None else _read(other, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(_read(k, v, where) for k, v in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, Mapping):
        return {name: _read(arguments[1], v, f"{where}.{name}") for name, v in value.items()}
    if kind is float and type(value) is int:
        return value
    if type(value) is kind:
        return value
    raise GlamError(f"{where}: expected {kind}, got {value!r}; measure again")
