"""Perfect worlds: the bundled agent learns Pong on the emulator, from the true positions.

    python benchmarks/perfect_pong.py --updates 600 --threads 1 --to perfect_pong.json

It separates the two suspects of a Pong that is learned badly. The agent has the settings, rollouts
and updates of `small`, but every step is the game's, and its features are where ball and paddles
are now and were one step before. What it does not learn here, it cannot learn in dreams in as many
updates; what it learns here and not in dreams, the world model is to blame for.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from ale_py import ALEInterface, LoggerMode, roms
from glam_agents.storm import AGENT_PRESETS, ActorCritic
from torch import Tensor

from glam_env.errors import GlamError
from glam_env.training.imagination import Rollout

BALL_COLUMN, BALL_ROW, AGENT_ROW, OPPONENT_ROW = 49, 54, 51, 50  # bytes of Pong's memory
POSITIONS = (BALL_COLUMN, BALL_ROW, AGENT_ROW, OPPONENT_ROW)
CELL, CELLS = 4, 64  # a position is a one-hot vector of 64 cells of 4
FRAME_SKIP = 4
REPORT = 25  # updates


@dataclass
class Args:
    """Let the bundled agent learn on Pong's emulator from true positions.

    Attributes:
        updates: Updates of the agent.
        games: Games side by side: as many rollouts an update.
        horizon: Steps of a rollout.
        repeat_action_probability: Chance of a sticky action in each frame.
        fall: Share of the updates after which the learning rate falls, to a tenth at the end.
        spread: Random steps at most before the first update, so that games are of any age.
        seed: Of everything.
        threads: CPU threads of PyTorch. By default all cores.
        to: A JSON file for the figures.
    """

    updates: int = 600
    games: int = 128
    horizon: int = 24
    repeat_action_probability: float = 0.25
    fall: float = 0.5
    spread: int = 300
    seed: int = 0
    threads: int | None = None
    to: Path | None = None


class Pong:
    """One game of Pong, by the bytes of its memory.

    Args:
        seed: Of the sticky actions.
        repeat_action_probability: Chance of one in each frame.
    """

    def __init__(self, seed: int, repeat_action_probability: float) -> None:
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.ale = ALEInterface()
        self.ale.setInt("random_seed", seed)
        self.ale.setFloat("repeat_action_probability", repeat_action_probability)
        self.ale.loadROM(roms.get_rom_path("pong"))
        self.actions = self.ale.getMinimalActionSet()
        self._before, self._points = self.positions(), 0.0

    def positions(self) -> np.ndarray:
        """Return column and row of the ball, then the rows of agent and opponent."""
        return self.ale.getRAM()[list(POSITIONS)]

    def seen(self) -> np.ndarray:
        """Return the positions now and one step before, (8) uint8."""
        return np.concatenate([self.positions(), self._before])

    def step(self, action: int) -> tuple[float, float | None]:
        """Play one step; return its reward, and the whole game's points if it ended with it."""
        self._before, reward = self.positions(), 0.0
        for _ in range(FRAME_SKIP):
            reward += self.ale.act(self.actions[action])
            if self.ale.game_over():
                break
        self._points += reward
        if not self.ale.game_over():
            return reward, None
        whole, self._points = self._points, 0.0
        self.ale.reset_game()
        self._before = self.positions()
        return reward, whole


def features(games: list[Pong]) -> Tensor:
    """Return (N, 8·64) float32 one-hot positions."""
    cells = torch.from_numpy(np.stack([game.seen() for game in games])).long() // CELL
    return torch.nn.functional.one_hot(cells, CELLS).flatten(1).float()


def learn(args: Args) -> list[dict[str, Any]]:
    """Train, print a line every ``REPORT`` updates, and return the lines."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    games = [Pong(args.seed + i, args.repeat_action_probability) for i in range(args.games)]
    count = len(games[0].actions)
    for game in games:
        for action in rng.integers(count, size=rng.integers(args.spread + 1)):
            game.step(int(action))
    agent = ActorCritic(AGENT_PRESETS["small"], len(POSITIONS) * 2 * CELLS, count)
    begun, lines, ended = time.monotonic(), [], []
    recent: dict[str, list[float]] = {}
    for update in range(1, args.updates + 1):
        gone = max(0.0, update / args.updates - args.fall) / max(1e-9, 1.0 - args.fall)
        agent.scale_learning_rate(1.0 - 0.9 * gone)
        shown, taken, rewards, ends = [features(games)], [], [], []
        for _ in range(args.horizon):
            actions = agent.act(shown[-1])
            steps = [game.step(int(a)) for game, a in zip(games, actions, strict=True)]
            taken.append(actions)
            rewards.append(torch.tensor([reward for reward, _ in steps]))
            ends.append(torch.tensor([whole is not None for _, whole in steps]))
            ended += [whole for _, whole in steps if whole is not None]
            shown.append(features(games))
        earned = torch.stack(rewards)
        rollout = Rollout(torch.stack(shown), torch.stack(taken), earned, torch.stack(ends))
        figures = {name: float(value) for name, value in agent.update(rollout).items()}
        for name in ("entropy", "value_loss"):
            recent.setdefault(name, []).append(figures[name])
        recent.setdefault("points", []).append(1000.0 * float(earned.mean()))
        if update % REPORT == 0 or update == args.updates:
            line = {name: float(np.mean(values)) for name, values in recent.items()}
            line |= {"update": update, "seconds": round(time.monotonic() - begun)}
            line |= {"games": len(ended), "score": float(np.mean(ended)) if ended else None}
            score = "" if line["score"] is None else f"score {line['score']:6.2f} "
            print(
                f"{update:5} updates | {line['points']:6.2f} points in 1,000 steps | {score}"
                f"({len(ended)} games) | entropy {line['entropy']:.2f}",
                flush=True,
            )
            lines.append(line)
            recent, ended = {}, []
    return lines


def main(args: Args) -> int:
    """Train, and write the figures if a file is named."""
    try:
        if min(args.updates, args.games, args.horizon) < 1 or not 0.0 <= args.fall <= 1.0:
            raise GlamError("updates, games and horizon must be at least 1, fall in [0, 1]")
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        lines = learn(args)
        if args.to is not None:
            settings = {key: value for key, value in asdict(args).items() if key != "to"}
            args.to.write_text(json.dumps({"settings": settings, "rows": lines}, indent=1) + "\n")
    except GlamError as error:
        print(f"perfect_pong: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
