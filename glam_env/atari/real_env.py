"""The real game as Gymnasium envs, in the dream's spaces: a policy of one runs in the other.

What differs is the world, not the interface. A dream ends where a life is lost and at a short
horizon; a real episode is the whole game, cut after half an hour as Atari's protocol has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from glam_env.atari.emulator import MAX_STEPS, Emulator
from glam_env.atari.latent_filter import LatentFilter
from glam_env.checkpoints import load_world_model
from glam_env.dream.engine import find_device, require_count
from glam_env.errors import GlamError
from glam_env.model.distributions import categorical_entropy
from glam_env.model.structures import DreamState
from glam_env.model.variation import CoreState
from glam_env.single_base import PixelEnv
from glam_env.vector_base import PixelVectorEnv, Transition, open_checkpoint

_STEPS, _STARTS = 0, 1  # mixed into the seeds of the filter's two kinds of draws


class Games(Emulator):
    """An emulator that begins games when it is told to, and not by itself."""

    def reseed(self, seed: int) -> None:
        """The games begun from here on are those of a fresh emulator of this seed."""
        self.seed = seed
        self._episode[:] = -1

    def begin(self, mask: np.ndarray) -> np.ndarray:
        """Begins the next game where the (E,) bool mask is true; (E, 64, 64, 3) frames of all."""
        return self._begin(mask, np.where(mask, self._episode + 1, self._episode))

    def play(self, actions: np.ndarray, waiting: np.ndarray) -> tuple[np.ndarray, ...]:
        """One step of all games.

        Args:
            actions: (E,) int64, checked.
            waiting: (E,) bool, games that are over and will be begun right after this step.

        Returns:
            Frames (E, 64, 64, 3), rewards, terminations and truncations (E,).
        """
        self._length[waiting] = 0  # their record is full if they were cut at MAX_STEPS
        frames, reward, _, terminated, truncated = self._play(actions)
        return frames, reward, terminated, truncated

    @property
    def episode(self) -> np.ndarray:
        """(E,) int64, number of each env's game since the seed."""
        return self._episode

    @property
    def length(self) -> np.ndarray:
        """(E,) int64, steps played in it."""
        return self._length


