"""Play of the real games of a run: the agent's or random actions, into the replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from glam_env.device import upload
from glam_env.envs.atari.emulator import Emulator, EmulatorState, Episode
from glam_env.envs.latent_filter import LatentFilter
from glam_env.training.config import TrainConfig
from glam_env.training.exploration import Exploration
from glam_env.training.learner import Learner
from glam_env.training.new_play import NewPlay
from glam_env.training.replay import Replay


class Collector:
    """Steps the games of a run and adds the steps to its replay.

    Args:
        config: Settings of the run.
        learner: Its agent plays, on the features of its world model.
        replay: Takes the steps.
        rng: For random actions; the run's, which a resumed run restores.

    Attributes:
        emulator: The games.
        filter: Follows their frames for the agent.
        exploration: Draws the random actions.
        new_play: Compares what the world model expects with what follows.
    """

    def __init__(
        self, config: TrainConfig, learner: Learner, replay: Replay, rng: np.random.Generator
    ) -> None:
        self._learner, self._replay, self._rng = learner, replay, rng
        game, self._num_envs = learner.game, config.num_envs
        self.exploration = Exploration(
            config.exploration, config.num_envs, game.num_actions, config.exploration_hold
        )
        chances = self.exploration.chances
        self._scored = chances == chances.min()  # the envs whose returns show how the agent plays
        self.emulator = Emulator(
            game.name, config.num_envs, seed=config.seed, **config.play.emulator
        )
        self.filter = LatentFilter(learner.world_model, config.num_envs)
        self.new_play = NewPlay(self.filter)

    def reset(self) -> None:
        """Begin the first episodes; of a resumed run :meth:`load_state` takes its place."""
        self._frames = self.emulator.reset()
        self._first = np.ones(self._num_envs, bool)

    def step(self, *, random: bool) -> list[Episode]:
        """Step every game once and add the steps to the replay.

        Args:
            random: Play at random instead of by the agent.

        Returns:
            The episodes that ended, of the envs with the fewest random actions.
        """
        actions = self._random_actions() if random else self._agent_actions()
        step = self.emulator.step(actions)
        if not random:
            self.new_play.earn(step.reward)
        self._replay.add(
            self._frames, actions, step.reward, step.life_lost, step.terminated, step.truncated
        )
        self._frames, self._first = step.frames, step.terminated | step.truncated
        return [episode for episode in step.finished if random or self._scored[episode.env]]

    def forget(self) -> None:
        """Let the filter start where the games are, as if their episodes began here."""
        self._first[:] = True

    def _random_actions(self) -> np.ndarray:
        actions, _ = self.exploration.draw(self._rng, always=True)
        return actions

    def _agent_actions(self) -> np.ndarray:
        """The agent's actions, and random ones at the rates of exploration."""
        learner = self._learner
        with learner.autocast():
            features = self.filter.see(self._frames, self._first)
            self.new_play.see(self._first)
            choice = learner.agent.act(features)
            if self.exploration.chances.any():
                drawn = self.exploration.draw(self._rng)
                others, explored = (upload(array, learner.device) for array in drawn)
                choice = torch.where(explored, others, choice)
            self.filter.act(choice)
        return choice.cpu().numpy()

    def state(self) -> dict[str, Any]:
        """Return what a run's checkpoint stores."""
        emulator = vars(self.emulator.state()).items()
        return {
            "emulator": {name: torch.from_numpy(value) for name, value in emulator},
            "exploration": self.exploration.state(),
            "frames_first": torch.from_numpy(self._first),
            "filter": self.filter.memory(),
            "new_play": self.new_play.memory(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Load a :meth:`state`, or a checkpoint that holds its entries."""
        emulator = {name: value.cpu().numpy() for name, value in state["emulator"].items()}
        self._frames = self.emulator.restore(EmulatorState(**emulator))
        self._first = state["frames_first"].cpu().numpy()
        self.exploration.load_state(state["exploration"])
        self.filter.load_memory(state["filter"])
        self.new_play.load_memory(state["new_play"])

    def close(self) -> None:
        """Stop the emulator."""
        self.emulator.close()
