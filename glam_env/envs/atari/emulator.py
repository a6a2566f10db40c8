"""``Emulator``: many real Atari games at a time, as Atari 100k plays them.

An agent step is four frames; the observation is the pixelwise maximum of the last two, scaled to
64x64 RGB. Rewards are not clipped, an episode is the whole game, and begins with up to 30 no-ops.
Each episode depends only on its own seed and its actions, so a run is resumed by playing the
actions of the unfinished episodes again.
"""

from __future__ import annotations

import os
import weakref
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from glam_env.errors import GlamError
from glam_env.games import find_game

if TYPE_CHECKING:
    from ale_py.vector_env import AtariVectorEnv

FRAME_SKIP = 4
FRAME_SIZE = 64
MAX_FRAMES = 108_000  # half an hour at 60 frames a second
MAX_STEPS = MAX_FRAMES // FRAME_SKIP
NOOP = 0  # the first action of every minimal action set

_alive: weakref.WeakSet[AtariVectorEnv] = weakref.WeakSet()
_inherited: list[AtariVectorEnv] = []


def _keep_inherited() -> None:
    """Keep the parent's emulators in a forked child.

    Freeing an emulator would wait for its threads, which the child does not have.
    """
    _inherited.extend(_alive)


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_keep_inherited)


@dataclass(frozen=True)
class Episode:
    """A finished episode.

    Attributes:
        env: the env that played it.
        episode: its number in that env, from 0.
        return_: undiscounted sum of its raw rewards.
        length: agent steps.
        seed: the seed that the emulator was reset with.
    """

    env: int
    episode: int
    return_: float
    length: int
    seed: int


@dataclass(frozen=True)
class EmulatorStep:
    """The result of one step of E envs, in arrays that belong to the caller.

    Attributes:
        frames: (E, 64, 64, 3) uint8; where an episode ended, the next one's first frame.
        reward: (E,) float32, raw points.
        life_lost: (E,) bool, a life was lost or the game was over at this step.
        terminated: (E,) bool, the game was over at this step.
        truncated: (E,) bool, the episode was cut at :data:`MAX_STEPS`.
        finished: the episodes that ended at this step, by env.
    """

    frames: np.ndarray
    reward: np.ndarray
    life_lost: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    finished: tuple[Episode, ...]


@dataclass(frozen=True)
class EmulatorState:
    """State from which a new emulator of the same settings continues: four arrays.

    ``vars(state)`` can be saved, and ``EmulatorState(**arrays)`` is its inverse.

    Attributes:
        episode: (E,) int64, number of the current episode.
        length: (E,) int64, agent steps already played in it.
        actions: (sum of ``length``,) uint8, those steps' actions, env after env.
        checksum: (E,) int64, CRC-32 of the current frame.
    """

    episode: np.ndarray
    length: np.ndarray
    actions: np.ndarray
    checksum: np.ndarray


