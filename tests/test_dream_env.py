"""Dream envs, beyond the contract of both worlds (tests/contract)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from comparison import assert_same
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import glam_env  # noqa: F401  (registers the ids)
from glam_env.checkpoint.folder import Checkpoint
from glam_env.envs.dream.env import DreamEnv, DreamVectorEnv
from glam_env.errors import GlamError

E = 6
OBSERVATIONS = ("rgb", "latent", "grayscale")
MODES = tuple(AutoresetMode)


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(autouse=True)
def _pong_is_tiny(saved_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(saved_checkpoint.parent))


@pytest.fixture
def make_envs() -> Iterator[Callable[..., DreamVectorEnv]]:
    """Make vector envs on the CPU and close them in the end."""
    made: list[DreamVectorEnv] = []

    def make(num_envs: int = E, **options: Any) -> DreamVectorEnv:
        made.append(DreamVectorEnv("Pong", num_envs, **({"device": "cpu"} | options)))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


def actions_at(t: int, num_envs: int = E) -> np.ndarray:
    return (np.arange(num_envs) * 5 + t) % 6


def play(envs: DreamVectorEnv, steps: int, seed: int | None = 0) -> list[tuple[Any, ...]]:
    history: list[tuple[Any, ...]] = [] if seed is None else [envs.reset(seed=seed)]
    return history + [envs.step(actions_at(t, envs.num_envs)) for t in range(steps)]


# --- how they are made ---------------------------------------------------------------------------


def test_metadata_belongs_to_one_env(make_envs) -> None:
    envs, others = make_envs(), make_envs(autoreset_mode="Disabled")
    envs.metadata["render_modes"].append("ansi")
    assert others.metadata["render_modes"] == ["rgb_array", "rgb_grid", "human"]
    assert gym.vector.VectorEnv.metadata == {}


def test_the_single_env_wants_a_reset_after_its_end() -> None:
    env = gym.make("GLAMDream-Pong-v0", device="cpu")
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    steps = 1
    while not any(env.step(0)[2:4]):
        steps += 1
    assert steps <= 12
    with pytest.raises(GlamError, match="have ended"):
        env.step(0)
    env.reset(options={"context": 3})
    env.step(0)
    env.close()


def test_a_single_env_has_two_names_for_its_horizon(endless_checkpoint) -> None:
    """Gymnasium keeps ``max_episode_steps`` for itself; the dream reads it there."""
    for options, steps in (
        ({}, 12),
        ({"max_episode_steps": 5}, 5),
        ({"max_episode_steps": 40}, 40),
        ({"horizon": 20}, 20),
    ):
        env = gym.make("GLAMDream-Pong-v0", device="cpu", checkpoint=endless_checkpoint, **options)
        env.reset(seed=0)
        assert [env.step(0)[3] for _ in range(steps)] == [False] * (steps - 1) + [True]
        env.close()
    DreamEnv(device="cpu", max_episode_steps=3, horizon=3).close()
    with pytest.raises(GlamError, match="are the same option"):
        DreamEnv(device="cpu", max_episode_steps=3, horizon=4)


def test_single_envs_make_a_sync_vector_env() -> None:
    envs = gym.make_vec(
        "GLAMDream-Pong-v0", num_envs=2, vectorization_mode="sync", device="cpu", obs_type="latent"
    )
    observations, _ = envs.reset(seed=3)
    for _ in range(14):
        observations, *_, info = envs.step(np.array([1, 2]))
    assert observations.shape == (2, 32)
    assert info["prior_entropy"].shape == (2,)
    envs.close()


# --- seeds ---------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_in_another_env(make_envs) -> None:
    envs = make_envs(termination="sample", reward="sample")
    first = play(envs, 30, seed=4)
    play(envs, 7, seed=None)
    again = play(envs, 30, seed=4)
    elsewhere = play(make_envs(termination="sample", reward="sample"), 30, seed=4)
    for a, b, c in zip(first, again, elsewhere, strict=True):
        assert_same(a, b)
        assert_same(a, c)


# --- autoreset -----------------------------------------------------------------------------------


class Replayed(gym.Env):
    """Plays back the record of one dream, so that Gymnasium's own vector env can batch it."""

    def __init__(self, envs: DreamVectorEnv, tape: list[tuple[Any, ...]]) -> None:
        self.observation_space = envs.single_observation_space
        self.action_space = envs.single_action_space
        self._tape = iter(tape)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, ...]:
        event = next(self._tape)
        assert len(event) == 2
        return event

    def step(self, action: Any) -> tuple[Any, ...]:
        event = next(self._tape)
        assert len(event) == 5
        return event


