"""``DreamVectorEnv``: E dreams as a Gymnasium vector env, in numpy or in tensors on the device."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from glam_env.checkpoints import find_checkpoint, load_config, load_contexts, load_world_model
from glam_env.dream.contexts import draw_frames
from glam_env.dream.engine import DreamEngine, find_device, require_choice
from glam_env.errors import GlamError
from glam_env.games import find_game
from glam_env.model.vision import IMAGE_SIZE

ARRAY_TYPES = ("numpy", "torch")
OBS_TYPES = ("rgb", "latent", "grayscale")
RENDER_MODES = ("rgb_array",)
RENDER_FPS = 15  # an agent step is 4 of the game's 60 frames a second

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


class DreamVectorEnv(VectorEnv):
    """E dreams of one game, stepped together.

    Observations are ``rgb`` (64, 64, 3) uint8, ``grayscale`` (64, 64, 1) uint8, or ``latent``, the
    agent's features [one-hot z_t, h_{t−1}] (K·C + D) float32. Rewards are float32, flags bool.
    ``info["prior_entropy"]`` is the model's doubt about what it dreamt in this step, in nats.
    Whatever is returned belongs to the caller: no storage is used twice.

    ``reset(seed=s)`` fixes everything: the same seed, E, device and actions give the same bits.
    Options of reset: ``reset_mask``, a bool array or tensor (E) of the dreams to begin anew
    (a seed given along with it still touches the draws of all); ``context``, a number or (E) of
    them, the real moments to start from.

    Args:
        game: one of :data:`~glam_env.games.GAMES`.
        num_envs: E.
        device: where the dreams live; ``"auto"`` takes CUDA if there is any.
        array_type: ``"numpy"``, or ``"torch"`` for tensors that stay on the device.
        obs_type: see above.
        max_episode_steps: the horizon, after which dreams are truncated; the checkpoint's if None.
        autoreset_mode: Gymnasium's ``AutoresetMode``, or its name or value.
        temperature, termination, reward: see :class:`~glam_env.dream.engine.DreamEngine`.
        checkpoint: a folder; the game's shipped one if None.
        render_mode: None or ``"rgb_array"``.

    Raises:
        GlamError: an impossible option, or a checkpoint that is missing or broken.
    """

    def __init__(
        self,
        game: str = "Pong",
        num_envs: int = 1,
        *,
        device: str | torch.device = "auto",
        array_type: str = "numpy",
        obs_type: str = "rgb",
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        temperature: float = 1.0,
        termination: str = "threshold",
        reward: str = "mean",
        checkpoint: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        require_choice("array_type", array_type, ARRAY_TYPES)
        require_choice("obs_type", obs_type, OBS_TYPES)
        require_choice("render_mode", render_mode, (None, *RENDER_MODES))
        self.game = find_game(game).name
        self.device = find_device(device)
        self.array_type, self.obs_type, self.render_mode = array_type, obs_type, render_mode
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {
            "render_modes": list(RENDER_MODES),
            "render_fps": RENDER_FPS,
            "autoreset_mode": self.autoreset_mode,
        }

        folder = find_checkpoint(self.game if checkpoint is None else checkpoint)
        config = load_config(folder)
        if config.game != self.game:
            raise GlamError(f"checkpoint {folder} is of {config.game}, not of {self.game}")
        self.engine = DreamEngine(
            load_world_model(folder, self.device),
            load_contexts(folder, self.device),
            num_envs,
            device=self.device,
            max_episode_steps=(
                config.max_episode_steps if max_episode_steps is None else max_episode_steps
            ),
            temperature=temperature,
            termination=termination,
            reward=reward,
            frames=obs_type != "latent",
        )

        self.num_envs = num_envs
        self.single_action_space = spaces.Discrete(config.world_model.num_actions)
        self.single_observation_space = {
            "rgb": spaces.Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
            "grayscale": spaces.Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8),
            "latent": spaces.Box(-np.inf, np.inf, (config.world_model.feature_dim,), np.float32),
        }[obs_type]
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

        self._frames: Tensor | None = None  # what the dreams look like now, unless latent
        self._done: Tensor | None = None  # dreams that have ended and not begun anew

    # --- Gymnasium's interface ---------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins dreams, all of them unless a mask says otherwise.

        Returns:
            Observations of all dreams, and an empty info: what a dream starts from is real.

        Raises:
            GlamError: a bad option; nothing has moved then.
        """
        self._require_open()
        mask, indices = self._checked_options(options)
        super().reset(seed=seed)
        if seed is not None or self._done is None:
            self.engine.seed(int(self.np_random.integers(2**63)))
        self._begin(mask, indices)
        self._done = torch.zeros_like(mask) if self._done is None else self._done & ~mask
        return self._export(self._observe()), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps all dreams.

        Args:
            actions: (E) integers in numpy or torch.

        Returns:
            Observations, rewards, terminations, truncations, info, as the autoreset mode has it.

        Raises:
            GlamError: bad actions, or a dream that has yet to begin; nothing has moved then.
        """
        self._require_open()
        if self._done is None:
            raise GlamError("the dreams have not begun: call reset() before step()")
        chosen = self._checked_actions(actions)
        waiting = self._done
        if self.autoreset_mode == AutoresetMode.DISABLED and bool(waiting.any()):
            dreams = waiting.nonzero().flatten().tolist()
            raise GlamError(f"dreams {dreams} have ended: reset() them before the next step()")
        step = self.engine.step(chosen)
        if self.obs_type != "latent":
            self._frames = self.engine.observe()
        reward, terminated, truncated = step.reward, step.terminated, step.truncated
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and bool(waiting.any()):
            # Those that had ended begin in this step; what they have just dreamt is dropped.
            self._begin(waiting, None)
            reward = reward.masked_fill(waiting, 0.0)
            terminated, truncated = terminated & ~waiting, truncated & ~waiting
        done = terminated | truncated
        info: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            begun, self._done = done, torch.zeros_like(done)
            if bool(done.any()):
                info = self._final_info(step.prior_entropy, done)
                self._begin(done, None)
        else:
            begun, self._done = waiting, done
        info |= self._doubt(step.prior_entropy, ~begun)
        return (
            self._export(self._observe()),
            self._export(reward),
            self._export(terminated),
            self._export(truncated),
            info,
        )

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One (64, 64, 3) uint8 frame a dream."""
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without render_mode='rgb_array'")
            return None
        self._require_open()
        frames = self._frames
        if frames is None:
            frames = draw_frames(self.engine.world_model, self.engine.state.code)
        return tuple(frames.cpu().numpy().copy())

    def close_extras(self, **kwargs: Any) -> None:
        """Lets go of the tensors."""
        self._frames = self._done = None
        if hasattr(self, "engine"):
            del self.engine

    # --- parts -------------------------------------------------------------------------------

    def _begin(self, mask: Tensor, indices: Tensor | None) -> None:
        """Starts the dreams of the (E) bool mask, at (E) int64 contexts or drawn ones."""
        indices = self.engine.reset(mask, indices)
        if self.obs_type != "latent":
            first = self.engine.pool.frames(indices, mask)
            if self._frames is not None:
                first = torch.where(mask[:, None, None, None], first, self._frames)
            self._frames = first

    def _observe(self) -> Tensor:
        """Observations of all dreams as they stand, a fresh tensor."""
        if self._frames is None:
            return self.engine.observe()
        if self.obs_type == "grayscale":
            weights = torch.tensor(_LUMINANCE, device=self.device)
            return (self._frames * weights).sum(-1, keepdim=True).round_().to(torch.uint8)
        return self._frames.clone()

    def _export(self, tensor: Tensor) -> Any:
        """A tensor in the caller's array type."""
        return tensor if self.array_type == "torch" else tensor.cpu().numpy()

    def _doubt(self, entropy: Tensor, mask: Tensor) -> dict[str, Any]:
        """``prior_entropy`` and its mask, absent if no dream has any, as Gymnasium does it."""
        if not bool(mask.any()):
            return {}
        doubt = entropy.masked_fill(~mask, 0.0)
        return {
            "prior_entropy": self._export(doubt),
            "_prior_entropy": self._export(mask.clone()),
        }

    def _final_info(self, entropy: Tensor, done: Tensor) -> dict[str, Any]:
        """What finished dreams leave behind: ``final_obs`` and ``final_info`` with their masks.

        In numpy ``final_obs`` is an array of objects, None where its mask is false; in torch it
        is a batch whose rows count where the mask is true.
        """
        final_obs = self._export(self._observe())
        if self.array_type == "numpy":
            rows, final_obs = final_obs, np.full(self.num_envs, None, dtype=object)
            for dream in done.nonzero().flatten().tolist():
                final_obs[dream] = rows[dream].copy()
        return {
            "final_obs": final_obs,
            "_final_obs": self._export(done.clone()),
            "final_info": self._doubt(entropy, done),
            "_final_info": self._export(done.clone()),
        }

    # --- checks ------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self.closed:
            raise GlamError("this env is closed: make a new one")

    def _checked_actions(self, actions: Any) -> Tensor:
        """(E) int64 actions on the device, valid ones."""
        chosen = _integers("actions", actions)
        if tuple(chosen.shape) != (self.num_envs,):
            raise GlamError(
                f"actions must have shape ({self.num_envs},), got {tuple(chosen.shape)}"
            )
        self._require_range("actions", chosen, self.engine.world_model.config.num_actions)
        return chosen.to(self.device, torch.int64)

    def _checked_options(self, options: dict[str, Any] | None) -> tuple[Tensor, Tensor | None]:
        """(E) bool mask and (E) int64 contexts (None to draw them) from reset's options."""
        options = options or {}
        if unknown := sorted(map(str, options.keys() - {"reset_mask", "context"})):
            raise GlamError(f"unknown reset option {unknown[0]!r}; there are reset_mask, context")
        mask = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        if "reset_mask" in options:
            mask = self._checked_mask(options["reset_mask"])
        if options.get("context") is None:
            return mask, None
        indices = _integers("options['context']", options["context"])
        if tuple(indices.shape) not in ((), (self.num_envs,)):
            raise GlamError(
                f"options['context'] must be a number or have shape ({self.num_envs},), "
                f"got shape {tuple(indices.shape)}"
            )
        self._require_range("options['context']", indices, len(self.engine.pool))
        return mask, indices.to(self.device, torch.int64).expand(self.num_envs)

    def _checked_mask(self, value: Any) -> Tensor:
        if not isinstance(value, np.ndarray | Tensor):
            raise GlamError(
                f"options['reset_mask'] must be an array or a tensor, got {type(value).__name__}"
            )
        mask = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        if mask.dtype != torch.bool or tuple(mask.shape) != (self.num_envs,):
            raise GlamError(
                f"options['reset_mask'] must be bool of shape ({self.num_envs},), "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        if not bool(mask.any()):
            raise GlamError("options['reset_mask'] must be true for at least one dream")
        if self._done is None and not bool(mask.all()):
            raise GlamError("the first reset must begin every dream: leave out reset_mask")
        return mask.to(self.device)

    def _require_range(self, name: str, values: Tensor, limit: int) -> None:
        outside = (values < 0) | (values >= limit)
        if bool(outside.any()):
            worst = int(values[outside][0])
            raise GlamError(f"{name} must lie in 0 … {limit - 1}, got {worst}")


def _integers(name: str, value: Any) -> Tensor:
    """A tensor of integers from numpy, torch or Python ones."""
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if not np.issubdtype(array.dtype, np.integer):
            raise GlamError(f"{name} must be integers, got dtype {array.dtype}")
        return torch.from_numpy(array.astype(np.int64))
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise GlamError(f"{name} must be integers, got dtype {value.dtype}")
    return value


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    for known in AutoresetMode:
        if mode in (known, known.name, known.value):
            return known
    names = ", ".join(known.name for known in AutoresetMode)
    raise GlamError(f"autoreset_mode must be one of {names}; got {mode!r}")
