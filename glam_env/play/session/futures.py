"""``Futures``: several dreams of one moment, which differ in their random draws."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
import torch

from glam_env.envs.dream.engine import DreamEngine, EngineDraws, EngineState
from glam_env.model.structures import DreamState, tree_map
from glam_env.play.session.player import Player
from glam_env.play.session.worlds import Past, SavedDream, WorldStep, longer_past


class FutureStep(NamedTuple):
    """A step that all futures have taken.

    It holds the state, draws, frames and pasts before the step, and the actions and outcomes of the
    step. All parts but the draws have one row for each future.
    """

    state: EngineState
    draws: EngineDraws
    frames: np.ndarray
    pasts: tuple[Past, ...]
    actions: tuple[int, ...]
    outcomes: tuple[WorldStep, ...]


class Futures:
    """N dreams of one moment.

    A future that has ended keeps its last frame.

    Args:
        engine: Engine of N dreams, with frames and a seed of its own.
        state: The moment, one row.
        past: The steps before it.
        player: Chooses the actions where none is given.
        most_steps: Steps that are kept, so that a future can be wound back once it is taken.

    Attributes:
        frames: (N, 64, 64, 3) uint8, the current frames.
        ended: (N) bool, futures that have ended.
        points: (N) points since the moment.
        steps: The last steps taken, at most ``most_steps``.
    """

    def __init__(
        self, engine: DreamEngine, state: DreamState, past: Past, player: Player, most_steps: int
    ) -> None:
        self._engine, self._player = engine, player
        count, device = engine.num_envs, engine.device
        same = torch.zeros(count, dtype=torch.int64, device=device)
        engine.set_state(EngineState(state.rows(same), same))
        self.frames = engine.observe().cpu().numpy()
        self._pasts = [past] * count
        self.ended = np.zeros(count, bool)
        self.points = np.zeros(count)
        self.steps: deque[FutureStep] = deque(maxlen=most_steps)
        player.forget()

    def __len__(self) -> int:
        return len(self.ended)

    def step(self, action: int | None) -> tuple[WorldStep, ...]:
        """Take a step in each future.

        Args:
            action: The action in all futures; None lets the agent choose in each.

        Returns:
            The outcomes. A future that had ended has reward 0 and entropy 0.
        """
        engine = self._engine
        if action is None:
            actions = self._player.act(engine.state, self.frames, self._pasts)
        else:
            self._player.forget()
            actions = [action] * len(self)
        before = engine.get_state(), engine.get_draws(), self.frames, tuple(self._pasts)
        step = engine.step(torch.tensor(actions, device=engine.device))
        shown = engine.observe().cpu().numpy()
        alive = ~self.ended
        reward = np.where(alive, step.reward.cpu().numpy(), 0.0)
        terminated = step.terminated.cpu().numpy() & alive
        ended = terminated | (step.truncated.cpu().numpy() & alive)
        entropy = np.where(alive, step.prior_entropy.cpu().numpy(), 0.0)
        self._pasts = [
            longer_past(past, frame, chosen)
            for past, frame, chosen in zip(self._pasts, self.frames, actions, strict=True)
        ]
        self.frames = np.where(alive[:, None, None, None], shown, self.frames)
        self.points += reward
        self.ended = self.ended | ended
        outcomes = tuple(
            WorldStep(float(points), bool(lost), bool(over), float(nats))
            for points, lost, over, nats in zip(reward, terminated, ended, entropy, strict=True)
        )
        self.steps.append(FutureStep(*before, tuple(actions), outcomes))
        return outcomes

    def state(self, row: int) -> DreamState:
        """Return the state of one future, one row."""
        return _row(self._engine.get_state(), row).dream

    def past(self, row: int) -> Past:
        """Return the steps before the current one of a future."""
        return self._pasts[row]

    def path(self, row: int) -> list[tuple[SavedDream, int, WorldStep]]:
        """Return the steps of one future up to its end: moment, action and outcome."""
        path = []
        for step in self.steps:
            saved = SavedDream(_row(step.state, row), step.draws, step.frames[row], step.pasts[row])
            path.append((saved, step.actions[row], step.outcomes[row]))
            if step.outcomes[row].ended:
                break
        return path


def _row(state: EngineState, row: int) -> EngineState:
    return tree_map(lambda part: part[row : row + 1].clone(), state)
