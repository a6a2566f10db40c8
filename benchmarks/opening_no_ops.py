"""Does the number of no-ops that open a game decide how well an agent plays it?

    python benchmarks/opening_no_ops.py runs/a/report.json runs/b/report.json --to no_ops.json

A game moves on by four frames at a time, so whether it opens with an even or an odd number of no-op
frames decides which of two series of frames it shows, to its end. Agents that were scored with the
same seed opened the same games alike: their scores are grouped by that number, which is found by
opening the games once more. With ``--play Pong``, games of the checkpoint's own agent say how well
its world model expects each kind: KL(posterior ‖ prior) in nats a step, and its standard error over
games.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from glam_env.cli.trained import load_trained
from glam_env.envs.atari.emulator import Emulator
from glam_env.envs.latent_filter import LatentFilter
from glam_env.errors import GlamError
from glam_env.evaluation.play.scores import EVALUATION, seed_apart
from glam_env.files import read_json
from glam_env.model.distributions import categorical_kl
from glam_env.protocols import PROTOCOLS

KINDS, SKIPPED = ("even", "odd"), 40  # steps before the prior knows what it sees


@dataclass
class Args:
    """Group the scores of reports by the no-ops that opened each game.

    Attributes:
        reports: Files of `glam sb3` (`report.json`) or of `glam eval --json`.
        play: Checkpoint whose world model and agent play. Nothing is played by default.
        games: Games that it plays side by side, with random openings.
        steps: Agent steps of each.
        seed: Of that play.
        to: A JSON file for the figures.
    """

    reports: tyro.conf.Positional[tuple[Path, ...]] = ()
    play: str = ""
    games: int = 24
    steps: int = 400
    seed: int = 0
    to: Path | None = None


class Openings:
    """Real games that know with how many no-ops they opened.

    Args:
        game: Its name.
        num_envs: Games side by side.
        seed: Of the evaluation.
    """

    def __init__(self, game: str, num_envs: int, seed: int) -> None:
        self.emulator = Emulator(
            game,
            num_envs,
            seed=seed_apart(EVALUATION, seed),
            **PROTOCOLS["atari100k"].emulator,
            num_threads=1,
        )
        self.num_actions = self.emulator.game.num_actions
        self._envs, self.emulator._envs = self.emulator._envs, self  # type: ignore[assignment]
        self.frame_numbers = np.zeros(num_envs, np.int64)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._envs, name)

    def step(self, actions: np.ndarray) -> Any:
        """Step ale-py's envs, and keep the numbers of the frames since each game's start."""
        result = self._envs.step(actions)
        self.frame_numbers = np.array(result[4]["episode_frame_number"])
        return result


def find_no_ops(game: str, num_envs: int, seed: int, episodes: int) -> list[int]:
    """Return the no-ops of the games of an evaluation, sorted by env and then by time."""
    openings, rng = Openings(game, num_envs, seed), np.random.default_rng(seed)
    counts: list[list[int]] = [[] for _ in range(num_envs)]
    share, rest = divmod(episodes, num_envs)
    due = [share + (env < rest) for env in range(num_envs)]
    with closing(openings.emulator) as emulator:
        emulator.reset()
        new = set(range(num_envs))
        while any(len(count) < needed for count, needed in zip(counts, due, strict=True)):
            step = emulator.step(rng.integers(openings.num_actions, size=num_envs))
            for env in new:
                counts[env].append(int(openings.frame_numbers[env]) - 4)
            new = {episode.env for episode in step.finished}
    return [count for own, needed in zip(counts, due, strict=True) for count in own[:needed]]


def split(values: np.ndarray, no_ops: np.ndarray) -> dict[str, dict[str, float]]:
    """Return mean, standard error and number of the values of games of each kind."""
    found = {}
    for kind, name in enumerate(KINDS):
        own = values[no_ops % 2 == kind]
        error = float(own.std(ddof=1) / len(own) ** 0.5) if len(own) > 1 else None
        mean = float(own.mean()) if len(own) else None
        found[name] = {"games": len(own), "mean": mean, "standard_error": error}
    return found


@torch.no_grad()
def expected_play(args: Args) -> dict[str, dict[str, float]]:
    """Let an agent play, and compare its world model's priors with what it then sees."""
    trained = load_trained(args.play, "cpu")
    openings = Openings(trained.game, args.games, args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    model = trained.world_model
    filtered, divergences = LatentFilter(model, args.games, generator), []
    no_ops, prior = np.zeros(args.games, np.int64), None
    with closing(openings.emulator) as emulator:
        frames, first = emulator.reset(), np.ones(args.games, bool)
        for t in range(args.steps):
            features = filtered.see(frames, first)
            if prior is not None and t > SKIPPED:
                seen = model.prior_target(filtered.posterior)
                divergences.append(categorical_kl(seen, prior).numpy())
            actions = trained.agent.act(features, generator=generator)
            filtered.act(actions)
            prior = model.prior_log_probs(filtered.state.h)
            step = emulator.step(actions.numpy())
            frames, first = step.frames, step.terminated | step.truncated
            if t == 0:
                no_ops = openings.frame_numbers - 4
            if first.any():
                raise GlamError(f"a game ended at step {t}; choose fewer --steps")
    return split(np.mean(divergences, 0), no_ops)


def main(args: Args) -> int:
    """Read, group, print and store; return the exit code."""
    rows: list[dict[str, Any]] = []
    opened: dict[tuple[Any, ...], np.ndarray] = {}
    for path in args.reports:
        report = read_json(path, "give a report.json of glam sb3, or what glam eval --json prints")
        real = report.get("real", report)
        key = (real["game"], real["num_envs"], real["seed"], len(real["scores"]))
        if real["repeat_action_probability"] or real["noop_max"] != 30:
            raise GlamError(f"{path} was not played under atari100k")
        if key not in opened:
            opened[key] = np.array(find_no_ops(*key))
        scores = split(np.array(real["scores"]), opened[key])
        rows.append({"report": path.parent.name or path.stem, "scores": scores})
        print(rows[-1])
    figures: dict[str, Any] = {"settings": {"play": args.play, "seed": args.seed}, "rows": rows}
    if args.play:
        figures["settings"] |= {"games": args.games, "steps": args.steps}
        figures["kl"] = expected_play(args)
        print(figures["kl"])
    if args.to is not None:
        args.to.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Args)))
    except GlamError as error:
        sys.exit(f"opening_no_ops: {error}")
