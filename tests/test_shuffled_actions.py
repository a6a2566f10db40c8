"""Actions shuffled in the feature encoder: open loop says nothing, the new thresholds do.

In Pong, FIRE moves the paddle as NOOP does, RIGHTFIRE as RIGHT and LEFTFIRE as LEFT. An agent that
plays with NOOP, RIGHT and LEFT alone loses nothing. Along its play a dream is the same to the last
bit if the other three are shuffled, which any other policy takes as well. A shuffle of actions that
the recorded play does take cannot leave open loop as it is: its dreams follow from them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glam_env.cli.trained import load_trained
from glam_env.envs.atari.rewind import RewindableGame
from glam_env.envs.latent_filter import FilteredPolicy
from glam_env.envs.recordings.recording import Recording
from glam_env.evaluation.measures.action_effects import (
    LATE,
    BranchReport,
    Moments,
    compare_returns,
    dream_branches,
)
from glam_env.evaluation.measures.base import Settings, Subject
from glam_env.evaluation.measures.behavior import report_behavior
from glam_env.evaluation.measures.events import EventReport
from glam_env.evaluation.measures.images import ImageReport
from glam_env.evaluation.measures.objects import ObjectReport
from glam_env.evaluation.measures.thresholds import check_fidelity
from glam_env.evaluation.play.plays import Plays
from glam_env.games import find_game

NOOP, FIRE, RIGHT, LEFT, RIGHTFIRE, LEFTFIRE = range(6)
PLAYED = torch.tensor([NOOP, NOOP, RIGHT, LEFT, RIGHT, LEFT])  # in place of each action
SHUFFLED = {FIRE: RIGHTFIRE, RIGHTFIRE: LEFTFIRE, LEFTFIRE: FIRE}


STEPS, HORIZON, CONTEXT = 1040, 16, 16  # a point depends on the action at one moment in 25


def play_and_try(player, play):
    """Play Pong, and hold each action from every fifth step on.

    Returns:
        The play, and the moments from which actions were held.
    """
    game, steps, moments = RewindableGame(find_game("Pong"), play), [], []
    player.begin(1, 5)
    frame = game.reset(5)
    for t in range(STEPS):
        if t >= CONTEXT and t % 5 == 0:
            rewards = game.try_each(HORIZON + LATE)
            if not rewards[:, -2 * LATE :].any():  # else a late dream would be judged as wrong
                before = steps[-CONTEXT:]
                frames = np.stack([*(step[0] for step in before), frame])
                actions = np.array([step[1] for step in before])
                moments.append((frames, actions, rewards.sum(1)))
        action = int(player.act(frame[None], np.array([t == 0]))[0])
        step = game.step(action)
        assert not step.terminated
        steps.append((frame, action, step.reward))
        frame = game.frame()
    frames, actions, rewards = (np.stack(part)[None] for part in zip(*steps, strict=True))
    none = np.zeros(actions.shape, bool)
    recording = Recording("Pong", frames, actions, rewards.astype(np.float32), none, none)
    return recording, Moments(*map(np.stack, zip(*moments, strict=True)))


@pytest.mark.emulator
def test_shuffled_actions_fail_the_new_thresholds_and_no_others():
    trained, broken = load_trained("Pong", "cpu"), load_trained("Pong", "cpu").world_model
    intact = trained.world_model
    actions = broken.feature_encoder[0].weight[:, -intact.config.num_actions :]
    was = actions.clone()
    for action, takes in SHUFFLED.items():
        actions[:, action] = was[:, takes]

    def act(features, generator):
        return PLAYED[trained.act()(features, generator)]

    recording, moments = play_and_try(FilteredPolicy(intact, act), trained.play)
    one_point = Plays(np.eye(1, 4, dtype=np.float32), *(np.ones((1, 4), t) for t in (int, bool)))
    behavior = report_behavior(one_point, one_point, num_actions=6, context=4, seed=0)

    def examine(model):
        """Check open loop along the agent's play, and the effects of all actions."""
        settings = Settings(horizon=32, seed=1, reward_values=trained.reward_values)
        pong = Subject(model, act, "Pong", settings, recording=recording, players={})
        open_loop = [kind.measure(pong) for kind in (ImageReport, ObjectReport, EventReport)]
        sizes = {"horizon": HORIZON, "futures": 4, "seed": 0}
        figures = compare_returns(moments.returns, dream_branches(model, moments, **sizes))
        branches = BranchReport(moments=len(moments.frames), context=CONTEXT, **sizes, **figures)
        checks = check_fidelity(*open_loop, behavior, branches=branches)
        return {check.name: check for check in checks}

    good, bad = examine(intact), examine(broken)
    held = [name for name in good if name.startswith("held actions")]
    explained, right, lost = held
    assert [bad[name].passed for name in held] == [False, False, False]
    assert good[right].figure > bad[right].figure + 0.1
    assert good[lost].figure < bad[lost].figure - 0.2
    assert good[explained].figure > bad[explained].figure + 0.2
    others = [name for name in good if name not in held]
    assert [good[name] for name in others] == [bad[name] for name in others]
    images = [name for name in others if name.startswith("foreground error")]
    assert len(images) == 3
    assert all(bad[name].passed for name in images)
