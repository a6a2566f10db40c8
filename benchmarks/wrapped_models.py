"""Other libraries' envs around this package's world model, for `benchmarks/peers.py`.

TorchRL and Simulusion have a `WorldModelEnv` each: an env around a world model of its user. Both
get the same one here, that of the dreams beside them, stepped and drawn in PyTorch as the env
option `backend="torch"` does it. A ratio to dreams with that option is the cost of the env alone.
TorchRL's env is a batch. Simulusion's is a single one: E of them share the model and are stepped
one after another.

Both do less than dreams: no horizon ends an episode, nothing starts again, actions are not checked.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from glam_env.bench.world import BenchWorld
from glam_env.checkpoint.folder import Checkpoint
from glam_env.errors import GlamError
from glam_env.fast.choose import make_renderer, make_stepper
from glam_env.model.reward_values import RewardValues
from glam_env.model.structures import DreamState, Prediction, tree_map, tree_tensors

Step = Callable[[Tensor], tuple[Any, Any, Any]]
"""Takes actions (E) int64; returns observations, rewards and ends of E envs."""


class WrappedModel:
    """A world model as functions of its state, as envs around world models ask for it.

    Args:
        world: Whose.
        obs_type: What is shown, `rgb` or `latent`.
    """

    def __init__(self, world: BenchWorld, obs_type: str) -> None:
        checkpoint = Checkpoint.open(world.folder)
        self._model, self._contexts = checkpoint.world_model(), checkpoint.contexts()
        self._stepper = make_stepper(self._model, backend="torch")
        codes = self._contexts.codes[:, -1]
        self._draw = make_renderer(self._model.decoder, codes, backend="torch")
        self._rewards = RewardValues(self._model.reward_code, checkpoint.config.reward_values)
        self._latent = obs_type == "latent"

    def start(self, rows: Tensor) -> DreamState:
        """Return the states of contexts (N) int64, counted around."""
        rows = rows % self._contexts.count
        codes, actions = self._contexts.codes[rows].long(), self._contexts.actions[rows].long()
        return self._stepper.arrange(self._model.warm_up(codes, actions))

    def advance(self, state: DreamState, action: Tensor) -> DreamState:
        """Return the state after actions (E) int64."""
        return self._stepper.go_on(state, action, torch.rand(state.code.shape))

    def outcome(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reward (E) float32 and the end (E) bool of the steps that led to h (E, D)."""
        step = Prediction(None, *self._stepper.outcome(h), h)  # type: ignore[arg-type]
        return self._rewards.reward("game", step, step.reward), step.termination_logit > 0.0

    def show(self, state: DreamState) -> Tensor:
        """Return the observations of E dreams."""
        return self._stepper.features(state) if self._latent else self._draw(state.code)


@torch.no_grad()
def open_simulusion(world: BenchWorld, obs_type: str, dreams: gym.vector.VectorEnv) -> Step:
    """Open E of Simulusion's envs, stepped one after another in numpy.

    Args:
        world: Whose world model.
        obs_type: What they show.
        dreams: E dreams, whose spaces they take.
    """
    from simulusion.envs import WorldModelEnv

    model = WrappedModel(world, obs_type)

    def transition(_: WrappedModel, state: DreamState, action: Tensor) -> dict[str, Any]:
        state = model.advance(state, action.long().view(1))
        (reward,), (terminated,) = model.outcome(state.h)
        shown = model.show(state)[0]
        return {"state": state, "obs": shown, "reward": reward, "terminated": terminated}

    def reset(_: WrappedModel, seed: int) -> dict[str, Any]:
        state = model.start(torch.tensor([seed]))
        return {"state": state, "obs": model.show(state)[0]}

    envs = [
        WorldModelEnv(
            model,
            dreams.single_observation_space,
            dreams.single_action_space,
            reset_fn=reset,
            transition_fn=transition,
        )
        for _ in range(dreams.num_envs)
    ]
    for row, env in enumerate(envs):
        env.reset(seed=row)

    @torch.no_grad()
    def step(actions: Tensor) -> tuple[Any, Any, Any]:
        rows = [env.step(action) for env, action in zip(envs, actions.tolist(), strict=True)]
        seen, rewards, ended, _, _ = zip(*rows, strict=True)
        return np.stack(seen), np.array(rewards), np.array(ended)

    return step


@torch.no_grad()
def open_torchrl(world: BenchWorld, obs_type: str, dreams: gym.vector.VectorEnv) -> Step:
    """Open TorchRL's env of E dreams, stepped by `step` and `step_mdp`.

    Args:
        world: Whose world model.
        obs_type: What they show.
        dreams: E dreams, whose specs they take.
    """
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.data import Composite, Unbounded
    from torchrl.envs import GymWrapper
    from torchrl.envs.model_based import WorldModelEnv
    from torchrl.modules import WorldModel

    model, count = WrappedModel(world, obs_type), dreams.num_envs
    first = model.start(torch.arange(count))
    parts = dict(zip((f"state{at}" for at in range(99)), tree_tensors(first), strict=False))
    keys: list[Any] = list(parts)
    following: list[Any] = [("next", key) for key in parts]

    def joined(tensors: tuple[Tensor, ...]) -> DreamState:
        rest = iter(tensors)
        return tree_map(lambda _: next(rest), first)

    def dynamics(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tree_tensors(model.advance(joined(tensors[:-1]), tensors[-1])))

    def outcome(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        reward, ended = model.outcome(joined(tensors).h)
        return reward[:, None], ended[:, None], ended[:, None]

    flags: list[Any] = [("next", name) for name in ("reward", "terminated", "done")]
    seen = ("next", "observation")
    wrapped = WorldModel(
        TensorDictModule(torch.nn.Identity(), ["state0"], ["state0"]),  # nothing is encoded
        TensorDictModule(dynamics, [*keys, "action"], following),
        TensorDictModule(outcome, following, flags),
        decoder=TensorDictModule(lambda *tensors: model.show(joined(tensors)), following, [seen]),
    )
    shown = model.show(first)
    env = WorldModelEnv(
        wrapped,
        GymWrapper(dreams, categorical_action_encoding=True),
        observation_spec=Composite(
            {
                name: Unbounded(part.shape, dtype=part.dtype)
                for name, part in {**parts, "observation": shown}.items()
            },
            shape=torch.Size([count]),
        ),
        latent_key="state0",
    )
    now = env.reset(TensorDict({**parts, "observation": shown}, batch_size=[count]))

    @torch.no_grad()
    def step(actions: Tensor) -> tuple[Any, Any, Any]:
        nonlocal now
        after = env.step(now.set("action", actions))
        now, done = env.step_mdp(after), after["next"]
        return done["observation"], done["reward"].flatten(), done["terminated"].flatten()

    return step


Opener = Callable[[BenchWorld, str, gym.vector.VectorEnv], Step]
LIBRARIES: dict[str, Opener] = {"torchrl": open_torchrl, "simulusion": open_simulusion}


def library_version(name: str) -> str:
    """Return the version of a library.

    Raises:
        GlamError: It is not installed, or cannot be imported.
    """
    # TorchRL warns that it was compiled for another PyTorch, and reports each env that it wraps.
    os.environ.setdefault("RL_WARNINGS", "0")
    os.environ.setdefault("RL_LOGGING_LEVEL", "WARNING")
    try:
        importlib.import_module(f"{name}.envs")
        return importlib.metadata.version(name)
    except ImportError as error:  # PackageNotFoundError is one
        raise GlamError(
            f"{name} cannot be imported ({error}): `pip install --no-deps {name}`"
        ) from error
