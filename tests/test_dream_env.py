"""The dream envs against Gymnasium's contract."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import glam_env  # noqa: F401  (registers the ids)
from glam_env.checkpoints import load_world_model, save_checkpoint
from glam_env.dream.env import DreamEnv
from glam_env.dream.vector_env import DreamVectorEnv
from glam_env.errors import GlamError

E = 6
ARRAYS = ("numpy", "torch")
OBSERVATIONS = ("rgb", "latent", "grayscale")
SPACES = {"rgb": ((64, 64, 3), np.uint8), "grayscale": ((64, 64, 1), np.uint8)} | {
    "latent": ((4 * 4 + 16,), np.float32)
}
MODES = tuple(AutoresetMode)


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(autouse=True)
def _pong_is_tiny(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(tiny_checkpoint.parent))


@pytest.fixture
def make_envs() -> Iterator[Callable[..., DreamVectorEnv]]:
    """Makes vector envs on the CPU and closes them in the end."""
    made: list[DreamVectorEnv] = []

    def make(num_envs: int = E, **options: Any) -> DreamVectorEnv:
        made.append(DreamVectorEnv("Pong", num_envs, **({"device": "cpu"} | options)))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


def to_numpy(value: Any) -> Any:
    """Tensors to arrays, through dicts."""
    if isinstance(value, dict):
        return {name: to_numpy(item) for name, item in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value


def assert_same(a: Any, b: Any) -> None:
    """Equal values and dtypes, through dicts, sequences and arrays of objects."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, list | tuple) or (isinstance(a, np.ndarray) and a.dtype == object):
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert type(a) is type(b)
        assert a == b


def actions_at(t: int, num_envs: int = E) -> np.ndarray:
    return (np.arange(num_envs) * 5 + t) % 6


def play(envs: DreamVectorEnv, steps: int, seed: int | None = 0) -> list[tuple[Any, ...]]:
    history: list[tuple[Any, ...]] = [] if seed is None else [envs.reset(seed=seed)]
    return history + [envs.step(actions_at(t, envs.num_envs)) for t in range(steps)]


# --- spaces, types, the registry -----------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("obs_type", OBSERVATIONS)
@pytest.mark.parametrize("array_type", ARRAYS)
def test_spaces_shapes_and_types(make_envs, array_type, obs_type, mode) -> None:
    envs = make_envs(array_type=array_type, obs_type=obs_type, autoreset_mode=mode)
    shape, dtype = SPACES[obs_type]
    assert envs.single_observation_space.shape == shape
    assert envs.single_observation_space.dtype == dtype
    assert envs.observation_space.shape == (E, *shape)
    assert envs.single_action_space == gym.spaces.Discrete(6)
    assert envs.action_space == gym.spaces.MultiDiscrete([6] * E)
    assert envs.metadata["autoreset_mode"] is envs.autoreset_mode is mode
    kind = np.ndarray if array_type == "numpy" else torch.Tensor
    observations, info = envs.reset(seed=1)
    assert isinstance(observations, kind)
    assert info == {}
    assert to_numpy(observations) in envs.observation_space
    results = envs.step(actions_at(0))
    assert all(isinstance(part, kind) for part in results[:4])
    observations, rewards, terminated, truncated, info = map(to_numpy, results)
    assert observations in envs.observation_space
    assert (rewards.dtype, rewards.shape) == (np.float32, (E,))
    assert (terminated.dtype, terminated.shape) == (np.bool_, (E,))
    assert (truncated.dtype, truncated.shape) == (np.bool_, (E,))
    assert (info["prior_entropy"].dtype, info["prior_entropy"].shape) == (np.float32, (E,))
    assert info["_prior_entropy"].dtype == np.bool_


def test_metadata_belongs_to_one_env(make_envs) -> None:
    envs, others = make_envs(), make_envs(autoreset_mode="Disabled")
    envs.metadata["render_modes"].append("ansi")
    assert others.metadata["render_modes"] == ["rgb_array"]
    assert gym.vector.VectorEnv.metadata == {}


