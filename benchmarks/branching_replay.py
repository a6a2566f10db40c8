"""Branching exploration: does a replay of it teach what actions do?

    python benchmarks/branching_replay.py Pong --to benchmarks/results/branching_replay.json

The agent of a checkpoint plays under sticky actions, with the random actions of the preset `small`,
until the replay has a number of real steps. There are two replays:

- `held`: as a training plays.
- `branching`: half of the games, those with the most random actions, go back. A game plays on for
  `scene` steps. From there it holds a random action for 4 to 16 steps and plays on to the end of
  another scene; goes back to the moment and does the same with another action, `branches` times in
  all; then goes back a last time and plays on. The replay gets the steps of each scene, after the
  `lead` steps before it, which cost no step of the game.

On each replay a sequence model learns from nothing beside the checkpoint's image model. Both are
measured on the same new play: the KL from prior to posterior and the loss of rewards; the F1 of
rewards to step 16; and what each action brings from moments of it, in the game and in dreams.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from limits import Args as LimitsArgs
from limits import Study

from glam_env.cli.trained import Trained, load_trained
from glam_env.envs.atari.rewind import RewindableGame, SavedGame
from glam_env.envs.latent_filter import LatentFilter
from glam_env.evaluation.measures.action_effects import (
    Moments,
    compare_returns,
    dream_branches,
    play_moments,
)
from glam_env.evaluation.measures.base import PLAYERS
from glam_env.games import find_game
from glam_env.protocols import PlaySettings, find_protocol
from glam_env.training.exploration import Exploration
from glam_env.training.export import describe_hardware
from glam_env.training.presets import PRESETS
from glam_env.training.replay import Replay

REPLAYS = ("held", "branching")
HORIZON, FUTURES = 16, 8  # of the dreams in which actions are held
LEAST_HELD, MOST_HELD = 4, 16
FIGURES = ("decided", "pairs", "right", "explained", "regret")


@dataclass
class Args:
    """Compare two replays of as many real steps.

    Attributes:
        game: Name of the game.
        checkpoint: Name or folder of a checkpoint; empty: the game's.
        real_steps: Steps of the game in each replay.
        num_envs: Games side by side.
        branches: Actions that are held from a moment.
        scene: Steps from a moment to the next one.
        lead: Steps before a moment that the replay holds again.
        sequence_updates: Of each sequence model.
        steps: Steps of new play, shared by its players.
        branch_steps: Steps of it at moments of which each action is tried.
        seeds: Of the sequence models; the play is the same for all.
        threads: Threads.
        to: A JSON file for the figures.
    """

    game: tyro.conf.Positional[str]
    checkpoint: str = ""
    real_steps: int = 100_000
    num_envs: int = 8
    branches: int = 3
    scene: int = 32
    lead: int = 12
    sequence_updates: int = 8000
    steps: int = 8000
    branch_steps: int = 8000
    seeds: tuple[int, ...] = (0, 1)
    threads: int = 1
    to: Path | None = None


class Row(NamedTuple):
    """A step as the replay takes it."""

    frame: np.ndarray
    action: int
    reward: float
    life_lost: bool
    terminated: bool
    truncated: bool


@dataclass
class Stream:
    """A game that plays on, or goes back and plays on differently.

    Attributes:
        game: The game.
        rng: Of its episodes, and of the actions that are held.
        args: `branches` (0: it plays on), `scene` and `lead`.
        frame: The current frame.
        first: Whether the frame begins an episode, or the steps before a moment.
        real_steps: Steps of the game so far.
    """

    game: RewindableGame
    rng: np.random.Generator
    args: Args
    branching: bool
    first: bool = True
    real_steps: int = 0
    past: deque[Row] = field(default_factory=deque)
    repeated: deque[Row] = field(default_factory=deque)  # steps before a moment, still to come
    moment: SavedGame | None = None
    before: tuple[Row, ...] = ()  # steps before the moment
    untried: list[int] = field(default_factory=list)
    held: int = 0
    hold: int = 0  # steps for which it is still held
    left: int = 0  # steps of the scene

    def __post_init__(self) -> None:
        self.past = deque(maxlen=self.args.lead)
        self._begin()

    def step(self, action: int) -> Row:
        """Take a step with an action, or with that of the scene, and return it."""
        self.first = False
        if self.repeated:
            row = self.repeated.popleft()
            self.frame = self.repeated[0].frame if self.repeated else self.game.frame()
            return row
        if self.hold:
            action, self.hold = self.held, self.hold - 1
        row = Row(self.frame, action, *self.game.step(action))
        self.real_steps += 1
        self.past.append(row)
        self.frame = self.game.frame()
        self.left -= 1
        over = row.terminated or row.truncated
        if self.branching and self.moment is not None and (over or self.left == 0):
            self._go_back()
            return row if over else row._replace(truncated=True)
        if over:
            self._begin()
        elif self.branching and self.left == 0:
            self.moment, self.before = self.game.save(), tuple(self.past)
            actions = self.rng.permutation(find_game(self.args.game).num_actions)
            self.untried = actions[: self.args.branches].tolist()
            self._hold_next()
        return row

    def _begin(self) -> None:
        self.frame, self.first = self.game.reset(int(self.rng.integers(2**31))), True
        self.past.clear()
        self.left = self.args.scene

    def _go_back(self) -> None:
        """Return to the moment, for the next action or to play on."""
        assert self.moment is not None
        self.game.restore(self.moment, seed=int(self.rng.integers(2**31)))
        self.repeated.extend(self.before)
        self.past.clear()
        self.past.extend(self.before)
        self.frame = self.before[0].frame
        self.first, self.hold, self.left = True, 0, self.args.scene
        if self.untried:
            self._hold_next()
        else:
            self.moment = None

    def _hold_next(self) -> None:
        self.held, self.left = self.untried.pop(), self.args.scene
        self.hold = int(self.rng.integers(LEAST_HELD, MOST_HELD + 1))


def play(args: Args, trained: Trained, folder: Path, *, branching: bool) -> Replay:
    """Play into a replay until it has the real steps."""
    settings = find_protocol("published")
    small, num_actions = PRESETS["small"], find_game(args.game).num_actions
    hold = small.exploration_hold
    exploration = Exploration(small.exploration, args.num_envs, num_actions, hold)
    most = np.argsort(-exploration.chances, kind="stable")[: args.num_envs // 2]
    streams = [
        Stream(_game(args.game, settings), np.random.default_rng((1, env)), args, back)
        for env, back in enumerate(branching & np.isin(np.arange(args.num_envs), most))
    ]
    rng, generator = np.random.default_rng(2), torch.Generator().manual_seed(2)
    seen, act = LatentFilter(trained.world_model, args.num_envs, generator), trained.act()
    replay = Replay(folder, args.num_envs, 2 * args.real_steps // args.num_envs)
    while sum(stream.real_steps for stream in streams) < args.real_steps:
        first = np.array([stream.first for stream in streams])
        features = seen.see(np.stack([stream.frame for stream in streams]), first)
        choice = act(features, generator).numpy()
        drawn, explored = exploration.draw(rng)
        choice = np.where(explored, drawn, choice)
        rows = [stream.step(int(a)) for stream, a in zip(streams, choice, strict=True)]
        frames, actions, *rest = map(np.array, zip(*rows, strict=True))
        seen.act(torch.from_numpy(actions.astype(np.int64)))
        replay.add(frames, actions, *rest)
    return replay


def _game(name: str, settings: PlaySettings) -> RewindableGame:
    return RewindableGame(find_game(name), settings)


def measure(study: Study, moments: Moments, updates: int) -> dict[str, Any]:
    """Train a sequence model on a study's replay, and measure its dreams."""
    begin = time.process_time()
    study.rng = np.random.default_rng(study.args.seed)
    learner = study.learner()
    study.take_images(learner.world_model)
    study.train_sequences(learner, updates)
    model = learner.world_model.eval()
    figures = {name: [] for name in FIGURES}
    for draw in (1, 2):
        found = compare_returns(
            moments.returns, dream_branches(model, moments, HORIZON, FUTURES, draw)
        )
        for name, values in figures.items():
            values.append(found[name])
        interval = found["explained_interval"]
    return {
        "moments": len(moments.frames),
        **{
            name: values if isinstance(values[0], float) else values[0]
            for name, values in figures.items()
        },
        "explained_interval": interval,
        **study.events(model),
        "cpu_seconds": round(time.process_time() - begin, 1),
    }


