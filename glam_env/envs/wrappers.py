"""Wrappers of vector envs, for tensors on their device and for numpy arrays.

Gymnasium's own ``RecordEpisodeStatistics`` takes numpy only. ``docs/wrappers.md`` lists which of
Gymnasium's wrappers work with which array type.
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
    """Add returns and lengths of episodes to ``info`` of the step that ends them.

    ``info["episode"]`` holds ``r``, the sum of rewards (E) float32, ``l``, the steps (E) int64,
    and ``t``, the seconds (E) float32; ``info["_episode"]`` (E) bool marks the rows that count,
    the others are 0. Both are absent if no episode has ended. They are of the type of the rewards:
    numpy arrays, or tensors on the device. On numpy this is what Gymnasium's
    ``RecordEpisodeStatistics`` does; the options of reset are not changed.

    Attributes:
        return_queue, length_queue, time_queue: values of the last episodes, Python numbers.
        episode_count: episodes that have ended.

    Args:
        env: a vector env, or wrappers around one, with its autoreset mode in ``metadata``.
        buffer_length: episodes that the queues hold.
        stats_key: the key in ``info``.

    Raises:
        GlamError: the autoreset mode of the env is unknown.
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
        # On the CPU until the first rewards show on which device they are.
        self._returns = torch.zeros(self.num_envs)
        self._lengths = torch.zeros(self.num_envs, dtype=torch.int64)
        self._waiting = torch.zeros(self.num_envs, dtype=torch.bool)
        self._any_waiting = False  # on the host, so that nothing waits for the device
        self._begun_at = np.full(self.num_envs, time.perf_counter())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin rows, and reset their counters.

        These are the rows of ``options["reset_mask"]``, or all rows.
        """
        observations, info = self.env.reset(seed=seed, options=options)
        mask = (options or {}).get("reset_mask")
        if mask is None:
            begun = torch.ones_like(self._waiting)
        else:
            begun = mask if isinstance(mask, Tensor) else torch.from_numpy(np.array(mask))
        self._clear(begun.to(self._waiting.device))
        return observations, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all rows.

        Raises:
            GlamError: the wrapped env already writes to the same key of ``info``.
        """
        observations, rewards, terminations, truncations, info = self.env.step(actions)
        if self._key in info:
            raise GlamError(
                f"info already has {self._key!r}: give EpisodeStatistics another stats_key"
            )
        reward = torch.as_tensor(rewards)
        done = torch.as_tensor(terminations) | torch.as_tensor(truncations)
        self._move_to(reward.device)
        if self._mode != AutoresetMode.SAME_STEP:
            # This step began rows that had ended before it; it does not count as their step.
            counted = ~self._waiting
            if self._any_waiting:
                self._clear(self._waiting)
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
            self._clear(done)
        return observations, rewards, terminations, truncations, info

    def _finish(self, done: Tensor, to_numpy: bool) -> dict[str, Any]:
        """Fill the queues, and return the ``info`` entries of the ended episodes."""
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

    def _clear(self, mask: Tensor) -> None:
        """Reset the counters of the rows of an (E) bool mask."""
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
    """Join the last observations of E rows along one axis, the oldest first.

    Where an episode begins, its first observation fills the places of the missing ones. Returned
    tensors are never written to again.

    Args:
        count: number of observations joined; 1 passes them through.
        axis: of batches (E, …): 1 for channels-first images and for features, −1 for
            channels-last images.

    Raises:
        GlamError: the count is not a whole number >= 1.
    """

    def __init__(self, count: int, axis: int = 1) -> None:
        require_count("frame_stack", count)
        self.count, self.axis = count, axis
        self._past: list[Tensor] = []  # the last count − 1 observations, copies

    def push(self, observations: Tensor, begun: Tensor) -> Tensor:
        """Add the current observations.

        Args:
            observations: (E, …) of any dtype.
            begun: (E) bool, rows whose observation is the first of an episode; all rows at the
                first call.

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
        """Return what :meth:`push` would return for some rows, without adding anything.

        This is for the final observations of rows in which the next episode has already begun.

        Args:
            observations: (R, …), of R rows.
            rows: (R) int64, their numbers.
        """
        if self.count == 1:
            return observations
        return torch.cat([*(past[rows] for past in self._past), observations], self.axis)