@pytest.mark.parametrize("array_type", ARRAYS)
def test_make_vec_gives_it_and_its_spec_makes_it_again(array_type) -> None:
    envs = gym.make_vec(
        "GLAMDream-Pong-v0",
        num_envs=4,
        vectorization_mode="vector_entry_point",
        device="cpu",
        array_type=array_type,
        autoreset_mode="NEXT_STEP",
        max_episode_steps=9,
    )
    assert isinstance(envs, DreamVectorEnv)
    assert envs.engine.max_episode_steps == 9
    spec = gym.envs.registration.EnvSpec.from_json(envs.spec.to_json())
    again = gym.make_vec(spec)
    assert again.num_envs == 4
    for one, other in zip(play(envs, 12), play(again, 12), strict=True):
        assert_same(to_numpy(dict(enumerate(one))), to_numpy(dict(enumerate(other))))


def test_make_gives_the_single_env_and_its_spec_makes_it_again() -> None:
    env = gym.make("GLAMDream-Pong-v0", device="cpu", obs_type="latent", max_episode_steps=1)
    assert isinstance(env.unwrapped, DreamEnv)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    for seed in range(5):
        assert_same(env.reset(seed=seed), again.reset(seed=seed))
        transition = env.step(0)
        assert transition[3]  # by the TimeLimit that gymnasium.make puts around it
        assert_same(transition, again.step(0))
    env.close()
    again.close()


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
    with pytest.raises(GlamError, match="this is one dream"):
        env.reset(options={"reset_mask": np.array([True])})
    env.reset(options={"context": 3})
    env.step(0)
    env.close()


@pytest.mark.parametrize("obs_type", ["rgb", "grayscale"])
def test_both_checkers_pass_the_single_env(obs_type) -> None:
    env = gym.make("GLAMDream-Pong-v0", device="cpu", obs_type=obs_type, render_mode="rgb_array")
    check_env(env.unwrapped)
    sb3_check_env(env.unwrapped)
    env.close()


def test_both_checkers_pass_the_latent_env() -> None:
    env = gym.make("GLAMDream-Pong-v0", device="cpu", obs_type="latent", render_mode="rgb_array")
    with warnings.catch_warnings():  # h has no bounds, which check_env finds too wide
        warnings.filterwarnings("ignore", message=".*A Box observation space m.*infinity")
        check_env(env.unwrapped)
    sb3_check_env(env.unwrapped)
    env.close()


# --- seeds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("obs_type", OBSERVATIONS)
@pytest.mark.parametrize("array_type", ARRAYS)
def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    make_envs, array_type, obs_type
) -> None:
    envs = make_envs(array_type=array_type, obs_type=obs_type)
    first = play(envs, 30, seed=4)
    play(envs, 7, seed=None)
    again = play(envs, 30, seed=4)
    elsewhere = play(make_envs(array_type=array_type, obs_type=obs_type), 30, seed=4)
    for a, b, c in zip(first, again, elsewhere, strict=True):
        assert_same(to_numpy(dict(enumerate(a))), to_numpy(dict(enumerate(b))))
        assert_same(to_numpy(dict(enumerate(a))), to_numpy(dict(enumerate(c))))
    other = play(make_envs(array_type=array_type, obs_type=obs_type), 30, seed=5)
    assert not np.array_equal(to_numpy(first[-1][0]), to_numpy(other[-1][0]))


def test_numpy_and_torch_dream_the_same(make_envs) -> None:
    arrays, tensors = play(make_envs(), 10), play(make_envs(array_type="torch"), 10)
    for one, other in zip(arrays[1:], tensors[1:], strict=True):
        assert_same(list(one[:4]), [to_numpy(part) for part in other[:4]])
        assert one[4].keys() == other[4].keys()


def test_resets_without_a_seed_go_on(make_envs) -> None:
    envs = make_envs(obs_type="latent")
    first, second = envs.reset(seed=1)[0], envs.reset()[0]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(envs.reset(seed=1)[0], first)
    np.testing.assert_array_equal(envs.reset()[0], second)
    unseeded = [make_envs(obs_type="latent").reset()[0] for _ in range(2)]
    assert not np.array_equal(*unseeded)


