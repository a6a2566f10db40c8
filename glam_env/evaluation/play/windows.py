"""Single windows of real play with the dreams along them, for pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from glam_env.envs.dream.pool import draw_frames
from glam_env.envs.recordings.recording import Recording
from glam_env.errors import GlamError
from glam_env.evaluation.play.open_loop import follow
from glam_env.evaluation.play.recording import reward_events, window_starts
from glam_env.model.distributions import sample_codes
from glam_env.model.world_model import WorldModel


@dataclass(frozen=True)
class Window:
    """Real frames up to a moment, and the game and a dream after it.

    The game and the dream have the same actions.

    Attributes:
        env, step: Where in the recording the dream begins.
        seen: (C + 1, 64, 64, 3) uint8, the real frames up to there.
        seen_drawn: The same frames as the world model's encoder and decoder draw them.
        real, dream: (H, 64, 64, 3) uint8, the first one step ahead.
        real_reward, dream_reward: (H,) float32, the reward of the step to each frame; the dream's
            is a mean in symlog space, from which events are derived.
    """

    env: int
    step: int
    seen: np.ndarray
    seen_drawn: np.ndarray
    real: np.ndarray
    dream: np.ndarray
    real_reward: np.ndarray
    dream_reward: np.ndarray

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"env{self.env}_step{self.step:05}"


@torch.no_grad()
def dream_windows(
    world_model: WorldModel,
    recording: Recording,
    *,
    count: int = 8,
    context: int = 16,
    horizon: int = 64,
    seed: int = 0,
    temperature: float = 1.0,
) -> list[Window]:
    """Dream along windows spread over a recording.

    Windows with a point in their first half are preferred, if there are enough.

    Args:
        world_model: In evaluation mode.
        recording: Held-out play.
        count: Number of windows; fewer if the recording has fewer.
        context: Real steps that warm a dream up.
        horizon: Steps dreamt.
        seed: Seed of the posterior's and the prior's draws.
        temperature: Temperature of the prior's draws.

    Raises:
        GlamError: If no window of one episode fits into the recording.
    """
    starts = window_starts(recording, context, horizon, stride=1)
    steps = starts[:, 1:] + context + np.arange(horizon)
    starts = starts[~recording.ended[starts[:, :1], steps].any(1)]
    if not len(starts):
        raise GlamError(f"no {context + horizon} steps of the recording are of one episode")
    steps = starts[:, 1:] + context + np.arange(horizon)
    early = reward_events(recording.rewards[starts[:, :1], steps[:, : horizon // 2]])
    eventful = starts[early.any(1)]
    starts = eventful if len(eventful) >= count else starts
    chosen = np.linspace(0, len(starts) - 1, min(count, len(starts))).round().astype(int)
    env, start = starts[chosen].T

    device = world_model.device
    generator = torch.Generator(device).manual_seed(seed)
    known = env[:, None], start[:, None] + np.arange(context + 1)
    ahead = env[:, None], start[:, None] + context + np.arange(horizon)
    seen, real = recording.frames[known], recording.frames[ahead[0], ahead[1] + 1]
    codes = sample_codes(world_model.encode(torch.from_numpy(seen).to(device)), generator=generator)
    taken = recording.actions[env[:, None], start[:, None] + np.arange(context + horizon)]
    actions = torch.from_numpy(taken).to(device)
    dreamt = list(follow(world_model, codes, actions, temperature, generator))
    frames = [draw_frames(world_model, step.state.code).cpu().numpy() for step in dreamt]
    logits = torch.stack([step.reward_logits for step in dreamt], 1)
    rewards = world_model.reward_code.symlog_mean(logits).cpu().numpy()
    drawn = draw_frames(world_model, codes).cpu().numpy()
    return [
        Window(
            env=int(env[i]),
            step=int(start[i]) + context,
            seen=seen[i],
            seen_drawn=drawn[i],
            real=real[i],
            dream=np.stack([frame[i] for frame in frames]),
            real_reward=recording.rewards[ahead][i],
            dream_reward=rewards[i],
        )
        for i in range(len(chosen))
    ]
