"""The real game as Gymnasium envs, with the spaces of the dream envs.

A policy of one runs in the other. The worlds differ, the interface does not. A dream ends where a
life is lost and at a short horizon; a real episode is the whole game, cut after half an hour as in
Atari's protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from glam_env.checks import require_count
from glam_env.envs.atari.emulator import MAX_STEPS, Emulator
from glam_env.envs.base import FRAME_SHAPE, PixelVectorEnv, Transition
from glam_env.envs.context import with_context
from glam_env.envs.dream.options import DreamKeywords, DreamOptions, read_options, shows_options
from glam_env.envs.latent_filter import LatentFilter
from glam_env.envs.lifetime import NotCopied
from glam_env.envs.single import PixelEnv
from glam_env.errors import GlamError, GlamNumberError
from glam_env.fast.plain import NOT_FINITE
from glam_env.model.distributions import categorical_entropy, sample_codes

if TYPE_CHECKING:
    from typing_extensions import Unpack

_STEPS, _STARTS = 0, 1  # mixed into the seeds of the filter's two kinds of draws


@dataclass(frozen=True)
class RealOptions(DreamOptions):
    """The options of real games: those of dreams, and two of the emulator.

    All options of a dream are accepted, so that changing the id is enough. ``temperature``,
    ``termination``, ``reward``, ``max_prior_entropy``, ``contexts``, ``backend`` and ``precision``
    have no effect here. ``max_episode_steps`` cuts a game; it is at most 27 000, the default.
    Only ``latent`` observations open the ``checkpoint``, and read ``context``. The device
    ``"auto"`` takes CUDA if there is any and the observations need it.

    Args:
        repeat_action_probability: chance that a frame repeats the action before it.
        noop_max: a game begins with 0 to ``noop_max`` no-op frames, drawn uniformly.
    """

    repeat_action_probability: float = 0.0
    noop_max: int = 30


class RealKeywords(DreamKeywords, total=False):
    """The fields of :class:`RealOptions` as keyword arguments.

    Type checkers and editors read them.
    """

    repeat_action_probability: float
    noop_max: int


class Games(Emulator):
    """An emulator that begins games on request only."""

    def reseed(self, seed: int) -> None:
        """Continue with the games that a new emulator of this seed would begin."""
        self.seed = seed
        self._episode[:] = -1

    def begin(self, mask: np.ndarray) -> np.ndarray:
        """Begin the next game where the (E,) bool mask is true.

        Returns:
            (E, 64, 64, 3) uint8 frames of all games.
        """
        return self._begin(mask, np.where(mask, self._episode + 1, self._episode))

    def play(self, actions: np.ndarray, waiting: np.ndarray) -> tuple[np.ndarray, ...]:
        """Step all games.

        Args:
            actions: (E,) int64, checked.
            waiting: (E,) bool, games that are over and begin right after this step.

        Returns:
            Frames (E, 64, 64, 3), rewards, terminations and truncations (E,).
        """
        self._length[waiting] = 0  # their record is full if they were cut at MAX_STEPS
        frames, reward, _, terminated, truncated = self._play(actions)
        return frames, reward, terminated, truncated

    @property
    def episode(self) -> np.ndarray:
        """Number of each env's game since the seed, (E,) int64."""
        return self._episode

    @property
    def length(self) -> np.ndarray:
        """Steps played in the current games, (E,) int64."""
        return self._length