@pytest.mark.parametrize("obs_type", OBSERVATIONS)
@pytest.mark.parametrize("array_type", ARRAYS)
def test_one_env_is_a_batch_of_one(make_envs, array_type, obs_type) -> None:
    options = {"array_type": array_type, "obs_type": obs_type, "device": "cpu"}
    envs, env = make_envs(1, **options), DreamEnv(**options)
    batch, _ = envs.reset(seed=9)
    observation, _ = env.reset(seed=9)
    ends = 0
    for t in range(40):
        assert_same(to_numpy(observation), to_numpy(batch[0]))
        batch, rewards, terminated, truncated, info = envs.step(actions_at(t, 1))
        observation, *rest, own_info = env.step(int(actions_at(t, 1)[0]))
        assert rest == [rewards[0], terminated[0], truncated[0]]
        assert list(map(type, rest)) == [float, bool, bool]
        if rest[1] or rest[2]:
            ends += 1
            assert_same(to_numpy(observation), to_numpy(info["final_obs"][0]))
            assert own_info["prior_entropy"] == info["final_info"]["prior_entropy"][0]
            observation, _ = env.reset()
        else:
            assert own_info["prior_entropy"] == info["prior_entropy"][0]
    assert ends > 3


# --- autoreset -----------------------------------------------------------------------------------


class Replayed(gym.Env):
    """Plays back what happened to one dream, so that Gymnasium's own vector env can batch it."""

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
    """What happens to each dream of a bare engine, resets in a mode's place, in latents."""
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
        features = model.features(step.state).numpy()
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
        if mode is AutoresetMode.SAME_STEP:
            begin(done)
        else:
            begin(waiting)
            waiting = done & ~waiting
    return tapes


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
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
        assert_same(info, expected_info)
        ended = (flags[0] | flags[1]).sum()
        alone, crowd = alone + (ended == 1), crowd + (ended > 1)
    assert alone
    assert crowd


@pytest.mark.parametrize("obs_type", OBSERVATIONS)
@pytest.mark.parametrize("array_type", ARRAYS)
def test_same_step_is_disabled_with_resets_by_hand(make_envs, array_type, obs_type) -> None:
    options = {"array_type": array_type, "obs_type": obs_type}
    same_step = make_envs(**options)
    by_hand = make_envs(**options, autoreset_mode="DISABLED")
    assert_same(to_numpy(same_step.reset(seed=3)[0]), to_numpy(by_hand.reset(seed=3)[0]))
    ends = 0
    for t in range(25):
        observations, *rest, info = map(to_numpy, same_step.step(actions_at(t)))
        expected, *expected_rest, expected_info = map(to_numpy, by_hand.step(actions_at(t)))
        assert_same(rest, expected_rest)
        done = rest[1] | rest[2]
        assert ("final_obs" in info) == bool(done.any())
        if done.any():
            assert_same(info["_final_obs"], done)
            for i in done.nonzero()[0]:
                assert_same(info["final_obs"][i], expected[i])
                final, doubt = info["final_info"]["prior_entropy"], expected_info["prior_entropy"]
                assert final[i] == doubt[i]
            mask = torch.from_numpy(done) if array_type == "torch" else done
            expected = to_numpy(by_hand.reset(options={"reset_mask": mask})[0])
            ends += done.sum()
        assert_same(observations, expected)
    assert ends > E


def test_disabled_wants_ended_dreams_reset(make_envs) -> None:
    envs = make_envs(autoreset_mode="DISABLED", max_episode_steps=1)
    envs.reset(seed=0)
    envs.step(actions_at(0))
    with pytest.raises(GlamError, match=r"dreams \[0, 1, 2, 3, 4, 5\] have ended"):
        envs.step(actions_at(1))
    envs.reset(options={"reset_mask": np.arange(E) != 4})
    with pytest.raises(GlamError, match=r"dreams \[4\] have ended"):
        envs.step(actions_at(1))
    envs.reset(options={"reset_mask": np.arange(E) == 4})
    assert len(envs.step(actions_at(1))) == 5


def test_every_dream_ends_at_the_horizon_of_the_checkpoint(
    make_envs, tmp_path, checkpoint_config, make_world_model, make_contexts
) -> None:
    endless = save_checkpoint(
        tmp_path / "endless",
        config=checkpoint_config,
        world_model_state=make_world_model(-99.0).export_state(),
        agent_state={},
        contexts=make_contexts(),
        card="",
    )
    horizon = checkpoint_config.max_episode_steps
    envs = make_envs(checkpoint=str(endless))
    history = play(envs, 2 * horizon + 1)[1:]
    ends = [t + 1 for t, step in enumerate(history) if step[3].all()]
    assert ends == [horizon, 2 * horizon]
    assert not any(step[2].any() for step in history)


