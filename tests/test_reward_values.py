"""Rewards that are the game's: the head's distribution over the values that a game pays."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import ClipReward

import glam_env
from glam_env.checkpoint.folder import Checkpoint, shipped_checkpoints
from glam_env.envs.dream.engine import DreamEngine
from glam_env.envs.dream.options import DreamOptions
from glam_env.fast.choose import available
from glam_env.model.distributions import SymlogTwoHot
from glam_env.model.reward_values import (
    MOST_VALUES,
    REWARDS,
    RewardValues,
    seen_values,
    whole_values,
)

PAC = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 100.0, 110.0, 200.0, 210.0, 400.0, 1600.0)


@pytest.fixture(scope="module", params=[False, True], ids=["symlog", "expected"])
def code(request) -> SymlogTwoHot:
    code = SymlogTwoHot(expected=request.param)
    code.see(torch.tensor([-1.0, 1600.0]))
    return code


def logits_of(code: SymlogTwoHot, mixture: dict[float, float]) -> torch.Tensor:
    """Logits of a mixture of two-hot codes, with a floor as a trained head has."""
    shares = code.encode(torch.tensor(list(mixture))).T @ torch.tensor(list(mixture.values()))
    return (shares + 1e-7).log()


@pytest.mark.parametrize("value", PAC)
def test_a_value_that_the_head_predicts_is_the_likeliest(code, value) -> None:
    values = RewardValues(code, PAC)
    assert values.likeliest(logits_of(code, {value: 1.0})).item() == value


def test_values_closer_than_bins_are_told_apart(code) -> None:
    """As why shares are not the masses of the nearest bins: some values have no bin."""
    close = tuple(float(value) for value in range(100, 160, 5))
    values = RewardValues(code, close)
    for value in close:
        assert values.likeliest(logits_of(code, {value: 1.0})).item() == value
    distance = (values.values.log1p() - code.centers[:, None]).abs()
    nearest = {close[i] for i in distance.argmin(1).tolist()}
    assert len(nearest) < len(close)


def test_shares_are_those_of_a_mixture_of_values_without_common_bins(code) -> None:
    values = RewardValues(code, (-1.0, 0.0, 1.0, 100.0))
    mixture = {-1.0: 0.1, 0.0: 0.6, 1.0: 0.05, 100.0: 0.25}
    logits = logits_of(code, mixture)
    shares = values.log_shares(logits).softmax(-1)
    torch.testing.assert_close(shares, torch.tensor([*mixture.values()]), atol=1e-4, rtol=0)
    mean = sum(value * share for value, share in mixture.items())
    assert values.mean(logits).item() == pytest.approx(mean, rel=1e-3)
    assert values.likeliest(logits).item() == 0.0
    draws = torch.arange(0.0005, 1.0, 0.001)
    drawn = values.sample(logits.expand(len(draws), -1), draws)
    for value, share in mixture.items():
        assert (drawn == value).float().mean().item() == pytest.approx(share, abs=0.003)


def test_the_mean_is_the_expected_value_in_points() -> None:
    code = SymlogTwoHot()
    logits = logits_of(code, {0.0: 0.5, 100.0: 0.5})
    assert RewardValues(code, (0.0, 100.0)).mean(logits).item() == pytest.approx(50.0, rel=1e-3)
    assert code.mean(logits).item() == pytest.approx(9.05, rel=1e-2)  # what the training takes


def test_without_values_rewards_are_whole_points(code) -> None:
    values = RewardValues(code)
    assert not values.known
    assert values.values.tolist() == sorted(whole_values(code))
    for value in (-1.0, 0.0, 1.0, 3.0):
        assert values.likeliest(logits_of(code, {value: 1.0})).item() == value


def test_the_values_of_a_game_are_those_seen_and_zero() -> None:
    assert seen_values(np.array([[1.0, 1.0], [-1.0, -0.0]])) == (-1.0, 0.0, 1.0)
    assert seen_values(np.array([5.0])) == (0.0, 5.0)
    assert seen_values(np.array([])) == (0.0,)
    assert seen_values(np.array([2.0]), known=(-1.0, 0.0)) == (-1.0, 0.0, 2.0)


def test_of_too_many_values_the_most_frequent_and_the_bounds_are_kept() -> None:
    many = np.concatenate([np.arange(1000.0), np.repeat(np.arange(300.0, 400.0), 2)])
    kept = seen_values(many, known=(7777.0,))
    assert len(kept) == MOST_VALUES
    assert {0.0, 999.0, 7777.0, *np.arange(300.0, 400.0)} <= set(kept)


@pytest.mark.parametrize("reward", REWARDS)
def test_both_backends_give_the_same_rewards(make_world_model, make_contexts, reward) -> None:
    if not available():
        pytest.skip("no compiler")
    shown = []
    for backend in ("torch", "native"):
        options = DreamOptions(
            device="cpu",
            obs_type="latent",
            max_episode_steps=50,
            reward=reward,
            backend=backend,
            precision="float32",
        )
        values = (-1.0, 0.0, 1.0)
        engine = DreamEngine(make_world_model(-99.0), make_contexts(), 16, options, values)
        engine.reset(seed=3)
        shown.append(
            torch.stack([engine.step((torch.arange(16) + t) % 6).reward for t in range(12)])
        )
        if reward != "mean":
            assert bool(torch.isin(shown[-1], torch.tensor(values)).all())
            assert len(shown[-1].unique()) > 1
    # A draw, or two shares that are almost equal, can fall on either side of rounding.
    same = torch.isclose(*shown, atol=1e-4)
    assert same.float().mean() > 0.98


def test_a_checkpoint_without_values_warns_and_opens(tiny_checkpoint) -> None:
    path = tiny_checkpoint / "config.json"
    plain = json.loads(path.read_text())
    del plain["reward_values"]
    plain["format_version"] = 3
    path.write_text(json.dumps(plain))
    assert Checkpoint.open(tiny_checkpoint).config.reward_values == ()
    with pytest.warns(UserWarning, match="glam card"):
        envs = gym.make_vec("GLAMDream-Pong-v0", num_envs=4, checkpoint=str(tiny_checkpoint))
    envs.reset(seed=0)
    rewards = np.stack([envs.step(np.zeros(4, int))[1] for _ in range(5)])
    np.testing.assert_array_equal(rewards, rewards.round())


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0.0, 0.0], "must ascend"),
        ([1.0, 0.0], "must ascend"),
        ([0.0, 1e300], "must be finite"),
        ([float(i) for i in range(MOST_VALUES + 1)], "at most 128"),
        ([0.0, "1"], "expected float"),
    ],
)
def test_wrong_values_are_refused(tiny_checkpoint, values, says) -> None:
    path = tiny_checkpoint / "config.json"
    plain = json.loads(path.read_text()) | {"reward_values": values}
    path.write_text(json.dumps(plain))
    with pytest.raises(glam_env.GlamError, match=says):
        Checkpoint.open(tiny_checkpoint)


# --- as the game pays them: the shipped Pong ------------------------------------------------------


def test_the_shipped_checkpoints_know_their_values() -> None:
    for folder in shipped_checkpoints().values():
        values = Checkpoint.open(folder).config.reward_values
        assert 0.0 in values
        assert len(values) > 1


def random_rewards(env_id: str, steps: int, num_envs: int, wrap=lambda envs: envs, **options):
    """Rewards of random play, (steps, E)."""
    envs = wrap(gym.make_vec(env_id, num_envs=num_envs, **options))
    envs.reset(seed=5)
    actions = np.random.default_rng(6).integers(6, size=(steps, num_envs))
    rewards = np.stack([envs.step(action)[1] for action in actions])
    envs.close()
    return rewards


@pytest.mark.parametrize("world", ["Dream", pytest.param("Real", marks=pytest.mark.emulator)])
def test_the_sign_of_a_reward_is_the_game_s_in_both_worlds(world) -> None:
    rewards = random_rewards("GLAMReal-Pong-v0".replace("Real", world), 200, 8)
    assert set(np.unique(rewards)) <= {-1.0, 0.0, 1.0}
    assert (rewards == 0.0).mean() > 0.9
    assert (rewards != 0.0).sum() > 5  # random play loses a point every 40 steps or so
    np.testing.assert_array_equal(np.sign(rewards), rewards)
    clipped = random_rewards(
        f"GLAM{world}-Pong-v0", 200, 8, lambda envs: ClipReward(envs, -1.0, 1.0)
    )
    np.testing.assert_array_equal(clipped, rewards)


def test_the_signs_of_expected_rewards_are_not() -> None:
    """Which is why they are not the default."""
    game = random_rewards("GLAMDream-Pong-v0", 200, 8)
    mean = random_rewards("GLAMDream-Pong-v0", 200, 8, reward="mean")
    assert np.sign(game).sum() < 0 < (mean != 0.0).mean()
    assert abs(np.sign(mean).sum() - mean.sum()) > 5 * abs(np.sign(game).sum() - mean.sum())
