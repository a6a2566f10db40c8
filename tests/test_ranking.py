"""Policies from one moment in game and dreams, and how far the two rank them alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from glam_env.envs.atari.rewind import RewindableGame
from glam_env.errors import GlamError
from glam_env.evaluation.bootstrap import draw_rows
from glam_env.evaluation.measures.ranking import (
    RankingReport,
    compare_policies,
    deviation,
    find_agreement,
    pearson,
    rank_violation,
    ranks,
    spearman,
)
from glam_env.evaluation.play.moments import RealMoment, dream_on, find_moments, play_on
from glam_env.evaluation.play.policies import (
    History,
    agent_policy,
    constant_policy,
    held_random_policy,
    standard_policies,
)
from glam_env.games import find_game
from glam_env.model.structures import DreamState
from glam_env.protocols import PROTOCOLS

NOTHING = History(np.zeros((1, 0, 64, 64, 3), np.uint8), np.zeros((1, 0), np.int64))


def random_act(features, generator):
    return torch.randint(6, (len(features),), generator=generator)


def silent(*_):
    pass


# --- figures -------------------------------------------------------------------------------------


def test_correlations_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.normal(size=(2, 9)).round(0 if rng.random() < 0.5 else 3)  # some are equal
        assert ranks(x) == pytest.approx(stats.rankdata(x) - 1)
        assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_the_rank_violation_by_hand():
    real = np.array([0.0, 1.0, 5.0])
    assert rank_violation(real, real) == 0.0
    assert rank_violation(real, 3.0 * real - 7.0) == 0.0
    # The last two are ranked the wrong way: each is off by 4, the first by 0.
    assert rank_violation(real, np.array([0.0, 5.0, 1.0])) == pytest.approx(8 / 3)
    assert rank_violation(real, -real) == pytest.approx((5 + 4 + 5) / 3)


def test_the_deviation_of_returns_is_that_of_the_game_of_chance():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(500, 6, 1))  # of a moment and a policy: no chance
    returns = means + 0.5 * rng.normal(size=(500, 6, 2))
    assert deviation(returns) == pytest.approx(0.5, rel=0.03)
    assert deviation(np.repeat(means, 3, 2)) < 1e-12


def test_an_agreement_has_intervals_over_moments():
    rng = np.random.default_rng(1)
    skill = np.arange(6.0)
    game = skill + rng.normal(size=(40, 6))
    dream = 0.1 * skill + 0.1 * rng.normal(size=(40, 6))
    resamples = draw_rows(rng, 40, 500)
    found = find_agreement(16, game, dream, resamples)
    assert found.pearson is not None
    assert found.pearson_interval is not None
    assert found.pearson_interval[0] < found.pearson <= found.pearson_interval[1]
    assert found.pearson > 0.95
    assert found.range == pytest.approx(np.ptp(game.mean(0)))
    reversed_ = find_agreement(16, game, -dream, resamples)
    assert reversed_.spearman == pytest.approx(-found.spearman)
    assert reversed_.violation > 3.0
    flat = find_agreement(16, game, np.zeros_like(dream), resamples)
    assert flat.pearson is flat.spearman is flat.pearson_interval is None


# --- policies ------------------------------------------------------------------------------------


def test_held_random_actions_last_as_long_as_they_should():
    generator = torch.Generator().manual_seed(0)
    choose = held_random_policy("held", 4, 8.0).begin(200, generator)
    features = torch.zeros(200, 1)
    actions = torch.stack([choose(features) for _ in range(400)])
    changes = (actions[1:] != actions[:-1]).float().mean().item()
    assert changes == pytest.approx(1 / 8 * 3 / 4, rel=0.05)  # a new action may be the old one
    assert (
        torch.bincount(actions.flatten())
        .float()
        .div(80_000)
        .allclose(torch.tensor(0.25), atol=0.02)
    )


def test_there_are_twelve_policies_for_pong():
    policies = standard_policies(random_act, 6)
    assert len({policy.name for policy in policies}) == len(policies) == 12


# --- game ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moments(make_world_model) -> list[RealMoment]:
    """Moments of sticky Pong, played at random."""
    game = RewindableGame(find_game("Pong"), PROTOCOLS["published"])
    return find_moments(
        make_world_model(-99.0),
        random_act,
        game,
        count=3,
        stride=20,
        context=16,
        seed=2,
        on_moment=silent,
    )


@pytest.mark.emulator
def test_plays_in_the_game_are_those_of_the_game(make_world_model, moments):
    """Constant policies: the points that stepping the game by hand gives."""
    model, play = make_world_model(-99.0), PROTOCOLS["published"]
    policies = [constant_policy("up", 2), constant_policy("none", 0)]
    settings = {"horizon": 60, "futures": 2, "seed": 5, "on_moment": silent}
    points = play_on(model, policies, find_game("Pong"), play, moments, **settings)
    assert points.shape == (3, 2, 2, 60)
    assert points.any()
    again = play_on(model, policies, find_game("Pong"), play, moments, **settings)
    assert np.array_equal(points, again)
    alone = play_on(model, policies[1:], find_game("Pong"), play, moments, **settings)
    assert np.array_equal(alone[:, 0], points[:, 1])  # the sticky actions are each policy's
    looking = [policies[0], *(replace(policy, blind=False) for policy in policies)]
    mixed = play_on(model, looking, find_game("Pong"), play, moments, **settings)
    assert np.array_equal(mixed, points[:, [0, 0, 1]])  # whether it looks or not

    from glam_env.evaluation.play.scores import seed_apart

    game = RewindableGame(find_game("Pong"), play)
    game.reset(0)
    game.restore(moments[1].game, seed=seed_apart(5, 1 * 2 + 1))
    assert [game.step(2).reward for _ in range(60)] == points[1, 0, 1].tolist()


@pytest.mark.emulator
def test_an_agent_sees_in_the_game_what_it_would_see_there(make_world_model, moments):
    """Features follow from the frames of its own play: they differ once policies differ."""
    model, seen = make_world_model(-99.0), {"a": [], "b": []}

    def watch(name: str, action: int):
        def act(features, _generator):
            seen[name].append(features.clone())
            return torch.full((len(features),), action)

        return agent_policy(name, act)

    play_on(
        model,
        [watch("a", 2), watch("b", 5)],
        find_game("Pong"),
        None,
        moments[:1],
        horizon=12,
        futures=1,
        seed=0,
        on_moment=silent,
    )
    assert torch.equal(seen["a"][0], seen["b"][0])
    assert torch.equal(seen["a"][0], model.features(moments[0].state))
    assert not torch.equal(seen["a"][-1], seen["b"][-1])


# --- dreams --------------------------------------------------------------------------------------


def test_where_actions_do_nothing_all_policies_dream_the_same(make_world_model):
    model = make_world_model(-99.0)
    code = torch.zeros(1, model.config.categoricals, dtype=torch.int64)
    state = DreamState(code, torch.zeros(1, 16), model.core.initial_state(1, torch.device("cpu")))
    moments = [RealMoment(None, state, NOTHING)] * 3  # type: ignore[arg-type]
    policies = standard_policies(random_act, 6)
    settings = {"horizon": 10, "futures": 4, "seed": 1, "on_policy": silent}
    returns = dream_on(model, policies, moments, **settings).sum(-1)
    assert returns.shape == (3, 12, 4)
    assert np.ptp(returns, 1).max() > 0
    assert np.array_equal(returns, dream_on(model, policies, moments, **settings).sum(-1))
    model.feature_encoder[0].weight[:, -6:] = 0.0  # the action is not seen
    blind = dream_on(model, policies, moments, **settings).sum(-1)
    assert np.ptp(blind, 1).max() == 0
    assert np.ptp(blind[:, 0]) > 0


def test_nothing_counts_after_a_dream_has_ended(make_world_model):
    model = make_world_model(99.0)  # every step ends a life
    code = torch.zeros(1, model.config.categoricals, dtype=torch.int64)
    state = DreamState(code, torch.zeros(1, 16), model.core.initial_state(1, torch.device("cpu")))
    policy = [constant_policy("none", 0)]
    points = dream_on(
        model,
        policy,
        [RealMoment(None, state, NOTHING)],  # type: ignore[arg-type]
        horizon=6,
        futures=2,
        seed=0,
        on_policy=silent,
    )
    assert points[..., 0].all()
    assert not points[..., 1:].any()


# --- the whole -----------------------------------------------------------------------------------


@pytest.mark.emulator
def test_the_report_is_whole(make_world_model):
    model, work = make_world_model(-99.0), []
    policies = standard_policies(random_act, 6)
    report = compare_policies(
        model,
        random_act,
        policies,
        "Pong",
        noise=(0.0, 1.0),
        moments=4,
        stride=16,
        horizons=(4, 12),
        futures=2,
        dreams=2,
        seed=3,
        on_progress=lambda *part: work.append(part),
    )
    assert report.moments == 4
    assert [part.horizon for part in report.agreements] == [4, 12]
    assert [policy.name for policy in report.policies] == [policy.name for policy in policies]
    assert ("policies in dreams", 12, 12) in work
    titles = [row.title for row in report.rows()]
    assert "correlation over policies, Spearman" in titles
    assert "return, agent, 30% random, dream" in titles
    assert "standard deviation of a policy's return from one moment, dream" in titles
    assert [part.horizon for part in report.chances] == [4, 12]
    older = report.as_json()
    del older["chances"]
    assert RankingReport.from_json(older).chances == ()
    assert RankingReport.from_json(report.as_json()) == report
    assert report.about
    once = compare_policies(
        model, random_act, policies[:2], "Pong", moments=1, stride=1, horizons=(2,), futures=1
    )
    assert once.chances == ()  # one play says nothing of chance
    with pytest.raises(GlamError, match="policies at least two"):
        compare_policies(model, random_act, policies[:1], "Pong")
    with pytest.raises(GlamError, match="the same name"):
        compare_policies(model, random_act, [policies[0]] * 2, "Pong")
