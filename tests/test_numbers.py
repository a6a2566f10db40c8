"""Finite weights that lead to numbers which are not: an error in each backend, no silent NaN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from glam_env.checkpoint.folder import save_checkpoint
from glam_env.envs.atari.env import RealVectorEnv
from glam_env.envs.dream.env import DreamEnv, DreamVectorEnv
from glam_env.errors import GlamError, GlamNumberError
from glam_env.fast import choose
from glam_env.fast.plain import ModelStepper
from glam_env.model.structures import DreamState
from glam_env.model.world_model import WorldModel

E, HUGE = 3, 3e38
BACKENDS = ["torch", *([] if choose.missing() else ["native"])]


def in_the_prior(model: WorldModel) -> None:
    model.prior.weight.fill_(HUGE)
    model.prior.weight[::2] *= -1.0


def in_the_reward(model: WorldModel) -> None:
    model.reward.layers[-1].weight.fill_(HUGE)


def in_the_end(model: WorldModel) -> None:
    model.termination.layers[-1].weight.fill_(HUGE)


def in_the_core(model: WorldModel) -> None:
    model.core.lmamba.project.weight.fill_(HUGE)


def in_the_state(model: WorldModel) -> None:
    model.core.gmamba.blocks[0].mamba.in_proj.weight.fill_(HUGE)


PLACES = [in_the_prior, in_the_reward, in_the_end, in_the_core, in_the_state]


@pytest.fixture
def spoil(
    tmp_path: Path, checkpoint_config, make_world_model, make_contexts
) -> Callable[[Callable[[WorldModel], None]], str]:
    """Return a function that saves the tiny checkpoint with weights changed in some place."""

    def save(place: Callable[[WorldModel], None]) -> str:
        model = make_world_model(-99.0)
        place(model)
        assert all(bool(weight.isfinite().all()) for weight in model.state_dict().values())
        saved = save_checkpoint(
            tmp_path / place.__name__ / "Pong",
            config=checkpoint_config,
            world_model_state=model.export_state(),
            agent_state={},
            contexts=make_contexts(),
            card="",
        )
        return str(saved)

    return save


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dream_of_such_numbers_is_an_error(spoil, backend, place) -> None:
    options = {"checkpoint": spoil(place), "device": "cpu", "backend": backend}
    envs = DreamVectorEnv("Pong", E, obs_type="latent", precision="float32", **options)

    def play() -> None:
        seen = [envs.reset(seed=0)[0]]
        for _ in range(4):
            observations, reward, _, _, info = envs.step(np.arange(E))
            seen += [observations, reward, info["prior_entropy"]]
            assert all(np.isfinite(part).all() for part in seen)

    with pytest.raises(GlamNumberError, match="not finite: these weights lead beyond") as caught:
        play()
    assert isinstance(caught.value, GlamError)
    assert "\n" not in str(caught.value)
    envs.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_single_dream_says_so_too(spoil, backend) -> None:
    env = DreamEnv(checkpoint=spoil(in_the_end), device="cpu", backend=backend, precision="float32")
    env.reset(seed=0)
    with pytest.raises(GlamNumberError):
        env.step(1)
    env.close()


def test_the_plain_stepper_says_so_too(make_world_model, make_contexts) -> None:
    """It steps cores that have no faster implementation."""
    model, contexts = make_world_model(), make_contexts()
    state = model.warm_up(contexts.codes[:E].long(), contexts.actions[:E].long())
    action, draw = torch.zeros(E, dtype=torch.int64), torch.rand(E, model.config.categoricals)
    ModelStepper(model).step(state, action, draw)
    in_the_reward(model)
    with pytest.raises(GlamNumberError):
        ModelStepper(model).step(state, action, draw)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", range(E))
def test_one_row_is_enough(make_world_model, make_contexts, backend, row) -> None:
    model, contexts = make_world_model(), make_contexts()
    state = model.warm_up(contexts.codes[:E].long(), contexts.actions[:E].long())
    stepper = choose.make_stepper(model, backend=backend)
    action, draw = torch.zeros(E, dtype=torch.int64), torch.rand(E, model.config.categoricals)
    stepper.step(state, action, draw)
    for name in state.core._fields:
        for wrong in (float("nan"), float("inf")):
            part = getattr(state.core, name).clone()
            part[row, -1, ..., 0] = wrong
            spoiled = DreamState(state.code, state.h, state.core._replace(**{name: part}))
            with pytest.raises(GlamNumberError):
                stepper.step(spoiled, action, draw)


@pytest.mark.emulator
def test_a_real_game_with_latents_of_such_numbers_is_an_error(spoil) -> None:
    envs = RealVectorEnv("Pong", 2, checkpoint=spoil(in_the_prior), device="cpu", obs_type="latent")
    envs.reset(seed=0)
    with pytest.raises(GlamNumberError):
        envs.step(np.zeros(2, int))
    envs.close()
