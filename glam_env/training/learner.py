"""The learner: a world model and an agent, their optimizers, and one update of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from glam_env.fast.graphs import CapturedUpdate
from glam_env.fast.precision import autocast
from glam_env.games import Game
from glam_env.model.config import LossConfig
from glam_env.model.distributions import sample_codes
from glam_env.model.structures import DreamState, LatentBatch, Posterior, SequenceBatch
from glam_env.model.world_model import WorldModel
from glam_env.training.config import TrainConfig
from glam_env.training.imagination import Agent, Annealed, Capturable, RewardScaled, imagine
from glam_env.training.warm_start import open_warm_start, with_own_ranges

AgentFactory = Callable[[int, int], Agent]
"""Makes an agent from the width F of the features and the number A of actions."""


class Learner:
    """A world model and an agent, which learn in place.

    Args:
        config: Settings of the run.
        game: The game; it sets the number of actions.
        make_agent: Makes the agent.
        device: Where all tensors are.

    Attributes:
        world_model: The world model.
        agent: The agent.
        graphs: Whether each kind of update is one CUDA graph.
    """

    def __init__(
        self, config: TrainConfig, game: Game, make_agent: AgentFactory, device: torch.device
    ) -> None:
        self.config, self.game, self.device = config, game, device
        sizes = replace(config.model, num_actions=game.num_actions)
        self.world_model = WorldModel(sizes).to(device)
        if config.dream_context == "window":
            self.world_model.recompute()
        self._optimizer = torch.optim.Adam(
            [p for p in self.world_model.parameters() if p.requires_grad],
            lr=config.learning_rate,
            fused=True,
        )
        self._make_agent = make_agent
        self.agent = self._new_agent()
        self.graphs = config.graphs and device.type == "cuda"
        self._updates: dict[str, tuple[Any, CapturedUpdate]] = {}  # by kind: key and graph
        self._frozen = False
        self._posterior: Posterior | None = None
        self._ready_optimizers()

    def _new_agent(self) -> Agent:
        """Make an agent that has learned nothing."""
        agent = self._make_agent(self.world_model.config.feature_dim, self.game.num_actions)
        return agent.to(self.device) if isinstance(agent, torch.nn.Module) else agent

    def reset_agent(self) -> None:
        """Replace the agent by one that has learned nothing."""
        self.agent = self._new_agent()
        self._ready_optimizers()

    def autocast(self) -> torch.autocast:
        """Return a context that computes in bfloat16 where that is wanted and faster."""
        return autocast(self.device, self.config.autocast)

    def freeze_images(self, frozen: bool = True) -> None:
        """Freeze the image model, or let it learn again."""
        self.world_model.freeze_images(frozen)
        if frozen != self._frozen:
            self._updates.clear()  # captured for the parameters that learned until now
        self._frozen = frozen

    # --- updates: each returns detached scalars, valid until the next update of its kind --------

    def update_images(
        self, images: Tensor, loss_config: LossConfig, learning_rate: float
    ) -> dict[str, Tensor]:
        """Update the image model alone, on (N, 64, 64, 3) uint8 frames."""

        def update(images: Tensor) -> dict[str, Tensor]:
            with self.autocast():
                loss, metrics = self.world_model.autoencoder_loss(images, loss_config)
            self._step_optimizer(loss)
            return metrics

        self._set_learning_rate(learning_rate)
        return self._run("images", loss_config, update, images)  # type: ignore[no-any-return]

    def update_model(
        self,
        batch: SequenceBatch | LatentBatch,
        learning_rate: float,
        loss_config: LossConfig | None = None,
    ) -> dict[str, Tensor]:
        """Update the world model; given latents, its sequence model alone.

        Args:
            batch: Sequences of frames or of latents.
            learning_rate: For this update.
            loss_config: Weights of the losses; None: those of the run.
        """
        kind, weights = type(batch), loss_config or self.config.loss
        loss_of: Any = (
            self.world_model.loss if kind is SequenceBatch else self.world_model.latent_loss
        )

        def update(*parts: Tensor) -> tuple[dict[str, Tensor], Posterior]:
            with self.autocast():
                loss, metrics, posterior = loss_of(kind(*parts), weights)
            self._step_optimizer(loss)
            return metrics, posterior

        self._set_learning_rate(learning_rate)
        metrics, self._posterior = self._run("model", (kind, weights), update, *batch)
        return metrics  # type: ignore[no-any-return]

    def update_agent(
        self, start: DreamState, horizon: int, rate: float = 1.0, usual_reward: float = 1.0
    ) -> dict[str, Tensor]:
        """Update the agent, in dreams of ``horizon`` steps from ``start``.

        Args:
            start: N states.
            horizon: Steps.
            rate: Factor of the agent's learning rate, for an agent that is
                :class:`~glam_env.training.imagination.Annealed`.
            usual_reward: Mean size of the game's rewards other than 0, for an agent that is
                :class:`~glam_env.training.imagination.RewardScaled`.
        """

        def update(start: DreamState) -> dict[str, Tensor]:
            with self.autocast():
                rollout = imagine(self.world_model, self.agent, start, horizon)
            return self.agent.update(rollout)

        if isinstance(self.agent, Annealed):
            self.agent.scale_learning_rate(rate)
        if isinstance(self.agent, RewardScaled):
            self.agent.set_usual_reward(usual_reward)
        if isinstance(self.agent, Capturable):
            return self._run("agent", horizon, update, start)  # type: ignore[no-any-return]
        return update(start)

    @torch.no_grad()
    def draw_starts(self, count: int) -> DreamState:
        """Draw states that the last :meth:`update_model` computed after a full context.

        Where padding leaves fewer than ``count`` of them, some are drawn several times.
        """
        assert self._posterior is not None  # every agent update follows a model update
        context = self.config.context
        valid = self._posterior.valid[:, context:]  # (B, L − context)
        # Not randperm: on a GPU it may wait for the device, and so would counting on the host.
        keys = torch.rand(valid.shape, device=self.device).masked_fill(~valid, 2.0)
        order = keys.flatten().argsort()  # padding last
        index = torch.arange(count, device=self.device) % valid.sum().clamp_min(1)
        places = order[index]
        rows = places // valid.shape[1]
        positions = context + places % valid.shape[1]
        with self.autocast():
            return self.world_model.dream_starts(self._posterior, rows, positions)

    @torch.no_grad()
    def fresh_starts(self, contexts: SequenceBatch) -> DreamState:
        """Encode contexts and return the states after them."""
        with self.autocast():
            self.world_model.eval()
            codes = sample_codes(self.world_model.encode(contexts.images))
            start = self.world_model.warm_up(codes, contexts.actions[:, :-1])
            self.world_model.train()
            return start

    def _run(self, name: str, key: Any, update: Callable[..., Any], *inputs: Any) -> Any:
        """Do an update; with graphs, capture it first unless that was done for the same key."""
        if not self.graphs:
            return update(*inputs)
        if name not in self._updates or self._updates[name][0] != key:
            self._updates[name] = key, CapturedUpdate(update)
        return self._updates[name][1](*inputs)

    # --- the world model's optimizer ---------------------------------------------------------

    def _ready_optimizers(self) -> None:
        """Prepare the optimizers for this run, whatever a loaded state says.

        In a graph the learning rate must be a tensor, or it would never change.
        """
        for group in self._optimizer.param_groups:
            group["capturable"] = self.graphs
            if self.graphs:
                group["lr"] = torch.tensor(self.config.learning_rate, device=self.device)
        if isinstance(self.agent, Capturable):
            self.agent.set_capturable(self.graphs)
        self._updates.clear()  # captured for the optimizers as they were

    def _set_learning_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            if self.graphs:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _step_optimizer(self, loss: Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(
            self.world_model.parameters(), self.config.gradient_clip, error_if_nonfinite=False
        )
        self._optimizer.step()

    # --- state -------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what a run's checkpoint stores."""
        return {
            "world_model": self.world_model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "agent": self.agent.learner_state(),
        }

    def find_broken(self) -> str | None:
        """Name the first part that holds numbers that are not finite; None if there is none."""
        agent_optimizer = self.agent.learner_state().get("optimizer", {})
        parts = {
            "the world model's weights": self.world_model.state_dict(),
            "the world model's optimizer": self._optimizer.state_dict()["state"],
            "the agent's weights": self.agent.export_state(),
            "the agent's optimizer": agent_optimizer.get("state", {}),
        }
        for name, tree in parts.items():
            leaves = tree_leaves(tree)
            if not all(bool(x.isfinite().all()) for x in leaves if isinstance(x, Tensor)):
                return name
        return None

    def load_state(self, state: dict[str, Any]) -> None:
        """Load a :meth:`state`."""
        self.world_model.load_state_dict(state["world_model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.agent.load_learner_state(state["agent"])
        self._ready_optimizers()

    def warm_start(self) -> None:
        """Load the weights of the run's ``warm_start``; optimizers and statistics start fresh.

        Raises:
            GlamError: The checkpoint is of another game or of other sizes.
        """
        checkpoint = open_warm_start(self.config, self.game.name)
        state = checkpoint.world_model(self.device).export_state()
        for part, weights in (self.world_model, state), (self.agent, checkpoint.agent_state()):
            part.load_exported(with_own_ranges(weights, part.export_state()))
