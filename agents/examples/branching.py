"""Dream every action from one real moment, four futures each, as one picture.

    python agents/examples/branching.py --picture futures.png

Each dream of a batch starts from the same moment, takes an action and holds it. Dreams of the same
action differ, since each draws its own future.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import tyro

import glam_env  # noqa: F401  (registers the ids)
from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.games import find_game

SEARCHED = 256  # moments among which the one to show is chosen
TRIED = 8  # futures of each action, in that search
WON, LOST = (0.1, 0.6, 0.1), (0.85, 0.1, 0.1)
COLORS = 240  # of the picture's palette


@dataclass
class Args:
    """Draw the futures of all actions from one moment.

    Attributes:
        game: the game's name.
        checkpoint: a folder or hf://owner/name (default: the game's shipped one).
        context: number of the moment (default: the one, among some, where the action matters most).
        futures: number of futures of each action.
        steps: steps for which each action is held.
        temperature: of the dreams.
        picture: the PNG file.
        seed: of the dreams.
        device: auto, cpu, cuda, …
    """

    game: str = "Pong"
    checkpoint: str | None = None
    context: int | None = None
    futures: int = 4
    steps: int = 16
    temperature: float = 1.0
    picture: Path = Path("futures.png")
    seed: int = 1
    device: str = "auto"


class Futures(NamedTuple):
    """N futures of each of A actions, grouped by action.

    Attributes:
        moment: (…) the observation that all of them start from.
        seen: (T, A·N, …) observations of T steps.
        returns: (A·N) sums of rewards.
        entropies: (A·N) means of ``prior_entropy``, in nats.
    """

    moment: np.ndarray
    seen: np.ndarray
    returns: np.ndarray
    entropies: np.ndarray


def make(args: Args, num_envs: int, obs_type: str) -> DreamVectorEnv:
    """Make dreams that are not truncated within the steps."""
    envs = gym.make_vec(
        f"GLAMDream-{args.game}-v0",
        num_envs=num_envs,
        checkpoint=args.checkpoint,
        device=args.device,
        obs_type=obs_type,
        temperature=args.temperature,
        max_episode_steps=args.steps + 1,
        autoreset_mode="NEXT_STEP",
    )
    assert isinstance(envs, DreamVectorEnv)
    return envs


def branch(trunk: DreamVectorEnv, envs: DreamVectorEnv, context: int, args: Args) -> Futures:
    """Dream from a real moment, in as many ways as ``envs`` has dreams."""
    moment, _ = trunk.reset(options={"context": context})
    snapshot = trunk.get_state()  # works at any time, not only at a start
    envs.reset(seed=args.seed)  # determines the draws of the branches
    envs.set_state(snapshot.rows([0] * envs.num_envs))

    num_actions = trunk.single_action_space.n
    actions = np.repeat(np.arange(num_actions), envs.num_envs // num_actions)
    seen, rewards, entropies = [], [], []
    alive = np.ones(envs.num_envs, bool)
    for _ in range(args.steps):
        now, reward, terminated, _, info = envs.step(actions)
        if not alive.all():  # the others have ended: keep their last frame
            now[~alive] = seen[-1][~alive]
        seen.append(now)
        rewards.append(np.where(alive, reward, 0.0))
        entropies.append(np.where(alive, info["prior_entropy"], np.nan))
        alive &= ~terminated
    return Futures(moment[0], np.stack(seen), np.sum(rewards, 0), np.nanmean(entropies, 0))


def find_moment(args: Args, num_actions: int) -> int:
    """Find the moment, among some, at which the action matters most.

    At this moment, the returns differ much between the actions, and little between the futures of
    one action.
    """
    trunk, envs = make(args, 1, "latent"), make(args, num_actions * TRIED, "latent")
    count = trunk.num_contexts
    contexts = np.unique(np.linspace(0, count - 1, min(SEARCHED, count)).astype(int))
    returns = [branch(trunk, envs, int(context), args).returns for context in contexts]
    trunk.close()
    envs.close()
    tried = np.stack(returns).reshape(len(contexts), num_actions, TRIED)
    effect = tried.mean(2).std(1) - tried.std(2).mean(1)
    return int(contexts[effect.argmax()])


def trails(frames: np.ndarray) -> np.ndarray:
    """Draw the last frame of each future over fainter earlier motion.

    Args:
        frames: (T, N, H, W, 3).

    Returns:
        (N, H, W, 3) uint8.
    """
    still = np.median(frames.reshape(-1, *frames.shape[2:]), 0)
    weights = np.linspace(0.4, 0.8, len(frames))
    weights[-1] = 1.0
    moved = weights[:, None, None, None, None] * (frames - still)
    strongest = np.abs(moved).max(-1, keepdims=True).argmax(0)[None]
    moved = np.take_along_axis(moved, strongest, 0)[0]
    return (still + moved).clip(0, 255).astype(np.uint8)


def draw(args: Args, context: int, found: Futures, names: tuple[str, ...]) -> None:
    """Write the picture.

    It shows the moment, then a column for each action and a row for each future.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    size = (1.5 * len(names) + 2.5, 1.75 * args.futures + 0.6)
    figure = Figure(figsize=size, dpi=100)
    across = {"left": 0.012, "right": 0.992, "top": 1 - 0.85 / size[1], "bottom": 0.28 / size[1]}
    grid = figure.add_gridspec(
        args.futures, len(names) + 1, **across, width_ratios=[1.6] + [1] * len(names), wspace=0.05
    )
    figure.text(
        0.012,
        1 - 0.36 / size[1],
        f"{args.game}: {args.futures} dreamed futures of each action, held for {args.steps} steps",
        fontsize=14,
    )
    axes = figure.add_subplot(grid[: min(2, args.futures), 0])
    axes.imshow(found.moment, interpolation="nearest")
    axes.set_title(f"one real moment ({context})", fontsize=11)
    axes.set_anchor("N")
    axes.set_axis_off()
    legend = [
        ("each future: its last frame,", "black"),
        ("over fainter ones of the steps before", "black"),
        ("a point lost", LOST),
        ("a point won", WON),
        ("below: sum of rewards,", "black"),
        ("mean prior entropy in nats", "black"),
    ]
    for line, (text, color) in enumerate(legend):
        figure.text(0.014, 1 - (3.45 + 0.2 * line) / size[1], text, fontsize=8.5, color=color)
    for row, picture in enumerate(trails(found.seen)):
        action, future = divmod(row, args.futures)
        axes = figure.add_subplot(grid[future, action + 1])
        axes.imshow(picture, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        if future == 0:
            axes.set_title(names[action], fontsize=11)
        points = round(float(found.returns[row]))
        color = "black" if points == 0 else WON if points > 0 else LOST
        for side in axes.spines.values():
            side.set(color=color, linewidth=0.5 if points == 0 else 3.5)
        sums = round(float(found.returns[row]), 1) + 0.0  # no −0.0
        axes.set_xlabel(f"{sums:+.1f}   {found.entropies[row]:.0f} nats", fontsize=8.5, labelpad=3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    image.quantize(COLORS, kmeans=2, dither=Image.Dither.NONE).save(args.picture, optimize=True)


def main(args: Args) -> Futures:
    """Choose a moment, dream all actions from it, and draw the picture.

    The returns are printed.
    """
    names = find_game(args.game).action_meanings
    context = find_moment(args, len(names)) if args.context is None else args.context
    trunk, envs = make(args, 1, "rgb"), make(args, len(names) * args.futures, "rgb")
    found = branch(trunk, envs, context, args)
    trunk.close()
    envs.close()
    draw(args, context, found, names)
    for name, returns in zip(names, found.returns.reshape(-1, args.futures), strict=True):
        print(f"{name:>14}: returns", *(f"{round(value, 1) + 0.0:+.1f}" for value in returns))
    print(f"{args.picture}: context {context}, {len(found.returns)} futures")
    return found


if __name__ == "__main__":
    main(tyro.cli(Args))
