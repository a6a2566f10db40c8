"""The joint loop of GLAM (model.md § 4): collect, learn the world, dream, learn to act.

The loop is a chain of small units of work (:meth:`Trainer.advance`); between two of them
everything that the next ones depend on can be saved and taken up again bit for bit.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glam_env.device import upload
from glam_env.envs.atari.emulator import Emulator, EmulatorState
from glam_env.envs.latent_filter import LatentFilter
from glam_env.errors import GlamError
from glam_env.games import Game, find_game
from glam_env.model.distributions import sample_codes
from glam_env.model.structures import DreamState, LatentBatch, SequenceBatch
from glam_env.training.exploration import Exploration
from glam_env.training.latent_store import LatentStore
from glam_env.training.learner import AgentFactory, Learner
from glam_env.training.memory import keep_freed_memory
from glam_env.training.presets import TrainConfig
from glam_env.training.replay import Replay
from glam_env.training.run_folder import RunFolder


def open_replay(config: TrainConfig, run: RunFolder, *, writable: bool = True) -> Replay:
    """The replay of a run, with room to spare for what two checkpoints count on."""
    per_stream = math.ceil(config.replay_capacity / config.num_envs)
    spare = 2 * math.ceil(config.checkpoint_every / config.num_envs) + 2
    return Replay(run.replay, config.num_envs, per_stream, spare, writable=writable)


class Averages:
    """Means of scalars since the last read; reading waits for the device, adding does not."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Takes in detached scalars, whose memory may be written to after."""
        for name, value in scalars.items():
            value = value.float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """The means; starts anew."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


class Trainer:
    """Trains a world model and an agent on a real game.

    Args:
        game: name of one of the 26 games.
        config: settings.
        run: the run's folder; if it holds a checkpoint, training goes on from there.
        make_agent: the agent to train.
        device: where the model lives.
        log: called with one line of metrics (a flat dict) each log interval.

    Raises:
        GlamError: impossible settings, or a folder that holds something else.
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
        self._log = log
        torch.manual_seed(config.seed)
        self.rng = np.random.default_rng(config.seed)
        self.learner = Learner(config, self.game, make_agent, self.device)
        self.world_model, self.agent = self.learner.world_model, self.learner.agent
        self.replay = open_replay(config, run)
        self.latents: LatentStore | None = None  # once the images are frozen
        self.exploration = Exploration(
            config.exploration, config.num_envs, self.game.num_actions, config.exploration_hold
        )
        chances = self.exploration.chances
        self._agents_own = chances == chances.min()  # the envs whose returns tell how well it plays
        self.emulator = Emulator(
            self.game.name,
            config.num_envs,
            seed=config.seed,
            repeat_action_probability=config.repeat_action_probability,
        )
        self.filter = LatentFilter(self.world_model, config.num_envs)

        self.env_steps = 0
        self.image_updates = 0
        self.model_updates = 0
        self.agent_updates = 0
        self.freezes = 0  # times that the image model was made to stand still
        self.polished = self.settled = 0  # updates of the freeze under way
        self.seconds = 0.0  # of training, over all the run's processes
        self.metrics_size = 0  # bytes of metrics.jsonl that belong to this state
        self.averages = Averages()
        self.recent_returns: list[float] = []
        self._saved_at = 0
        checkpoint = run.load_checkpoint(self.device)
        if checkpoint is None:
            if config.warm_start:
                self.learner.warm_start(config.warm_start)
            self._frames = self.emulator.reset()
            self._first = np.ones(config.num_envs, bool)
        else:
            self._load(checkpoint)
        run.truncate_metrics(self.metrics_size)
        self._clock = time.perf_counter()

    # --- the loop ------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether all environment steps are done."""
        return self.env_steps >= self.config.total_steps

    @property
    def phase(self) -> str:
        """What the next unit of work belongs to."""
        c = self.config
        if self.env_steps < c.random_steps:
            return "first play" if self.config.warm_start else "random play"
        if self.image_updates < c.image_warmup:
            return "image warm-up"
        if self._freeze_due:
            return "image polish"
        if self.freezes and self.settled < c.freeze.settle:
            return "settling"
        if self.model_updates < c.model_warmup:
            return "model warm-up"
        return "joint training"

    @property
    def _freeze_due(self) -> bool:
        at = self.config.freeze.at[self.freezes : self.freezes + 1]
        return bool(at) and self.env_steps >= at[0] * self.config.total_steps

    def train(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Runs until the last environment step, or until ``stop()`` says so; saves either way.

        Returns:
            Whether the run is finished.
        """
        while not self.finished and not stop():
            self.advance()
            if self.env_steps - self._saved_at >= self.config.checkpoint_every:
                self.save()
        self.save()
        return self.finished

    def advance(self) -> None:
        """The next unit of work."""
        phase = self.phase
        if phase == "first play":
            self._collect(random=False)
            if self.env_steps >= self.config.random_steps:
                self.save()
        elif phase == "random play":
            self._collect(random=True)
            if self.env_steps >= self.config.random_steps:
                count = min(len(self.replay), 1000)
                self.world_model.set_background(
                    self.replay.sample_images(count, self.rng, self.device)
                )
                self._first[:] = True  # the filter has seen nothing of the episodes under way
                self.save()
        elif phase == "image warm-up":
            self._update_images()
        elif phase == "image polish":
            if self.polished < self.config.freeze.polish:
                self._update_images()
                self.polished += 1
            if self.polished == self.config.freeze.polish:
                self.freezes, self.polished, self.settled = self.freezes + 1, 0, 0
                self._freeze_images()
                self.save()
        elif phase == "settling":
            self._update_model()
            self.settled += 1
            if self.settled == self.config.freeze.settle:
                self.save()
        elif phase == "model warm-up":
            self._update_model()
            if self.model_updates == self.config.model_warmup:
                self.save()
        else:
            before = self.env_steps // self.config.update_every
            self._collect(random=False)
            for _ in range(self.env_steps // self.config.update_every - before):
                self._update_model()
                for _ in range(self.config.agent_updates):
                    self._update_agent()

    def _collect(self, *, random: bool) -> None:
        """One step of every real game."""
        count = self.config.num_envs
        if random:
            actions = self.rng.integers(self.game.num_actions, size=count)
        else:
            with self.learner.autocast():
                choice = self.agent.act(self.filter.see(self._frames, self._first))
                if self.exploration.chances.any():
                    drawn = self.exploration.draw(self.rng)
                    others, explored = (upload(array, self.device) for array in drawn)
                    choice = torch.where(explored, others, choice)
                self.filter.act(choice)
            actions = choice.cpu().numpy()
        step = self.emulator.step(actions)
        self.replay.add(
            self._frames, actions, step.reward, step.life_lost, step.terminated, step.truncated
        )
        self._frames, self._first = step.frames, step.terminated | step.truncated
        self.env_steps += self.config.num_envs
        for episode in step.finished:
            if not (random or self._agents_own[episode.env]):
                continue
            self.recent_returns = [*self.recent_returns, episode.return_][-20:]
            self._write({"episode_return": episode.return_, "episode_length": episode.length})

    @property
    def _learning_rate(self) -> float:
        c = self.config
        rate = c.learning_rate_at(self.env_steps)
        if self.phase == "image polish":
            rate += (c.final_learning_rate - rate) * self.polished / max(1, c.freeze.polish)
        return rate

    def _update_images(self) -> None:
        """One update of the image model alone."""
        c, loss_config = self.config, self.config.loss
        if self.phase == "image polish":
            margin = {"margin": c.freeze.margin, "margin_weight": c.freeze.margin_weight}
            loss_config = replace(c.loss, **margin)
            self.learner.freeze_images(False)
        images = self.replay.sample_images(c.image_batch, self.rng, self.device)
        metrics = self.learner.update_images(images, loss_config, self._learning_rate)
        self.image_updates += 1
        self.averages.add(metrics)
        self._maybe_log(self.image_updates)

    def _update_model(self) -> None:
        """One update of the whole world model."""
        c, freeze = self.config, self.config.freeze
        batch: SequenceBatch | LatentBatch
        if self.latents is None:
            batch = self.replay.sample(c.batch, c.length, self.rng, self.device)
        else:
            with self.learner.autocast():
                self.latents.catch_up()
            shape = freeze.latent_batch, freeze.latent_length
            batch = self.latents.sample(*shape, self.rng, self.device)
        metrics = self.learner.update_model(batch, self._learning_rate)
        self.model_updates += 1
        self.averages.add(metrics)
        self._maybe_log(self.model_updates)

    def _freeze_images(self) -> None:
        self.learner.freeze_images()
        # A file for each time: the checkpoint before may still count on the one before.
        self.latents = LatentStore(self.replay, self.world_model, f"latents-{self.freezes}")
        if self.freezes > 2:
            self.replay.remove_beside(f"latents-{self.freezes - 2}")

    def _update_agent(self) -> None:
        """One update of the agent, in imagination."""
        c = self.config
        if c.dream_starts == "fresh":
            start = self._fresh_starts()
        else:
            start = self.learner.draw_starts(c.imagination_batch)
        self.averages.add(self.learner.update_agent(start, c.horizon.at(self.env_steps)))
        self.agent_updates += 1

    @torch.no_grad()
    def _fresh_starts(self) -> DreamState:
        """Where contexts that are drawn anew end."""
        c = self.config
        batch = self.replay.sample(c.imagination_batch, c.context + 1, self.rng, self.device)
        with self.learner.autocast():
            self.world_model.eval()
            codes = sample_codes(self.world_model.encode(batch.images))
            self.world_model.train()
            return self.world_model.warm_up(codes, batch.actions[:, :-1])

    # --- metrics -------------------------------------------------------------------------

    def _elapsed(self) -> float:
        now = time.perf_counter()
        self.seconds += now - self._clock
        self._clock = now
        return self.seconds

    def _write(self, figures: dict[str, Any]) -> None:
        line = {
            "env_steps": self.env_steps,
            "image_updates": self.image_updates,
            "model_updates": self.model_updates,
            "agent_updates": self.agent_updates,
            **figures,
            "seconds": round(self._elapsed(), 3),
        }
        self.metrics_size = self.run.append_metrics(line)
        if self._log is not None:
            self._log(line)

    def _maybe_log(self, count: int) -> None:
        if count % self.config.log_every:
            return
        figures = self.averages.read()
        broken = [name for name, value in figures.items() if not math.isfinite(value)]
        if broken:
            raise self._broken(", ".join(broken))
        if self.recent_returns:
            figures["recent_return"] = float(np.mean(self.recent_returns))
        rate = self._learning_rate
        phase = self.phase
        if phase == "image polish":
            figures["polished"] = self.polished
        elif phase == "settling":
            figures["settled"] = self.settled
        self._write({"phase": phase, "learning_rate": rate, **figures})

    def _broken(self, what: str) -> GlamError:
        return GlamError(
            f"training broke: {what} not finite after {self.model_updates} model updates; "
            "--resume goes back to the last checkpoint, a run with a lower learning_rate helps"
        )

    # --- state ---------------------------------------------------------------------------

    def save(self) -> None:
        """Writes a checkpoint from which training goes on exactly.

        Raises:
            GlamError: weights that are not finite, which would spoil the checkpoints before, or a
                folder that cannot be written.
        """
        if not all(bool(p.isfinite().all()) for p in self.world_model.parameters()):
            raise self._broken("weights")
        self.replay.flush()
        if self.latents is not None:
            self.latents.flush()
        emulator = {
            name: torch.from_numpy(value) for name, value in vars(self.emulator.state()).items()
        }
        state = {
            "game": self.game.name,
            "config": json.dumps(asdict(self.config)),
            "counts": {
                "env_steps": self.env_steps,
                "image_updates": self.image_updates,
                "model_updates": self.model_updates,
                "agent_updates": self.agent_updates,
                "freezes": self.freezes,
                "polished": self.polished,
                "settled": self.settled,
                "metrics_size": self.metrics_size,
            },
            "seconds": self._elapsed(),
            **self.learner.state(),
            "replay": self.replay.state(),
            "latents": None if self.latents is None else self.latents.state(),
            "emulator": emulator,
            "exploration": self.exploration.state(),
            "frames_first": torch.from_numpy(self._first),
            "filter": self.filter.memory(),
            "averages": {"sums": self.averages.sums, "counts": self.averages.counts},
            "recent_returns": self.recent_returns,
            "numpy_random": json.dumps(self.rng.bit_generator.state),
            "torch_random": torch.get_rng_state(),
            "cuda_random": (
                torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
            ),
        }
        self.run.save_checkpoint(self.env_steps + self.image_updates + self.model_updates, state)
        self._saved_at = self.env_steps

    def _load(self, state: dict[str, Any]) -> None:
        if state["game"] != self.game.name:
            raise GlamError(f"this run plays {state['game']}, not {self.game.name}")
        for name, count in state["counts"].items():
            setattr(self, name, count)
        self.seconds = state["seconds"]
        self.learner.load_state(state)
        self.replay.load_state(state["replay"])
        if state["latents"] is not None:
            self._freeze_images()
            assert self.latents is not None
            self.latents.load_state(state["latents"])
        emulator = {name: value.cpu().numpy() for name, value in state["emulator"].items()}
        self._frames = self.emulator.restore(EmulatorState(**emulator))
        self._first = state["frames_first"].cpu().numpy()
        if "exploration" in state:  # else a run begun before actions were held
            self.exploration.load_state(state["exploration"])
        self.filter.load_memory(state["filter"])
        self.averages.sums = dict(state["averages"]["sums"])
        self.averages.counts = dict(state["averages"]["counts"])
        self.recent_returns = list(state["recent_returns"])
        self.rng.bit_generator.state = json.loads(state["numpy_random"])
        torch.set_rng_state(state["torch_random"].cpu())
        if self.device.type == "cuda" and state["cuda_random"] is not None:
            torch.cuda.set_rng_state(state["cuda_random"].cpu(), self.device)
        self._saved_at = self.env_steps

    def close(self) -> None:
        """Stops the emulator and gives the run's folder back."""
        self.emulator.close()
        self.run.unlock()