def record(envs: DreamVectorEnv, steps: int, mode: AutoresetMode) -> list[list[tuple[Any, ...]]]:
    """Record each dream of a bare engine in latents, with resets where a mode has them."""
    engine, model = envs.engine, envs.engine.world_model
    tapes: list[list[tuple[Any, ...]]] = [[] for _ in range(E)]

    def begin(mask: torch.Tensor) -> None:
        engine.reset(mask)
        features = model.features(engine.state).numpy()
        for i in mask.nonzero().flatten():
            tapes[i].append((features[i], {}))

    begin(torch.ones(E, dtype=torch.bool))
    waiting = torch.zeros(E, dtype=torch.bool)
    for t in range(steps):
        step = engine.step(torch.from_numpy(actions_at(t)))
        features = model.features(engine.state).numpy()
        for i in (~waiting).nonzero().flatten():
            tapes[i].append(
                (
                    features[i],
                    float(step.reward[i]),
                    bool(step.terminated[i]),
                    bool(step.truncated[i]),
                    {"prior_entropy": step.prior_entropy[i].numpy()[()]},
                )
            )
        done = step.terminated | step.truncated
        if mode is AutoresetMode.NEXT_STEP:
            begin(waiting)
            waiting = done & ~waiting
        elif done.any():
            begin(done)
    return tapes


def visible(info: dict[str, Any]) -> dict[str, Any]:
    """Return a vector env's info without the entries that its masks exclude."""
    kept = {}
    for name in [name for name in info if not name.startswith("_")]:
        value, mask = info[name], info[f"_{name}"]
        if isinstance(value, dict):
            value = visible(value)
        elif value.dtype != object:
            value = np.where(mask, value, 0)
        if mask.any():
            kept |= {name: value, f"_{name}": mask}
    return kept


@pytest.mark.parametrize("mode", MODES)
def test_autoreset_is_what_gymnasium_makes_of_the_same_dreams(make_envs, mode) -> None:
    steps, seed = 40, 2
    bare = make_envs(obs_type="latent")
    bare.engine.seed(int(gym.utils.seeding.np_random(seed)[0].integers(2**63)))
    tapes = record(bare, steps, mode)
    theirs = SyncVectorEnv(
        [lambda tape=tape: Replayed(bare, tape) for tape in tapes], autoreset_mode=mode
    )
    ours = make_envs(obs_type="latent", autoreset_mode=mode)
    assert_same(ours.reset(seed=seed), theirs.reset(seed=seed))
    alone = crowd = 0
    for t in range(steps):
        observations, rewards, *flags, info = ours.step(actions_at(t))
        expected, expected_rewards, *expected_flags, expected_info = theirs.step(actions_at(t))
        assert_same(observations, expected)
        assert_same(rewards.astype(np.float64), expected_rewards)
        assert_same(flags, expected_flags)
        assert_same(visible(info), expected_info)
        done = flags[0] | flags[1]
        alone, crowd = alone + (done.sum() == 1), crowd + (done.sum() > 1)
        if mode is AutoresetMode.DISABLED and done.any():
            resets = [envs.reset(options={"reset_mask": done.copy()}) for envs in (ours, theirs)]
            assert_same(*resets)
    assert alone
    assert crowd


def test_every_dream_ends_at_the_horizon_of_the_checkpoint(make_envs, endless_checkpoint) -> None:
    envs = make_envs(checkpoint=endless_checkpoint)
    history = play(envs, 25)[1:]
    assert [t + 1 for t, step in enumerate(history) if step[3].all()] == [12, 24]
    assert [t + 1 for t, step in enumerate(history) if step[3].any()] == [12, 24]
    assert not any(step[2].any() for step in history)


# --- how it is drawn -----------------------------------------------------------------------------


def futures(make_envs: Callable[..., DreamVectorEnv], **options: Any) -> tuple[np.ndarray, ...]:
    """Return latents, rewards and ends (T, 32, …) of dreams from one moment, with equal actions."""
    options = {"obs_type": "latent", "autoreset_mode": "NEXT_STEP"} | options
    envs = make_envs(32, **options)
    envs.reset(seed=1, options={"context": 4})
    steps = [envs.step(np.full(32, 2))[:3] for _ in range(3)]
    return tuple(np.stack(parts) for parts in zip(*steps, strict=True))


def test_temperature_is_that_of_the_latents(make_envs) -> None:
    frozen, cold, warm = (
        len(np.unique(futures(make_envs, temperature=t)[0][0], axis=0)) for t in (0, 0.3, 1.0)
    )
    assert frozen == 1
    assert 1 < cold < warm


def test_ends_and_rewards_are_drawn_if_wanted(make_envs) -> None:
    """At temperature 0 dreams from one moment differ in nothing else."""
    _, reward, terminated = futures(make_envs, temperature=0, reward="game")
    assert (reward[0] == reward[0, 0]).all()
    assert (terminated[0] == terminated[0, 0]).all()
    _, reward, terminated = futures(make_envs, temperature=0, termination="sample")
    assert set(np.unique(reward[0])) == {-1.0, 0.0, 1.0}  # all values, from one moment
    assert 0 < terminated[0].sum() < 32


