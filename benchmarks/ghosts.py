"""Ghosts: how far dreamt frames are from frames that the game shows.

    python benchmarks/ghosts.py KungFuMaster Breakout --threads 1 --to ghosts.json

The categoricals of a latent are drawn one by one, so a dream may draw a combination that no frame
has. For real frames of held-out play, each drawn from its likeliest latent, and for dreams along
that play, two figures say how often:

- other class: the share of the categoricals which the encoder reads as another class from the
  drawn frame than was drawn;
- nearest: the distance to the nearest frame of other play of the same agent, drawn in the same way:
  root of the sum of squares over pixels in [0, 1], mean over the frames.

`read again` are dreams in which each latent is replaced by what the encoder reads from its frame.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from glam_env.cli.trained import load_trained
from glam_env.envs.dream.pool import draw_frames
from glam_env.errors import GlamError
from glam_env.evaluation.play.recording import record_play, window_starts
from glam_env.fast.choose import make_stepper
from glam_env.model.world_model import WorldModel
from glam_env.protocols import find_protocol

CONTEXT, BATCH = 16, 128
KINDS = ("real", "dream", "read again")


@dataclass
class Args:
    """Compare drawn frames of dreams and of real play.

    Attributes:
        games: Names, folders of checkpoints or runs.
        protocol: Of the games.
        steps: Steps of play; of half of the games the frames are known, from the others dreams
            start.
        num_envs: Games side by side, an even number.
        windows: Dreams at most.
        at: Steps of a dream at which it is looked at.
        seed: Of everything.
        threads: CPU threads of PyTorch. By default all cores.
        to: A JSON file for the figures.
    """

    games: tyro.conf.Positional[tuple[str, ...]]
    protocol: str = "published"
    steps: int = 9600
    num_envs: int = 16
    windows: int = 160
    at: tuple[int, ...] = (1, 16, 32)
    seed: int = 0
    threads: int | None = None
    to: Path | None = None


def draw(world_model: WorldModel, codes: Tensor) -> Tensor:
    """Draw latents (N, K) as uint8 frames (N, 64, 64, 3)."""
    return torch.cat([draw_frames(world_model, part) for part in codes.split(BATCH)])


def read(world_model: WorldModel, frames: Tensor) -> Tensor:
    """Return the likeliest latents (N, K) of uint8 frames (N, 64, 64, 3)."""
    return torch.cat([world_model.encode(part).argmax(-1) for part in frames.split(BATCH)])


def nearest(frames: Tensor, known: Tensor) -> Tensor:
    """Return the distance (N,) of uint8 frames to the nearest of (M, 64, 64, 3) known ones."""
    rows = [part.flatten(1).float() / 255 for part in (frames, known)]
    # Exact differences: |a|² + |b|² − 2ab loses the digits of small distances.
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cat(
        [torch.cdist(part, rows[1], compute_mode=mode).amin(1) for part in rows[0].split(BATCH)]
    )


def compare(world_model: WorldModel, codes: Tensor, known: Tensor) -> dict[str, float]:
    """Return both figures of drawn latents (N, K)."""
    frames = draw(world_model, codes)
    other = (read(world_model, frames) != codes).float().mean()
    return {"other_class": float(other), "nearest": float(nearest(frames, known).mean())}


def dream(
    world_model: WorldModel, codes: Tensor, actions: Tensor, steps: int, seed: int, again: bool
) -> Iterator[Tensor]:
    """Yield the latents (W, K) of dreams along given actions.

    Args:
        world_model: In evaluation mode.
        codes: (W, CONTEXT + 1, K), the real frames up to where the dreams begin.
        actions: (W, CONTEXT + steps).
        steps: Of the dreams.
        seed: Of the draws.
        again: Replace each latent by what the encoder reads from its frame.
    """
    generator, stepper = torch.Generator().manual_seed(seed), make_stepper(world_model)
    state = world_model.warm_up(codes, actions[:, :CONTEXT])
    for action in actions[:, CONTEXT : CONTEXT + steps].unbind(1):
        chances = torch.rand(state.code.shape, generator=generator)
        state = stepper.go_on(state, action, chances)
        if again:
            code = read(world_model, draw(world_model, state.code))
            state = state._replace(code=code.to(state.code.dtype))
        yield state.code


@torch.no_grad()
def measure(game: str, args: Args) -> dict[str, Any]:
    """Return the figures of a game by kind of frame and step."""
    trained = load_trained(game, "cpu")
    world_model, last = trained.world_model.eval(), max(args.at)
    play = find_protocol(args.protocol)
    recording = record_play(
        trained.policy(),
        trained.game,
        steps=args.steps,
        num_envs=args.num_envs,
        seed=args.seed,
        play=play,
        num_threads=torch.get_num_threads(),
    )
    half = args.num_envs // 2
    frames = torch.from_numpy(recording.frames)
    known = draw(world_model, read(world_model, frames[:half].flatten(0, 1)))
    places = window_starts(recording, CONTEXT, last, last, whole=True)
    places = places[places[:, 0] >= half]
    if not len(places):
        raise GlamError(f"no {CONTEXT + last} steps of {game} lie in one episode; take more steps")
    env, start = np.random.default_rng(args.seed).permutation(places)[: args.windows].T
    span = start[:, None] + np.arange(CONTEXT + last + 1)
    real = frames[env[:, None], span]  # (W, CONTEXT + last + 1, 64, 64, 3)
    codes = read(world_model, real.flatten(0, 1)).view(*real.shape[:2], -1)
    actions = torch.from_numpy(recording.actions[env[:, None], span[:, :-1]]).long()
    first = codes[:, : CONTEXT + 1]
    paths = {
        "real": iter(codes[:, CONTEXT + 1 :].unbind(1)),
        "dream": dream(world_model, first, actions, last, args.seed, again=False),
        "read again": dream(world_model, first, actions, last, args.seed, again=True),
    }
    found: dict[str, dict[int, dict[str, float]]] = {kind: {} for kind in KINDS}
    for kind, path in paths.items():
        for step, code in enumerate(path, 1):
            if step in args.at:
                found[kind][step] = compare(world_model, code, known)
    return {"game": trained.game, "windows": len(env), "known": len(known), "figures": found}


def main(args: Args) -> int:
    """Print a line for each game and step, and write the figures if a file is named."""
    try:
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        if args.num_envs < 2 or args.num_envs % 2 or not args.at or min(args.at) < 1:
            raise GlamError("num_envs must be even, and at be steps of 1 or more")
        rows = []
        titles = "".join(f"{kind:>12}" for kind in (*KINDS, *KINDS))
        print(f"{'':24}{'other class':>36}{'nearest':>36}\n{'game':16}{'step':>8}{titles}")
        for game in args.games:
            rows.append(measure(game, args))
            for step in args.at:
                shown = [rows[-1]["figures"][kind][step] for kind in KINDS]
                figures = [f"{each[key]:12.3f}" for key in shown[0] for each in shown]
                print(f"{rows[-1]['game']:16}{step:8}{''.join(figures)}", flush=True)
        if args.to is not None:
            settings = {key: value for key, value in asdict(args).items() if key != "to"}
            args.to.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    except GlamError as error:
        print(f"ghosts: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
