"""Dreams as Gymnasium envs: ``DreamVectorEnv`` for E dreams, ``DreamEnv`` for one."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from glam_env.checks import require_count, require_integers, require_range
from glam_env.envs.base import PixelVectorEnv, Transition
from glam_env.envs.dream.engine import DreamEngine
from glam_env.envs.dream.options import DreamKeywords, DreamOptions, read_options, shows_options
from glam_env.envs.dream.pool import draw_frames
from glam_env.envs.dream.snapshot import DreamSnapshot, check_snapshot, world_identity
from glam_env.envs.lifetime import until_closed
from glam_env.envs.recordings.contexts import read_contexts
from glam_env.envs.single import PixelEnv
from glam_env.errors import GlamError, GlamNumberError
from glam_env.fast.plain import NOT_FINITE

if TYPE_CHECKING:
    from typing_extensions import Unpack


class DreamVectorEnv(PixelVectorEnv):
    """E dreams of one game, stepped together.

    Observations, array types, autoreset and rendering are those of
    :class:`~glam_env.envs.base.PixelVectorEnv`. ``info["prior_entropy"]`` is the entropy in nats
    of the model's prediction in this step. A dream terminates where a life is lost.

    ``reset(seed=s)`` fixes everything: the same seed, E, device and actions give the same bits.
    Options of reset: ``reset_mask``, an (E) bool array or tensor of the dreams to begin again (a
    seed given with it still affects the draws of all); ``context``, a number or (E) of them, the
    contexts to start from. :meth:`get_state` and :meth:`set_state` copy dreams. ``copy``,
    ``deepcopy`` and ``pickle`` of the env make another one of the same options and checkpoint,
    which continues as this one would.

    Args:
        game: one of :data:`~glam_env.games.GAMES`.
        num_envs: E.
        options: a :class:`~glam_env.envs.dream.options.DreamOptions`, or None for the defaults.
        given: its fields as keyword arguments; they win over ``options``.

    Raises:
        GlamError: an option is unknown or impossible, or a checkpoint is missing or broken.
    """

    rows_are = "dreams"

    @shows_options(DreamOptions)
    def __init__(
        self,
        game: str = "Pong",
        num_envs: int = 1,
        *,
        options: DreamOptions | None = None,
        **given: Unpack[DreamKeywords],
    ) -> None:
        chosen = read_options(DreamOptions, options, given)
        super().__init__(game, num_envs, chosen)
        self.max_prior_entropy = chosen.max_prior_entropy
        checkpoint = chosen.open_checkpoint(self.game)
        config = checkpoint.config
        self._world = world_identity(config)
        world_model = checkpoint.world_model(self.device)
        self.engine = DreamEngine(
            world_model,
            checkpoint.contexts(self.device)
            if chosen.contexts is None
            else read_contexts(chosen.contexts, world_model, config.contexts.length),
            self.num_envs,
            replace(chosen, max_episode_steps=chosen.max_episode_steps or config.max_episode_steps),
            config.reward_values,
        )
        if chosen.reward != "mean" and not config.reward_values:
            gym.logger.warn(
                f"{checkpoint.path} does not say which rewards its game pays: they are rounded to "
                "whole points; `glam card` measures them"
            )
        self._set_spaces(config.world_model.num_actions, config.world_model.feature_dim)
        self.max_episode_steps = self.engine.max_episode_steps
        self._entropies: deque[Tensor] = deque(maxlen=2)  # of the last steps on a CUDA device
        self._drawn: Tensor | None = None  # the current frames, unless observations are latent

    @property
    def num_contexts(self) -> int:
        """Number of contexts: the option ``context`` of reset counts them from 0."""
        return len(self.engine.pool)

    def _set_horizon(self, steps: int) -> None:
        """Truncate dreams after ``steps`` steps from now on."""
        self.max_episode_steps = self.engine.max_episode_steps = require_count("steps", steps)

    # --- copies of dreams --------------------------------------------------------------------

    @until_closed
    def get_state(self) -> DreamSnapshot:
        """Copy all dreams and the state of their random draws.

        Raises:
            GlamError: the dreams have not begun.
        """
        self._require_begun()
        assert self._done is not None
        return DreamSnapshot(
            self._world,
            self.engine.get_state(),
            self._done.clone(),
            None if self._drawn is None else self._drawn.clone(),
            self.engine.get_draws(),
        )

    @until_closed
    def set_state(self, state: DreamSnapshot) -> Any:
        """Continue all dreams from a snapshot, which is copied and can be used again.

        A whole snapshot holds the random draws too: the dreams continue like those it was taken
        from, bit for bit. Without draws (a selection of ``rows``, or ``without_draws()``) the
        env's own draws continue, different in each row: ``envs.set_state(state.rows([0] * 1000))``
        branches one moment into a thousand futures. ``reset(seed=s)`` before it fixes them.

        Returns:
            Observations of all dreams.

        Raises:
            GlamError: the snapshot does not fit this env, which is then unchanged.
        """
        self._require_open()
        self._check_snapshot(state)
        state = state.to(self.device)
        self.engine.set_state(state.engine)
        if state.draws is not None:
            self.engine.set_draws(
                state.draws._replace(starts_drawn=state.draws.starts_drawn.to(self.device))
            )
        elif self._done is None:  # as a first reset would
            self._seed_world(int(self.np_random.integers(2**63)))
        self._done = state.done.clone()
        if self.obs_type != "latent":
            self._drawn = self.engine.observe() if state.frames is None else state.frames.clone()
        self._show()
        return self._export(self._observe())

    def _moving(self) -> dict[str, Any]:
        begun = self._done is not None
        return super()._moving() | {
            "dreams": self.get_state() if begun else None,
            "draws": self.engine.get_draws(),
        }

    def _continue(self, moving: dict[str, Any]) -> None:
        super()._continue(moving)
        if moving["dreams"] is not None:
            self.set_state(moving["dreams"])
        self.engine.set_draws(moving["draws"])

    # --- the world ---------------------------------------------------------------------------

    def _seed_world(self, seed: int) -> None:
        self.engine.seed(seed)

    def _begin(self, mask: Tensor, start: Tensor | None) -> None:
        indices = self.engine.reset(mask, start)
        if self.obs_type != "latent":
            if self._drawn is not None and self.device.type == "cpu":  # as in the engine's reset
                rows = mask.nonzero().flatten()
                self._drawn[rows] = self.engine.pool.frames(indices[rows], mask[rows])
                return
            first = self.engine.pool.frames(indices, mask)
            if self._drawn is not None:
                first = torch.where(mask[:, None, None, None], first, self._drawn)
            self._drawn = first

    def _advance(self, actions: Tensor, waiting: Tensor) -> Transition:
        step = self.engine.step(actions)
        if self.device.type == "cuda":
            self._entropies.append(step.prior_entropy)
        if self.obs_type != "latent":
            self._drawn = self.engine.observe()
        truncated = step.truncated
        if self.max_prior_entropy is not None:
            uncertain = step.prior_entropy > self.max_prior_entropy
            truncated = truncated | (uncertain & ~step.terminated)
        return Transition(step.reward, step.terminated, truncated, step.prior_entropy)

    def _check_numbers(self) -> None:
        recent = list(self._entropies)
        self._entropies.clear()
        if recent and bool(torch.stack(recent).isnan().any()):
            raise GlamNumberError(NOT_FINITE)

    def _frames(self) -> Tensor:
        if self._drawn is None:  # a latent env that renders
            return draw_frames(self.engine.world_model, self.engine.state.code)
        return self._drawn

    def _features(self) -> Tensor:
        return self.engine.observe()

    def _release(self) -> None:
        self._drawn = None
        if hasattr(self, "engine"):
            self.engine.close()
            del self.engine

    # --- checks ------------------------------------------------------------------------------

    def _checked_start(self, options: Mapping[str, Any]) -> Tensor | None:
        """Read the option ``context`` as (E) int64; None draws contexts."""
        if unknown := sorted(map(str, options.keys() - {"context"})):
            raise GlamError(f"unknown reset option {unknown[0]!r}; known are reset_mask, context")
        if options.get("context") is None:
            return None
        name = "options['context']"
        indices = require_integers(name, options["context"])
        if tuple(indices.shape) not in ((), (self.num_envs,)):
            raise GlamError(
                f"{name} must be a number or have shape ({self.num_envs},), "
                f"got shape {tuple(indices.shape)}"
            )
        require_range(name, indices, len(self.engine.pool))
        return indices.to(self.device, torch.int64).expand(self.num_envs)

    def _check_snapshot(self, state: DreamSnapshot) -> None:
        if not isinstance(state, DreamSnapshot):
            raise GlamError(
                f"set_state() takes a DreamSnapshot of get_state(), not {type(state).__name__}"
            )
        if state.world != self._world:
            raise GlamError("the snapshot is of another world model: take one of this env's")
        check_snapshot(state, self.engine)
        if self.autoreset_mode == AutoresetMode.SAME_STEP and bool(state.done.any()):
            ended = state.done.nonzero().flatten().tolist()
            raise GlamError(
                f"dreams {ended} of the snapshot have ended: leave them out with rows()"
            )


class DreamEnv(PixelEnv):
    """One dream of a game: the only row of a :class:`DreamVectorEnv`, bit for bit.

    Observations, info and options are those of the vector env (``context`` among the options of
    reset); :class:`~glam_env.envs.single.PixelEnv` lists what a single env does not have.

    Args:
        game: one of :data:`~glam_env.games.GAMES`.
        horizon: another name of ``max_episode_steps``.
        options: a :class:`~glam_env.envs.dream.options.DreamOptions`, or None for the defaults.
        given: its fields as keyword arguments; they win over ``options``.

    Raises:
        GlamError: an option is unknown or impossible, or a checkpoint is missing or broken.
    """

    _envs: DreamVectorEnv

    @shows_options(DreamOptions, without=("autoreset_mode",))
    def __init__(
        self,
        game: str = "Pong",
        *,
        horizon: int | None = None,
        options: DreamOptions | None = None,
        **given: Unpack[DreamKeywords],
    ) -> None:
        super().__init__(DreamVectorEnv, DreamOptions, game, horizon, options, given)

    @property
    def num_contexts(self) -> int:
        """Number of contexts: the option ``context`` of reset counts them from 0."""
        return self._envs.num_contexts

    def get_state(self) -> DreamSnapshot:
        """Copy the dream and the state of its random draws: a snapshot of one."""
        return self._envs.get_state()

    def set_state(self, state: DreamSnapshot) -> Any:
        """Continue the dream from a snapshot, and return its observation."""
        return self._envs.set_state(state)[0]
