"""The prior compared with the posterior of the next real frame, one step ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from glam_env.evaluation.measures.base import Measure, Subject
from glam_env.evaluation.play.open_loop import DRAWN, OpenLoop
from glam_env.evaluation.rows import Row
from glam_env.model.distributions import categorical_kl
from glam_env.model.world_model import WorldModel


@dataclass(frozen=True)
class LatentKL:
    """KL divergence of guesses from the posterior of the next real frame.

    It is KL(posterior ‖ guess) in nats, the mean over a recording. With a sharp prior the
    posterior is the sharpened one, :meth:`WorldModel.prior_target`.

    Attributes:
        dream: The guess is the prior, on the filtered path.
        repeat: It is the posterior of the frame before.
        average: It is the recording's mean posterior.
    """

    dream: float
    repeat: float
    average: float


@dataclass(frozen=True)
class LatentReport(Measure):
    """The prior's error, one step ahead.

    Attributes:
        latent_kl: Divergences of the dream and of the baselines.
    """

    flat: ClassVar[bool] = True

    latent_kl: LatentKL

    @classmethod
    def measure(cls, subject: Subject) -> LatentReport:
        """Follow the recording with the core and compare the prior at each step."""
        return cls(filtered_kl(subject.world_model, subject.open_loop))

    @property
    def about(self) -> str:
        """What is compared."""
        return (
            "The prior's prediction of the next latent on the real path: its KL divergence from "
            "the posterior of the next real frame."
        )

    def rows(self) -> list[Row]:
        """Return the divergences."""
        return [
            Row(f"latent KL one step ahead (nats), {title}", getattr(self.latent_kl, name))
            for name, title in DRAWN.items()
        ]


@torch.no_grad()
def filtered_kl(world_model: WorldModel, dreams: OpenLoop) -> LatentKL:
    """Compare the posterior of each recorded frame with guesses at it."""
    codes, actions = dreams.codes, dreams.actions
    log_probs = world_model.prior_target(dreams.log_probs)
    over = torch.from_numpy(dreams.recording.ended).to(actions.device)
    first = torch.ones_like(over[:, 0])
    core = world_model.memory.initial_state(len(actions), actions.device)
    average = log_probs.exp().mean((0, 1)).log()
    totals, count = [0.0, 0.0, 0.0], 0
    for t in range(actions.shape[1] - 1):
        h, core = world_model.observe(codes[:, t], actions[:, t], core, first)
        first = over[:, t]
        guesses = (
            world_model.prior_log_probs(h),
            log_probs[:, t],
            average.expand_as(log_probs[:, t]),
        )
        for i, guess in enumerate(guesses):
            totals[i] += float(categorical_kl(log_probs[:, t + 1], guess)[~first].sum())
        count += int((~first).sum())
    return LatentKL(*(total / count for total in totals))
