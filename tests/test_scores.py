"""Scores: whole episodes, a quota for each env, and the arithmetic of the report."""

import json
import math

import numpy as np
import pytest

from glam_env.envs.atari import Emulator, EmulatorStep, Episode
from glam_env.errors import GlamError
from glam_env.evaluation import RandomPolicy, ScoreReport, evaluate_policy, play_episodes
from glam_env.evaluation.play.scores import CHOICE, EVALUATION, play_of, seed_apart, stored_scores
from glam_env.protocols import METHODS, PROTOCOLS, PlaySettings


class ClockEmulator:
    """Env `i` plays episodes of `lengths[i]` steps; a frame shows env, episode and step."""

    def __init__(self, lengths):
        self.lengths = np.array(lengths)
        self.num_envs = len(lengths)
        self.episode = np.full(self.num_envs, -1)
        self.actions = []

    def reset(self):
        self.episode += 1
        self.tick = np.zeros(self.num_envs, int)
        return self.frames()

    def frames(self):
        frames = np.zeros((self.num_envs, 64, 64, 3), np.uint8)
        frames[:, 0, 0] = np.stack([np.arange(self.num_envs), self.episode, self.tick], axis=1)
        return frames

    def step(self, actions):
        self.actions.append(actions)
        self.tick += 1
        done = self.tick == self.lengths
        finished = tuple(
            Episode(env, int(self.episode[env]), 10.0 * env + self.episode[env], self.tick[env], 0)
            for env in np.flatnonzero(done).tolist()
        )
        self.episode[done] += 1
        self.tick[done] = 0
        reward = done.astype(np.float32)
        return EmulatorStep(self.frames(), reward, done, done, np.zeros_like(done), finished)


class Watcher:
    """Checks that `first` is true exactly where a frame begins an episode."""

    def begin(self, num_envs, seed):
        self.begun = (num_envs, seed)

    def act(self, frames, first):
        np.testing.assert_array_equal(first, frames[:, 0, 0, 2] == 0)
        return np.zeros(len(frames), np.int64)


@pytest.mark.parametrize(
    ("episodes", "shares"), [(1, (1, 0, 0)), (3, (1, 1, 1)), (7, (3, 2, 2)), (20, (7, 7, 6))]
)
def test_every_env_plays_its_own_share(episodes, shares):
    policy, emulator = Watcher(), ClockEmulator([2, 3, 31])  # env 0 could play all of them
    played = play_episodes(policy, emulator, episodes, seed=5)
    assert policy.begun == (3, 5)
    expected = [(env, number) for env, share in enumerate(shares) for number in range(share)]
    assert [(episode.env, episode.episode) for episode in played] == expected
    assert len(emulator.actions) == max(
        share * length for share, length in zip(shares, emulator.lengths, strict=True)
    )


def test_on_step_sees_every_step_and_the_episodes_so_far():
    seen = []
    emulator = ClockEmulator([2, 3])
    play_episodes(
        Watcher(), emulator, 2, seed=0, on_step=lambda step, counted: seen.append(len(counted))
    )
    assert seen == [0, 1, 2]


def test_an_evaluation_without_episodes_is_refused():
    with pytest.raises(GlamError, match="episodes must be at least 1"):
        play_episodes(Watcher(), ClockEmulator([2]), 0, seed=0)


def test_random_policy_is_seeded_and_uniform():
    frames, first = np.zeros((4000, 1, 1, 3), np.uint8), np.zeros(4000, bool)
    policy = RandomPolicy(4)
    actions = []
    for seed in (1, 1, 2):
        policy.begin(4000, seed)
        actions.append(policy.act(frames, first))
    assert actions[0].dtype == np.int64
    np.testing.assert_array_equal(actions[0], actions[1])
    assert (actions[0] != actions[2]).any()
    assert np.bincount(actions[0], minlength=4).min() > 900  # 1000 expected, deviation 27


def report(scores, **changes):
    values = {
        "game": "Pong",
        "play": PlaySettings(),
        "seed": 0,
        "num_envs": 4,
        "scores": tuple(scores),
        "lengths": tuple(100 for _ in scores),
        "seconds": 2.0,
    }
    return ScoreReport(**{**values, **changes})