class Emulator:
    """E real games side by side; a finished one begins again within the same step.

    Args:
        game: its name, such as ``"Pong"``.
        num_envs: E.
        seed: at least 0; it fixes the episode seeds of every env.
        repeat_action_probability: chance that a frame repeats the action before it ("sticky
            actions"); 0 in Atari 100k.
        num_threads: threads that run the games; 0 takes one per env, at most one per core.
        noop_max: each episode begins with 0 to ``noop_max`` no-op frames, drawn uniformly.

    Raises:
        GlamError: the game is unknown, a value is impossible, or ale-py is not installed.

    >>> emulator = Emulator("Pong", num_envs=2, seed=0)
    >>> emulator.reset().shape
    (2, 64, 64, 3)
    >>> emulator.step(np.array([0, 2])).reward
    array([0., 0.], dtype=float32)
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        *,
        seed: int,
        repeat_action_probability: float = 0.0,
        num_threads: int = 0,
        noop_max: int = 30,
    ) -> None:
        self.game = find_game(game)
        self.num_envs = _whole("num_envs", num_envs, least=1)
        self.num_actions = self.game.num_actions
        self.seed = _whole("seed", seed)
        if not 0.0 <= repeat_action_probability <= 1.0:
            raise GlamError(
                "repeat_action_probability is a chance from 0 to 1, "
                f"not {repeat_action_probability}"
            )
        self.repeat_action_probability = float(repeat_action_probability)
        self._envs: AtariVectorEnv | None = make_envs(
            self.game.ale_id,
            self.num_envs,
            self.repeat_action_probability,
            _whole("num_threads", num_threads),
            _whole("noop_max", noop_max),
        )
        self._process = os.getpid()
        self._episode = np.full(self.num_envs, -1, np.int64)
        self._length = np.zeros(self.num_envs, np.int64)
        self._return = np.zeros(self.num_envs)
        self._lives = np.zeros(self.num_envs, np.int64)
        self._actions = np.zeros((self.num_envs, MAX_STEPS), np.uint8)
        self._frames: np.ndarray | None = None

    def reset(self) -> np.ndarray:
        """Begin the next episode of every env; current episodes are abandoned.

        Returns:
            (E, 64, 64, 3) uint8 first frames.
        """
        self._frames = self._begin(np.ones(self.num_envs, bool), self._episode + 1)
        return self._frames.copy()

    def step(self, actions: np.ndarray) -> EmulatorStep:
        """Play one agent step in every env.

        Args:
            actions: (E,) integers from 0 to ``num_actions - 1``.

        Raises:
            GlamError: the actions are invalid, or reset() is missing; the games are then unchanged.
        """
        actions = self._checked(actions)
        if self._frames is None:
            raise GlamError("the emulator has no episode to step: call reset() first")
        frames, reward, life_lost, terminated, truncated = self._play(actions)
        done = terminated | truncated
        finished = tuple(
            Episode(
                env=env,
                episode=int(self._episode[env]),
                return_=float(self._return[env]),
                length=int(self._length[env]),
                seed=self._seed_of(env, self._episode[env]),
            )
            for env in np.flatnonzero(done).tolist()
        )
        if finished:
            frames = self._begin(done, self._episode + 1)
        self._frames = frames
        return EmulatorStep(frames.copy(), reward, life_lost, terminated, truncated, finished)

    def state(self) -> EmulatorState:
        """Return the state that :meth:`restore` continues from.

        Raises:
            GlamError: reset() is missing.
        """
        if self._frames is None:
            raise GlamError("the emulator has no episode to save: call reset() first")
        return EmulatorState(
            episode=self._episode.copy(),
            length=self._length.copy(),
            actions=np.concatenate(
                [row[:length] for row, length in zip(self._actions, self._length, strict=True)]
            ),
            checksum=_checksums(self._frames),
        )

    def restore(self, state: EmulatorState) -> np.ndarray:
        """Continue from a saved state by playing its unfinished episodes again.

        The envs then continue bit for bit. This costs as many steps as the longest of those
        episodes has.

        Returns:
            (E, 64, 64, 3) uint8 current frames.

        Raises:
            GlamError: the state is malformed, or was saved with another game, seed, setting or
                version of the emulator.
        """
        episode, length = np.asarray(state.episode), np.asarray(state.length)
        if episode.shape != (self.num_envs,) or length.shape != (self.num_envs,):
            raise GlamError(
                f"the saved emulator had {episode.size} envs and this one has {self.num_envs}: "
                "resume with the same number"
            )
        if (
            min(episode.min(), length.min()) < 0
            or length.max() >= MAX_STEPS
            or length.sum() != len(state.actions)
            or np.any(state.actions >= self.num_actions)
        ):
            raise GlamError("the saved emulator state is damaged: go back to an earlier one")

        # All episodes arrive at their last action together, so the shorter ones begin later;
        # their reset discards what their envs do until then.
        saved = np.split(np.asarray(state.actions, np.uint8), np.cumsum(length)[:-1])
        longest = int(length.max())
        replay = np.full((self.num_envs, longest), NOOP, np.int64)
        for row, actions in zip(replay, saved, strict=True):
            row[longest - len(actions) :] = actions
        frames = self._begin(np.ones(self.num_envs, bool), episode)
        for tick in range(longest):
            frames, *_ = self._play(replay[:, tick])
            late = length == longest - tick - 1
            if late.any():
                frames = self._begin(late, episode)

        self._frames = frames
        if not np.array_equal(_checksums(frames), np.asarray(state.checksum)):
            self._frames = None
            raise GlamError(
                "the saved episodes play differently now: they are of another game, seed, "
                "repeat_action_probability, noop_max or version of ale-py"
            )
        return frames.copy()

    def episode_seed(self, env: int) -> int:
        """Return the seed of the current episode of an env."""
        return self._seed_of(env, int(self._episode[env]))

    def close(self) -> None:
        """Stop the emulator's threads; it cannot be used afterwards."""
        self._envs = None

    def _begin(self, which: np.ndarray, episode: np.ndarray) -> np.ndarray:
        """Begin episodes of a given number in some envs.

        Args:
            which: (E,) bool, the envs.
            episode: (E,) int64, the number of each env's episode.

        Returns:
            (E, 64, 64, 3) uint8 current frames of all envs.
        """
        seeds = [self._seed_of(env, episode[env]) for env in np.flatnonzero(which).tolist()]
        frames, info = self._open().reset(
            seed=np.array(seeds, np.int64), options={"reset_mask": which}
        )
        self._episode[which] = episode[which]
        self._length[which] = 0
        self._return[which] = 0.0
        self._lives = info["lives"].astype(np.int64)
        return frames[:, 0].copy()

    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Step all envs and update the records, without beginning new episodes."""
        frames, reward, terminated, truncated, info = self._open().step(actions)
        lives = info["lives"].astype(np.int64)
        life_lost = terminated | (lives < self._lives)
        self._lives = lives
        self._actions[np.arange(self.num_envs), self._length] = actions
        self._length += 1
        self._return += reward
        return (
            frames[:, 0].copy(),
            reward.astype(np.float32),
            life_lost,
            terminated.copy(),
            truncated.copy(),
        )

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not np.issubdtype(actions.dtype, np.integer):
            raise GlamError(
                f"actions must be {self.num_envs} integers, one per env, not an array of shape "
                f"{actions.shape} and type {actions.dtype}"
            )
        if actions.min() < 0 or actions.max() >= self.num_actions:
            raise GlamError(
                f"{self.game.name} has actions 0 to {self.num_actions - 1}, "
                f"not {actions.min()} to {actions.max()}"
            )
        return np.ascontiguousarray(actions, np.int64)

    def _seed_of(self, env: int, episode: int) -> int:
        sequence = np.random.SeedSequence(self.seed, spawn_key=(env, int(episode)))
        return int(sequence.generate_state(1)[0] >> 1)  # the emulator takes 31 bits

    def _open(self) -> AtariVectorEnv:
        if self._envs is None:
            raise GlamError("this emulator is closed: make a new one")
        if self._process != os.getpid():
            raise GlamError("this emulator's threads are in another process: make a new one")
        return self._envs


def make_envs(
    rom: str, num_envs: int, repeat_action_probability: float, num_threads: int, noop_max: int
) -> AtariVectorEnv:
    """Make the ale-py vector env of an :class:`Emulator`, with every setting explicit.

    Args:
        rom: ale-py's name of the game.
        num_envs: E.
        repeat_action_probability, num_threads, noop_max: as in :class:`Emulator`.

    Raises:
        GlamError: ale-py is not installed.
    """
    try:
        from ale_py.vector_env import AtariVectorEnv
    except ModuleNotFoundError as error:
        raise GlamError('the real game needs ale-py: pip install "glam-env[atari]"') from error

    class Envs(AtariVectorEnv):
        # ale-py writes into `metadata`, which is otherwise shared by all vector envs.
        metadata: dict = {}  # noqa: RUF012

    envs = Envs(
        rom,
        num_envs,
        batch_size=0,  # all of them, in order
        num_threads=num_threads,
        thread_affinity_offset=-1,
        max_num_frames_per_episode=MAX_FRAMES,
        repeat_action_probability=repeat_action_probability,
        full_action_space=False,
        continuous=False,
        # ale-py 0.12.1 refuses Gymnasium's "Disabled". This mode resets in the step after the
        # last one. That step is never taken: `step` begins finished envs itself, each with its own
        # seed.
        autoreset_mode="NextStep",
        img_height=FRAME_SIZE,
        img_width=FRAME_SIZE,
        grayscale=False,
        stack_num=1,
        frameskip=FRAME_SKIP,
        maxpool=True,
        noop_max=noop_max + 1,  # ale-py draws from 0 to noop_max - 1
        episodic_life=False,
        life_loss_info=False,
        reward_clipping=False,
        use_fire_reset=False,
    )
    _alive.add(envs)
    return envs


def _checksums(frames: np.ndarray) -> np.ndarray:
    return np.array([zlib.crc32(frame.tobytes()) for frame in frames], np.int64)


def _whole(name: str, value: int, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise GlamError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return int(value)
