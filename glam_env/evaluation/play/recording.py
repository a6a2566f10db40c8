"""Recordings of real play: the held-out episodes that dreams are measured against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from glam_env.envs.atari.emulator import FRAME_SIZE, Emulator
from glam_env.envs.latent_filter import Act
from glam_env.envs.recordings.recording import Recording
from glam_env.errors import GlamError
from glam_env.evaluation.play.scores import Policy, seed_apart
from glam_env.protocols import PlaySettings

REWARD_EVENT = 0.5  # least points, in absolute value, that make an event
HELD_OUT = 0x484F4C44  # mixed into seeds, so that no training or score sees the same episodes


def reward_events(rewards: np.ndarray) -> np.ndarray:
    """Turn rewards of any shape into int8 events.

    1 is for points won, −1 for points lost, 0 for less than `REWARD_EVENT` points.
    """
    return np.where(np.abs(rewards) >= REWARD_EVENT, np.sign(rewards), 0).astype(np.int8)


def add_noise(act: Act, num_actions: int, noise: Sequence[float]) -> Act:
    """Replace some of an agent's actions by random ones.

    The agent's filter observes the actions that were played.

    Args:
        act: Maps (E, F) features and a generator to (E) int64 actions.
        num_actions: Number of actions.
        noise: Chances that an action is replaced, one for each env, repeated as needed: with
            `(0.0, 0.5, 1.0)` a third of the envs plays as the agent does and a third at random.

    Raises:
        GlamError: If `noise` is empty or holds anything but probabilities.
    """
    if not noise or not all(0.0 <= chance <= 1.0 for chance in noise):
        raise GlamError(f"noise must be a list of chances from 0 to 1, not {list(noise)}")

    def act_noisily(features: Tensor, generator: torch.Generator) -> Tensor:
        actions = act(features, generator)
        settings = {"generator": generator, "device": actions.device}
        random = torch.randint(num_actions, actions.shape, **settings)
        chances = torch.tensor(np.resize(noise, len(actions)), device=actions.device)
        return torch.where(torch.rand(chances.shape, **settings) < chances, random, actions)

    return act_noisily


def record_play(
    policy: Policy,
    game: str,
    *,
    steps: int,
    num_envs: int,
    seed: int,
    play: PlaySettings | None = None,
    num_threads: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> Recording:
    """Play the real game and record everything.

    The episodes are held out: no seed gives the episodes of a training or a score.

    Args:
        policy: The policy that plays.
        game: Name of the game.
        steps: Agent steps over all envs; each plays its share `T`, rounded up.
        num_envs: Envs `E` side by side.
        seed: Together with the number of envs and the policy it fixes the recording.
        play: Settings of the real game; those of Atari 100k if None.
        num_threads: Threads that run the games; 0 takes one per env, up to the number of cores.
        on_step: Called with the number of steps that each env has played.

    Raises:
        GlamError: For an unknown game or an impossible value.
    """
    if steps < 1:
        raise GlamError(f"steps must be at least 1, not {steps}")
    emulator = Emulator(
        game,
        num_envs,
        seed=seed_apart(HELD_OUT, seed),
        **(play or PlaySettings()).emulator,
        num_threads=num_threads,
    )
    shape = (num_envs, -(-steps // num_envs))
    recording = Recording(
        game=emulator.game.name,
        frames=np.empty((*shape, FRAME_SIZE, FRAME_SIZE, 3), np.uint8),
        actions=np.empty(shape, np.int64),
        rewards=np.empty(shape, np.float32),
        life_lost=np.empty(shape, bool),
        ended=np.empty(shape, bool),
    )
    with closing(emulator):
        policy.begin(num_envs, seed)
        frames, first = emulator.reset(), np.ones(num_envs, bool)
        for t in range(shape[1]):
            actions = policy.act(frames, first)
            step = emulator.step(actions)
            recording.frames[:, t], recording.actions[:, t] = frames, actions
            recording.rewards[:, t], recording.life_lost[:, t] = step.reward, step.life_lost
            frames, first = step.frames, step.terminated | step.truncated
            recording.ended[:, t] = first
            if on_step is not None:
                on_step(t + 1)
    return recording


def window_starts(
    recording: Recording,
    context: int,
    horizon: int,
    stride: int,
    beyond: int = 1,
    *,
    whole: bool = False,
) -> np.ndarray:
    """Find where windows begin.

    A window is `context` steps, `horizon` steps and `beyond` more that must be recorded. An
    episode's end within the `context` steps excludes a window. A later end shortens it: nothing
    after the end is compared. With `whole`, an end within the `horizon` steps excludes a window
    too.

    Returns:
        (W, 2) int64, env and step.

    Raises:
        GlamError: If there is no window, or for an impossible value.
    """
    if min(context, horizon, stride) < 1:
        raise GlamError(
            f"context, horizon and stride must be at least 1, not {context}, {horizon}, {stride}"
        )
    length = context + horizon + beyond
    endless = context + horizon if whole else context
    envs, steps = recording.ended.shape
    starts = [
        (env, start)
        for env in range(envs)
        for start in range(0, steps - length + 1, stride)
        if not recording.ended[env, start : start + endless].any()
    ]
    if not starts:
        raise GlamError(
            f"a recording of {steps} steps an env holds no window of {length} steps; record more"
        )
    return np.array(starts, np.int64)
