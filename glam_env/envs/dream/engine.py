"""``DreamEngine``: E dreams of one world model, as tensors on its device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glam_env.checkpoint.contexts import Contexts
from glam_env.checks import require_count
from glam_env.device import find_device
from glam_env.envs.context import with_context
from glam_env.envs.dream.options import DreamOptions
from glam_env.envs.dream.pool import ContextPool
from glam_env.errors import GlamError
from glam_env.fast.choose import make_renderer, make_stepper
from glam_env.fast.graphs import Captured
from glam_env.fast.plain import not_finite
from glam_env.model.reward_values import RewardValues
from glam_env.model.structures import DreamState, tree_map
from glam_env.model.world_model import WorldModel

_UINT64 = 1 << 64


class EngineStep(NamedTuple):
    """One transition of E dreams; every part comes from the same h_t.

    Attributes:
        reward: (E) float32, in the game's units.
        terminated: (E) bool, the transition ended the life.
        truncated: (E) bool, it reached the horizon and did not end the life.
        prior_entropy: (E) float32 nats, the entropy of the prior that the latent was drawn from,
            summed over the K categoricals.
    """

    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    prior_entropy: Tensor


class EngineDraws(NamedTuple):
    """The state of all random draws of a batch of dreams.

    Attributes:
        generator: State of the generator that steps draw from (bytes, on the CPU).
        start_key: Key of the hash that draws starts.
        starts_drawn: (E) int64, how many starts each dream has drawn.
    """

    generator: Tensor
    start_key: int
    starts_drawn: Tensor


class EngineState(NamedTuple):
    """The state of all dreams.

    Attributes:
        dream: The world model's state.
        steps: (E) int64, steps since each dream began.
    """

    dream: DreamState
    steps: Tensor


class DreamEngine:
    """Steps and resets E dreams.

    Dreams do not affect each other: what happens next in a dream depends only on the seed, its
    place in the batch, its own past and the number of steps of the engine. The world model's draws
    come from one generator, which only :meth:`step` advances; starts come from a hash, which resets
    of other dreams do not change.

    Args:
        world_model: In eval mode, on ``device``, without gradients.
        contexts: Where dreams may start.
        num_envs: E.
        options: How to dream, see :class:`~glam_env.envs.dream.options.DreamOptions`. The engine
            needs ``max_episode_steps``, draws frames unless ``obs_type`` is ``"latent"``, and
            leaves the other options of observations and episodes to the env. With precision
            ``"auto"`` a native step multiplies in float16, see
            :class:`~glam_env.fast.native.stepper.NativeStepper`; states are always float32.
        reward_values: The values that the game pays; without them ``reward`` gives whole points.

    Raises:
        GlamError: An option is out of range, or the backend is not available.
    """

    def __init__(
        self,
        world_model: WorldModel,
        contexts: Contexts,
        num_envs: int,
        options: DreamOptions,
        reward_values: Sequence[float] = (),
    ) -> None:
        self.num_envs = num_envs = require_count("num_envs", num_envs)
        self.max_episode_steps = require_count("max_episode_steps", options.max_episode_steps)
        self.world_model = world_model = with_context(world_model, options.context)
        self.device = find_device(options.device)
        self._temperature = options.temperature
        self._sample_termination = options.termination == "sample"
        self._reward = options.reward
        self.reward_values = RewardValues(world_model.reward_code, reward_values)
        frames, backend, precision = (
            options.obs_type != "latent",
            options.backend,
            options.precision,
        )
        codes = contexts.codes[:, -1].to(self.device)
        self._render = (
            make_renderer(world_model.decoder, codes, precision, backend) if frames else None
        )
        self._stepper = make_stepper(
            world_model,
            temperature=self._temperature,
            backend=backend,
            precision="auto" if precision == "auto" else "float32",
        )
        self.pool = ContextPool(
            world_model,
            contexts,
            self.device,
            frames=frames,
            draw=self._render,
            arrange=self._stepper.arrange,
        )
        self._graph = Captured(self._advance) if self.device.type == "cuda" else None
        self._shown: Tensor | None = None  # observation of the last step, until it is returned
        self._generator = torch.Generator(self.device)
        self._rows = torch.arange(num_envs, device=self.device)
        self._everyone = torch.ones(num_envs, dtype=torch.bool, device=self.device)
        self._steps = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._state: DreamState | None = None
        self.seed(None)

    @property
    def state(self) -> DreamState:
        """State of the dreams, not a copy: read-only, and valid until the next call."""
        if self._state is None:
            raise GlamError("the dreams have not begun: call reset() first")
        return self._state

    def seed(self, seed: int | None) -> int:
        """Seed all further draws, and return the seed; None takes fresh entropy."""
        if seed is None:
            seed = self._generator.seed()
        self._generator.manual_seed(seed % _UINT64)
        self._start_key = seed
        self._starts_drawn = torch.zeros_like(self._rows)
        return seed

    @torch.no_grad()
    def reset(
        self, mask: Tensor | None = None, indices: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        """Start dreams and leave the others bit for bit unchanged.

        Args:
            mask: (E) bool, the dreams to start; None starts all.
            indices: (E) int64, the context that each starts from; None draws them.
            seed: Passed to :meth:`seed` first; it changes the draws of all dreams.

        Returns:
            (E) int64 contexts, undefined where the mask is false.

        Raises:
            GlamError: The first reset has a mask that leaves dreams out.
        """
        if self._state is None and mask is not None and not bool(mask.all()):
            raise GlamError("the first reset must start every dream: give it no mask")
        if seed is not None:
            self.seed(seed)
        mask = self._everyone if mask is None else mask
        if indices is None:
            indices = self._draw_starts()
            self._starts_drawn = self._starts_drawn + mask
        self._shown = None
        if self._state is None:
            self._state = self.pool.states(indices, mask)
        elif self.device.type == "cpu":  # finding the rows costs less there than moving all
            rows = mask.nonzero().flatten()
            source = self.pool.all_states(indices, mask)
            self._stepper.put(self._state, rows, source, indices[rows])
        else:
            self._state = _choose(mask, self.pool.states(indices, mask), self._state)
        self._steps = torch.where(mask, 0, self._steps)
        return indices

    @torch.no_grad()
    def step(self, actions: Tensor) -> EngineStep:
        """Dream one step.

        Args:
            actions: (E) int64 on the device, each in [0, A); not checked.

        Returns:
            The transition, in new tensors.

        Raises:
            GlamNumberError: On a CPU, numbers of the dreams are not finite. On CUDA nothing waits
                for this check: such a dream is truncated instead, with an entropy of NaN.
        """
        draws = [self._rand(self.num_envs, self.world_model.config.categoricals)]
        if self._reward == "sample":
            draws.append(self._rand(self.num_envs))
        if self._sample_termination:
            draws.append(self._rand(self.num_envs))
        advance = self._graph or self._advance
        step, self._state, self._steps, self._shown = advance(
            self.state, self._steps, actions, tuple(draws)
        )
        return step

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device, generator=self._generator)

    def _advance(
        self, state: DreamState, steps: Tensor, actions: Tensor, draws: tuple[Tensor, ...]
    ) -> tuple[EngineStep, DreamState, Tensor, Tensor | None]:
        """Step with given draws; shapes are static, and nothing waits for the device."""
        next_code, *others = draws
        latent = self._render is None
        step = self._stepper.step(state, actions, next_code, spend=True, show=latent)
        draw = others.pop(0) if self._reward == "sample" else step.reward  # only a sample reads it
        reward = self.reward_values.reward(self._reward, step, draw)
        terminated = step.termination_logit > 0.0
        if self._sample_termination:
            terminated = others.pop() < step.termination_logit.sigmoid()
        steps = steps + 1
        truncated, entropy = (steps >= self.max_episode_steps) & ~terminated, step.prior_entropy
        if self.device.type == "cuda":  # on a CPU the stepper has raised an error
            wrong = not_finite(step)
            truncated, entropy = truncated | wrong.isnan(), entropy + wrong
        shown = step.features if self._render is None else self._render(step.state.code)
        return (
            EngineStep(reward, terminated, truncated, entropy),
            step.state,
            steps,
            shown,
        )

    def _show(self, state: DreamState) -> Tensor:
        return self._stepper.features(state) if self._render is None else self._render(state.code)

    @torch.no_grad()
    def observe(self) -> Tensor:
        """Return the observation of all dreams, in a new tensor.

        Frames (E, 64, 64, 3) uint8, or with ``obs_type`` ``"latent"`` the agent's features
        (E, K·C + D) float32.
        """
        shown, self._shown = self._shown, None
        return self._show(self.state) if shown is None else shown

    def close(self) -> None:
        """Release the captured step and its memory; no call may follow."""
        self._graph = None

    def get_state(self) -> EngineState:
        """Return a copy of the state of all dreams, without their further draws."""
        return EngineState(tree_map(torch.clone, self.state), self._steps.clone())

    def set_state(self, state: EngineState) -> None:
        """Set all dreams to a copy of a state from :meth:`get_state`."""
        self._state = tree_map(lambda part: part.detach().clone(), state.dream)
        self._steps, self._shown = state.steps.clone(), None

    def get_draws(self) -> EngineDraws:
        """Return a copy of the state of all random draws."""
        return EngineDraws(self._generator.get_state(), self._start_key, self._starts_drawn.clone())

    def set_draws(self, draws: EngineDraws) -> None:
        """Continue the random draws from a state of :meth:`get_draws`.

        Args:
            draws: From an engine with as many dreams, on a device of the same type.
        """
        self._generator.set_state(draws.generator)
        self._start_key = draws.start_key
        self._starts_drawn = draws.starts_drawn.clone()

    def _draw_starts(self) -> Tensor:
        """Return the next start of each dream, (E) int64 contexts.

        It is a hash of the key, the dream's place and the number of its starts so far.
        """
        drawn, rows = self._starts_drawn, self._rows
        if self.device.type == "cpu":  # numpy is faster for so few numbers
            drawn, rows = drawn.numpy(), rows.numpy()
        position = drawn * self.num_envs + rows + 1
        return torch.as_tensor(_shift(_split_mix(position, self._start_key), 1) % len(self.pool))


def _split_mix(position: Any, key: int) -> Any:
    """Hash int64 positions, in numpy or torch, by SplitMix64 (Steele et al. 2014)."""
    x = position * _signed(0x9E3779B97F4A7C15) + _signed(key)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _signed(value: int) -> int:
    """Return the low 64 bits of an integer as int64."""
    return (value + _UINT64 // 2) % _UINT64 - _UINT64 // 2


def _shift(x: Any, bits: int) -> Any:
    """Shift int64 right, filling with zeros (the libraries' own repeats the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _choose(mask: Tensor, new: DreamState, old: DreamState) -> DreamState:
    """Return rows of ``new`` where the (E) bool mask is true, else of ``old``."""

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *(1,) * (a.ndim - 1)), a, b)

    return tree_map(choose, new, old)
