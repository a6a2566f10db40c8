"""STORM's transformer as a sequence core: causal attention over the last W features.

Symbols: B batch, L length, D width, H heads of width D / H, W the window.

Positions are rotary (Su et al. 2021): a query and a key are rotated by angles in proportion to
their position, so that their product depends on the distance alone. A key then stays as it is
while the sequence goes on, and a dream may be of any length. STORM learns one vector for each
position instead, which fixes the longest sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glam_env.model.cores.base import CoreConfig, CoreOutput, SequenceCore, require_length
from glam_env.model.cores.stack import require_at_most

PERIOD = 1 << 16
"""Positions after which all rotations repeat: angles are exact however long a sequence is."""
_BASE = 10_000.0  # ratio of the fastest rotation to the slowest, as in Su et al.
_LARGEST = {"depth": 32, "heads": 1024, "window": 4096, "expand": 64}


@dataclass(frozen=True)
class TransformerConfig(CoreConfig):
    """Sizes of the core ``transformer``, the row "w/o G&L" of table 2; the defaults are STORM's.

    Attributes:
        depth: Layers.
        heads: H, attention heads of a layer. The model's width must be a multiple of 2 H.
        window: W, positions that a layer sees, the current one included.
        expand: Width of the feed-forward networks / D.
        dropout: Probability that a number is set to 0, in training only.
    """

    name: str = "transformer"
    depth: int = 2
    heads: int = 8
    window: int = 64
    expand: int = 2
    dropout: float = 0.1

    def validate(self) -> None:
        """Check all values; ValueError if one is out of range."""
        super().validate()
        require_at_most(self, _LARGEST)
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"core.dropout must be in [0, 1), got {self.dropout}")

    def validate_width(self, width: int) -> None:
        """Check the model's width; ValueError if the heads cannot share it."""
        if width % (2 * self.heads):
            raise ValueError(
                f"width {width} is not a multiple of 2 * core.heads = {2 * self.heads}, "
                "as rotary positions need"
            )


class TransformerState(NamedTuple):
    """State of the transformer between steps: rings of keys and values, float32.

    Attributes:
        keys: (B, depth, W, D) rotated keys; position t is in place t mod W.
        values: (B, depth, W, D).
        age: (B) int64, steps of the sequence so far.
    """

    keys: Tensor
    values: Tensor
    age: Tensor


class TransformerTrace(NamedTuple):
    """What :meth:`TransformerCore.state_at` reads of a parallel pass.

    Attributes:
        keys: For each layer (B, L, D), rotated.
        values: The same.
    """

    keys: list[Tensor]
    values: list[Tensor]