def test_an_uncertain_dream_is_truncated(make_envs) -> None:
    free = make_envs(obs_type="latent", autoreset_mode="DISABLED")
    free.reset(seed=3)
    limit = float(np.quantile(free.step(np.ones(E, int))[4]["prior_entropy"], 0.8))
    envs = make_envs(obs_type="latent", max_prior_entropy=limit)
    envs.reset(seed=3)
    lengths, cut, longest = np.zeros(E, int), 0, 0
    for _ in range(24):
        _, _, terminated, truncated, info = envs.step(np.ones(E, int))
        lengths += 1
        uncertain = info["prior_entropy"] > limit
        assert_same(truncated, (uncertain | (lengths >= 12)) & ~terminated)
        cut += (uncertain & truncated).sum()
        longest = max(longest, lengths.max())
        lengths[terminated | truncated] = 0
    assert cut > E
    assert longest > 2


def test_a_single_uncertain_dream_is_truncated() -> None:
    seen = {}
    for limit in (0.0, np.inf):
        env = DreamEnv(device="cpu", obs_type="latent", max_prior_entropy=limit)
        env.reset(seed=3, options={"context": 4})
        _, _, terminated, truncated, info = env.step(1)
        assert not terminated
        seen[limit] = truncated, info["prior_entropy"]
    assert seen[0.0][0]
    assert not seen[np.inf][0]
    assert seen[0.0][1] == seen[np.inf][1] > 0


# --- options of reset ----------------------------------------------------------------------------


def test_given_dreams_start_from_given_moments(make_envs) -> None:
    envs = make_envs(obs_type="latent")
    assert envs.num_contexts == DreamEnv(device="cpu").num_contexts == 20
    chosen = np.array([7, 7, 0, 19, 7, 3])
    observations, _ = envs.reset(seed=0, options={"context": chosen})
    np.testing.assert_array_equal(observations[0], observations[4])
    for i, context in enumerate(chosen):
        np.testing.assert_array_equal(
            observations[i], envs.reset(options={"context": int(context)})[0][i]
        )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"context": 20}, "0 … 19, got 20"),
        ({"context": -1}, "0 … 19, got -1"),
        ({"context": 1.5}, "must be integers"),
        ({"context": True}, "must be integers"),
        ({"context": np.zeros(E + 1, int)}, "shape"),
        ({"context": "first"}, "must be integers"),
        ({"contexts": 3}, "unknown reset option 'contexts'; known are reset_mask, context"),
    ],
)
def test_a_bad_context_is_refused_before_anything_moves(make_envs, options, says) -> None:
    envs, other = make_envs(obs_type="latent"), make_envs(obs_type="latent")
    play(envs, 3)
    play(other, 3)
    with pytest.raises(GlamError, match=says):
        envs.reset(seed=77, options=options)
    assert_same(play(envs, 14, seed=None), play(other, 14, seed=None))
    assert_same(envs.reset()[0], other.reset()[0])


# --- what is handed out --------------------------------------------------------------------------


def test_tensors_can_be_trained_on(make_envs) -> None:
    envs = make_envs(array_type="torch", obs_type="latent")
    observations, _ = envs.reset(seed=0)
    policy = torch.nn.Linear(observations.shape[1], 6)
    _, rewards, *_ = envs.step(policy(observations).argmax(1))
    (policy(observations).mean() * rewards.mean()).backward()
    assert policy.weight.grad is not None


@pytest.mark.parametrize("obs_type", OBSERVATIONS)
def test_observations_are_of_the_dream(make_envs, saved_checkpoint, obs_type) -> None:
    """They are the decoder's, up to a level of 255.

    The drawing may run in 8-bit integers, and the size of a batch may round a pixel.
    """
    envs = make_envs(obs_type=obs_type, render_mode="rgb_array")
    model = Checkpoint.open(saved_checkpoint).world_model()
    observations, _ = envs.reset(seed=0)
    for t in range(15):
        frames = model.decode(envs.engine.state.code).numpy() * 255
        assert all(np.abs(f - r).max() < 1.51 for f, r in zip(frames, envs.render(), strict=True))
        if obs_type == "rgb":
            assert_same(tuple(observations), envs.render())
        elif obs_type == "grayscale":
            grey = np.stack(envs.render()) @ np.array([[0.299], [0.587], [0.114]])
            assert np.abs(grey - observations).max() < 0.51
        else:
            assert_same(observations, model.features(envs.engine.state).numpy())
        observations = envs.step(actions_at(t))[0]
    assert np.stack(envs.render()).std() > 0


# --- mistakes ------------------------------------------------------------------------------------


def test_another_game_s_name_is_asked_back() -> None:
    with pytest.raises(GlamError, match="did you mean Pong"):
        DreamVectorEnv("Pnog", device="cpu")


def test_a_checkpoint_of_another_game_is_refused(saved_checkpoint) -> None:
    with pytest.raises(GlamError, match="is of Pong, not of Seaquest"):
        gym.make("GLAMDream-Seaquest-v0", checkpoint=saved_checkpoint)


@pytest.mark.parametrize("mode", MODES)
def test_the_autoreset_mode_has_several_spellings(make_envs, mode) -> None:
    for spelling in (mode, mode.name, mode.value):
        assert make_envs(autoreset_mode=spelling).autoreset_mode is mode