class RealVectorEnv(PixelVectorEnv):
    """E real games side by side.

    Observations, array types, autoreset and rendering are those of
    :class:`~glam_env.vector_base.PixelVectorEnv`. Rewards are the game's points, not clipped; an
    episode is the whole game, however many lives it has. ``reset(seed=s)`` fixes everything, and
    no game touches another.

    ``latent`` observations are what the checkpoint's world model makes of the frames. The env
    tells it the actions, so a policy has nothing to do but act; and ``info["prior_entropy"]`` then
    is the model's doubt about the frame to come, before it saw it, as in a dream. With frames
    there is no world model, and that is the one key that a dream's info has and this one lacks.

    Args:
        game: one of :data:`~glam_env.games.GAMES`.
        num_envs: E.
        device: of the observations and of the world model; ``"auto"`` takes CUDA if there is any
            and something to do there.
        array_type: ``"numpy"``, or ``"torch"`` for tensors that stay on the device.
        obs_type: ``"rgb"``, ``"grayscale"`` or ``"latent"``.
        max_episode_steps: agent steps after which a game is cut; at most, and if None, 27 000.
        autoreset_mode: Gymnasium's ``AutoresetMode``, or its name or value.
        repeat_action_probability: chance that a frame repeats the action before it.
        checkpoint: as for dreams; only ``latent`` opens it.
        render_mode: None, ``"rgb_array"``, ``"rgb_grid"`` or ``"human"``.

    Raises:
        GlamError: an impossible option, ale-py not installed, or, for ``latent``, a checkpoint
            that is missing or broken.
    """

    rows_are = "games"

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
        repeat_action_probability: float = 0.0,
        checkpoint: str | Path | None = None,
        render_mode: str | None = None,
    ) -> None:
        if device == "auto" and array_type == "numpy" and obs_type != "latent":
            device = "cpu"  # where the frames come from and where they go
        super().__init__(
            game,
            num_envs,
            device=find_device(device),
            array_type=array_type,
            obs_type=obs_type,
            autoreset_mode=autoreset_mode,
            render_mode=render_mode,
        )
        self.max_episode_steps = MAX_STEPS if max_episode_steps is None else max_episode_steps
        require_count("max_episode_steps", self.max_episode_steps)
        if self.max_episode_steps > MAX_STEPS:
            raise GlamError(
                f"max_episode_steps must be at most {MAX_STEPS}, where the emulator cuts a game; "
                f"got {max_episode_steps}"
            )
        feature_dim = 0
        self._filter: LatentFilter | None = None
        if obs_type == "latent":
            folder, config = open_checkpoint(checkpoint, self.game)
            world_model = load_world_model(folder, self.device)
            self._filter = LatentFilter(world_model, num_envs)
            self._generators = {kind: torch.Generator(self.device) for kind in (_STEPS, _STARTS)}
            feature_dim = config.world_model.feature_dim
        self.games = Games(
            self.game, num_envs, seed=0, repeat_action_probability=repeat_action_probability
        )
        self._set_spaces(self.games.num_actions, feature_dim)
        self._seen = torch.zeros((num_envs, 64, 64, 3), dtype=torch.uint8, device=self.device)
        self._first = torch.ones(num_envs, dtype=torch.bool, device=self.device)

    # --- the world ---------------------------------------------------------------------------

    def _seed_world(self, seed: int) -> None:
        self._seed = seed
        self.games.reseed(seed)
        if self._filter is not None:
            self._generators[_STEPS].manual_seed(_mix(seed, _STEPS))

    def _begin(self, mask: Tensor, start: None) -> None:
        self._seen = self._tensor(self.games.begin(mask.cpu().numpy()))
        self._first = self._first | mask
        if self._filter is not None:
            self._see_first(mask)

    def _see_first(self, mask: Tensor) -> None:
        """The filter takes in the first frames of the games that begin, and of no other.

        What it draws for a game hangs on the seed, its row and its number alone; so games that end
        do not move what the others draw.
        """
        assert self._filter is not None
        number = torch.from_numpy(self.games.episode).to(self.device)
        for episode in number[mask].unique().tolist():
            before = self._filter.state
            generator = self._generators[_STARTS]
            generator.manual_seed(_mix(self._seed, _STARTS, episode))
            self._filter.generator = generator
            self._filter.see(self._seen, self._first)
            self._filter.state = _choose(mask & (number == episode), self._filter.state, before)

    def _advance(self, actions: Tensor, waiting: Tensor) -> Transition:
        entropy = None
        if self._filter is not None:
            self._filter.act(actions)
            prior = self._filter.world_model.prior_log_probs(self._filter.state.h)
            entropy = categorical_entropy(prior).sum(-1)
        frames, *parts = self.games.play(actions.cpu().numpy(), waiting.cpu().numpy())
        reward, terminated, truncated = map(self._tensor, parts)
        long = self._tensor(self.games.length >= self.max_episode_steps)
        self._seen = self._tensor(frames)
        self._first = torch.zeros_like(self._first)
        if self._filter is not None:
            self._filter.generator = self._generators[_STEPS]
            self._filter.see(self._seen, self._first)
        return Transition(reward, terminated, (truncated | long) & ~terminated, entropy)

    def _frames(self) -> Tensor:
        return self._seen

    def _features(self) -> Tensor:
        assert self._filter is not None
        return self._filter.world_model.features(self._filter.state)

    def _release(self) -> None:
        if hasattr(self, "games"):
            self.games.close()
            del self.games, self._seen, self._first
        self._filter = None

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)


class RealEnv(PixelEnv):
    """One real game: the only row of a :class:`RealVectorEnv`, to the bit.

    Arguments, observations and info are those of the vector env; see
    :class:`~glam_env.single_base.PixelEnv` for what one row has not.
    """

    def __init__(
        self,
        game: str = "Pong",
        *,
        device: str | torch.device = "auto",
        array_type: str = "numpy",
        obs_type: str = "rgb",
        max_episode_steps: int | None = None,
        repeat_action_probability: float = 0.0,
        checkpoint: str | Path | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            RealVectorEnv,
            render_mode,
            game=game,
            device=device,
            array_type=array_type,
            obs_type=obs_type,
            max_episode_steps=max_episode_steps,
            repeat_action_probability=repeat_action_probability,
            checkpoint=checkpoint,
        )


def _mix(*words: Any) -> int:
    """One seed of several."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def _choose(mask: Tensor, new: DreamState, old: DreamState) -> DreamState:
    """Code and h of ``new`` where the (E) bool mask is true, of ``old`` elsewhere; the core, which
    seeing a frame leaves as it is, of both."""
    rows = mask[:, None]
    core = CoreState(*old.core)
    return DreamState(torch.where(rows, new.code, old.code), torch.where(rows, new.h, old.h), core)