# --- options of reset ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("obs_type", OBSERVATIONS)
def test_a_mask_begins_its_dreams_and_shows_the_others_as_they_are(
    make_envs, obs_type, kind
) -> None:
    envs = make_envs(obs_type=obs_type, autoreset_mode="NEXT_STEP", max_episode_steps=50)
    before = play(envs, 3)[-1][0]
    options = {"reset_mask": kind(np.array([1, 0, 0, 1, 1, 0], bool)), "context": 2}
    kept = dict(options)
    after, _ = envs.reset(options=options)
    assert options.keys() == kept.keys()
    assert all(options[name] is kept[name] for name in kept)
    assert options["reset_mask"].tolist() == [True, False, False, True, True, False]
    first, _ = make_envs(obs_type=obs_type).reset(options={"context": 2})
    for i in range(E):
        assert_same(after[i], (first if i in (0, 3, 4) else before)[i])


def test_given_dreams_start_from_given_moments(make_envs) -> None:
    envs = make_envs(obs_type="latent")
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
        ({"reset_mask": [True] * E}, "an array or a tensor, got list"),
        ({"reset_mask": np.ones(E)}, "must be bool"),
        ({"reset_mask": np.ones(E - 1, bool)}, "shape"),
        ({"reset_mask": np.zeros(E, bool)}, "at least one"),
        ({"reset_mask": torch.ones(E, 1, dtype=torch.bool)}, "shape"),
        ({"context": 20}, "0 … 19, got 20"),
        ({"context": -1}, "0 … 19, got -1"),
        ({"context": 1.5}, "must be integers"),
        ({"context": True}, "must be integers"),
        ({"context": np.zeros(E + 1, int)}, "shape"),
        ({"context": "first"}, "must be integers"),
        ({"reset_maks": np.ones(E, bool)}, "unknown reset option 'reset_maks'"),
    ],
)
def test_a_bad_option_is_refused_before_anything_moves(make_envs, options, says) -> None:
    envs, twin = make_envs(), make_envs()
    play(envs, 3)
    play(twin, 3)
    with pytest.raises(GlamError, match=says):
        envs.reset(seed=77, options=options)
    assert_unmoved(envs, twin)


def test_the_first_reset_takes_no_partial_mask(make_envs) -> None:
    envs = make_envs()
    with pytest.raises(GlamError, match="call reset"):
        envs.step(actions_at(0))
    with pytest.raises(GlamError, match="first reset"):
        envs.reset(options={"reset_mask": np.arange(E) == 1})
    envs.reset()


# --- actions -------------------------------------------------------------------------------------


def assert_unmoved(envs: DreamVectorEnv, twin: DreamVectorEnv) -> None:
    for one, other in zip(play(envs, 14, seed=None), play(twin, 14, seed=None), strict=True):
        assert_same(dict(enumerate(one)), dict(enumerate(other)))
    assert_same(envs.reset()[0], twin.reset()[0])


@pytest.mark.parametrize(
    ("actions", "says"),
    [
        (np.zeros(E + 1, int), "shape"),
        (np.zeros((E, 1), int), "shape"),
        (3, "shape"),
        (np.zeros(E), "float64"),
        (np.full(E, np.nan), "float64"),
        (np.zeros(E, bool), "bool"),
        (np.full(E, 6), "0 … 5, got 6"),
        (np.full(E, -1), "0 … 5, got -1"),
        (torch.zeros(E), "float32"),
        (torch.full((E,), 6), "got 6"),
        (np.full(E, 2**64 - 1, np.uint64), "0 … 5"),
        (["fire"] * E, "must be integers"),
        (None, "must be integers"),
    ],
)
def test_bad_actions_are_refused_before_anything_moves(make_envs, actions, says) -> None:
    envs, twin = make_envs(), make_envs()
    play(envs, 3)
    play(twin, 3)
    with pytest.raises(GlamError, match=says):
        envs.step(actions)
    assert_unmoved(envs, twin)


@pytest.mark.parametrize("array_type", ARRAYS)
def test_actions_of_any_integers_do(make_envs, array_type) -> None:
    envs = make_envs(array_type=array_type)
    values = actions_at(3)
    results = []
    for actions in (
        values,
        values.astype(np.uint8),
        torch.from_numpy(values),
        torch.from_numpy(values).int(),
        values.tolist(),
    ):
        envs.reset(seed=6)
        results.append(to_numpy(envs.step(actions)[0]))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("action", [6, -1, 1.0, "fire", None, [0, 1], np.nan, True])
