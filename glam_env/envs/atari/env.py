"""The real game as Gymnasium envs, in the dream's spaces: a policy of one runs in the other.

What differs is the world, not the interface. A dream ends where a life is lost and at a short
horizon; a real episode is the whole game, cut after half an hour as Atari's protocol has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from glam_env.checkpoint.folder import Checkpoint
from glam_env.checks import require_count
from glam_env.device import find_device
from glam_env.envs.atari.emulator import MAX_STEPS, Emulator
from glam_env.envs.base import FRAME_SHAPE, PixelVectorEnv, Transition
from glam_env.envs.dream.engine import require_drawing
from glam_env.envs.dream.env import require_doubt
from glam_env.envs.latent_filter import LatentFilter
from glam_env.envs.single import PixelEnv
from glam_env.errors import GlamError
from glam_env.model.distributions import categorical_entropy, sample_codes

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
    :class:`~glam_env.envs.base.PixelVectorEnv`. Rewards are the game's points, not clipped; an
    episode is the whole game, however many lives it has. ``reset(seed=s)`` fixes everything, and
    no game touches another.

    ``latent`` observations are what the checkpoint's world model makes of the frames. The env
    tells it the actions, so a policy has nothing to do but act; and ``info["prior_entropy"]`` then
    is the model's doubt about the frame to come, before it saw it, as in a dream. With frames
    there is no world model: the mask ``_prior_entropy`` is all false.

    A dream's options are taken as well, so that to change the id is enough; those that say how to
    dream make no difference to a real game.

    Args:
        game: one of :data:`~glam_env.games.GAMES`.
        num_envs: E.
        device: of the observations and of the world model; ``"auto"`` takes CUDA if there is any
            and something to do there.
        array_type: ``"numpy"``, or ``"torch"`` for tensors that stay on the device.
        obs_type: ``"rgb"``, ``"grayscale"`` or ``"latent"``.
        max_episode_steps: agent steps after which a game is cut; at most, and if None, 27 000.
        autoreset_mode: Gymnasium's ``AutoresetMode``, or its name or value.
        temperature, termination, reward, max_doubt, contexts, backend, precision: a dream's;
            they do nothing here.
        checkpoint: as for dreams; only ``latent`` opens it.
        repeat_action_probability: chance that a frame repeats the action before it.
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
        temperature: float = 1.0,
        termination: str = "threshold",
        reward: str = "mean",
        max_doubt: float | None = None,
        checkpoint: str | Path | Checkpoint | None = None,
        contexts: str | Path | Mapping[str, Any] | None = None,
        backend: str = "auto",
        precision: str = "auto",
        repeat_action_probability: float = 0.0,
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
        require_drawing(temperature, termination, reward, backend, precision)
        require_doubt(max_doubt)
        self.max_episode_steps = require_count(
            "max_episode_steps", MAX_STEPS if max_episode_steps is None else max_episode_steps
        )
        if self.max_episode_steps > MAX_STEPS:
            raise GlamError(
                f"max_episode_steps must be at most {MAX_STEPS}, where the emulator cuts a game; "
                f"got {max_episode_steps}"
            )
        feature_dim = 0
        self._filter: LatentFilter | None = None
        if obs_type == "latent":
            opened = Checkpoint.open(self.game if checkpoint is None else checkpoint, self.game)
            world_model = opened.world_model(self.device)
            self._generators = {kind: torch.Generator(self.device) for kind in (_STEPS, _STARTS)}
            self._filter = LatentFilter(world_model, self.num_envs, self._generators[_STEPS])
            feature_dim = world_model.config.feature_dim
        shape = (self.num_envs, *FRAME_SHAPE)
        self._seen = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        self.games = Games(
            self.game, self.num_envs, seed=0, repeat_action_probability=repeat_action_probability
        )
        self._set_spaces(self.games.num_actions, feature_dim)

    # --- the world ---------------------------------------------------------------------------

    def _seed_world(self, seed: int) -> None:
        self._seed = seed
        self.games.reseed(seed)
        if self._filter is not None:
            self._generators[_STEPS].manual_seed(_mix(seed, _STEPS))

    def _begin(self, mask: Tensor, start: None) -> None:
        self._seen = self._tensor(self.games.begin(mask.cpu().numpy()))
        if self._filter is not None:
            self._filter.begin(self._first_codes(self._filter, mask), mask)

    def _first_codes(self, latents: LatentFilter, mask: Tensor) -> Tensor:
        """(E, K) int64 latents of the first frames of the games in an (E) bool mask.

        What is drawn for a game hangs on the seed, its row and its number alone; so games that end
        do not move what the others draw.
        """
        log_probs = latents.world_model.encode(self._seen)
        code = torch.zeros_like(latents.state.code)
        for row in mask.nonzero().flatten().tolist():
            number = int(self.games.episode[row])
            generator = self._generators[_STARTS]
            generator.manual_seed(_mix(self._seed, _STARTS, row, number))
            code[row] = sample_codes(log_probs[row], generator=generator)
        return code

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
        if self._filter is not None:
            self._filter.see(self._seen, torch.zeros_like(terminated))
        return Transition(reward, terminated, (truncated | long) & ~terminated, entropy)

    def _frames(self) -> Tensor:
        return self._seen

    def _features(self) -> Tensor:
        assert self._filter is not None
        return self._filter.world_model.features(self._filter.state)

    def _release(self) -> None:
        if hasattr(self, "games"):
            self.games.close()
            del self.games, self._seen
        self._filter = None

    def _checked_start(self, options: Mapping[str, Any]) -> None:
        if "context" in options:
            raise GlamError("a game starts at its beginning: context is an option of dreams")
        super()._checked_start(options)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)


class RealEnv(PixelEnv):
    """One real game: the only row of a :class:`RealVectorEnv`, to the bit.

    Arguments, observations and info are those of the vector env; see
    :class:`~glam_env.envs.single.PixelEnv` for what one row has not.
    """

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
        repeat_action_probability: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            RealVectorEnv,
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
            repeat_action_probability=repeat_action_probability,
        )


def _mix(*words: Any) -> int:
    """One seed of several."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
