"""A toy game that a world model knows by heart, and models of it with something broken."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from glam_env.envs.recordings.recording import Recording
from glam_env.evaluation.measures.base import Settings, Subject
from glam_env.model.distributions import SymlogTwoHot
from glam_env.model.structures import DreamState, Prediction

POSITIONS, GROUND = 20, 50


def picture(position):
    """Draw the position as a bright square on a dark ground."""
    frame = np.full((64, 64, 3), GROUND, np.uint8)
    frame[30:33, 3 * position : 3 * position + 3] = 200
    return frame


PICTURES = np.stack([picture(position) for position in range(POSITIONS)])


def rules(position, action):
    """Move the square one or two places around; returns its next place, reward and end."""
    ahead = position + 1 + action
    wraps = ahead >= POSITIONS
    reward = wraps * (2.0 * action - 1.0)
    ended = (position == 13) & (action == 1)
    return ahead % POSITIONS, reward, ended


def play(steps=300, envs=2, seed=0):
    """Play the toy game at random; an episode begins anywhere, which no dream can know."""
    generator = np.random.default_rng(seed)
    position = generator.integers(POSITIONS, size=envs)
    columns = []
    for _ in range(steps):
        action = generator.integers(2, size=envs)
        ahead, reward, ended = rules(position, action)
        columns.append((PICTURES[position], action, reward, ended, ended))
        position = np.where(ended, generator.integers(POSITIONS, size=envs), ahead)
    frames, actions, rewards, life_lost, ended = (
        np.stack(column, 1) for column in zip(*columns, strict=True)
    )
    return Recording("Toy", frames, actions, rewards.astype(np.float32), life_lost, ended)


def square(frames):
    """Detect the square by its brightness."""
    bright = frames[:, 31, 1::3, 0] > 125
    column = np.where(bright.any(1), bright.argmax(1), np.nan)
    return {"square": np.stack([np.where(np.isnan(column), np.nan, 31.0), column], 1)}


def subject(model, recording, **settings):
    """A model and a recording to measure, in short windows."""
    windows = {"context": 4, "horizon": 8, "stride": 5, **settings}
    return Subject(model, random_act, "Toy", Settings(**windows), recording=recording, players={})


def random_act(features, generator):
    return torch.randint(2, (len(features),), generator=generator)


def certain(codes):
    return (100.0 * nn.functional.one_hot(codes, POSITIONS)).float().log_softmax(-1)


class ToyModel(nn.Module):
    """A world model that knows the toy game by heart, in one categorical of 20 classes."""

    def __init__(self):
        super().__init__()
        self.prior = nn.Linear(1, 1)
        self.reward_code = SymlogTwoHot()

    @property
    def core(self):
        return self

    memory = core

    @property
    def device(self):
        return torch.device("cpu")

    def initial_state(self, batch, device):
        return None

    @property
    def config(self):
        return SimpleNamespace(draw_temperature=1.0)

    def posterior(self, images):
        return certain((images[..., 31, 1::3, 0] > GROUND).long().argmax(-1).unsqueeze(-1))

    encode = posterior

    def prior_target(self, log_probs):
        return log_probs

    def decode(self, code):
        return torch.from_numpy(PICTURES)[code[..., 0]].float() / 255.0

    def warm_up(self, codes, actions):
        return DreamState(codes[:, -1], torch.zeros(len(codes), 1), None)

    def step(self, state, action, *, temperature, generator):
        code, reward, ended = rules(state.code, action[:, None])
        logit = ended[:, 0].float() - 0.5
        state = DreamState(code, state.h, None)
        pay = self.pay(reward[:, 0])
        logits = (self.reward_code.encode(pay) + 1e-8).log()
        return Prediction(state, pay, logits, logit, torch.zeros_like(pay))

    def pay(self, reward):
        return reward

    def observe(self, code, action, core, first):
        return rules(code, action[:, None])[0], None

    def prior_log_probs(self, h):
        return certain(h)


class EmptyScreen(ToyModel):
    def decode(self, code):
        return torch.full((*code.shape[:-1], 64, 64, 3), GROUND / 255.0)


class ExtraSquare(ToyModel):
    def decode(self, code):
        images = super().decode(code)
        images[..., :3, :3, :] = 0.9
        return images


class ShuffledDecoder(ToyModel):
    def decode(self, code):
        return super().decode((7 * code + 5) % POSITIONS)


class NoReward(ToyModel):
    def pay(self, reward):
        return 0.0 * reward


class Jackpot(ToyModel):
    """Expects one chance in fifty of 100 points at each step beside the toy game's rewards."""

    def step(self, state, action, *, temperature, generator):
        step = super().step(state, action, temperature=temperature, generator=generator)
        luck = self.reward_code.encode(torch.tensor(100.0))
        logits = (0.98 * step.reward_logits.exp() + 0.02 * luck).log()
        return step._replace(reward=step.reward + 2.0, reward_logits=logits)


class ShuffledReward(ToyModel):
    def pay(self, reward):
        return reward.flip(0)  # each dream gets another one's


class WrongSign(ToyModel):
    def pay(self, reward):
        return -reward


class DeafToActions(ToyModel):
    def step(self, state, action, **options):
        return super().step(state, torch.zeros_like(action), **options)
