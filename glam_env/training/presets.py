"""Settings of a training run, and the named presets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from glam_env.errors import GlamError
from glam_env.model.config import LossConfig, WorldModelConfig


@dataclass(frozen=True)
class HorizonConfig:
    """The variable number of interactions, n_t = min(n_0 + ⌊t / n_f⌋ · n_i, n_max) (eq. 11)."""

    initial: int = 16
    increase: int = 8
    every: int = 25_000
    maximum: int = 32

    def at(self, env_steps: int) -> int:
        """Imagination horizon after ``env_steps`` steps of the environment."""
        return min(self.initial + env_steps // self.every * self.increase, self.maximum)


@dataclass(frozen=True)
class FreezeConfig:
    """When the image model stands still, and what happens then.

    From the first moment on, the sequence model learns from stored latents. At each moment the
    image model learns once more from all that the replay has gathered, then the latents are stored
    anew.

    Attributes:
        at: shares of ``total_steps``, ascending; none: it learns to the end.
        polish: updates of the image model alone before it stands still; over them the learning
            rate falls linearly to ``final_learning_rate``.
        margin, margin_weight: of :class:`~glam_env.model.config.LossConfig`, in these updates.
        settle: updates of the sequence model alone afterwards.
        latent_batch, latent_length: sequences of an update on stored latents, and their steps.
    """

    at: tuple[float, ...] = ()
    polish: int = 0
    margin: int = 0
    margin_weight: float = 1.0
    settle: int = 0
    latent_batch: int = 16
    latent_length: int = 64


@dataclass(frozen=True)
class TrainConfig:
    """One training run; the defaults are the paper's (table 3 and model.md §§ 3–5).

    Attributes:
        seed: of everything that is drawn.
        warm_start: a checkpoint, by a game's name or a folder, whose world model and agent the
            run goes on from, with experience of its own; empty: both begin from nothing.
        total_steps: environment (agent) steps, over all envs.
        random_steps: steps of uniformly random actions at the start; after a warm start the
            agent plays them.
        num_envs: real games played side by side.
        exploration: chance that an action is drawn uniformly in place of the agent's, one for each
            env and over again. A dream knows only what its replay shows: where the agent alone
            plays, and well, it forgets how points are lost.
        exploration_hold: mean number of steps for which such an action is held; how long is drawn.
        repeat_action_probability: sticky actions (0: the convention of Atari 100k).
        replay_capacity: steps kept, over all envs.
        batch, length: sequences of a world-model update, and their steps.
        update_every: environment steps to one world-model update.
        agent_updates: agent updates to one world-model update.
        image_warmup: updates of the image model alone before anything else learns.
        image_batch: frames of such an update.
        model_warmup: updates of the world model on the random steps alone, before the agent
            acts and learns.
        freeze: when encoder and decoder stand still.
        learning_rate, gradient_clip: of Adam on the world model.
        decay_from: share of ``total_steps`` from which on the learning rate falls linearly.
        final_learning_rate: what it has fallen to at the last step.
        dream_starts: where dreams start: ``computed``, the states that the world-model update
            has just computed, or ``fresh``, contexts drawn and encoded for it.
        context: real steps that a dream remembers at its start.
        imagination_batch: dreams of an agent update.
        horizon: their length.
        model, loss: sizes and loss of the world model (``model.num_actions`` follows the game).
        autocast: bfloat16 where it is safe and the hardware is faster with it.
        graphs: on CUDA, each kind of update as one CUDA graph: one launch in place of thousands.
        log_every: world-model updates between lines of metrics.
        checkpoint_every: environment steps between checkpoints.
    """

    seed: int = 0
    warm_start: str = ""
    total_steps: int = 100_000
    random_steps: int = 1024
    num_envs: int = 1
    exploration: tuple[float, ...] = (0.0,)
    exploration_hold: float = 1.0
    repeat_action_probability: float = 0.0
    replay_capacity: int = 100_000
    batch: int = 32
    length: int = 64
    update_every: int = 1
    agent_updates: int = 1
    image_warmup: int = 0
    image_batch: int = 128
    model_warmup: int = 0
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    learning_rate: float = 1e-4
    gradient_clip: float = 1000.0
    decay_from: float = 1.0
    final_learning_rate: float = 1e-4
    dream_starts: str = "computed"
    context: int = 16
    imagination_batch: int = 1024
    horizon: HorizonConfig = field(default_factory=HorizonConfig)
    model: WorldModelConfig = field(default_factory=lambda: WorldModelConfig(num_actions=18))
    loss: LossConfig = field(default_factory=LossConfig)
    autocast: bool = True
    graphs: bool = False
    log_every: int = 100
    checkpoint_every: int = 5_000

    def learning_rate_at(self, env_steps: int) -> float:
        """The world model's learning rate after ``env_steps`` steps of the environment."""
        start = self.decay_from * self.total_steps
        if env_steps <= start:
            return self.learning_rate
        gone = min(1.0, (env_steps - start) / (self.total_steps - start))
        return self.learning_rate + gone * (self.final_learning_rate - self.learning_rate)

    def validate(self) -> None:
        """Raises GlamError on settings that cannot work, naming the field and what would do."""
        positive = (
            "total_steps random_steps num_envs replay_capacity batch update_every agent_updates "
            "image_batch imagination_batch log_every checkpoint_every learning_rate gradient_clip "
            "final_learning_rate"
        )
        for name in positive.split():
            if not getattr(self, name) > 0:
                raise GlamError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.freeze.latent_batch > 0:
            raise GlamError(f"freeze.latent_batch must be positive, got {self.freeze.latent_batch}")
        if self.context < self.model.core.context:
            raise GlamError(
                f"context {self.context} is shorter than the {self.model.core.context} steps "
                f"that the core {self.model.core.name!r} needs; make it at least that"
            )
        at = self.freeze.at
        lengths = {"length": self.length} | (
            {"freeze.latent_length": self.freeze.latent_length} if at else {}
        )
        for name, length in lengths.items():
            if length <= self.context:
                raise GlamError(f"{name} {length} must exceed context {self.context}")
        if self.dream_starts not in ("computed", "fresh"):
            raise GlamError(f"dream_starts must be computed or fresh, got {self.dream_starts!r}")
        places = self.batch * (self.length - self.context)
        if at:
            rows, length = self.freeze.latent_batch, self.freeze.latent_length
            places = min(places, rows * (length - self.context))
        if self.dream_starts == "computed" and self.imagination_batch > places:
            raise GlamError(
                f"imagination_batch {self.imagination_batch} exceeds the {places} states that a "
                "world-model update computes behind a full context; lower it, raise batch or "
                "length (freeze.latent_batch or freeze.latent_length once images stand still), or "
                "set dream_starts fresh"
            )
        if not 0.0 <= self.repeat_action_probability < 1.0:
            raise GlamError(
                "repeat_action_probability must lie in [0, 1), "
                f"got {self.repeat_action_probability}"
            )
        if not 0.0 <= self.decay_from <= 1.0:
            raise GlamError(f"decay_from must lie in [0, 1], got {self.decay_from}")
        if not all(0.0 <= share <= 1.0 for share in at) or list(at) != sorted(set(at)):
            raise GlamError(f"freeze.at must hold ascending shares in [0, 1], got {at}")
        if not self.exploration or not all(0.0 <= chance <= 1.0 for chance in self.exploration):
            raise GlamError(
                f"exploration must hold chances in [0, 1], one or more, got {self.exploration}"
            )
        if not self.exploration_hold >= 1.0:
            raise GlamError(f"exploration_hold must be at least 1, got {self.exploration_hold}")
        if not 0.0 < self.loss.decode_fraction <= 1.0:
            raise GlamError(f"decode_fraction must lie in (0, 1], got {self.loss.decode_fraction}")
        longest = max(lengths.values())
        if self.random_steps < self.num_envs * longest:
            raise GlamError(
                f"random_steps {self.random_steps} leave no sequence of {longest} steps in "
                f"each of {self.num_envs} envs; raise them to {self.num_envs * longest} or more"
            )
        if self.replay_capacity < self.num_envs * longest:
            raise GlamError(
                f"replay_capacity {self.replay_capacity} holds no sequence of {longest} steps "
                f"of each env; raise it to {self.num_envs * longest} or more"
            )


