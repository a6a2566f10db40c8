"""What limits a run: its images, its sequence model or its agent.

    python benchmarks/limits.py Pong --run runs/Pong --to benchmarks/results/limits.json

Each row trains one part from nothing on the steps in a run's replay, beside finished parts of a
checkpoint:

- ``none``: the checkpoint's images and sequence model.
- ``sequence model``: the checkpoint's images, a sequence model from nothing.
- ``images``: an image model from nothing, and a sequence model trained for ``long`` times as many
  updates on its latents, so that the images are what is young.
- ``both``: both from nothing.
- ``end-to-end``: the checkpoint's images and sequence model, trained together for
  ``together_updates`` updates, then the sequence model alone on the new latents.
- ``agent``: an agent from nothing in the checkpoint's dreams, which are not trained further.
- ``soft prior``, ``sharp prior``: a sequence model from nothing whose prior learns the posterior at
  temperature 1 or at ``draw_temperature`` (``WorldModelConfig.sharp_prior``), and an agent from
  nothing in its dreams.
- ``size WIDTH HIDDEN``: the same with a sequence model of that width, with hidden layers of that
  size before and after the core (0: none), for example ``size 256 1024``.
- ``core NAME``: the same with another sequence core, for example ``core transformer``, in the sizes
  of the preset ``small-NAME``; all cores learn from the same steps and latents.

World models are compared on held-out play of the checkpoint's agent and of random actions (F1 of
rewards and of ends of life to step 16 of open-loop dreams; error on the foreground of the image
model alone and after one and 16 steps), agents by their score in the game, beside their points in
dreams. The KL and the loss of rewards on the replay and on that held-out play show how far a
sequence model has learned its replay by heart.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from glam_agents.storm import AGENT_PRESETS, ActorCritic

from glam_env.cli.trained import Trained, load_run, load_trained
from glam_env.envs.latent_filter import FilteredPolicy
from glam_env.envs.recordings.recording import Recording
from glam_env.evaluation.measures.base import PLAYERS, Settings, Subject
from glam_env.evaluation.measures.events import EventReport
from glam_env.evaluation.measures.images import ImageReport
from glam_env.evaluation.play.recording import add_noise, record_play, window_starts
from glam_env.evaluation.play.scores import evaluate_policy
from glam_env.evaluation.report.fluctuation import LOSSES
from glam_env.games import find_game
from glam_env.model.config import LossConfig
from glam_env.model.structures import LatentBatch, SequenceBatch
from glam_env.model.world_model import WorldModel
from glam_env.protocols import find_protocol
from glam_env.training.config import HorizonConfig, TrainConfig
from glam_env.training.export import describe_hardware
from glam_env.training.imagination import imagine
from glam_env.training.latent_store import LatentStore
from glam_env.training.learner import Learner
from glam_env.training.phases import END_TO_END, Phase, Step
from glam_env.training.presets import PRESETS
from glam_env.training.replay import Replay

WINDOWS = 16  # of the replay and of new play, in each batch that is only measured


@dataclass
class Args:
    """Train one part from nothing beside finished ones, and measure what is lost.

    Attributes:
        game: Name of the game.
        run: A finished run of it, for its replay.
        checkpoint: Name or folder of a checkpoint; empty: the weights of the run.
        rows: Which parts are young, one row each.
        image_updates: Of an image model from nothing; the learning rate falls over the second half.
        sequence_updates: Of a sequence model from nothing, likewise.
        together_updates: Of image and sequence model together.
        representation: Weight of the representation loss in these.
        long: How many times as many updates a sequence model gets on young images.
        agent_updates: Of an agent from nothing.
        dreams: Dreams in each of these.
        horizon: Their steps.
        steps: Held-out steps to dream along.
        games: Real games of the agent from nothing.
        protocol: How the real game is played: atari100k or published.
        seed: Of everything.
        threads: Threads.
        to: A JSON file for the figures.
    """

    game: tyro.conf.Positional[str]
    run: Path
    checkpoint: str = ""
    rows: tuple[str, ...] = ("none", "sequence model", "images", "both", "agent")
    image_updates: int = 1500
    sequence_updates: int = 1500
    together_updates: int = 1000
    representation: float = 1.0
    long: int = 3
    agent_updates: int = 2000
    dreams: int = 128
    horizon: int = 24
    steps: int = 8000
    games: int = 4
    protocol: str = "published"
    seed: int = 0
    threads: int = 1
    to: Path | None = None


class Study:
    """A checkpoint, a replay, and held-out play of the checkpoint's agent."""

    agent_config = AGENT_PRESETS["small"]  # of agents from nothing

    def __init__(
        self, args: Args, trained: Trained | None = None, replay: Replay | None = None
    ) -> None:
        self.args = args
        if trained is None or replay is None:
            trained, run = load_run(args.run, torch.device("cpu"))
            replay = run.replay
        self.trained, self.replay = trained, replay
        if args.checkpoint:
            self.trained = load_trained(args.checkpoint, "cpu")
        self.config: TrainConfig = replace(
            PRESETS["small"], model=self.trained.world_model.config, seed=args.seed, autocast=False
        )
        self.rng = np.random.default_rng(args.seed)
        self.recording = self._record(self.trained)

    def _record(self, trained: Trained) -> Recording:
        noise = tuple(PLAYERS.values())
        noisy = add_noise(trained.act(), trained.world_model.config.num_actions, noise)
        return record_play(
            FilteredPolicy(trained.world_model, noisy),
            trained.game,
            steps=self.args.steps,
            num_envs=len(noise),
            seed=self.args.seed + 1,
            play=find_protocol(self.args.protocol),
        )

    def learner(self) -> Learner:
        """Make a world model from nothing."""
        torch.manual_seed(self.args.seed)
        game = find_game(self.trained.game)
        return Learner(self.config, game, self._agent, torch.device("cpu"))

    def _agent(self, feature_dim: int, num_actions: int) -> ActorCritic:
        return ActorCritic(self.agent_config, feature_dim, num_actions)

    def take_images(self, model: WorldModel) -> None:
        """Copy the checkpoint's image model."""
        source = self.trained.world_model
        model.encoder.load_state_dict(source.encoder.state_dict())
        model.decoder.load_state_dict(source.decoder.state_dict())

    def train_images(self, learner: Learner) -> None:
        """Train an image model on the replay's frames."""
        c, total = self.config, self.args.image_updates
        learner.world_model.decoder.background.copy_(self.trained.world_model.decoder.background)
        margin = replace(c.loss, margin=c.freeze.margin, margin_weight=c.freeze.margin_weight)
        for update in range(total):
            images = self.replay.sample_images(c.image_batch, self.rng)
            loss = c.loss if update < total // 2 else margin
            learner.update_images(images, loss, self._rate(update, total))

    def latents(self, model: WorldModel, folder: Path) -> LatentStore:
        """Store a model's latents of all frames of the replay, in a folder."""
        store = LatentStore(_linked(self.replay, folder), model)
        store.catch_up()
        return store

    def train_sequences(
        self, learner: Learner, total: int, store: LatentStore | None = None
    ) -> list[dict[str, float]]:
        """Freeze the image model, train the sequence model on latents, and return its losses.

        Args:
            learner: Of a world model.
            total: Updates.
            store: Latents of the learner's image model; None makes them.
        """
        c, losses = self.config, []
        learner.freeze_images()
        with tempfile.TemporaryDirectory(prefix="glam_limits_") as folder:
            store = store or self.latents(learner.world_model, Path(folder))
            for update in range(total):
                shape = c.freeze.latent_batch, c.freeze.latent_length
                batch = store.sample(*shape, self.rng)
                metrics = learner.update_model(batch, self._rate(update, total))
                losses.append({name: float(metrics[name]) for name in LOSSES if name in metrics})
        return losses

    def train_together(self, learner: Learner) -> None:
        """Train images and sequence model together on sequences of the replay."""
        freeze = replace(self.config.freeze, representation=self.args.representation)
        c, total = replace(self.config, freeze=freeze), self.args.together_updates
        phase = Phase(END_TO_END, "updates", total, Step.END_TO_END_UPDATE)
        learner.freeze_images(False)
        for update in range(total):
            batch = self.replay.sample(c.batch, c.length, self.rng)
            learner.update_model(batch, phase.learning_rate(c, 0, update), phase.loss(c, update))

    def _rate(self, update: int, total: int) -> float:
        c = self.config
        gone = max(0.0, 2.0 * update / total - 1.0)
        return c.learning_rate + gone * (c.final_learning_rate - c.learning_rate)

    def world_model(self, young: str) -> WorldModel:
        """Return a world model of which the named part is young."""
        if young == "none":
            return self.trained.world_model
        learner = self.learner()
        if young == "end-to-end":
            learner.world_model.load_exported(self.trained.world_model.export_state())
            self.train_together(learner)
        elif young == "sequence model":
            self.take_images(learner.world_model)
        else:
            self.train_images(learner)
        times = self.args.long if young == "images" else 1
        self.train_sequences(learner, times * self.args.sequence_updates)
        return learner.world_model.eval()

    @torch.no_grad()
    def surprise(self, model: WorldModel) -> dict[str, float]:
        """Return what a model loses on the replay and on as many windows of the held-out play.

        Returns:
            ``replay_kl`` and ``new_play_kl`` from prior to posterior, ``replay_reward_loss`` and
            ``new_play_reward_loss``, in nats, means over the steps of all windows.
        """
        length, context = self.config.freeze.latent_length, self.config.context
        beyond = length - context
        starts = window_starts(self.recording, context, beyond, beyond, whole=True)
        torch.manual_seed(self.args.seed)  # of the draws of latents
        rng = np.random.default_rng((self.args.seed, 2))
        totals = {"replay": [0.0, 0.0], "new_play": [0.0, 0.0]}
        for first in range(0, len(starts), WINDOWS):
            some = starts[first : first + WINDOWS]
            places = some[:, :1], some[:, 1:] + np.arange(length)
            batches = {
                "replay": self.replay.sample(len(some), length, rng),
                "new_play": _sequences(self.recording, places),
            }
            for name, batch in batches.items():
                latents = [
                    each.unflatten(0, batch.valid.shape)
                    for each in model.latents(batch.images.flatten(0, 1))
                ]
                _, figures, _ = model.latent_loss(LatentBatch(*latents, *batch[1:]), LossConfig())
                share = len(some) / len(starts)
                totals[name][0] += share * float(figures["dynamics_kl"])
                totals[name][1] += share * float(figures["reward"])
        return {
            f"{name}_{figure}": total
            for name, sums in totals.items()
            for figure, total in zip(("kl", "reward_loss"), sums, strict=True)
        }

    def events(self, model: WorldModel) -> dict[str, Any]:
        """Measure the events that a model's dreams find in the held-out play, and its images."""
        subject = Subject(
            model,
            self.trained.act(),
            self.trained.game,
            Settings(horizon=16, seed=self.args.seed),
            recording=self.recording,
        )
        report = EventReport.measure(subject)
        rewards, endings = report.rewards[0], report.endings[0]
        images = ImageReport.measure(subject)
        errors = images.images["dream"].foreground_error
        return {
            "images_alone": images.latents_error,
            "foreground_error": errors[0],
            "foreground_error_16": errors[-1],
            "reward_f1": rewards.f1,
            "reward_f1_interval": rewards.f1_interval,
            "rewards": rewards.real,
            "chance": rewards.chance_f1,
            "ending_f1": endings.f1,
            "endings": endings.real,
            **self.surprise(model),
        }

    def train_agent(
        self, model: WorldModel, store: LatentStore, growing: HorizonConfig | None = None
    ) -> tuple[ActorCritic, float]:
        """Train an agent from nothing in a model's dreams.

        Args:
            model: The world model.
            store: Latents of its image model; dreams start after them.
            growing: Steps of dreams, by the number of updates before; None: args.horizon.

        Returns:
            The agent, and its points in 1000 steps of the last tenth of its dreams.
        """
        args = self.args
        torch.manual_seed(args.seed)
        agent = self._agent(model.config.feature_dim, model.config.num_actions)
        points: list[float] = []
        for update in range(args.agent_updates):
            windows = self.replay.draw_whole(args.dreams, self.config.context + 1, self.rng)
            batch = store.read(windows)
            start = model.warm_up(batch.log_probs.argmax(-1), batch.actions[:, :-1])
            rollout = imagine(model, agent, start, growing.at(update) if growing else args.horizon)
            agent.update(rollout)
            points.append(1000.0 * float(rollout.rewards.mean()))
        last = points[-max(1, len(points) // 10) :]
        return agent, sum(last) / len(last)

    def score(self, model: WorldModel, agent: ActorCritic, protocol: str) -> tuple[float, ...]:
        """Return the agent's scores of whole games under a protocol."""
        args = self.args
        policy = FilteredPolicy(
            model, lambda features, generator: agent.act(features, generator=generator)
        )
        return evaluate_policy(
            policy,
            self.trained.game,
            episodes=args.games,
            num_envs=min(args.games, 4),
            seed=args.seed + 3000,
            play=find_protocol(protocol),
        ).scores

    def agent_score(self, model: WorldModel) -> dict[str, Any]:
        """Train an agent from nothing in a model's dreams, and let it play the game."""
        with tempfile.TemporaryDirectory(prefix="glam_limits_") as folder:
            agent, points = self.train_agent(model, self.latents(model, Path(folder)))
        scores = self.score(model, agent, self.args.protocol)
        return {
            "score": sum(scores) / len(scores),
            "scores": list(scores),
            "points_in_1000_dream_steps": points,
        }

    def row(self, name: str) -> dict[str, Any]:
        """Measure the named row."""
        if name == "agent":
            return self.agent_score(self.trained.world_model)
        own = self.config
        kind, _, which = name.partition(" ")
        if kind in ("soft", "sharp"):
            self.config = replace(own, model=replace(own.model, sharp_prior=kind == "sharp"))
        elif kind == "size":
            width, hidden = map(int, which.split())
            sizes = {"width": width, "embed_hidden": hidden, "prior_hidden": hidden}
            self.config = replace(own, model=replace(own.model, **sizes))
        elif kind == "core":
            preset = "small" if which == "glam" else f"small-{which.replace('_', '-')}"
            self.config = replace(own, model=replace(own.model, core=PRESETS[preset].model.core))
        else:
            return self.events(self.world_model(name))
        model = self.world_model("sequence model")
        self.config = own
        return self.events(model) | self.agent_score(model)


def _sequences(recording: Recording, places: tuple[np.ndarray, np.ndarray]) -> SequenceBatch:
    fields = ("frames", "actions", "rewards", "life_lost")
    parts = [torch.from_numpy(getattr(recording, name)[places]) for name in fields]
    return SequenceBatch(*parts, valid=torch.ones(parts[1].shape, dtype=torch.bool))


def _linked(replay: Replay, folder: Path) -> Replay:
    """Open a replay in another folder, so that new files of it lie there."""
    for file in replay.folder.glob("*.npy"):
        (folder / file.name).symlink_to(file.resolve())
    linked = Replay(folder, replay.streams, replay.capacity, replay.ring - replay.capacity)
    linked.load_state(replay.state())
    return linked


def main() -> None:
    """Measure, print and write the rows."""
    args = tyro.cli(Args, description=__doc__)
    torch.set_num_threads(args.threads)
    study = Study(args)
    rows = []
    for name in args.rows:
        begin = time.process_time()
        row = {
            "young": name,
            **study.row(name),
            "cpu_seconds": round(time.process_time() - begin, 1),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.to is not None:
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        hardware = describe_hardware(torch.device("cpu"))
        document = {"settings": plain, "hardware": hardware, "rows": rows}
        args.to.parent.mkdir(parents=True, exist_ok=True)
        args.to.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
