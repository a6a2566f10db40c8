"""The demo's dreams: every env counts as many of them, whichever finish first."""

import pytest
import torch

from glam_env.errors import GlamError
from glam_env.evaluation.demo import play_dreams


class ClockEnv:
    """Env `i` dreams dreams of `lengths[i]` steps, of which the last step pays `rewards[i]`."""

    device, max_episode_steps = torch.device("cpu"), 12

    def __init__(self, lengths, rewards):
        self.lengths, self.rewards = torch.tensor(lengths), torch.tensor(rewards)
        self.num_envs = len(lengths)

    def reset(self, seed):
        self.tick = torch.zeros_like(self.lengths)
        return torch.zeros(self.num_envs, 1), {}

    def step(self, actions):
        self.tick += 1
        done = self.tick == self.lengths
        self.tick[done] = 0
        return torch.zeros(self.num_envs, 1), done * self.rewards, done, torch.zeros_like(done), {}


def act(features, generator):
    return torch.zeros(len(features), dtype=torch.int64)


def test_long_dreams_weigh_as_much_as_short_ones():
    """In finishing order the short, lost dreams would be six of seven: a mean of −0.7."""
    report = play_dreams(ClockEnv([2, 12], [-1.0, 1.0]), act, steps=12, seed=0)
    assert (report.dreams, report.mean, report.standard_error) == (2, 0.0, 1.0)
    assert report.steps == 24
    assert report.reward_rate == pytest.approx((-6 + 1) / 24)


@pytest.mark.parametrize(("steps", "dreams"), [(12, 3), (23, 3), (24, 6), (40, 9)])
def test_each_env_plays_its_quota(steps, dreams):
    report = play_dreams(ClockEnv([5, 7, 12], [1.0, 2.0, 6.0]), act, steps=steps, seed=0)
    assert (report.dreams, report.mean) == (dreams, 3.0)


def test_a_single_dream_has_no_spread():
    report = play_dreams(ClockEnv([12], [2.0]), act, steps=12, seed=0)
    assert (report.dreams, report.mean, report.standard_error) == (1, 2.0, 0.0)


def test_too_few_steps_for_one_dream_are_refused():
    with pytest.raises(GlamError, match="at least 12, the longest dream's, not 11"):
        play_dreams(ClockEnv([2], [1.0]), act, steps=11, seed=0)


def test_the_real_env_has_what_the_demo_reads(endless_checkpoint):
    from glam_env.envs.dream.env import DreamVectorEnv

    env = DreamVectorEnv(
        "Pong", 2, array_type="torch", obs_type="latent", checkpoint=endless_checkpoint
    )
    report = play_dreams(env, act, steps=2 * env.max_episode_steps, seed=0)
    env.close()
    assert report.dreams == 4
    assert report.steps_per_second < report.env_steps_per_second