_PAPER = TrainConfig()

_SMALL = TrainConfig(
    total_steps=200_000,
    random_steps=80_000,
    num_envs=8,
    exploration=(0.0, 0.0, 0.1, 0.25, 0.0, 0.5, 0.0, 1.0),
    replay_capacity=200_000,
    batch=8,
    length=32,
    update_every=30,
    image_warmup=500,
    freeze=FreezeConfig(at=(0.0, 0.6), polish=600, margin=3, margin_weight=15.0, settle=2_000),
    learning_rate=1e-3,
    decay_from=0.6,
    imagination_batch=128,
    horizon=HorizonConfig(every=50_000, maximum=24),
    model=WorldModelConfig(
        num_actions=18,
        stem=16,
        width=128,
        background_residual=True,
        draw_temperature=0.25,
        unimix=0.001,
    ),
    loss=LossConfig(decode_fraction=0.25, foreground_weight=50.0, latent_gradient=0.0),
    checkpoint_every=10_000,
)

_DEBUG = replace(
    _SMALL,
    total_steps=600,
    random_steps=200,
    num_envs=2,
    batch=2,
    length=20,
    exploration=(0.0,),
    replay_capacity=100_000,
    update_every=20,
    image_warmup=3,
    image_batch=8,
    model_warmup=3,
    freeze=FreezeConfig(
        at=(0.7, 0.9),
        polish=2,
        margin=2,
        margin_weight=5.0,
        settle=2,
        latent_batch=2,
        latent_length=24,
    ),
    imagination_batch=8,
    horizon=HorizonConfig(initial=4, increase=2, every=300, maximum=6),
    model=replace(_SMALL.model, stem=4, categoricals=4, classes=4, width=16),
    autocast=False,
    log_every=5,
    checkpoint_every=100,
)

PRESETS: dict[str, TrainConfig] = {"paper": _PAPER, "small": _SMALL, "debug": _DEBUG}
"""``paper``: table 3, for a GPU. ``small``: for two CPU cores. ``debug``: seconds, for tests."""