def test_report_arithmetic():
    done = report([10.0, 14.0, 18.0, 14.0])
    assert (done.episodes, done.mean, done.agent_steps) == (4, 14.0, 400)
    assert done.std == pytest.approx(math.sqrt(32 / 3))
    assert done.standard_error == pytest.approx(done.std / 2)
    assert done.steps_per_second == 200.0
    assert (done.random, done.human) == (-20.7, 14.6)
    assert done.human_normalized == pytest.approx(34.7 / 35.3)


def test_bootstrap_interval_is_fixed_and_agrees_with_the_normal_one():
    scores = np.random.default_rng(3).normal(5.0, 2.0, 400).tolist()
    done = report(scores)
    low, high = done.interval
    assert (low, high) == report(scores).interval
    assert low == pytest.approx(done.mean - 1.96 * done.standard_error, abs=0.02)
    assert high == pytest.approx(done.mean + 1.96 * done.standard_error, abs=0.02)


def test_report_survives_json():
    done = report([10.0, 18.0])
    text = json.dumps(done.as_json(), allow_nan=False)
    read = json.loads(text)
    assert read["scores"] == [10.0, 18.0]
    assert read["mean"] == 14.0
    assert [read["interval_low"], read["interval_high"]] == list(done.interval) == [10.0, 18.0]


@pytest.mark.parametrize("play", [*PROTOCOLS.values(), PlaySettings(0.1, noop_max=3)])
def test_a_report_names_its_protocol(play):
    done = report([10.0, 18.0], play=play)
    plain = json.loads(json.dumps(done.as_json()))
    assert (plain["protocol"], play_of(plain)) == (play.protocol, play)
    *_, glam, here = done.table().splitlines()
    assert f"protocol: {play}" in done.table()
    assert glam.startswith("GLAM ")
    assert glam.endswith(f" 18.0           109.6 %   {METHODS['GLAM']}")
    assert here.endswith(str(play))


def test_a_single_score_of_an_old_checkpoint_is_of_its_own_protocol():
    old = {"mean": 3.0, "repeat_action_probability": 0.0}  # version 0.1 stored no noop_max
    assert stored_scores({"score": old, "fidelity": {}}) == [old]
    assert play_of(old).protocol == "atari100k"
    assert stored_scores({"scores": [old, old]}) == [old, old]
    assert stored_scores({"fidelity": {}}) == []


def test_the_spread_of_one_episode_is_unknown():
    read = json.loads(json.dumps(report([-21.0]).as_json(), allow_nan=False))
    assert read["mean"] == -21.0
    assert [read[key] for key in ("std", "standard_error", "interval_low", "interval_high")] == [
        None
    ] * 4


@pytest.mark.emulator
def test_random_play_of_pong_scores_as_published_and_repeats():
    done = evaluate_policy(RandomPolicy(6), "pong", episodes=2, num_envs=4, seed=11)
    assert (done.game, done.num_envs, done.episodes) == ("Pong", 2, 2)
    assert all(-21.0 <= score <= -18.0 for score in done.scores)
    assert all(700 < length < 1500 for length in done.lengths)
    assert -0.05 < done.human_normalized < 0.1

    emulator = Emulator("Pong", 2, seed=seed_apart(EVALUATION, 11), num_threads=1)
    again = play_episodes(RandomPolicy(6), emulator, 2, seed=11)
    emulator.close()
    assert tuple(episode.return_ for episode in again) == done.scores
    assert tuple(episode.length for episode in again) == done.lengths
    assert len({episode.seed for episode in again}) == 2


@pytest.mark.emulator
def test_games_of_choice_are_none_of_a_score():
    seeds = {}
    for purpose in (EVALUATION, CHOICE):
        for seed in (1000, 3000):
            emulator = Emulator("Pong", 4, seed=seed_apart(purpose, seed), num_threads=1)
            played = [emulator._seed_of(env, number) for env in range(4) for number in range(50)]
            seeds[purpose, seed] = set(played)
            emulator.close()
    assert sum(map(len, seeds.values())) == len(set.union(*seeds.values())) == 800


@pytest.mark.emulator
def test_impossible_values_are_refused_before_play():
    with pytest.raises(GlamError, match="num_envs"):
        evaluate_policy(RandomPolicy(6), "Pong", num_envs=0, seed=0)
    with pytest.raises(GlamError, match="episodes must be at least 1"):
        evaluate_policy(RandomPolicy(6), "Pong", episodes=0, seed=0)
    with pytest.raises(GlamError, match="Pong"):
        evaluate_policy(RandomPolicy(6), "Pongg", seed=0)
