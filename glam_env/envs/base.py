"""``PixelVectorEnv``: Gymnasium's interface, shared by dreams and real games.

A world (dreams, or games in the emulator) begins and advances its E rows and shows them as frames
or as the agent's features. This class adds the rest for both: the three autoreset modes, array
and observation types, rendering, and checks of the input before any state changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from glam_env.checks import read_actions, read_mask, require_count, require_options
from glam_env.device import find_device
from glam_env.envs.atari_habits import AtariHabits
from glam_env.envs.dream.options import RENDER_MODES, DreamOptions
from glam_env.envs.lifetime import Copied, until_closed
from glam_env.envs.plain_spec import PlainSpec
from glam_env.envs.row_attributes import RowAttributes
from glam_env.envs.window import Window
from glam_env.errors import GlamError
from glam_env.games import find_game

RENDER_FPS = 15  # an agent step is 4 of the game's 60 frames a second
FRAME_SHAPE = (64, 64, 3)

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Transition(NamedTuple):
    """One step of E rows.

    Attributes:
        reward: (E) float32.
        terminated, truncated: (E) bool.
        prior_entropy: (E) float32 nats; None in a world without a model.
    """

    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    prior_entropy: Tensor | None


class PixelVectorEnv(Copied, AtariHabits, RowAttributes, PlainSpec, VectorEnv, ABC):
    """E rows of one game, stepped together.

    Observations are ``rgb`` (64, 64, 3) uint8, ``grayscale`` (64, 64, 1) uint8, or ``latent``, the
    agent's features [one-hot z_t, h_{t−1}] (K·C + D) float32. Rewards are float32, flags bool.
    Returned arrays and tensors belong to the caller: the env never writes to them again.

    ``info["prior_entropy"]`` (E) float32, in every step, is the entropy in nats of the world
    model's prediction for this step; 0 where a row began instead of acting (NEXT_STEP). As in
    Gymnasium, ``final_info`` repeats the entries of the rows that SAME_STEP has begun again, and
    the mask ``_prior_entropy`` excludes them.

    A subclass provides the world: :meth:`_seed_world`, :meth:`_begin`, :meth:`_advance`,
    :meth:`_frames`, :meth:`_features`, :meth:`_release`; it calls :meth:`_set_spaces` once.

    Args:
        game: one of :data:`~glam_env.games.GAMES`.
        num_envs: E.
        options: device, types of arrays and observations, rendering, and autoreset mode.

    Raises:
        GlamError: an option is impossible.
    """

    rows_are: ClassVar[str] = "rows"
    """The plural that messages use for the E rows."""

    single_action_space: spaces.Discrete
    closed = True  # until there is something to close
    _window: Window | None = None

    def __init__(self, game: str, num_envs: int, options: DreamOptions) -> None:
        self.num_envs = require_count("num_envs", num_envs)
        self.game = find_game(game).name
        self.device = find_device(options.device)
        self._luminance: Tensor | None = None  # on the device, from the first use on
        self.array_type, self.obs_type = options.array_type, options.obs_type
        self.render_mode = options.render_mode
        self.autoreset_mode = options.autoreset_mode
        self.metadata = {
            "render_modes": list(RENDER_MODES),
            "render_fps": RENDER_FPS,
            "autoreset_mode": self.autoreset_mode,
        }
        if self.render_mode == "human":
            self._window = Window(type(self).__name__, RENDER_FPS)
        self._done: Tensor | None = None  # rows that have ended and not begun again
        self._options = options
        self.closed = False

    def _set_spaces(self, num_actions: int, feature_dim: int) -> None:
        self.single_action_space = spaces.Discrete(num_actions)
        self.single_observation_space = {
            "rgb": spaces.Box(0, 255, FRAME_SHAPE, np.uint8),
            "grayscale": spaces.Box(0, 255, (*FRAME_SHAPE[:2], 1), np.uint8),
            "latent": spaces.Box(-np.inf, np.inf, (feature_dim,), np.float32),
        }[self.obs_type]
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    # --- the world ---------------------------------------------------------------------------

    @abstractmethod
    def _seed_world(self, seed: int) -> None:
        """Fix all random draws from here on; ``seed`` lies in [0, 2^63)."""

    @abstractmethod
    def _begin(self, mask: Tensor, start: Any) -> None:
        """Begin the rows of the (E) bool mask.

        ``start`` is a result of :meth:`_checked_start`, or None.
        """

    @abstractmethod
    def _advance(self, actions: Tensor, waiting: Tensor) -> Transition:
        """Step all rows by (E) int64 actions.

        The rows of the (E) bool mask ``waiting`` ended earlier and begin right after this call;
        their results are not used.
        """

    @abstractmethod
    def _frames(self) -> Tensor:
        """Return the current frames, (E, 64, 64, 3) uint8 on the device, without a copy."""

    @abstractmethod
    def _features(self) -> Tensor:
        """Return the current features, (E, K·C + D) float32, in a new tensor."""

    @abstractmethod
    def _release(self) -> None:
        """Release everything that takes memory."""

    def _check_numbers(self) -> None:
        """Raise an error for numbers that were not finite and are not yet reported.

        This is called when a row has ended, and may wait for the device.
        """

    def _checked_start(self, options: Mapping[str, Any]) -> Any:
        """Read the start of rows from the options of reset (without ``reset_mask``)."""
        if options:
            raise GlamError(
                f"unknown reset option {str(next(iter(options)))!r}; the known one is reset_mask"
            )
        return None

    # --- Gymnasium's interface ---------------------------------------------------------------

    @until_closed
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin all rows, or those of a mask.

        Args:
            seed: fixes all random draws from here on, for all rows.
            options: ``reset_mask``, an (E) bool array or tensor of the rows to begin; a subclass
                may accept others.

        Returns:
            Observations of all rows, and an empty info: nothing has been predicted yet.

        Raises:
            GlamError: an option is wrong; the env is then unchanged.
        """
        self._require_open()
        others = require_options(options)
        mask = self._checked_mask(others.pop("reset_mask", None))
        start = self._checked_start(others)
        super().reset(seed=seed)
        if seed is not None or self._done is None:
            self._seed_world(int(self.np_random.integers(2**63)))
        self._begin(mask, start)
        self._done = torch.zeros_like(mask) if self._done is None else self._done & ~mask
        self._show()
        return self._export(self._observe()), {}

    @until_closed
    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all rows.

        Args:
            actions: (E) integers in numpy, torch or a list.

        Returns:
            Observations, rewards (E) float32, terminations and truncations (E) bool, and info, as
            the autoreset mode defines them.

        Raises:
            GlamError: actions are invalid, or a row has to begin first; the env is then unchanged.
            GlamNumberError: numbers of the world are not finite.
        """
        self._require_open()
        if self._done is None:
            raise GlamError(f"the {self.rows_are} have not begun: call reset() before step()")
        chosen = self._checked_actions(actions)
        waiting = self._done
        if self.autoreset_mode == AutoresetMode.DISABLED and bool(waiting.any()):
            self._check_numbers()
            rows = waiting.nonzero().flatten().tolist()
            raise GlamError(
                f"{self.rows_are} {rows} have ended: reset() them before the next step()"
            )
        reward, terminated, truncated, entropy = self._advance(chosen, waiting)
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            done = terminated | truncated
            info = self._entropy_info(entropy, None, ~done)
            if bool(done.any()):
                self._check_numbers()
                info |= self._final_info(entropy, done)
                self._begin(done, None)
        else:
            acted = ~waiting
            if self.autoreset_mode == AutoresetMode.NEXT_STEP and bool(waiting.any()):
                self._check_numbers()
                # Rows that had ended begin in this step; what they have just done is dropped.
                self._begin(waiting, None)
                reward = reward.masked_fill(waiting, 0.0)
                terminated, truncated = terminated & acted, truncated & acted
            info = self._entropy_info(entropy, acted, acted.clone())
            self._done = terminated | truncated
        self._show()
        return (
            self._export(self._observe()),
            self._export(reward),
            self._export(terminated),
            self._export(truncated),
            info,
        )

    @until_closed
    def render(self) -> Any:
        """Return what the render mode defines.

        ``rgb_array``: a tuple of E frames (64, 64, 3) uint8; ``rgb_grid``: one picture with all of
        them; ``human``: None, since the window shows each step anyway.
        """
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without render_mode, such as 'rgb_array'")
            return None
        if self.render_mode == "human":
            return None
        self._require_begun()
        frames = self._frames().cpu().numpy()
        return tuple(frames.copy()) if self.render_mode == "rgb_array" else tile_frames(frames)

    def close_extras(self, **kwargs: Any) -> None:
        """Release the world, its tensors on the device, and the window."""
        self.closed = True  # first, since another thread may be stepping the env
        self._done = self._luminance = None
        self._release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # PyTorch keeps freed memory, which others may need
        if self._window is not None:
            self._window.close()

    # --- parts -------------------------------------------------------------------------------

    def _observe(self) -> Tensor:
        """Return the current observations of all rows, in a new tensor."""
        if self.obs_type == "latent":
            return self._features()
        if self.obs_type == "grayscale":
            if self._luminance is None:
                self._luminance = torch.tensor(_LUMINANCE, device=self.device)
            return (self._frames() * self._luminance).sum(-1, keepdim=True).round_().to(torch.uint8)
        return self._frames().clone()

    def _show(self) -> None:
        if self._window is not None:
            self._window.show(tile_frames(self._frames().cpu().numpy()))

    def _export(self, tensor: Tensor) -> Any:
        """Convert a tensor to the caller's array type."""
        return tensor if self.array_type == "torch" else tensor.cpu().numpy()

    def _entropy_info(
        self, entropy: Tensor | None, acted: Tensor | None, mask: Tensor
    ) -> dict[str, Any]:
        """Return ``prior_entropy`` and its mask.

        Args:
            entropy: (E) nats; None in a world without a model, which masks all rows.
            acted: (E) bool, the other rows have entropy 0; None is all rows.
            mask: (E) bool, the rows that the info belongs to; not copied.
        """
        if entropy is None:
            entropy, mask = torch.zeros(self.num_envs, device=self.device), torch.zeros_like(mask)
        elif acted is not None:
            entropy = entropy.masked_fill(~acted, 0.0)
        return {"prior_entropy": self._export(entropy), "_prior_entropy": self._export(mask)}

    def _final_info(self, entropy: Tensor | None, done: Tensor) -> dict[str, Any]:
        """Return ``final_obs`` and ``final_info`` of finished rows, with their masks.

        In numpy ``final_obs`` is an array of objects, None where its mask is false; in torch it
        is a batch whose rows are valid where the mask is true.
        """
        final_obs = self._export(self._observe())
        if self.array_type == "numpy":
            rows, final_obs = final_obs, np.full(self.num_envs, None, dtype=object)
            for row in done.nonzero().flatten().tolist():
                final_obs[row] = rows[row].copy()
        return {
            "final_obs": final_obs,
            "_final_obs": self._export(done.clone()),
            "final_info": self._entropy_info(entropy, done, done.clone()),
            "_final_info": self._export(done.clone()),
        }

    def _is_closed(self) -> bool:
        return self.closed

    def _recipe(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        options = replace(self._options, max_episode_steps=self.max_episode_steps)
        return (self.game, self.num_envs), {"options": options}

    def _moving(self) -> dict[str, Any]:
        added = {name: vars(self)[name] for name in self._added}  # by set_attr
        return super()._moving() | {"_added": self._added, "added": added}

    def _continue(self, moving: dict[str, Any]) -> None:
        super()._continue(moving)
        vars(self).update(moving["added"])

    # --- checks ------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self.closed:
            raise GlamError("this env is closed: make a new one")

    def _require_begun(self) -> None:
        self._require_open()
        if self._done is None:
            raise GlamError(f"the {self.rows_are} have not begun: call reset() first")

    def _checked_actions(self, actions: Any) -> Tensor:
        """Check actions; return them as (E) int64 on the device."""
        num_actions = int(self.single_action_space.n)
        return read_actions(actions, self.num_envs, num_actions).to(self.device)

    def _checked_mask(self, value: Any) -> Tensor:
        """Check the mask of rows to begin; return it as (E) bool on the device.

        None selects all rows.
        """
        if value is None:
            return torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        row = self.rows_are[:-1]
        mask = read_mask(value, self.num_envs, row)
        if self._done is None and not bool(mask.all()):
            raise GlamError(f"the first reset must begin every {row}: leave out reset_mask")
        return mask.to(self.device)


def tile_frames(frames: np.ndarray) -> np.ndarray:
    """Tile (E, H, W, 3) frames into one picture, row after row.

    The picture has about as many columns as rows. The rest of the last row is black.
    """
    count, height, width, channels = frames.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    grid = np.zeros((rows * columns, height, width, channels), frames.dtype)
    grid[:count] = frames
    grid = grid.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)
