"""Dreams as Gymnasium envs: ``DreamVectorEnv``, E of them, and ``DreamEnv``, a single one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from glam_env.checkpoint.config import WORLD_MODEL
from glam_env.checkpoint.folder import Checkpoint
from glam_env.checks import require_integers, require_range
from glam_env.device import find_device
from glam_env.envs.base import PixelVectorEnv, Transition
from glam_env.envs.dream.engine import DreamEngine
from glam_env.envs.dream.pool import draw_frames
from glam_env.envs.dream.recordings import read_contexts
from glam_env.envs.dream.snapshot import DreamSnapshot
from glam_env.envs.single import PixelEnv
from glam_env.errors import GlamError


class DreamVectorEnv(PixelVectorEnv):
    """E dreams of one game, stepped together.

    Observations, array types, autoreset and rendering are those of
    :class:`~glam_env.envs.base.PixelVectorEnv`. ``info["prior_entropy"]`` is the model's doubt
    about what it dreamt in this step, in nats. A dream terminates where a life is lost.

    ``reset(seed=s)`` fixes everything: the same seed, E, device and actions give the same bits.
    Options of reset: ``reset_mask``, a bool array or tensor (E) of the dreams to begin anew
    (a seed given along with it still touches the draws of all); ``context``, a number or (E) of
    them, the real moments to start from. :meth:`get_state` and :meth:`set_state` copy dreams.

    Args:
        game: one of :data:`~glam_env.games.GAMES`.
        num_envs: E.
        device: where the dreams live; ``"auto"`` takes CUDA if there is any.
        array_type: ``"numpy"``, or ``"torch"`` for tensors that stay on the device.
        obs_type: ``"rgb"``, ``"grayscale"`` or ``"latent"``.
        max_episode_steps: the horizon, after which dreams are truncated; the checkpoint's if None.
        autoreset_mode: Gymnasium's ``AutoresetMode``, or its name or value.
        temperature, termination, reward: see :class:`~glam_env.envs.dream.engine.DreamEngine`.
        max_doubt: nats; a dream whose ``prior_entropy`` exceeds it is truncated at that step.
        checkpoint: a folder, or ``hf://owner/name[@revision]``; the game's shipped one if None.
        contexts: real play to start from instead of the checkpoint's moments, see
            :func:`~glam_env.envs.dream.recordings.read_contexts`.
        backend: ``"native"`` (C++, on CPUs), ``"torch"``, or ``"auto"``: native where it can be
            had, see :func:`~glam_env.fast.choose.make_stepper`.
        precision: ``"auto"``, the fastest numbers that suit the hardware (8-bit and float16 on
            CPUs, bfloat16 on CUDA devices), or ``"float32"`` throughout; see
            :class:`~glam_env.envs.dream.engine.DreamEngine`.
        render_mode: None, ``"rgb_array"``, ``"rgb_grid"`` or ``"human"``.

    Raises:
        GlamError: an impossible option, or a checkpoint that is missing or broken.
    """

    rows_are = "dreams"

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
        max_doubt: float | None = None,
        checkpoint: str | Path | Checkpoint | None = None,
        contexts: str | Path | Mapping[str, Any] | None = None,
        backend: str = "auto",
        precision: str = "auto",
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            game,
            num_envs,
            device=find_device(device),
            array_type=array_type,
            obs_type=obs_type,
            autoreset_mode=autoreset_mode,
            render_mode=render_mode,
        )
        self.max_doubt = require_doubt(max_doubt)
        opened = Checkpoint.open(self.game if checkpoint is None else checkpoint, self.game)
        config = opened.config
        self._world = config.files[WORLD_MODEL].sha256
        world_model = opened.world_model(self.device)
        self.engine = DreamEngine(
            world_model,
            opened.contexts(self.device)
            if contexts is None
            else read_contexts(contexts, world_model, config.contexts.length),
            self.num_envs,
            device=self.device,
            max_episode_steps=(
                config.max_episode_steps if max_episode_steps is None else max_episode_steps
            ),
            temperature=temperature,
            termination=termination,
            reward=reward,
            frames=obs_type != "latent",
            backend=backend,
            precision=precision,
        )
        self._set_spaces(config.world_model.num_actions, config.world_model.feature_dim)
        self.max_episode_steps = self.engine.max_episode_steps
        self._drawn: Tensor | None = None  # what the dreams look like now, unless latent

    @property
    def num_contexts(self) -> int:
        """Real moments that dreams can start from: those of reset's ``context``, from 0."""
        return len(self.engine.pool)

    # --- copies of dreams --------------------------------------------------------------------

    def get_state(self) -> DreamSnapshot:
        """A copy of all dreams and of what they will draw.

        Raises:
            GlamError: they have not begun.
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

    def set_state(self, state: DreamSnapshot) -> Any:
        """Puts all dreams where a snapshot's stood; it is copied and can be used again.

        With the draws to come (a whole snapshot) the dreams go on as those it was taken from, to
        the bit; without (a selection of ``rows``, or ``without_draws()``) the env's own draws go
        on, each row's different: ``envs.set_state(state.rows([0] * 1000))`` branches one moment
        into a thousand futures. ``reset(seed=s)`` before it fixes which.

        Returns:
            Observations of all dreams.

        Raises:
            GlamError: a snapshot that does not fit; nothing has moved then.
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

    # --- the world ---------------------------------------------------------------------------

    def _seed_world(self, seed: int) -> None:
        self.engine.seed(seed)

    def _begin(self, mask: Tensor, start: Tensor | None) -> None:
        indices = self.engine.reset(mask, start)
        if self.obs_type != "latent":
            if self._drawn is not None and self.device.type == "cpu":  # see the engine's reset
                rows = mask.nonzero().flatten()
                self._drawn[rows] = self.engine.pool.frames(indices[rows], mask[rows])
                return
            first = self.engine.pool.frames(indices, mask)
            if self._drawn is not None:
                first = torch.where(mask[:, None, None, None], first, self._drawn)
            self._drawn = first

    def _advance(self, actions: Tensor, waiting: Tensor) -> Transition:
        step = self.engine.step(actions)
        if self.obs_type != "latent":
            self._drawn = self.engine.observe()
        truncated = step.truncated
        if self.max_doubt is not None:
            truncated = truncated | ((step.prior_entropy > self.max_doubt) & ~step.terminated)
        return Transition(step.reward, step.terminated, truncated, step.prior_entropy)

    def _frames(self) -> Tensor:
        if self._drawn is None:  # a latent env, asked for a picture now and then
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
        """(E) int64 contexts, or None to draw them."""
        if unknown := sorted(map(str, options.keys() - {"context"})):
            raise GlamError(f"unknown reset option {unknown[0]!r}; there are reset_mask, context")
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
            raise GlamError(f"set_state() takes what get_state() gave, not {type(state).__name__}")
        if state.world != self._world:
            raise GlamError("these dreams are of another world model: use a snapshot of this one")
        if state.num_envs != self.num_envs:
            raise GlamError(
                f"the snapshot holds {state.num_envs} dreams and this env {self.num_envs}: "
                "select as many with its rows()"
            )
        if self.autoreset_mode == AutoresetMode.SAME_STEP and bool(state.done.any()):
            rows = state.done.nonzero().flatten().tolist()
            raise GlamError(f"dreams {rows} of the snapshot have ended: leave them out with rows()")
        if state.draws is not None and state.draws.starts_drawn.device.type != self.device.type:
            raise GlamError(
                f"the snapshot draws on {state.draws.starts_drawn.device.type}, this env on "
                f"{self.device.type}: take its dreams alone with without_draws()"
            )


