"""Wrappers of vector envs that work on tensors where they lie, and on numpy just as well.

Gymnasium's own ``RecordEpisodeStatistics`` takes numpy only; of its others, ``docs/wrappers.md``
this file says which go with which array type.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor

from glam_env.checks import require_count
from glam_env.errors import GlamError


class EpisodeStatistics(VectorWrapper):
    """Returns and lengths of episodes, in ``info`` of the step that ends them.

    ``info["episode"]`` holds ``r``, the sum of rewards (E) float32, ``l``, the steps (E) int64,
    and ``t``, the seconds (E) float32; ``info["_episode"]`` (E) bool tells which rows count, and
    the others are 0. Both are absent if no episode has ended. They come as the rewards do: numpy
    arrays, or tensors on the device. This is what Gymnasium's ``RecordEpisodeStatistics`` does on
    numpy; options given to reset are left as they are.

    Attributes:
        return_queue, length_queue, time_queue: of the last episodes, Python numbers.
        episode_count: episodes that have ended.

    Args:
        env: a vector env, or wrappers around one, that names its autoreset mode.
        buffer_length: episodes that the queues hold.
        stats_key: another name for ``"episode"``.

    Raises:
        GlamError: the env does not say how it begins episodes anew.
    """

    def __init__(
        self, env: VectorEnv, buffer_length: int = 100, stats_key: str = "episode"
    ) -> None:
        super().__init__(env)
        buffer_length = require_count("buffer_length", buffer_length)
        self._mode = env.metadata.get("autoreset_mode")
        if not isinstance(self._mode, AutoresetMode):
            raise GlamError(
                "EpisodeStatistics needs metadata['autoreset_mode'] of the env to be an "
                f"AutoresetMode, got {self._mode!r}"
            )
        self._key = stats_key
        self.episode_count = 0
        self.return_queue: deque[float] = deque(maxlen=buffer_length)
        self.length_queue: deque[int] = deque(maxlen=buffer_length)
        self.time_queue: deque[float] = deque(maxlen=buffer_length)
        # On the CPU until the first rewards tell where they lie.
        self._returns = torch.zeros(self.num_envs)
        self._lengths = torch.zeros(self.num_envs, dtype=torch.int64)
        self._waiting = torch.zeros(self.num_envs, dtype=torch.bool)
        self._any_waiting = False  # known to the host, which need not ask the device for it
        self._begun_at = np.full(self.num_envs, time.perf_counter())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins rows, and counts anew for those that ``options["reset_mask"]`` names, or all."""
        observations, info = self.env.reset(seed=seed, options=options)
        mask = (options or {}).get("reset_mask")
        if mask is None:
            begun = torch.ones_like(self._waiting)
        else:
            begun = mask if isinstance(mask, Tensor) else torch.from_numpy(np.array(mask))
        self._forget(begun.to(self._waiting.device))
        return observations, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps all rows.

        Raises:
            GlamError: something beneath already writes to the same key of ``info``.
        """
        observations, rewards, terminations, truncations, info = self.env.step(actions)
        if self._key in info:
            raise GlamError(
                f"info has {self._key!r} already: give EpisodeStatistics another stats_key"
            )
        reward = torch.as_tensor(rewards)
        done = torch.as_tensor(terminations) | torch.as_tensor(truncations)
        self._move_to(reward.device)
        if self._mode != AutoresetMode.SAME_STEP:
            # This step began rows that had ended before it, and is no step of theirs.
            counted = ~self._waiting
            if self._any_waiting:
                self._forget(self._waiting)
        else:
            counted = torch.ones_like(done)
        self._returns = self._returns + torch.where(counted, reward, 0.0).float()
        self._lengths = self._lengths + counted
        ended = bool(done.any())
        if ended:
            info = {**info, **self._finish(done, isinstance(rewards, np.ndarray))}
        if self._mode != AutoresetMode.SAME_STEP:
            self._waiting, self._any_waiting = done.clone(), ended
        elif ended:
            self._forget(done)
        return observations, rewards, terminations, truncations, info

    def _finish(self, done: Tensor, to_numpy: bool) -> dict[str, Any]:
        """What ``info`` says of the episodes that end now; the queues take them in."""
        self.return_queue.extend(self._returns[done].tolist())
        self.length_queue.extend(self._lengths[done].tolist())
        self.episode_count += int(done.sum())
        seconds = torch.from_numpy(time.perf_counter() - self._begun_at).float().to(done.device)
        self.time_queue.extend(seconds[done].tolist())
        parts = {"r": self._returns, "l": self._lengths, "t": seconds}
        episode: dict[str, Any] = {k: torch.where(done, v, 0) for k, v in parts.items()}
        mask: Any = done.clone()
        if to_numpy:
            episode, mask = {k: v.numpy() for k, v in episode.items()}, mask.numpy()
        return {self._key: episode, f"_{self._key}": mask}

    def _forget(self, mask: Tensor) -> None:
        """Counts anew for the rows of an (E) bool mask."""
        self._returns = self._returns.masked_fill(mask, 0.0)
        self._lengths = self._lengths.masked_fill(mask, 0)
        self._waiting = self._waiting & ~mask
        rows = mask.cpu().numpy()
        if rows.any():
            self._begun_at = np.where(rows, time.perf_counter(), self._begun_at)

    def _move_to(self, device: torch.device) -> None:
        self._returns = self._returns.to(device)
        self._lengths = self._lengths.to(device)
        self._waiting = self._waiting.to(device)


class FrameStacker:
    """The last observations of E rows, joined along one axis, the oldest first.

    Where an episode begins, its first observation stands for those that there were none of. What
    is returned is never written to again.

    Args:
        count: how many are joined; with 1, observations pass through as they are.
        axis: along which, in batches (E, …): 1 for channels-first images and for features,
            −1 for channels-last images.

    Raises:
        GlamError: a count that is no whole number >= 1.
    """

    def __init__(self, count: int, axis: int = 1) -> None:
        require_count("frame_stack", count)
        self.count, self.axis = count, axis
        self._past: list[Tensor] = []  # the last count − 1, our own

    def push(self, observations: Tensor, begun: Tensor) -> Tensor:
        """Takes in what is seen now.

        Args:
            observations: (E, …) of any dtype.
            begun: (E) bool, rows of which this is the first observation of an episode; all of
                them at the first call.

        Returns:
            (E, …), ``count`` times as long along the axis, on the same device.
        """
        if self.count == 1:
            return observations
        seen = observations.clone(memory_format=torch.contiguous_format)
        if not self._past:
            self._past = [seen.clone() for _ in range(self.count - 1)]
        elif bool(begun.any()):
            for past in self._past:
                past[begun] = seen[begun]
        stack = torch.cat([*self._past, seen], self.axis)
        self._past = [*self._past[1:], seen]
        return stack

    def peek(self, observations: Tensor, rows: Tensor) -> Tensor:
        """What :meth:`push` would return for some rows if they went on; nothing is taken in.

        Made for the last observations of episodes after which others have begun.

        Args:
            observations: (R, …), of R rows.
            rows: (R) int64, which.
        """
        if self.count == 1:
            return observations
        return torch.cat([*(past[rows] for past in self._past), observations], self.axis)
