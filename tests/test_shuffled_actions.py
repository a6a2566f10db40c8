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
from glam_env.evaluation.measures.action_effects import (
    BranchReport,
    Moments,
    _find_moments,
    compare_returns,
    dream_branches,
)
from glam_env.evaluation.measures.base import Settings, Subject
from glam_env.evaluation.measures.behavior import BehaviorReport
from glam_env.evaluation.measures.events import EventReport
from glam_env.evaluation.measures.images import ImageReport
from glam_env.evaluation.measures.objects import ObjectReport
from glam_env.evaluation.measures.thresholds import check_fidelity
from glam_env.evaluation.play.recording import record_play
from glam_env.games import find_game

NOOP, FIRE, RIGHT, LEFT, RIGHTFIRE, LEFTFIRE = range(6)
PLAYED = torch.tensor([NOOP, NOOP, RIGHT, LEFT, RIGHT, LEFT])  # in place of each action
SHUFFLED = {FIRE: RIGHTFIRE, RIGHTFIRE: LEFTFIRE, LEFTFIRE: FIRE}


@pytest.mark.emulator
def test_shuffled_actions_fail_the_new_thresholds_and_no_others():
    trained, broken = load_trained("Pong", "cpu"), load_trained("Pong", "cpu").world_model
    intact = trained.world_model
    weight = broken.feature_encoder[0].weight
    actions = weight[:, -intact.config.num_actions :]
    was = actions.clone()
    for action, takes in SHUFFLED.items():
        actions[:, action] = was[:, takes]

    def act(features, generator):
        return PLAYED[trained.act()(features, generator)]

    player = FilteredPolicy(intact, act)
    recording = record_play(player, "Pong", steps=1200, num_envs=4, seed=3, play=trained.play)
    parts = _find_moments(
        player,
        RewindableGame(find_game("Pong"), trained.play),
        steps=900,
        stride=6,
        horizon=16,
        context=16,
        seed=5,
        on_step=lambda done: None,
    )
    moments = Moments(*map(np.stack, zip(*parts, strict=True)))

    def examine(model):
        """Check open loop along the agent's play, and the effects of all actions."""
        settings = Settings(horizon=32, stride=32, seed=1, reward_values=trained.reward_values)
        pong = Subject(model, act, "Pong", settings, recording=recording, players={})
        figures = compare_returns(
            moments.returns, dream_branches(model, moments, horizon=16, futures=4, seed=0)
        )
        branches = BranchReport(
            moments=len(parts), horizon=16, context=16, futures=4, seed=0, **figures
        )
        open_loop = [kind.measure(pong) for kind in (ImageReport, ObjectReport, EventReport)]
        checks = check_fidelity(*open_loop, behavior, branches=branches)
        return {check.name: check for check in checks}

    behavior = BehaviorReport.measure(
        Subject(intact, act, "Pong", Settings(behavior_steps=256, dream_horizon=32))
    )
    good, bad = examine(intact), examine(broken)
    held = [name for name in good if name.startswith("held actions")]
    assert len(held) == 3
    assert [bad[name].passed for name in held] == [False, False, False]
    explained, right, lost = held
    assert good[right].figure > 0.8 > 0.65 > bad[right].figure
    assert good[lost].figure < 0.5 < 0.7 < bad[lost].figure
    assert good[explained].figure > bad[explained].figure + 0.3
    others = [name for name in good if name not in held]
    assert [good[name] for name in others] == [bad[name] for name in others]
    assert all(good[name].passed for name in others if not name.startswith("policy's points"))
