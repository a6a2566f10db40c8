"""Rallies: what becomes of Pong's ball at the agent's paddle, in the game and in dreams.

    python benchmarks/rallies.py Pong runs/Pong --threads 1 --to rallies.json

Moments of the agent's own play are played on in three worlds: the game; dreams along the actions
that it took there; and its own dreams, in which it acts on what it dreams. Ball and paddles are
found in the frames by `glam_env.evaluation.measures.pong`. A ball that comes to the agent's paddle
is lost, returned or vanishes. If a model's errors had nothing to do with the agent, its own dreams
would lose as many balls as the game does.

Then each ball of the game that reaches the paddle is dreamed on along the actions that were taken,
from its last frame before the paddle and from 4 and 8 steps earlier: does the dream return what the
game returned, show what passes, and pay for it?
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
from glam_env.evaluation.play.recording import Recording, record_play, window_starts
from glam_env.fast.choose import make_stepper
from glam_env.model.world_model import WorldModel
from glam_env.protocols import find_protocol

NEAR, GONE_BACK = 48, 45  # columns: a ball comes to the paddle, and has been returned
WATCHED = 10  # steps in which that is decided
FIELD, PADDLE = 49, 57  # columns: where a ball is watched, and where it has passed the paddle
LEADS = (0, 4, 8)  # steps before the paddle from which dreams go on
UNSEEN = 4  # steps of these without a ball, after which it has vanished
BATCH = 256
FATES = ("returned", "passes", "paid")


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


def find_contacts(
    columns: np.ndarray, rewards: np.ndarray, ended: np.ndarray, before: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the balls that reach the agent's paddle in recorded play.

    Args:
        columns: (S, N) of the ball before each step; NaN without a ball.
        rewards: (S, N).
        ended: (S, N) bool, the steps that end an episode.
        before: Steps of the same episode that must lie before.

    Returns:
        (B, 2) int64, env and step of the last frame that shows the ball before the paddle, and (B)
        bool, whether it was lost. A ball that is neither lost nor seen to return is left out.
    """
    found, lost = [], []
    for env, (column, reward, end) in enumerate(zip(columns, rewards, ended, strict=True)):
        coming = np.zeros(len(column), bool)
        coming[1:] = (column[:-1] < column[1:]) & (column[1:] >= FIELD) & (column[1:] < PADDLE)
        for t in range(before, len(column) - WATCHED):
            if not coming[t] or coming[t + 1] or end[t - before : t + WATCHED].any():
                continue
            gone = bool((reward[t : t + WATCHED] < -0.5).any())
            if gone or (column[t + 1 : t + WATCHED] < GONE_BACK).any():
                found.append((env, t))
                lost.append(gone)
    return np.array(found, np.int64).reshape(-1, 2), np.array(lost, bool)


def fates(columns: np.ndarray, rewards: np.ndarray) -> dict[str, float]:
    """Return what becomes of balls after their last frame before the paddle.

    Args:
        columns: (B, WATCHED - 1) of the balls after each of the next steps; NaN without a ball.
        rewards: (B, WATCHED - 1) of these steps.

    Returns:
        The shares that are returned and that are seen to pass the paddle, and the points paid.
    """
    paid = rewards.sum(1)
    unpaid = (rewards >= -0.5).all(1)
    return {
        "returned": float(((columns < GONE_BACK).any(1) & unpaid).mean()),
        "passes": float((columns >= PADDLE).any(1).mean()),
        "paid": float(paid.mean()),
    }