def test_a_bad_action_is_refused_by_the_single_env(action) -> None:
    env = DreamEnv(device="cpu")
    env.reset(seed=0)
    with pytest.raises(GlamError):
        env.step(action)
    assert len(env.step(np.int64(1))) == 5
    assert len(env.step(torch.tensor(2))) == 5


# --- what is handed out --------------------------------------------------------------------------


@pytest.mark.parametrize("obs_type", OBSERVATIONS)
@pytest.mark.parametrize("array_type", ARRAYS)
def test_the_caller_may_keep_and_overwrite_everything(make_envs, array_type, obs_type) -> None:
    options = {"array_type": array_type, "obs_type": obs_type, "render_mode": "rgb_array"}
    envs, twin = make_envs(**options), make_envs(**options)
    observations, _ = envs.reset(seed=0)
    twin.reset(seed=0)
    observations[:] = 1
    for t in range(20):
        parts = envs.step(actions_at(t))
        expected = twin.step(actions_at(t))
        assert_same(to_numpy(dict(enumerate(parts))), to_numpy(dict(enumerate(expected))))
        info = parts[4]
        for array in (*parts[:4], *info.values(), *info.get("final_info", {}).values()):
            if not isinstance(array, dict):
                array[:] = 1
        for frame in envs.render():
            frame[:] = 1
    mask = np.arange(E) == 0
    assert_same(
        to_numpy(envs.reset(options={"reset_mask": mask})[0]),
        to_numpy(twin.reset(options={"reset_mask": mask})[0]),
    )


def test_tensors_can_be_trained_on(make_envs) -> None:
    envs = make_envs(array_type="torch", obs_type="latent")
    observations, _ = envs.reset(seed=0)
    policy = torch.nn.Linear(observations.shape[1], 6)
    _, rewards, *_ = envs.step(policy(observations).argmax(1))
    (policy(observations).mean() * rewards.mean()).backward()
    assert policy.weight.grad is not None


@pytest.mark.parametrize("obs_type", OBSERVATIONS)
def test_observations_are_of_the_dream(make_envs, tiny_checkpoint, obs_type) -> None:
    """Drawn from the latents by the checkpoint's own decoder, up to a level of 255: the drawing may
    run in 8-bit integers, and a batch's size may round a pixel."""
    envs = make_envs(obs_type=obs_type, render_mode="rgb_array")
    model = load_world_model(tiny_checkpoint)
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


# --- making and closing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"game": "Pnog"}, "did you mean Pong"),
        ({"array_type": "jax"}, "array_type must be one of numpy, torch"),
        ({"obs_type": "ram"}, "obs_type must be one of rgb, latent, grayscale"),
        ({"render_mode": "ansi"}, "render_mode must be one of None, rgb_array"),
        ({"autoreset_mode": "later"}, "NEXT_STEP, SAME_STEP, DISABLED; got 'later'"),
        ({"num_envs": 0}, "num_envs must be a whole number"),
        ({"max_episode_steps": -1}, "max_episode_steps"),
        ({"device": "tpu"}, "device 'tpu' cannot be used"),
        ({"checkpoint": "/nowhere/Pong"}, "/nowhere/Pong is no checkpoint"),
    ],
)
def test_an_impossible_option_gets_one_line(options, says) -> None:
    with pytest.raises(GlamError, match=says) as caught:
        DreamVectorEnv(**({"device": "cpu"} | options))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_game_is_refused(tiny_checkpoint) -> None:
    with pytest.raises(GlamError, match="is of Pong, not of Seaquest"):
        gym.make("GLAMDream-Seaquest-v0", checkpoint=str(tiny_checkpoint))


@pytest.mark.parametrize("mode", MODES)
def test_the_autoreset_mode_has_several_spellings(make_envs, mode) -> None:
    for spelling in (mode, mode.name, mode.value):
        assert make_envs(autoreset_mode=spelling).autoreset_mode is mode


def test_a_closed_env_says_so(make_envs) -> None:
    envs = make_envs()
    envs.reset()
    envs.close()
    envs.close()
    for use in (envs.reset, lambda: envs.step(actions_at(0))):
        with pytest.raises(GlamError, match="closed"):
            use()
    assert not hasattr(envs, "engine")


def test_render_without_a_mode_warns(make_envs) -> None:
    envs = make_envs()
    envs.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert envs.render() is None
