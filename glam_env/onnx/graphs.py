"""The ONNX graphs of a trained game, as modules of explicit tensors.

Random draws are inputs and the state is a list of tensors, so that a graph is a pure function.
Codes and actions are int32, since JavaScript has no plain array of int64. Shapes: E dreams, K
categoricals of C classes, D width of h, A actions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glam_env.model.distributions import symexp
from glam_env.model.heads import Head
from glam_env.model.reward_values import RewardValues
from glam_env.model.structures import tree_map, tree_tensors
from glam_env.model.world_model import WorldModel


def select(log_probs: Tensor, draw: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute :func:`~glam_env.model.distributions.sample_at` for ONNX.

    All operations are available in ONNX.

    Args:
        log_probs: (..., C).
        draw: (...) in [0, 1).
        temperature: Divides the log-probabilities; 0 takes the likeliest class.

    Returns:
        (...) int32 class indices.
    """
    if temperature == 0.0:
        return log_probs.argmax(-1).to(torch.int32)
    scaled = log_probs / temperature
    weights = (scaled - scaled.amax(-1, keepdim=True)).exp()
    classes = torch.arange(log_probs.shape[-1])
    cumulative = weights @ (classes[:, None] <= classes).float()  # running sums
    threshold = draw.unsqueeze(-1) * cumulative[..., -1:]
    passed = (cumulative <= threshold).to(torch.int32).sum(-1)  # searchsorted, right=True
    return passed.clamp(max=log_probs.shape[-1] - 1).to(torch.int32)


class RowSum(nn.Module):
    """A linear layer on one-hot codes and further features, as a sum of rows.

    Args:
        weight: (outputs, K·C + R).
        categoricals: K.
        classes: C.
    """

    offsets: Tensor

    def __init__(self, weight: Tensor, categoricals: int, classes: int) -> None:
        super().__init__()
        width = categoricals * classes
        # One initializer, in the layout of the lookup: ONNX need not transpose it at each call.
        self.table = nn.Parameter(weight[:, :width].T.contiguous(), requires_grad=False)
        self.rest = nn.Parameter(weight[:, width:].T.contiguous(), requires_grad=False)
        self.register_buffer("offsets", torch.arange(categoricals) * classes)

    def forward(self, code: Tensor) -> Tensor:
        """Map (E, K) int32 codes to (E, outputs)."""
        return F.embedding(code.long() + self.offsets, self.table).sum(-2)


class StepGraph(nn.Module):
    """One dream step, as an env of ``reward="sample"`` takes it.

    Args:
        world_model: In eval mode.
        reward_values: The values that the game pays.
        temperature: Temperature of the latent's draw; the model's own is multiplied by it.
    """

    def __init__(
        self, world_model: WorldModel, reward_values: RewardValues, temperature: float = 1.0
    ) -> None:
        super().__init__()
        c = world_model.config
        first, *rest = world_model.feature_encoder
        assert isinstance(first, nn.Linear)
        self.embed_first = RowSum(first.weight, c.categoricals, c.classes)
        self.embed_rest = nn.Sequential(*rest)
        self.world_model, self.reward_values = world_model, reward_values
        self.temperature = temperature * c.prior_temperature
        self.example = world_model.memory.initial_state(1)

    def forward(
        self, code: Tensor, action: Tensor, draw: Tensor, reward_draw: Tensor, *core: Tensor
    ):
        """Dream one step.

        Args:
            code: (E, K) int32, z_t.
            action: (E) int32, taken on seeing z_t.
            draw: (E, K) float32 in [0, 1), for the latent.
            reward_draw: (E) float32 in [0, 1), for the reward.
            core: The sequence core's state after step t − 1.

        Returns:
            z_{t+1} (E, K) int32, h_t (E, D), reward, expected reward, probability that the life
            ended and entropy of the prior in nats, (E) each, and the core's state after step t.
        """
        model, given = self.world_model, iter(core)
        state = tree_map(lambda _: next(given), self.example)
        # A lookup of rows costs nothing, unlike a product with a one-hot vector.
        x = self.embed_first(code) + F.embedding(action.long(), self.embed_first.rest)
        h, state = model.memory.step(self.embed_rest(x), state)
        prior = model.prior_log_probs(h)
        logits = model.reward_code.bounded(model.reward(h))
        drawn = select(self.reward_values.log_shares(logits), reward_draw)
        reward = F.embedding(drawn.long(), self.reward_values.values[:, None]).squeeze(-1)
        if self.reward_values.known:
            expected = self.reward_values.mean(logits)
        else:
            expected = self._head_mean(logits)
        ended = model.termination(h).squeeze(-1).sigmoid()
        entropy = -(prior.exp() * prior).sum((-2, -1))
        new = select(prior, draw, self.temperature)
        return new, h, reward, expected, ended, entropy, *tree_tensors(state)

    def _head_mean(self, logits: Tensor) -> Tensor:
        code = self.world_model.reward_code
        probs = logits.softmax(-1)
        return probs @ code.values if code.expected else symexp(probs @ code.centers)


class DrawGraph(nn.Module):
    """The decoder from codes to frames.

    Args:
        world_model: In eval mode.
    """

    def __init__(self, world_model: WorldModel) -> None:
        super().__init__()
        c, decoder = world_model.config, world_model.decoder
        part = c.categoricals // max(1, decoder.places)
        self.project = RowSum(decoder.project.weight, part, c.classes)
        self.decoder, self.shape = decoder, (decoder.first, decoder.side, decoder.side)

    def forward(self, code: Tensor) -> Tensor:
        """Map (E, K) int32 codes to (E, 64, 64, 3) uint8 frames."""
        if self.decoder.places:
            parts = self.project(code.unflatten(-1, (self.decoder.places, -1)))
            maps = (parts + self.decoder.place_bias).transpose(1, 2).unflatten(-1, self.shape[1:])
        else:
            maps = self.project(code).unflatten(-1, self.shape)
        images = self.decoder.convolutions(maps).permute(0, 2, 3, 1)
        if self.decoder.residual:
            images = images + self.decoder.background
        return (images.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)


class AgentGraph(nn.Module):
    """The policy of an actor.

    Args:
        actor: Actor on the features [z_t, h_{t−1}].
        categoricals: K.
        classes: C.
    """

    def __init__(self, actor: Head, categoricals: int, classes: int) -> None:
        super().__init__()
        first, *rest = actor.layers
        assert isinstance(first, nn.Linear)
        self.first, self.rest = RowSum(first.weight, categoricals, classes), nn.Sequential(*rest)

    def forward(self, code: Tensor, h: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Choose actions.

        Args:
            code: (E, K) int32, z_t.
            h: (E, D) float32, h_{t−1}.
            draw: (E) float32 in [0, 1).

        Returns:
            Actions (E) int32, and the probabilities of all actions (E, A) float32.
        """
        log_probs = self.rest(self.first(code) + h @ self.first.rest).log_softmax(-1)
        return select(log_probs, draw), log_probs.exp()