class RealVectorEnv(NotCopied, PixelVectorEnv):
    """E real games side by side.

    Observations, array types, autoreset and rendering are those of
    :class:`~glam_env.envs.base.PixelVectorEnv`. Rewards are the game's points, not clipped; an
    episode is the whole game, with all its lives. ``reset(seed=s)`` fixes everything, and
    no game affects another.

    ``latent`` observations are the checkpoint's world model's features of the frames. The env
    follows the actions itself, so a policy only has to act; ``info["prior_entropy"]`` then is the
    entropy in nats of the model's prediction of the next frame, before it sees it, as in a dream.
    With frames there is no world model: the mask ``_prior_entropy`` is all false.

    Args:
        game: one of :data:`~glam_env.games.GAMES`.
        num_envs: E.
        options: a :class:`RealOptions`, or a dream's; None for the defaults.
        given: its fields as keyword arguments; they win over ``options``.

    Raises:
        GlamError: an option is unknown or impossible, ale-py is not installed, or, for
            ``latent``, a checkpoint is missing or broken.
    """

    rows_are = "games"

    @shows_options(RealOptions)
    def __init__(
        self,
        game: str = "Pong",
        num_envs: int = 1,
        *,
        options: DreamOptions | None = None,
        **given: Unpack[RealKeywords],
    ) -> None:
        chosen = read_options(RealOptions, options, given)
        frames_in_numpy = chosen.array_type == "numpy" and chosen.obs_type != "latent"
        if chosen.device == "auto" and frames_in_numpy:
            chosen = replace(chosen, device="cpu")  # the emulator's frames are there already
        super().__init__(game, num_envs, chosen)
        self._set_horizon(chosen.max_episode_steps or MAX_STEPS)
        feature_dim = 0
        self._filter: LatentFilter | None = None
        if self.obs_type == "latent":
            checkpoint = chosen.open_checkpoint(self.game)
            world_model = with_context(checkpoint.world_model(self.device), chosen.context)
            self._generators = {kind: torch.Generator(self.device) for kind in (_STEPS, _STARTS)}
            self._filter = LatentFilter(world_model, self.num_envs, self._generators[_STEPS])
            feature_dim = world_model.config.feature_dim
        shape = (self.num_envs, *FRAME_SHAPE)
        self._seen = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        self.games = Games(
            self.game,
            self.num_envs,
            seed=0,
            repeat_action_probability=chosen.repeat_action_probability,
            noop_max=chosen.noop_max,
        )
        self._set_spaces(self.games.num_actions, feature_dim)

    def _set_horizon(self, steps: int) -> None:
        """Truncate games after ``steps`` steps from now on.

        Raises:
            GlamError: the emulator cuts games earlier.
        """
        if require_count("max_episode_steps", steps) > MAX_STEPS:
            raise GlamError(
                f"max_episode_steps must be at most {MAX_STEPS}, where the emulator cuts a game; "
                f"got {steps}"
            )
        self.max_episode_steps = steps

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
        """Draw the latents of the first frames of the games in an (E) bool mask.

        The result is (E, K) int64, 0 for the other games. The draw for a game depends on the seed,
        its row and its number only, so that games that end do not change the draws of the others.
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
        if entropy is not None and not bool(entropy.isfinite().all()):
            raise GlamNumberError(NOT_FINITE)
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
            raise GlamError("a real game starts at its beginning: context is an option of dreams")
        super()._checked_start(options)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)


class RealEnv(NotCopied, PixelEnv):
    """One real game: the only row of a :class:`RealVectorEnv`, bit for bit.

    Observations and info are those of the vector env; :class:`~glam_env.envs.single.PixelEnv`
    lists what a single env does not have.

    Args:
        game: one of :data:`~glam_env.games.GAMES`.
        horizon: another name of ``max_episode_steps``.
        options: a :class:`RealOptions`, or a dream's; None for the defaults.
        given: its fields as keyword arguments; they win over ``options``.

    Raises:
        GlamError: as for :class:`RealVectorEnv`.
    """

    @shows_options(RealOptions, without=("autoreset_mode",))
    def __init__(
        self,
        game: str = "Pong",
        *,
        horizon: int | None = None,
        options: DreamOptions | None = None,
        **given: Unpack[RealKeywords],
    ) -> None:
        super().__init__(RealVectorEnv, RealOptions, game, horizon, options, given)


def _mix(*words: Any) -> int:
    """Combine several numbers into one seed."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
