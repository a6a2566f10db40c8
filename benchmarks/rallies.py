"""Rallies: what becomes of Pong's ball at the agent's paddle, in the game and in dreams.

    python benchmarks/rallies.py Pong runs/Pong --threads 1 --to rallies.json

Moments of the agent's own play are played on in three worlds: the game; dreams along the actions
that it took there; and its own dreams, in which it acts on what it dreams. Ball and paddles are
found in the frames by `glam_env.evaluation.measures.pong`. A ball that comes to the agent's paddle
is lost, returned or vanishes. If a model's errors had nothing to do with the agent, its own dreams
would lose as many balls as the game does.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from glam_env.checkpoint.contexts import CONTEXT_LENGTH
from glam_env.cli.trained import Trained, load_trained
from glam_env.envs.dream.pool import draw_frames
from glam_env.errors import GlamError
from glam_env.evaluation.measures.pong import find_pong_objects
from glam_env.evaluation.play.plays import take_contexts
from glam_env.evaluation.play.recording import record_play, window_starts
from glam_env.fast.choose import make_stepper
from glam_env.protocols import find_protocol

NEAR, GONE_BACK = 48, 45  # columns: a ball comes to the paddle, and has been returned
WATCHED = 10  # steps in which that is decided
UNSEEN = 4  # steps of these without a ball, after which it has vanished
BATCH = 256


@dataclass
class Args:
    """Follow Pong's ball in the game and in dreams.

    Attributes:
        names: Names or folders of checkpoints, or runs, of Pong.
        protocol: Of the game.
        steps: Steps of the agent's play.
        num_envs: Games side by side.
        windows: Moments at most.
        horizon: Steps that are played on from each.
        dreams: Dreams from each.
        seed: Of everything.
        threads: CPU threads of PyTorch. By default all cores.
        to: A JSON file for the figures.
    """

    names: tyro.conf.Positional[tuple[str, ...]]
    protocol: str = "published"
    steps: int = 16000
    num_envs: int = 8
    windows: int = 280
    horizon: int = 48
    dreams: int = 3
    seed: int = 0
    threads: int | None = None
    to: Path | None = None


def find_balls(frames: np.ndarray) -> np.ndarray:
    """Return the ball's columns (N, T) in (N, T, 64, 64, 3) uint8 frames; NaN without a ball."""
    found = find_pong_objects(frames.reshape(-1, *frames.shape[2:]))["ball"]
    return found[:, 1].reshape(frames.shape[:2])


def count(columns: np.ndarray, rewards: np.ndarray) -> dict[str, float]:
    """Follow each ball that comes to the agent's paddle.

    Args:
        columns: (N, T + 1), of the ball before each step and after the last; NaN without a ball.
        rewards: (N, T) of the steps.

    Returns:
        The share of frames with a ball, balls that come in 1,000 steps, which shares of them are
        lost, returned or vanish, points won and lost in 1,000 steps, and the points that the steps
        at the paddle pay for a ball that vanishes (in the game one that leaves the screen costs 1).
    """
    paid: list[float] = []
    fates = {"lost": 0, "returned": 0, "vanishes": 0, "undecided": 0}
    last = rewards.shape[1] - WATCHED
    for column, reward in zip(columns, rewards, strict=True):
        free = 1  # a ball is followed once
        for t in range(1, last):
            if t < free or not column[t - 1] < NEAR <= column[t]:
                continue
            free = t + WATCHED // 2
            after = column[t + 1 : t + 1 + WATCHED]
            if (reward[t - 1 : t - 1 + WATCHED] < -0.5).any():
                fates["lost"] += 1
            elif (after < GONE_BACK).any():
                fates["returned"] += 1
            else:
                gone = np.isnan(after).sum() >= UNSEEN
                fates["vanishes" if gone else "undecided"] += 1
                if gone:
                    paid.append(float(reward[t - 1 : t - 1 + WATCHED].sum()))
    balls = sum(fates.values())
    return {
        "seen": float((~np.isnan(columns)).mean()),
        "balls": 1000.0 * balls / max(1, len(rewards) * (last - 1)),
        **{fate: number / max(1, balls) for fate, number in fates.items()},
        "won_points": 1000.0 * float(rewards.clip(0).mean()),
        "lost_points": 1000.0 * float((-rewards).clip(0).mean()),
        "vanish_pays": float(np.mean(paid)) if paid else 0.0,
    }


@torch.no_grad()
def measure(trained: Trained, args: Args) -> dict[str, dict[str, float]]:
    """Return the figures of :func:`count` in the three worlds."""
    world_model, act, context = trained.world_model.eval(), trained.act(), CONTEXT_LENGTH
    recording = record_play(
        trained.policy(),
        trained.game,
        steps=args.steps,
        num_envs=args.num_envs,
        seed=args.seed,
        play=find_protocol(args.protocol),
        num_threads=torch.get_num_threads(),
    )
    starts = window_starts(recording, context, args.horizon, args.horizon, whole=True)
    starts = starts[: args.windows]
    env, first = starts[:, 0], starts[:, 1] + context
    span = env[:, None], first[:, None] + np.arange(args.horizon + 1)
    actions, rewards = (part[span][:, :-1] for part in (recording.actions, recording.rewards))
    contexts = take_contexts(world_model, recording, starts, context, args.seed)
    each = torch.arange(len(starts)).repeat_interleave(args.dreams)
    begun = world_model.warm_up(contexts.codes.long(), contexts.actions.long()).rows(each)
    taken = torch.from_numpy(actions)[each]

    def dream(own: bool) -> dict[str, float]:
        generator, stepper = torch.Generator().manual_seed(args.seed), make_stepper(world_model)
        state, drawn, earned = begun, [begun.code], []
        for t in range(args.horizon):
            action: Tensor = act(world_model.features(state), generator) if own else taken[:, t]
            step = stepper.step(state, action, torch.rand(state.code.shape, generator=generator))
            state = step.state
            drawn.append(state.code)
            earned.append(step.reward)
        shown = torch.stack(drawn, 1)
        columns = [
            find_balls(draw_frames(world_model, part.flatten(0, 1)).numpy()[None])
            for part in shown.split(1 + BATCH // shown.shape[1])
        ]
        return count(
            np.concatenate(columns, 1).reshape(shown.shape[:2]), torch.stack(earned, 1).numpy()
        )

    return {
        "game": count(find_balls(recording.frames[span]), rewards),
        "dreams along its actions": dream(own=False),
        "its own dreams": dream(own=True),
    }


def main(args: Args) -> int:
    """Print a table for each name, and write the figures if a file is named."""
    try:
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        if min(args.windows, args.dreams) < 1 or args.horizon <= WATCHED:
            raise GlamError(f"windows and dreams must be at least 1, horizon above {WATCHED}")
        rows: list[dict[str, Any]] = []
        for name in args.names:
            trained = load_trained(name, "cpu")
            if trained.game != "Pong":
                raise GlamError(f"{name} is of {trained.game}; the ball is Pong's")
            rows.append({"name": name, "worlds": measure(trained, args)})
            print(f"{name}\n{'':26}" + "".join(f"{key:>13}" for key in rows[-1]["worlds"]["game"]))
            for world, figures in rows[-1]["worlds"].items():
                print(f"{world:26}" + "".join(f"{each:13.2f}" for each in figures.values()))
        if args.to is not None:
            settings = {key: value for key, value in asdict(args).items() if key != "to"}
            args.to.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    except GlamError as error:
        print(f"rallies: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