def main(args: Args) -> None:
    """Play, train, measure; print and write the rows."""
    torch.set_num_threads(args.threads)
    trained = load_trained(args.checkpoint or args.game, "cpu")
    moments = play_moments(
        trained.world_model,
        trained.act(),
        args.game,
        noise=tuple(PLAYERS.values()),
        steps=args.branch_steps,
        horizon=HORIZON,
        seed=3,
        play=find_protocol("published"),
    )
    rows = []
    for name in REPLAYS:
        with tempfile.TemporaryDirectory(prefix="glam_branching_") as folder:
            replay = play(args, trained, Path(folder), branching=name == "branching")
            for seed in args.seeds:
                sizes = LimitsArgs(args.game, Path(folder), seed=seed, steps=args.steps)
                study = Study(sizes, trained, replay)
                rewards = int(np.count_nonzero(replay.rewards))
                row = {
                    "replay": name,
                    "seed": seed,
                    "steps": len(replay),
                    "rewards_in_replay": rewards,
                }
                rows.append(row | measure(study, moments, args.sequence_updates))
                print(json.dumps(rows[-1]), flush=True)
    if args.to is not None:
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        document = {
            "settings": plain,
            "hardware": describe_hardware(torch.device("cpu")),
            "rows": rows,
        }
        args.to.parent.mkdir(parents=True, exist_ok=True)
        args.to.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
