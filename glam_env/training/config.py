"""Settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from glam_env.checkpoint.config import require_world_model
from glam_env.checks import require_ranges
from glam_env.errors import GlamError
from glam_env.files import shown
from glam_env.model.config import LossConfig, WorldModelConfig
from glam_env.model.cores.window import WINDOW_STEPS
from glam_env.protocols import PlaySettings
from glam_env.training.ranges import (
    FREEZE_RANGES,
    HORIZON_RANGES,
    LOSS_RANGES,
    MOST_SHARES,
    RANGES,
)


@dataclass(frozen=True)
class HorizonConfig:
    """The number of imagined steps: n_t = min(n_0 + floor(t / n_f) * n_i, n_max) (eq. 11).

    Attributes:
        initial: Steps of a dream at the start of training, n_0.
        increase: Steps added at each increase, n_i.
        every: Environment steps between two increases, n_f.
        maximum: Largest number of steps of a dream, n_max.
    """

    initial: int = 16
    increase: int = 8
    every: int = 25_000
    maximum: int = 32

    def at(self, env_steps: int) -> int:
        """Return the horizon n_t after t = ``env_steps`` environment steps."""
        return min(self.initial + env_steps // self.every * self.increase, self.maximum)


@dataclass(frozen=True)
class FreezeConfig:
    """When the image model is frozen, and the updates around it.

    From the first freeze on, the sequence model learns from stored latents. At each freeze the
    image model is first fine-tuned on all frames in the replay. Then the latents of all frames are
    computed and stored again, and the sequence model adapts to them.

    Attributes:
        at: When to freeze, as ascending shares of total_steps; none: the images learn to the end.
        finetune: Updates of the image model alone before it is frozen.
        decay_from: Share of these updates in [0, 1] after which their learning rate falls linearly
            to final_learning_rate.
        foreground_weight: Value of loss.foreground_weight during these updates; 0: unchanged. Less
            than in the warm-up draws a small object sharp, once it is found.
        margin: Value of loss.margin during these updates, in pixels.
        margin_weight: Value of loss.margin_weight during these updates.
        margin_from: Share of these updates in [0, 1] after which margin and margin_weight count,
            instead of loss.margin and loss.margin_weight. A margin sharpens what is drawn already;
            what is not stays dim with it.
        empty_weight: Value of loss.empty_weight during these updates.
        image_entropy: Value of loss.image_entropy during these updates. An image model from nothing
            learns nothing with it: its latents become constant first.
        adapt: Updates of the sequence model alone after a freeze.
        end_to_end: Updates of images and sequence model together, on frames, with the losses of the
            fine-tuning and a learning rate that falls as there. They make latents predictable. At
            the first freeze they follow fine-tuning and adaptation, at later ones they take the
            place of the fine-tuning; the images are frozen after them, and the sequence model
            adapts.
        representation: Value of loss.representation during these updates.
        latent_batch: Sequences in an update on stored latents.
        latent_length: Steps in each of these sequences.
        focus: Value of loss.focus during these updates; 0: unchanged. An image model from nothing
            paints clouds with it.
    """

    at: tuple[float, ...] = ()
    finetune: int = 0
    decay_from: float = 0.0
    foreground_weight: float = 0.0
    margin: int = 0
    margin_weight: float = 1.0
    margin_from: float = 0.0
    empty_weight: float = 0.0
    image_entropy: float = 0.0
    adapt: int = 0
    end_to_end: int = 0
    representation: float = 0.1
    latent_batch: int = 16
    latent_length: int = 64
    focus: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """A training run; the defaults are those of table 3 of the paper.

    Attributes:
        seed: Seed of all random draws.
        warm_start: Start from the weights of this checkpoint: a game's name, a folder or an hf://
            address. Sizes follow it. Empty: start from nothing.
        replay_from: Recordings of `glam play`, as .npz files. Their real steps are the first steps
            of the run: they count among its environment steps and its random_steps.
        total_steps: Environment steps of the run, over all envs.
        random_steps: Environment steps before anything learns. Actions are uniformly random; after
            a warm start the agent plays. Recorded steps of replay_from come first.
        num_envs: Number of games played in parallel.
        exploration: Probability in [0, 1] that an action is random instead of the agent's. Give
            one for all envs or one for each; a shorter list repeats.
        exploration_hold: Mean number of steps for which a random action is held (geometric
            distribution), in random play too. Give one for all envs or one for each; a shorter
            list repeats.
        repeat_action_probability: Probability in [0, 1) that the game repeats the last action;
            sticky actions. 0 is the convention of Atari 100k.
        noop_max: Each episode begins with 0 to so many no-op frames. 30 is the convention of
            Atari 100k.
        replay_capacity: Steps kept in the replay, over all envs.
        batch: Sequences in a world-model update.
        length: Steps in each of these sequences.
        update_every: Environment steps from one time of updates to the next.
        model_updates: World-model updates each time. Each gives its share of the starts of the
            dreams after them.
        agent_updates: Agent updates each time, after those.
        agent_resets: When the agent starts again from new weights, as ascending shares of
            total_steps; none: never. An agent that began in the dreams of a young world model may
            not unlearn them (primacy bias; Nikishin et al., 2022, arXiv:2205.07802).
        image_warmup: Updates of the image model alone, after the random steps; at most so many, if
            there is a target_error.
        target_error: End the image warm-up once the mean ``rare_error`` of 100 updates is below
            this; 0: never early.
        image_batch: Frames in an update of the image model alone.
        image_learning_rate: Adam's learning rate in these updates; 0: that of the world model.
        model_warmup: Updates of the world model on the random steps, before the agent acts.
        freeze: When the image model is frozen.
        learning_rate: Adam's learning rate for the world model.
        gradient_clip: Largest norm of the world model's gradient.
        decay_from: Share of total_steps in [0, 1] after which the learning rate falls linearly;
            the agent's falls by the same factor.
        final_learning_rate: Learning rate of the world model at the last step.
        dream_starts: Where dreams start. "computed": at states of the last world-model update.
            "fresh": after contexts that are drawn and encoded for each agent update.
        context: Real steps in front of a dream.
        dream_context: "recurrent": dreams and the filter of the real game carry the sequence core's
            state on. "window": each step computes it again over the last 16 steps, as the paper
            does; slower.
        imagination_batch: Dreams in an agent update.
        horizon: Number of steps of these dreams.
        model: Sizes of the world model. The game sets the number of actions.
        loss: Weights of the world model's losses.
        autocast: Use bfloat16 where it is safe and the hardware is faster with it.
        graphs: On CUDA, run each kind of update as one CUDA graph.
        log_every: Updates between two lines of metrics.
        checkpoint_every: Environment steps between two checkpoints.
        keep_every: Share of total_steps in [0, 1] after which the weights are kept, again and
            again, once the agent learns. 0 keeps none.
    """

    seed: int = 0
    warm_start: str = ""
    replay_from: tuple[str, ...] = ()
    total_steps: int = 100_000
    random_steps: int = 1024
    num_envs: int = 1
    exploration: tuple[float, ...] = (0.0,)
    exploration_hold: tuple[float, ...] = (1.0,)
    repeat_action_probability: float = 0.0
    noop_max: int = 30
    replay_capacity: int = 100_000
    batch: int = 32
    length: int = 64
    update_every: int = 1
    model_updates: int = 1
    agent_updates: int = 1
    image_warmup: int = 0
    target_error: float = 0.0
    image_batch: int = 128
    image_learning_rate: float = 0.0
    model_warmup: int = 0
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    learning_rate: float = 1e-4
    gradient_clip: float = 1000.0
    decay_from: float = 1.0
    final_learning_rate: float = 1e-4
    dream_starts: str = "computed"
    context: int = 16
    dream_context: str = "recurrent"
    imagination_batch: int = 1024
    horizon: HorizonConfig = field(default_factory=HorizonConfig)
    model: WorldModelConfig = field(default_factory=lambda: WorldModelConfig(num_actions=18))
    loss: LossConfig = field(default_factory=LossConfig)
    autocast: bool = True
    graphs: bool = False
    log_every: int = 100
    checkpoint_every: int = 5_000
    keep_every: float = 0.0
    agent_resets: tuple[float, ...] = ()

    @property
    def play(self) -> PlaySettings:
        """How the real game is played."""
        return PlaySettings(self.repeat_action_probability, noop_max=self.noop_max)

    @property
    def keep_at(self) -> tuple[int, ...]:
        """Environment steps at which the weights are kept; the last is the run's end."""
        if not self.keep_every:
            return ()
        count = math.ceil(1 / self.keep_every - 1e-9)
        shares = (min(1.0, number * self.keep_every) for number in range(1, count + 1))
        return tuple(dict.fromkeys(max(1, round(share * self.total_steps)) for share in shares))

    @property
    def reset_at(self) -> tuple[int, ...]:
        """Environment steps at which the agent starts again from new weights."""
        return tuple(math.ceil(share * self.total_steps) for share in self.agent_resets)

    @property
    def dream_share(self) -> int:
        """Starts of dreams that each world-model update but the last gives; it gives the rest."""
        return self.imagination_batch // self.model_updates

    def learning_rate_at(self, env_steps: int) -> float:
        """Return the world model's learning rate after ``env_steps`` environment steps."""
        start = self.decay_from * self.total_steps
        if env_steps <= start:
            return self.learning_rate
        gone = min(1.0, (env_steps - start) / (self.total_steps - start))
        return self.learning_rate + gone * (self.final_learning_rate - self.learning_rate)

    def validate(self) -> None:
        """Check the settings.

        Raises:
            GlamError: A setting that cannot work; the message says which and what would work.
        """
        require_ranges(self, RANGES)
        require_ranges(self.horizon, HORIZON_RANGES, "horizon.")
        require_ranges(self.freeze, FREEZE_RANGES, "freeze.")
        require_ranges(self.loss, LOSS_RANGES, "loss.")
        if self.horizon.maximum < self.horizon.initial:
            raise GlamError(
                f"horizon.maximum {self.horizon.maximum} is less than horizon.initial "
                f"{self.horizon.initial}; make it at least that"
            )
        require_world_model(self.model, "model.")
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
        if self.dream_context not in ("recurrent", "window"):
            raise GlamError(
                f"dream_context must be recurrent or window, got {self.dream_context!r}"
            )
        if self.dream_context == "window" and self.model.core.context > WINDOW_STEPS:
            raise GlamError(
                f"dream_context window has {WINDOW_STEPS} steps, fewer than the "
                f"{self.model.core.context} that the core needs; take recurrent"
            )
        if self.dream_starts not in ("computed", "fresh"):
            raise GlamError(f"dream_starts must be computed or fresh, got {self.dream_starts!r}")
        places = self.batch * (self.length - self.context)
        if at:
            rows, length = self.freeze.latent_batch, self.freeze.latent_length
            places = min(places, rows * (length - self.context))
        last = self.imagination_batch - (self.model_updates - 1) * self.dream_share
        if self.dream_starts == "computed" and last > places:
            raise GlamError(
                f"imagination_batch {self.imagination_batch} wants {last} starts of a world-model "
                f"update, which computes {places} states behind a full context; lower it, raise "
                "model_updates, batch or "
                "length (freeze.latent_batch or freeze.latent_length once images are frozen), or "
                "set dream_starts fresh"
            )
        for name, shares in {"freeze.at": at, "agent_resets": self.agent_resets}.items():
            in_range = all(0.0 <= share <= 1.0 for share in shares)
            if not in_range or list(shares) != sorted(set(shares)) or len(shares) > MOST_SHARES:
                raise GlamError(
                    f"{name} must hold ascending shares in [0, 1], {MOST_SHARES} at most, "
                    f"got {shown(shares)}"
                )
        if 1.0 in self.agent_resets:
            raise GlamError("agent_resets must be below 1: an agent reset at the end never learns")
        if not self.exploration or not all(0.0 <= chance <= 1.0 for chance in self.exploration):
            raise GlamError(
                "exploration must hold chances in [0, 1], one or more, "
                f"got {shown(self.exploration)}"
            )
        if not self.exploration_hold or not all(1.0 <= s <= 1e9 for s in self.exploration_hold):
            raise GlamError(
                "exploration_hold must hold numbers of steps in [1, 1000000000], one or more, "
                f"got {shown(self.exploration_hold)}"
            )
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