@torch.no_grad()
def measure_contacts(
    world_model: WorldModel, recording: Recording, args: Args
) -> list[dict[str, Any]]:
    """Return :func:`fates` of the balls of recorded play, in the game and dreamed on.

    Args:
        world_model: In evaluation mode.
        recording: Play of Pong.
        args: The seed, and how many dreams go on from each moment.

    Returns:
        A row for each share of the balls, those that the game returned and those that it lost, and
        for each world.
    """
    context, after = CONTEXT_LENGTH, WATCHED - 1
    columns = find_balls(recording.frames)
    balls, lost = find_contacts(
        columns[:, : recording.rewards.shape[1]],
        recording.rewards,
        recording.ended,
        context + max(LEADS),
    )
    if not len(balls):
        return []
    env, step = balls[:, :1], balls[:, 1:]
    each = torch.arange(len(balls)).repeat_interleave(args.dreams)
    generator, stepper = torch.Generator().manual_seed(args.seed), make_stepper(world_model)
    shown = {"game": columns[env, step + np.arange(1, WATCHED)]}
    paid = {"game": recording.rewards[env, step + np.arange(after)]}
    for lead in LEADS:
        starts = np.concatenate([env, step - lead - context], 1)
        contexts = take_contexts(world_model, recording, starts, context, args.seed)
        state = world_model.warm_up(contexts.codes.long(), contexts.actions.long()).rows(each)
        span = step - lead + np.arange(lead + after)
        actions = torch.from_numpy(recording.actions[env, span])[each]
        codes, rewards = [], []
        for t in range(lead + after):
            draw = torch.rand(state.code.shape, generator=generator)
            prediction = stepper.step(state, actions[:, t], draw)
            state = prediction.state
            if t >= lead:
                codes.append(state.code)
                rewards.append(prediction.reward)
        world = f"dreamed on {lead} steps before" if lead else "dreamed on from there"
        shown[world] = find_drawn_balls(world_model, torch.stack(codes, 1))
        paid[world] = torch.stack(rewards, 1).numpy()
    rows: list[dict[str, Any]] = []
    for name, group in (("returned", ~lost), ("lost", lost)):
        for world, seen in shown.items():
            some = group if world == "game" else group[each.numpy()]
            if some.any():
                figures = fates(seen[some], paid[world][some])
                rows.append({"game": name, "balls": int(group.sum()), "world": world, **figures})
    return rows


def find_drawn_balls(world_model: WorldModel, codes: Tensor) -> np.ndarray:
    """Return the ball's columns (N, T) in the frames drawn from (N, T, K) codes."""
    parts = [
        find_balls(draw_frames(world_model, part.flatten(0, 1)).numpy()[None])
        for part in codes.split(1 + BATCH // codes.shape[1])
    ]
    return np.concatenate(parts, 1).reshape(codes.shape[:2])


@torch.no_grad()
def measure(trained: Trained, recording: Recording, args: Args) -> dict[str, dict[str, float]]:
    """Return the figures of :func:`count` in the three worlds."""
    world_model, act, context = trained.world_model, trained.act(), CONTEXT_LENGTH
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
        columns = find_drawn_balls(world_model, torch.stack(drawn, 1))
        return count(columns, torch.stack(earned, 1).numpy())

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
            trained.world_model.eval()
            recording = record_play(
                trained.policy(),
                trained.game,
                steps=args.steps,
                num_envs=args.num_envs,
                seed=args.seed,
                play=find_protocol(args.protocol),
                num_threads=torch.get_num_threads(),
            )
            worlds = measure(trained, recording, args)
            contacts = measure_contacts(trained.world_model, recording, args)
            rows.append({"name": name, "worlds": worlds, "contacts": contacts})
            print(f"{name}\n{'':26}" + "".join(f"{key:>13}" for key in rows[-1]["worlds"]["game"]))
            for world, figures in rows[-1]["worlds"].items():
                print(f"{world:26}" + "".join(f"{each:13.2f}" for each in figures.values()))
            for contact in contacts:
                figures = "".join(f", {key} {contact[key]:.2f}" for key in FATES)
                print(f"{contact['balls']} balls {contact['game']}, {contact['world']}{figures}")
        if args.to is not None:
            settings = {key: value for key, value in asdict(args).items() if key != "to"}
            args.to.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    except GlamError as error:
        print(f"rallies: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