def require_doubt(value: float | None) -> float | None:
    """The option ``max_doubt`` as a float, or None.

    Raises:
        GlamError: no number of nats.
    """
    if value is None:
        return None
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or math.isnan(value) or value < 0:
        raise GlamError(f"max_doubt must be a number of nats >= 0, or None; got {value!r}")
    return float(value)


class DreamEnv(PixelEnv):
    """One dream of a game: the only row of a :class:`DreamVectorEnv`, to the bit.

    Arguments, observations, info and options are those of the vector env (``context`` among the
    options of reset); see :class:`~glam_env.envs.single.PixelEnv` for what one row has not.
    """

    _envs: DreamVectorEnv

    def __init__(
        self,
        game: str = "Pong",
        *,
        device: str | torch.device = "auto",
        array_type: str = "numpy",
        obs_type: str = "rgb",
        max_episode_steps: int | None = None,
        horizon: int | None = None,
        temperature: float = 1.0,
        termination: str = "threshold",
        reward: str = "mean",
        max_doubt: float | None = None,
        checkpoint: str | Path | Checkpoint | None = None,
        contexts: str | Path | Mapping[str, Any] | None = None,
        backend: str = "auto",
        precision: str = "auto",
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            DreamVectorEnv,
            render_mode,
            horizon,
            game=game,
            device=device,
            array_type=array_type,
            obs_type=obs_type,
            max_episode_steps=max_episode_steps,
            temperature=temperature,
            termination=termination,
            reward=reward,
            max_doubt=max_doubt,
            checkpoint=checkpoint,
            contexts=contexts,
            backend=backend,
            precision=precision,
        )

    @property
    def num_contexts(self) -> int:
        """Real moments that the dream can start from: those of reset's ``context``, from 0."""
        return self._envs.num_contexts

    def get_state(self) -> DreamSnapshot:
        """A copy of the dream and of what it will draw: a snapshot of one."""
        return self._envs.get_state()

    def set_state(self, state: DreamSnapshot) -> Any:
        """Puts the dream where a snapshot's stood; returns its observation."""
        return self._envs.set_state(state)[0]
