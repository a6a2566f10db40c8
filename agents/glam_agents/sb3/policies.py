"""Agents of Stable-Baselines3 as policies that `glam fidelity` ranks."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from glam_agents.sb3.algorithms import find_algorithm, is_off_policy
from glam_agents.sb3.run import MODEL
from glam_env.envs.latent_filter import Act
from glam_env.envs.wrappers import FrameStacker
from glam_env.errors import GlamError, line_of
from glam_env.evaluation.play.policies import (
    ChooseOnFrames,
    FramePolicy,
    History,
    Policy,
    agent_policy,
)
from glam_env.model.distributions import sample_codes
from glam_env.training.run_folder import RunFolder

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


def choose_actions(
    model: BaseAlgorithm, seen: np.ndarray, generator: torch.Generator, greedy: bool
) -> Tensor:
    """Choose actions with the random draws of a generator.

    PyTorch's global generator is not used.

    Args:
        model: model of PPO, A2C, DQN or QR-DQN.
        seen: (N, …) observations, as SB3 sees them.
        generator: generator of the draws.
        greedy: take the best actions.

    Returns:
        (N) int64 actions on the generator's device.
    """
    if greedy:
        actions = torch.as_tensor(model.predict(seen, deterministic=True)[0])
    else:
        model.policy.set_training_mode(False)
        with torch.no_grad():
            logits = model.policy.get_distribution(  # pyright: ignore[reportCallIssue]
                model.policy.obs_to_tensor(seen)[0]
            ).distribution.logits
        actions = sample_codes(logits.to(generator.device), generator=generator)
    return actions.to(generator.device).long()


def feature_act(model: BaseAlgorithm, greedy: bool) -> Act:
    """Return an agent on features as a function; see :func:`choose_actions`."""
    return lambda features, generator: choose_actions(
        model, features.cpu().numpy(), generator, greedy
    )


def frame_policy(name: str, model: BaseAlgorithm, frame_stack: int, greedy: bool) -> FramePolicy:
    """Make a policy of an agent that sees stacked frames.

    Args:
        name: name of the policy.
        model: a model that sees (N, 3·k, 64, 64) uint8.
        frame_stack: k.
        greedy: take the best actions.
    """

    def begin(history: History, generator: torch.Generator) -> ChooseOnFrames:
        stacker = FrameStacker(frame_stack)
        none = torch.zeros(len(history.frames), dtype=torch.bool)

        def push(frames: np.ndarray) -> Tensor:
            return stacker.push(torch.from_numpy(frames).movedim(-1, 1), none)

        for past in np.moveaxis(history.frames, 1, 0)[-frame_stack:]:
            push(past)
        return lambda frames: choose_actions(
            model, push(frames).contiguous().numpy(), generator, greedy
        )

    return FramePolicy(name, begin)


def load_policy(path: Path, name: str, game: str, weights: str, device: torch.device) -> Policy:
    """Load the agent of a run of ``glam sb3``.

    Args:
        path: the run's folder.
        name: name of the policy.
        game: game that the agent must play.
        weights: SHA-256 of the file of the world model in which it will play, as a checkpoint's
            config has it. An agent on features plays with that world model only.
        device: device of the agent.

    Raises:
        GlamError: there is no such run, it cannot be read, it plays another game, or it sees other
            features.
    """
    settings = RunFolder(path, kind="sb3").settings
    try:
        algo, obs, _ = settings["algo"], settings["obs"], settings["game"]
        frame_stack, trained_on = settings["frame_stack"], settings["world_model"]
        algorithm = find_algorithm(algo)
        model = algorithm.load(path / MODEL, device=device)
    except FileNotFoundError as error:
        raise GlamError(f"{path} has no {MODEL} yet; let it train for a while") from error
    except (zipfile.BadZipFile, AssertionError, ValueError, KeyError, RuntimeError) as error:
        raise GlamError(f"{path} cannot be read ({line_of(error)}); train it again") from error
    if settings["game"] != game:
        raise GlamError(f"{path} plays {settings['game']}, not {game}; leave it out")
    greedy = is_off_policy(algo)
    if obs == "rgb":
        return frame_policy(name, model, frame_stack, greedy)
    if trained_on != weights:
        raise GlamError(
            f"{path} sees the features of another world model; train it in the dreams of this one, "
            "or with --obs rgb"
        )
    return agent_policy(name, feature_act(model, greedy))
