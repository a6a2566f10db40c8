"""Open loop: dreams along held-out play, with the actions that were taken there.

Each window of a recording warms the world model up on some real steps. After these the model
receives only the real actions. Its frames and predictions are compared with the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from glam_env.envs.dream.pool import draw_frames
from glam_env.envs.recordings.recording import Recording
from glam_env.evaluation.play.recording import reward_events, window_starts
from glam_env.model.distributions import sample_codes
from glam_env.model.reward_values import REWARDS, RewardValues
from glam_env.model.structures import Prediction
from glam_env.model.world_model import WorldModel

BEYOND = 2  # steps dreamt past the horizon, in which late events find their partners
BATCH = 64  # windows at a time
BASELINES = {"repeat": "last real frame", "average": "average real frame"}
"""Frames that use no knowledge of what follows, with their titles."""
DRAWN = {"dream": "dream", **BASELINES}
"""All frames that are compared with the real ones, with their titles."""


class Frames(NamedTuple):
    """Frames of `N` windows, `k + 1` steps ahead.

    `windows` (N,) int64 are their numbers; `real` and `dream` are (N, 64, 64, 3) uint8.
    """

    k: int
    windows: np.ndarray
    real: np.ndarray
    dream: np.ndarray


@dataclass(frozen=True)
class OpenLoop:
    """`W` dreams along windows of a recording.

    A dream has `H` steps and `BEYOND` more, `L` in all.

    Attributes:
        recording: The play.
        context, horizon, stride, seed, temperature: Settings of the dreams.
        env, start: (W,) int64, where each window begins.
        alive: (W, L) bool, the real episode was going on when the step began.
        ended: (W, L) bool, the real episode ended at the step.
        reward, dreamt_reward: (W, L) float32; the dream's is expected. Real ones after an end
            are 0.
        dreamt_event: (W, L) int8, the dream's rewards as events, see `reward_events`, from
            their means in symlog space. With expected rewards, a small chance of many points would
            be an event.
        reward_forms: (W, L) float32 each, the dream's rewards as the env's option `reward` gives
            them, by the values of the option.
        reward_chances: (2, W, L) float32, the dream's probabilities of points won and of points
            lost at the step, of at least `REWARD_EVENT` points.
        life_lost, dreamt_ending: (W, L) bool. Real ones after an end are false.
        ending_chance: (W, L) float32, the dream's probability of an end of life at the step.
        prior_entropy: (W, L) float32, of the latent at the end of the step, in nats.
        dreamt_frames: (W, H, 64, 64, 3) uint8, the dreams' frames, 12 KiB each. Those that
            `frames` leaves out have no meaning.
        log_probs: (E, T, K, C) float32, the posterior of each recorded frame.
        codes: (E, T, K) int64, draws from it.
        actions: (E, T) int64.
    """

    recording: Recording
    context: int
    horizon: int
    stride: int
    seed: int
    temperature: float
    env: np.ndarray
    start: np.ndarray
    alive: np.ndarray
    ended: np.ndarray
    reward: np.ndarray
    dreamt_reward: np.ndarray
    dreamt_event: np.ndarray
    reward_forms: dict[str, np.ndarray]
    reward_chances: np.ndarray
    life_lost: np.ndarray
    dreamt_ending: np.ndarray
    ending_chance: np.ndarray
    prior_entropy: np.ndarray
    dreamt_frames: np.ndarray
    log_probs: Tensor
    codes: Tensor
    actions: Tensor

    @cached_property
    def last_frames(self) -> np.ndarray:
        """(W, 64, 64, 3) uint8, the last real frame that each dream starts from."""
        return self.recording.frames[self.env, self.start + self.context]

    @cached_property
    def average_frame(self) -> np.ndarray:
        """(64, 64, 3) uint8, the mean frame of the recording."""
        return self.recording.frames.mean((0, 1)).round().astype(np.uint8)

    def codes_at(self, windows: np.ndarray, k: int) -> Tensor:
        """Return the latents of the real frames `k + 1` steps ahead, (N, K) int64.

        Args:
            windows: (N,) int64, numbers of windows.
            k: Number of the horizon, from 0.
        """
        return self.codes[self.env[windows], self.start[windows] + self.context + k + 1]

    def frames(self) -> Iterator[Frames]:
        """Yield real and dreamt frames, batch by batch and step by step.

        Steps whose real frame is of another episode are left out.
        """
        for begin in range(0, len(self.env), BATCH):
            for k in range(self.horizon):
                batch = slice(begin, begin + BATCH)
                windows = begin + np.flatnonzero(self.alive[batch, k] & ~self.ended[batch, k])
                if len(windows):
                    step = self.start[windows] + self.context + k + 1
                    real = self.recording.frames[self.env[windows], step]
                    yield Frames(k, windows, real, self.dreamt_frames[windows, k])


@torch.no_grad()
def dream_along(
    world_model: WorldModel,
    recording: Recording,
    *,
    context: int,
    horizon: int,
    stride: int,
    seed: int = 0,
    temperature: float = 1.0,
    reward_values: Sequence[float] = (),
    on_progress: Callable[[str, int, int], None] | None = None,
) -> OpenLoop:
    """Dream along the windows of a recording.

    Args:
        world_model: In evaluation mode.
        recording: Held-out play.
        context: Real steps that warm a dream up.
        horizon: Steps that count.
        stride: Steps from one window's start to the next one's.
        seed: Seed of the posterior's and the prior's draws.
        temperature: Temperature of the prior's draws.
        reward_values: The values that the game pays; whole points if empty.
        on_progress: Called after each batch of windows.

    Raises:
        GlamError: If no window fits into the recording.
    """
    device = world_model.device
    generator = torch.Generator(device).manual_seed(seed)
    env, start = window_starts(recording, context, horizon, stride, BEYOND).T
    log_probs = _posterior(world_model, recording.frames)
    drawn_at = world_model.config.draw_temperature
    codes = sample_codes(log_probs, temperature=drawn_at, generator=generator)  # (E, T, K)
    actions = torch.from_numpy(recording.actions).to(device)

    length = context + horizon + BEYOND
    rows, steps = env[:, None], start[:, None] + np.arange(context, length)  # (W, L), those dreamt
    ended = recording.ended[rows, steps]
    alive = (ended.cumsum(1) - ended) == 0  # (W, L), no end before this step
    reward = recording.rewards[rows, steps] * alive
    life_lost = recording.life_lost[rows, steps] & alive
    dreamt_reward, dreamt_ending = np.zeros_like(reward), np.zeros_like(life_lost)
    dreamt_event = np.zeros(reward.shape, np.int8)
    values = RewardValues(world_model.reward_code, reward_values)
    forms = {name: np.zeros_like(reward) for name in REWARDS}
    events = torch.from_numpy(reward_events(values.values.cpu().numpy())).to(device)  # (V)
    reward_chances = np.zeros((2, *reward.shape), np.float32)
    ending_chance, prior_entropy = np.zeros_like(reward), np.zeros_like(reward)
    draws = torch.Generator(device).manual_seed(seed)  # a separate one: the dreams stay the same
    dreamt_frames = np.zeros((len(env), horizon, *recording.frames.shape[2:]), np.uint8)
    for begin in range(0, len(env), BATCH):
        batch = slice(begin, begin + BATCH)
        known = codes[rows[batch], start[batch, None] + np.arange(context + 1)]
        taken = actions[rows[batch], start[batch, None] + np.arange(length)]
        for k, step in enumerate(follow(world_model, known, taken, temperature, generator)):
            dreamt_reward[batch, k] = step.reward.cpu()
            means = world_model.reward_code.symlog_mean(step.reward_logits)
            dreamt_event[batch, k] = reward_events(means.cpu().numpy())
            draw = torch.rand(step.reward.shape, generator=draws, device=device)
            for name in REWARDS:
                forms[name][batch, k] = values.reward(name, step, draw).cpu()
            shares = values.log_shares(step.reward_logits).softmax(-1)  # (B, V)
            for side, sign in enumerate((1, -1)):
                reward_chances[side, batch, k] = (shares @ (events == sign).float()).cpu()
            dreamt_ending[batch, k] = (step.termination_logit > 0).cpu()
            ending_chance[batch, k] = step.termination_logit.sigmoid().cpu()
            prior_entropy[batch, k] = step.prior_entropy.cpu()
            if k < horizon and (alive[batch, k] & ~ended[batch, k]).any():
                dreamt_frames[batch, k] = draw_frames(world_model, step.state.code).cpu()
        if on_progress is not None:
            on_progress("open loop (dreams)", min(begin + BATCH, len(env)), len(env))
    return OpenLoop(
        recording=recording,
        context=context,
        horizon=horizon,
        stride=stride,
        seed=seed,
        temperature=temperature,
        env=env,
        start=start,
        alive=alive,
        ended=ended,
        reward=reward,
        dreamt_reward=dreamt_reward,
        dreamt_event=dreamt_event,
        reward_forms=forms,
        reward_chances=reward_chances,
        life_lost=life_lost,
        dreamt_ending=dreamt_ending,
        ending_chance=ending_chance,
        prior_entropy=prior_entropy,
        dreamt_frames=dreamt_frames,
        log_probs=log_probs,
        codes=codes,
        actions=actions,
    )


def follow(
    world_model: WorldModel,
    codes: Tensor,
    actions: Tensor,
    temperature: float,
    generator: torch.Generator,
) -> Iterator[Prediction]:
    """Dream along given actions.

    Args:
        world_model: In evaluation mode.
        codes: (B, context + 1, K) int64, latents of the real frames up to the start of the
            dream.
        actions: (B, context + L) int64; the dream lasts `L` steps.
        temperature: Temperature of the prior's draws.
        generator: Generator of these draws.
    """
    context = codes.shape[1] - 1
    state = world_model.warm_up(codes, actions[:, :context])
    for action in actions[:, context:].unbind(1):
        step = world_model.step(state, action, temperature=temperature, generator=generator)
        state = step.state
        yield step


def _posterior(world_model: WorldModel, frames: np.ndarray) -> Tensor:
    """Compute the posterior of recorded frames, one env at a time.

    (E, T, 64, 64, 3) uint8 frames give (E, T, K, C) log-probabilities.
    """
    device = world_model.device
    return torch.stack(
        [
            torch.cat([world_model.posterior(part.to(device)) for part in stream.split(256)])
            for stream in torch.from_numpy(frames)
        ]
    )
