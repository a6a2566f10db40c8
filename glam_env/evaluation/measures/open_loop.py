"""How long a dream stays true to the game: open loop on held-out play, with the real actions.

Each window of a recording warms the world model up on some real steps; from there on it is told
only the actions that were really taken, and what it draws and foretells is compared with what
really came. Beside the dream stand two painters who know nothing of what follows: one repeats the
last real frame, the other always shows the recording's mean frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glam_env.envs.dream.pool import draw_frames
from glam_env.evaluation.measures.events import (
    EVENT_HORIZONS,
    TOLERANCE,
    EventScore,
    RewardSum,
    reward_events,
    score_events,
    sum_rewards,
)
from glam_env.evaluation.measures.images import (
    Detector,
    ImageCurve,
    ImageTally,
    ObjectCurve,
    ObjectTally,
)
from glam_env.evaluation.measures.pong import find_pong_objects
from glam_env.evaluation.play.recording import Recording, window_starts
from glam_env.model.distributions import categorical_kl, sample_codes
from glam_env.model.structures import Prediction
from glam_env.model.world_model import WorldModel

DETECTORS: dict[str, Detector] = {"Pong": find_pong_objects}
PAINTERS = ("dream", "repeat", "average")

BATCH = 64  # windows at a time
BACKGROUND_FRAMES = 1000


@dataclass(frozen=True)
class LatentKL:
    """KL(posterior of the next real frame ‖ a guess at it), in nats, mean over a recording.

    Attributes:
        dream: The guess is the prior, on the filtered path.
        repeat: It is the posterior of the frame before.
        average: It is the recording's mean posterior.
    """

    dream: float
    repeat: float
    average: float


@dataclass(frozen=True)
class FidelityReport:
    """What `measure_fidelity` found.

    Attributes:
        game: Name of the game.
        windows: Windows compared.
        context, horizon, stride, seed, temperature: As measured with.
        images: By painter: `dream`, `repeat` (the last real frame) and `average` (the mean frame).
        objects: By painter, then by object; empty without a detector.
        rewards, endings: The dream's events, by growing horizon.
        player_rewards: The rewards by who played, at the first of the horizons.
        reward_sums: By growing horizon.
        latent_kl: One step ahead.
    """

    game: str
    windows: int
    context: int
    horizon: int
    stride: int
    seed: int
    temperature: float
    images: dict[str, ImageCurve]
    objects: dict[str, dict[str, ObjectCurve]]
    rewards: tuple[EventScore, ...]
    endings: tuple[EventScore, ...]
    player_rewards: dict[str, EventScore]
    reward_sums: tuple[RewardSum, ...]
    latent_kl: LatentKL

    def as_json(self) -> dict[str, Any]:
        """Everything above, ready for `json.dumps`."""
        return asdict(self)


@torch.no_grad()
def measure_fidelity(
    world_model: WorldModel,
    recording: Recording,
    *,
    context: int = 16,
    horizon: int = 64,
    stride: int = 16,
    seed: int = 0,
    temperature: float = 1.0,
    objects: Detector | None = None,
    players: Sequence[str] = (),
    on_window: Callable[[int, int], None] | None = None,
) -> FidelityReport:
    """Compares dreams with the real play that they set out from.

    Args:
        world_model: In evaluation mode.
        recording: Held-out play.
        context: Real steps that warm a dream up.
        horizon: Steps dreamt.
        stride: Steps from one window's start to the next one's.
        seed: Of the posterior's and the prior's draws.
        temperature: Of the prior's draws.
        objects: Finds the game's objects: `DETECTORS.get(game)`.
        players: Who played each env, if the rewards are to be told apart by that.
        on_window: Told, after each batch, how many windows are done and how many there are.

    Raises:
        GlamError: If no window fits into the recording.
    """
    device = world_model.prior.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    env, start = window_starts(recording, context, horizon, stride, TOLERANCE).T
    log_probs = _posterior(world_model, recording.frames)
    drawn_at = world_model.config.draw_temperature
    codes = sample_codes(log_probs, temperature=drawn_at, generator=generator)  # (E, T, K)
    actions = torch.from_numpy(recording.actions).to(device)

    length = context + horizon + TOLERANCE
    steps = start[:, None] + np.arange(context, length)  # (W, L), those dreamt
    rows = env[:, None]
    ended = recording.ended[rows, steps]
    alive = (ended.cumsum(1) - ended) == 0  # (W, L), no end before this step
    reward = recording.rewards[rows, steps] * alive
    life_lost = recording.life_lost[rows, steps] & alive
    dreamt_reward, dreamt_ending = np.zeros_like(reward), np.zeros_like(life_lost)

    background = find_background(recording.frames)
    average = recording.frames.mean((0, 1)).round().astype(np.uint8)
    images = ImageTally(PAINTERS, horizon, background)
    sights = {name: ObjectTally(horizon) for name in PAINTERS} if objects else {}
    seen_average = objects(average[None]) if objects else {}

    for begin in range(0, len(env), BATCH):
        batch = slice(begin, begin + BATCH)
        known = start[batch, None] + np.arange(context + 1)
        taken = actions[rows[batch], start[batch, None] + np.arange(length)]
        repeat = recording.frames[env[batch], known[:, -1]]
        seen_last = objects(repeat) if objects else {}
        dream_steps = follow(world_model, codes[rows[batch], known], taken, temperature, generator)
        for k, step in enumerate(dream_steps):
            dreamt_reward[batch, k] = step.reward.cpu()
            dreamt_ending[batch, k] = (step.termination_logit > 0).cpu()
            shown = alive[batch, k] & ~ended[batch, k]  # else the next frame is another game's
            if k >= horizon or not shown.any():
                continue
            real = recording.frames[env[batch][shown], steps[batch, k][shown] + 1]
            dream = draw_frames(world_model, step.state.code).cpu().numpy()[shown]
            mean = np.broadcast_to(average, real.shape)
            images.add(k, real, {"dream": dream, "repeat": repeat[shown], "average": mean})
            if objects:
                seen = objects(real)
                sights["dream"].add(k, seen, objects(dream))
                sights["repeat"].add(k, seen, {n: at[shown] for n, at in seen_last.items()})
                sights["average"].add(
                    k, seen, {n: at.repeat(len(real), 0) for n, at in seen_average.items()}
                )
        if on_window is not None:
            on_window(min(begin + BATCH, len(env)), len(env))

    horizons = [h for h in EVENT_HORIZONS if h <= horizon] or [horizon]
    events = reward_events(reward), reward_events(dreamt_reward), alive
    endings = life_lost.astype(np.int8), dreamt_ending.astype(np.int8), alive
    played_by = np.array(players)[env] if players else np.empty(len(env))
    return FidelityReport(
        game=recording.game,
        windows=len(env),
        context=context,
        horizon=horizon,
        stride=stride,
        seed=seed,
        temperature=temperature,
        images=images.curves(),
        objects={name: tally.curves() for name, tally in sights.items()},
        rewards=tuple(score_events(*events, h) for h in horizons),
        endings=tuple(score_events(*endings, h) for h in horizons),
        player_rewards={
            name: score_events(*(part[rows] for part in events), horizon=horizons[0])
            for name in dict.fromkeys(players)
            if (rows := played_by == name).any()
        },
        reward_sums=tuple(sum_rewards(reward, dreamt_reward, alive, h) for h in horizons),
        latent_kl=_filtered_kl(world_model, log_probs, codes, actions, recording.ended),
    )


def follow(
    world_model: WorldModel,
    codes: Tensor,
    actions: Tensor,
    temperature: float,
    generator: torch.Generator,
) -> Iterator[Prediction]:
    """Dreams along given actions.

    Args:
        world_model: In evaluation mode.
        codes: (B, context + 1, K) int64, what was seen before the dream parts.
        actions: (B, context + L) int64; the dream is `L` steps long.
        temperature: Of the prior's draws.
        generator: For them.
    """
    context = codes.shape[1] - 1
    state = world_model.warm_up(codes, actions[:, :context])
    for action in actions[:, context:].unbind(1):
        step = world_model.step(state, action, temperature=temperature, generator=generator)
        state = step.state
        yield step


def find_background(frames: np.ndarray) -> np.ndarray:
    """The per-pixel median of some of (E, T, 64, 64, 3) uint8 frames: (64, 64, 3) uint8."""
    frames = frames.reshape(-1, *frames.shape[2:])
    some = frames[:: -(-len(frames) // BACKGROUND_FRAMES)]
    return np.percentile(some, 50, axis=0, method="lower").astype(np.uint8)


def _posterior(world_model: WorldModel, frames: np.ndarray) -> Tensor:
    """(E, T, 64, 64, 3) uint8 frames to (E, T, K, C) log-probabilities, an env's at a time."""
    device = world_model.prior.weight.device
    return torch.stack(
        [
            torch.cat([world_model.posterior(part.to(device)) for part in stream.split(256)])
            for stream in torch.from_numpy(frames)
        ]
    )


def _filtered_kl(
    world_model: WorldModel, log_probs: Tensor, codes: Tensor, actions: Tensor, ended: np.ndarray
) -> LatentKL:
    """Follows the E streams and compares each next frame's posterior with guesses at it."""
    over = torch.from_numpy(ended).to(actions.device)
    first = torch.ones_like(over[:, 0])
    core = world_model.core.initial_state(len(actions), actions.device)
    average = log_probs.exp().mean((0, 1)).log()
    totals, count = [0.0, 0.0, 0.0], 0
    for t in range(actions.shape[1] - 1):
        h, core = world_model.observe(codes[:, t], actions[:, t], core, first)
        first = over[:, t]
        guesses = (
            world_model.prior_log_probs(h),
            log_probs[:, t],
            average.expand_as(log_probs[:, t]),
        )
        for i, guess in enumerate(guesses):
            totals[i] += float(categorical_kl(log_probs[:, t + 1], guess)[~first].sum())
        count += int((~first).sum())
    return LatentKL(*(total / count for total in totals))