class Rotary(nn.Module):
    """Rotations of queries and keys by their positions.

    Pair k of a head turns by 2π n_k / P for each position, n_k a whole number: after P positions
    (:data:`PERIOD`) all angles repeat.

    Args:
        width: Of a head, an even number.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        share = torch.arange(width // 2, dtype=torch.float64) / (width // 2)
        turns = (PERIOD / (2 * math.pi) * _BASE**-share).round().clamp_min(1.0).long()
        self.turns: Tensor
        self.register_buffer("turns", turns, persistent=False)  # (width / 2), n_k

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (..., 1, width / 2) of (...) int64 positions."""
        turned = (positions % PERIOD)[..., None, None] * self.turns % PERIOD  # exact
        angles = turned.float() * (2 * math.pi / PERIOD)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate (..., H, width) vectors: number k of a head and number k + width / 2 are a pair."""
    cos, sin = rotation
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class TransformerLayer(nn.Module):
    """Attention and a feed-forward network, each with a residual and a LayerNorm after it.

    Args:
        width: D.
        config: Sizes.
    """

    def __init__(self, width: int, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.window, self.dropout = config.heads, config.window, config.dropout
        self.into = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.expand * width),
            nn.ReLU(inplace=True),
            nn.Linear(config.expand * width, width),
        )
        self.last_norm = nn.LayerNorm(width)

    def project(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Map (..., D) to queries and keys, rotated, and values, (..., H, D / H) each."""
        q, k, v = self.into(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return rotate(q, rotation), rotate(k, rotation), v

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, L, D) to (B, L, D), the rotated keys and the values, (B, L, D) each.

        Position t sees positions t − W + 1 … t.
        """
        length, dropout = x.shape[1], self.dropout if self.training else 0.0
        q, k, v = self.project(x, rotation)
        seen = None
        if length > self.window:
            place = torch.arange(length, device=x.device)
            distance = place[:, None] - place
            seen = (distance >= 0) & (distance < self.window)  # (L, L)
        heads = (part.transpose(1, 2).to(v.dtype) for part in (q, k, v))  # (B, H, L, D / H)
        y = F.scaled_dot_product_attention(
            *heads, attn_mask=seen, dropout_p=dropout, is_causal=seen is None
        )
        out = self._combine(x, y.transpose(1, 2).flatten(-2), dropout)
        return out, k.flatten(-2), v.flatten(-2)

    def step(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, age: Tensor
    ) -> Tensor:
        """Run one position, without dropout: (B, D).

        Args:
            x: (B, D).
            rotation: Of the positions ``age``.
            keys: (B, W, D), the ring; this position is written into it.
            values: (B, W, D), the ring; this position is written into it.
            age: (B) int64, positions before this one.
        """
        q, k, v = self.project(x, rotation)  # (B, H, D / H)
        here = (age % self.window)[:, None, None].expand(-1, 1, keys.shape[-1])  # (B, 1, D)
        keys.scatter_(1, here, k.flatten(-2).float().unsqueeze(1))
        values.scatter_(1, here, v.flatten(-2).float().unsqueeze(1))
        # (B, W, H, D / H) to (B, H, W, D / H)
        k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (keys, values))
        place = torch.arange(self.window, device=x.device)
        filled = (place <= age[:, None])[:, None, None]  # (B, 1, 1, W)
        y = F.scaled_dot_product_attention(q.float().unsqueeze(2), k, v, attn_mask=filled)
        return self._combine(x, y.flatten(1), 0.0)

    def _combine(self, x: Tensor, y: Tensor, dropout: float) -> Tensor:
        x = self.norm(x + F.dropout(self.out(y), dropout, self.training))
        return self.last_norm(x + F.dropout(self.feed_forward(x), dropout, self.training))


class TransformerCore(SequenceCore):
    """A causal transformer over the features.

    Args:
        width: D.
        config: Sizes.
    """

    context = 1

    def __init__(self, width: int, config: TransformerConfig) -> None:
        super().__init__()
        config.validate()
        config.validate_width(width)
        self.width, self.config = width, config
        self.norm = nn.LayerNorm(width)
        self.rotary = Rotary(width // config.heads)
        self.layers = nn.ModuleList(TransformerLayer(width, config) for _ in range(config.depth))

    def forward(self, e: Tensor) -> CoreOutput:
        require_length(e, self.context)
        x = F.dropout(self.norm(e), self.config.dropout, self.training)
        rotation = self.rotary(torch.arange(e.shape[1], device=e.device))
        trace = TransformerTrace([], [])
        for layer in self.layers:
            x, keys, values = layer(x, rotation)
            trace.keys.append(keys)
            trace.values.append(values)
        return CoreOutput(x, None, trace)

    def initial_state(
        self, batch: int, device: torch.device | str | None = None
    ) -> TransformerState:
        c = self.config
        ring = torch.zeros(batch, c.depth, c.window, self.width, device=device)
        age = torch.zeros(batch, dtype=torch.int64, device=device)
        return TransformerState(ring, ring.clone(), age)

    def step(
        self, e: Tensor, state: TransformerState, first: Tensor | None = None
    ) -> tuple[Tensor, TransformerState]:
        """Run one position; its cost does not depend on the age of the sequence."""
        age = state.age
        if first is None:
            keys, values = state.keys.clone(), state.values.clone()
        else:
            row = first[:, None, None, None]
            keys, values = state.keys.masked_fill(row, 0.0), state.values.masked_fill(row, 0.0)
            age = age.masked_fill(first, 0)
        x, rotation = self.norm(e), self.rotary(age)
        for depth, layer in enumerate(self.layers):
            assert isinstance(layer, TransformerLayer)
            x = layer.step(x, rotation, keys[:, depth], values[:, depth], age)
        return x, TransformerState(keys, values, age + 1)

    def state_at(self, output: CoreOutput, rows: Tensor, positions: Tensor) -> TransformerState:
        place = torch.arange(self.config.window, device=rows.device)
        # In each place, the last position up to the given one that belongs there; zeros if none.
        held = positions[:, None] - (positions[:, None] - place) % self.config.window  # (N, W)
        empty = (held < 0)[..., None]

        def ring(parts: list[Tensor]) -> Tensor:
            index = rows[:, None], held.clamp_min(0)
            taken = [part.detach()[index].float().masked_fill(empty, 0.0) for part in parts]
            return torch.stack(taken, 1)

        keys, values = output.trace
        return TransformerState(ring(keys), ring(values), positions + 1)
