"""The training loop of GLAM: play, learn the world, dream, learn to act.

The schedule of a run is a list of phases (:mod:`glam_env.training.phases`). Between two units of
work the trainer can save everything that the next one depends on, so a resumed run is bit for bit
the run that never stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from glam_env.errors import GlamError
from glam_env.games import Game, find_game
from glam_env.model.structures import DreamState, LatentBatch, SequenceBatch, tree_map
from glam_env.training.collector import Collector
from glam_env.training.config import TrainConfig
from glam_env.training.earlier_runs import upgrade_state
from glam_env.training.imagination import Agent
from glam_env.training.kept import Kept, save_kept
from glam_env.training.latent_store import LatentStore
from glam_env.training.learner import AgentFactory, Learner
from glam_env.training.memory import keep_freed_memory
from glam_env.training.metrics import Metrics
from glam_env.training.phases import (
    ERROR_WINDOW,
    FREEZING,
    Phase,
    Step,
    count_freezes,
    schedule,
)
from glam_env.training.recorded import add_recordings, read_recordings
from glam_env.training.replay import Replay
from glam_env.training.run_folder import RunFolder

BACKGROUND_FRAMES = 1000  # at most, for the game's background


def open_replay(config: TrainConfig, run: RunFolder, *, writable: bool = True) -> Replay:
    """Open the replay of a run; it holds the steps that the last two checkpoints need."""
    per_stream = math.ceil(config.replay_capacity / config.num_envs)
    spare = 2 * math.ceil(config.checkpoint_every / config.num_envs) + 2
    return Replay(run.replay, config.num_envs, per_stream, spare, writable=writable)


class Trainer:
    """Trains a world model and an agent on a real game.

    Args:
        game: Name of one of the 26 games.
        config: Settings of the run.
        run: The run's folder; if it holds a checkpoint, training resumes from it.
        make_agent: Makes the agent to train.
        device: Where the world model and the agent are.
        log: Called with each line of metrics, a flat dict.

    Attributes:
        phases, phase_index: The schedule, and the phase in it that is under way.
        phase_updates: Updates of the world model since that phase began.
        env_steps: Steps of the real game, over all envs.
        recorded_steps: Those among them that come from recordings.
        image_updates, model_updates, agent_updates: Updates since the run began, of the image
            model alone, of the world model and of the agent.
        latents: What the sequence model learns from while the image model is frozen.

    Raises:
        GlamError: The settings are impossible, the folder belongs to another game, or its files
            cannot be read.
    """

    def __init__(
        self,
        game: str,
        config: TrainConfig,
        run: RunFolder,
        make_agent: AgentFactory,
        device: torch.device | str = "cpu",
        log: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        config.validate()
        keep_freed_memory()
        run.lock()
        self.game: Game = find_game(game)
        self.config, self.run, self.device = config, run, torch.device(device)
        torch.manual_seed(config.seed)
        self.rng = np.random.default_rng(config.seed)
        self.learner = Learner(config, self.game, make_agent, self.device)
        self.world_model = self.learner.world_model
        self.replay = open_replay(config, run)
        self.latents: LatentStore | None = None
        self.collector = Collector(config, self.learner, self.replay, self.rng)
        self.metrics = Metrics(run, log)
        self.phases = schedule(config)
        self.phase_index = self.phase_updates = 0
        self._error = 0.0  # sum of rare_error over the updates of the window under way
        self._good_enough = False  # whether that error ends the phase
        self._agent_resets = 0
        self.env_steps = self.image_updates = self.model_updates = self.agent_updates = 0
        self.recorded_steps = 0
        self._saved_at = 0  # env_steps of the last checkpoint
        checkpoint = run.load_checkpoint(self.device)
        if checkpoint is None:
            if config.warm_start:
                self.learner.warm_start()
            recordings = read_recordings(config, self.game)
            self.env_steps = self.recorded_steps = add_recordings(recordings, self.replay)
            self.collector.reset()
        else:
            self._load_state(upgrade_state(checkpoint, self.phases))
        self.metrics.begin()
        if self.recorded_steps and checkpoint is None:
            self.save()  # a resumed run needs the recordings no more

    # --- the loop ------------------------------------------------------------------------------

    def train(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train until the run is finished, or until ``stop()`` is true; save in both cases.

        Returns:
            Whether the run is finished.
        """
        while not self.finished and not stop():
            self.advance()
            if self.env_steps - self._saved_at >= self.config.checkpoint_every:
                self.save()
        self.save()
        return self.finished

    @property
    def finished(self) -> bool:
        """Whether all environment steps are done."""
        return self.env_steps >= self.config.total_steps

    @property
    def agent(self) -> Agent:
        """The agent; another one after each of ``config.agent_resets``."""
        return self.learner.agent

    @property
    def phase(self) -> Phase:
        """The phase that the next unit of work belongs to."""
        return self.phases[self.phase_index]

    def advance(self) -> None:
        """Do one unit of work of the current phase; where the phase is complete, end it."""
        phase, before = self.phase, self.env_steps
        if not self._complete:
            match phase.step:
                case Step.RANDOM_PLAY:
                    self._collect(random=True)
                case Step.PLAY:
                    self._collect(random=False)
                case Step.IMAGE_UPDATE | Step.FINE_TUNING_UPDATE:
                    self._update_images()
                case Step.MODEL_UPDATE | Step.END_TO_END_UPDATE:
                    self._update_model()
                case Step.JOINT:
                    self._collect_and_learn()
        if self.agent_updates and any(before < at <= self.env_steps for at in self.config.keep_at):
            self._keep()
        self._reset_agent_if_due()
        if self._complete and phase is not self.phases[-1]:
            self.phase_index, self.phase_updates = self.phase_index + 1, 0
            self._error, self._good_enough = 0.0, False
            if phase.step is Step.RANDOM_PLAY:
                self._set_background()
            elif phase.step in FREEZING:
                self._freeze_images()
            self.save()

    def _reset_agent_if_due(self) -> None:
        """Start the agent again where the run has come to one of ``agent_resets``."""
        due = sum(at <= self.env_steps for at in self.config.reset_at)
        if due > self._agent_resets:  # not where more steps of the run move a reset that is past
            self.learner.reset_agent()
            self._agent_resets = due

    @property
    def _complete(self) -> bool:
        done = self.env_steps if self.phase.unit == "steps" else self.phase_updates
        return done >= self.phase.total or self._good_enough

    def _collect_and_learn(self) -> None:
        """Step every game once, then do the updates that are due."""
        before = self.env_steps // self.config.update_every
        self._collect(random=False)
        for _ in range(self.env_steps // self.config.update_every - before):
            self._learn()

    def _learn(self) -> None:
        """Do the updates of the world model and the agent that are due at the same time."""
        c, starts = self.config, []
        for left in reversed(range(c.model_updates)):
            self._update_model()
            if left and c.dream_starts == "computed":
                starts.append(self.learner.draw_starts(c.dream_share))
        for _ in range(c.agent_updates):
            self._update_agent(starts)

    # --- play ----------------------------------------------------------------------------------

    def _collect(self, *, random: bool) -> None:
        """Step every game once, and log the returns of episodes that ended."""
        finished = self.collector.step(random=random)
        self.metrics.averages.add(self.collector.new_play.read())  # nothing of random play
        self.env_steps += self.config.num_envs
        for episode in finished:
            self.metrics.add_return(episode.return_)
            self._write({"episode_return": episode.return_, "episode_length": episode.length})

    def _set_background(self) -> None:
        """Set the game's background from the frames of random play."""
        count = min(len(self.replay), BACKGROUND_FRAMES)
        self.world_model.set_background(self.replay.sample_images(count, self.rng, self.device))
        self.collector.forget()  # the filter has seen nothing of the episodes under way

    # --- updates -------------------------------------------------------------------------------

    def _update_images(self) -> None:
        """Do one update of the image model alone."""
        c = self.config
        if self.phase.step is Step.FINE_TUNING_UPDATE:
            self.learner.freeze_images(False)
        images = self.replay.sample_images(c.image_batch, self.rng, self.device)
        rate = self.phase.learning_rate(c, self.env_steps, self.phase_updates)
        loss_config = self.phase.loss(c, self.phase_updates)
        metrics = self.learner.update_images(images, loss_config, rate)
        self.metrics.averages.add(metrics)
        self.image_updates += 1
        self.phase_updates += 1
        if (target := self.phase.target_error) > 0.0:
            self._error += float(metrics["rare_error"])
            if self.phase_updates % ERROR_WINDOW == 0:
                self._good_enough = self._error / ERROR_WINDOW < target
                self._error = 0.0
        self._maybe_log(self.image_updates, rate)

    def _update_model(self) -> None:
        """Do one update of the world model; of its sequence model alone while images are frozen."""
        c, freeze = self.config, self.config.freeze
        batch: SequenceBatch | LatentBatch
        together = self.phase.step is Step.END_TO_END_UPDATE
        if together:
            self.learner.freeze_images(False)
        if together or self.latents is None:
            batch = self.replay.sample(c.batch, c.length, self.rng, self.device)
        else:
            with self.learner.autocast():
                self.latents.catch_up()
            shape = freeze.latent_batch, freeze.latent_length
            batch = self.latents.sample(*shape, self.rng, self.device)
        rate = self.phase.learning_rate(c, self.env_steps, self.phase_updates)
        loss_config = self.phase.loss(c, self.phase_updates)
        self.metrics.averages.add(self.learner.update_model(batch, rate, loss_config))
        self.model_updates += 1
        self.phase_updates += 1
        self._maybe_log(self.model_updates, rate)

    def _freeze_images(self) -> None:
        """Freeze the image model; from here on the sequence model learns from stored latents."""
        self.learner.freeze_images()
        # One file per freeze: an older checkpoint may still need the one before.
        number = count_freezes(self.phases[: self.phase_index])
        self.latents = LatentStore(self.replay, self.world_model, f"latents-{number}")
        if number > 2:
            self.replay.remove_beside(f"latents-{number - 2}")

    def _update_agent(self, starts: Sequence[DreamState] = ()) -> None:
        """Do one update of the agent, in imagination.

        Args:
            starts: Where some of the dreams start. The others start where the last world-model
                update allows.
        """
        c = self.config
        if c.dream_starts == "fresh":
            windows = self.replay.draw_whole(c.imagination_batch, c.context + 1, self.rng)
            start = self.learner.fresh_starts(self.replay.read(windows, self.device))
        else:
            left = c.imagination_batch - sum(len(start.code) for start in starts)
            parts = [*starts, self.learner.draw_starts(left)]
            start = tree_map(lambda *tensors: torch.cat(tensors), *parts) if starts else parts[0]
        horizon = c.horizon.at(self.env_steps)
        rate = c.learning_rate_at(self.env_steps) / c.learning_rate
        usual = self.replay.usual_reward()
        self.metrics.averages.add(self.learner.update_agent(start, horizon, rate, usual))
        self.agent_updates += 1

    # --- metrics -------------------------------------------------------------------------------

    @property
    def _counts(self) -> dict[str, int]:
        return {
            "env_steps": self.env_steps,
            "image_updates": self.image_updates,
            "model_updates": self.model_updates,
            "agent_updates": self.agent_updates,
        }

    def _write(self, figures: Mapping[str, Any]) -> None:
        self.metrics.write({**self._counts, **figures})

    def _maybe_log(self, count: int, learning_rate: float) -> None:
        """Write a line if it is due; it names the phase of the work that follows it."""
        if count % self.config.log_every:
            return
        figures = self.metrics.read()
        broken = [name for name, value in figures.items() if not math.isfinite(value)]
        if broken:
            raise self._broken(", ".join(broken))
        phase, updates = self.phase, self.phase_updates
        if self._complete and phase is not self.phases[-1]:
            phase, updates = self.phases[self.phase_index + 1], 0
        done = {"phase_updates": updates} if phase.unit == "updates" else {}
        self._write({"phase": phase.name, **done, "learning_rate": learning_rate, **figures})

    def _broken(self, what: str) -> GlamError:
        return GlamError(
            f"training broke: {what} not finite after {self.model_updates} model updates; "
            "--resume goes back to the last checkpoint, a run with a lower learning_rate helps"
        )

    # --- state ---------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint from which training resumes exactly.

        Raises:
            GlamError: Weights or optimizer states are not finite, or the folder cannot be
                written; earlier checkpoints stay.
        """
        if broken := self.learner.find_broken():
            raise self._broken(broken)
        self.replay.flush()
        if self.latents is not None:
            self.latents.flush()
        count = self.env_steps + self.image_updates + self.model_updates
        self.run.save_checkpoint(count, self._state())
        self._saved_at = self.env_steps

    def _keep(self) -> None:
        """Keep the weights as they are; see :mod:`glam_env.training.kept`."""
        if broken := self.learner.find_broken():
            raise self._broken(broken)
        weights = self.world_model.export_state(), self.agent.export_state()
        save_kept(self.run, Kept(self._counts, self.metrics.elapsed(), *weights))

    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint stores: everything that the next unit of work depends on."""
        on_cuda = self.device.type == "cuda"
        return {
            "game": self.game.name,
            "config": json.dumps(asdict(self.config)),
            "counts": self._counts,
            "recorded_steps": self.recorded_steps,
            "schedule": {
                "phase": self.phase_index,
                "updates": self.phase_updates,
                "error": self._error,
                "agent_resets": self._agent_resets,
            },
            **self.metrics.state(),
            **self.learner.state(),
            "replay": self.replay.state(),
            "latents": None if self.latents is None else self.latents.state(),
            **self.collector.state(),
            "numpy_random": json.dumps(self.rng.bit_generator.state),
            "torch_random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if on_cuda else None,
        }

    def _load_state(self, state: dict[str, Any]) -> None:
        if state["game"] != self.game.name:
            raise GlamError(f"this run plays {state['game']}, not {self.game.name}")
        for name in self._counts:
            setattr(self, name, state["counts"][name])
        self.recorded_steps = state["recorded_steps"]
        schedule = state["schedule"]
        self.phase_index, self.phase_updates = schedule["phase"], schedule["updates"]
        self._error, self._agent_resets = schedule["error"], schedule["agent_resets"]
        self.metrics.load_state(state)
        self.learner.load_state(state)
        self.replay.load_state(state["replay"])
        if state["latents"] is not None:
            self._freeze_images()
            assert self.latents is not None
            self.latents.load_state(state["latents"])
        self.collector.load_state(state)
        self.rng.bit_generator.state = json.loads(state["numpy_random"])
        torch.set_rng_state(state["torch_random"].cpu())
        if self.device.type == "cuda" and state["cuda_random"] is not None:
            torch.cuda.set_rng_state(state["cuda_random"].cpu(), self.device)
        self._saved_at = self.env_steps

    def close(self) -> None:
        """Stop the games and unlock the run's folder."""
        self.collector.close()
        self.run.unlock()
