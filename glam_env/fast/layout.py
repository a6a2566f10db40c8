"""The weights of a world model with the core ``glam``, laid out for dream steps.

The layout needs fewer and better-placed operations than the modules of ``glam_env.model`` and gives
the same numbers up to rounding:

- A product with one-hot codes is a sum of table rows.
- GMamba and LMamba share their products, and so do the heads of reward and termination.
- The scale and shift of a LayerNorm, and Mamba's output projection, are folded into the matrix that
  follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glam_env.model.config import WorldModelConfig
from glam_env.model.cores.glam import GlamCore, LMamba
from glam_env.model.cores.mamba import Mamba
from glam_env.model.cores.stack import MambaBlock
from glam_env.model.world_model import WorldModel


class ScanWeights(NamedTuple):
    """The weights of a Mamba between its two projections.

    Attributes:
        taps: (d_conv, d_inner) of the convolution; the last tap is for the current input.
        bias: (d_inner) of the convolution.
        select: (dt_rank + 2N, d_inner), from the convolved input to low-rank dt, B and C.
        dt: (d_inner, dt_rank), from low-rank dt to dt.
        dt_bias: (d_inner).
        a: (d_inner, N) the matrix A, below zero.
        a_rows: (N, d_inner) its transpose.
        skip: (d_inner) the vector D.
    """

    taps: Tensor
    bias: Tensor
    select: Tensor
    dt: Tensor
    dt_bias: Tensor
    a: Tensor
    a_rows: Tensor
    skip: Tensor


@dataclass(frozen=True)
class Layout:
    """See the module's docstring; it holds copies, but for the modules that it names.

    A part is GMamba or LMamba, P of them: two, or one if LMamba is a stack of blocks. D is the
    feature width, M that of the feature encoder's hidden layer.

    Attributes:
        config: Sizes of the world model.
        window: s, the features that LMamba sees.
        table: (K·C + A, M) the feature encoder's first layer, a row for each class and action.
        embed_norm: The feature encoder's LayerNorm.
        embed_out: Its last layer.
        lower: GMamba's blocks below its last one.
        stack: LMamba, if it is a stack of blocks; None if its only block is among the parts.
        into: (P, D, 2·d_inner) input projections of the parts, with the LayerNorm before folded in.
        into_bias: (P, 1, 2·d_inner).
        scans: Weights of the P scans.
        out: (P, d_inner + D, D) output projections, from [gated y, input of the block].
        out_bias: (P, 1, D).
        variation_norm: GMamba's last LayerNorm.
        prior_hidden: The prior's hidden layer, linear and LayerNorm; None if there is none.
        prior: The prior's last layer.
        heads_into: (D, 2·D) first layers of the reward and termination heads, side by side.
        first_scale: (1, 2, D) of both heads' first LayerNorms.
        first_shift: (1, 2, D).
        heads_middle: (2, D, D) second layers.
        second_scale: (2, 1, D) of both heads' second LayerNorms.
        second_shift: (2, 1, D).
        reward: (bins, D) weight of the reward head's last layer.
        reward_bias: (bins), with :meth:`SymlogTwoHot.bounded` folded in.
        termination: The termination head's last layer.
        bin_values: (bins) what the reward is a mean of: the bins' values, or their centres in
            symlog units.
        expand: Whether the mean is in symlog units.
    """

    config: WorldModelConfig
    window: int
    table: Tensor
    embed_norm: nn.LayerNorm
    embed_out: nn.Linear
    lower: list[MambaBlock]
    stack: LMamba | None
    into: Tensor
    into_bias: Tensor
    scans: list[ScanWeights]
    out: Tensor
    out_bias: Tensor
    variation_norm: nn.LayerNorm
    prior_hidden: tuple[nn.Linear, nn.LayerNorm] | None
    prior: nn.Linear
    heads_into: Tensor
    first_scale: Tensor
    first_shift: Tensor
    heads_middle: Tensor
    second_scale: Tensor
    second_shift: Tensor
    reward: Tensor
    reward_bias: Tensor
    termination: nn.Linear
    bin_values: Tensor
    expand: bool


def suits_layout(config: WorldModelConfig) -> bool:
    """Return whether :func:`lay_out` can lay out a world model: its core is ``glam``."""
    return config.core.name == "glam"


@torch.no_grad()
def lay_out(world_model: WorldModel) -> Layout:
    """Lay out the weights of a world model with the core ``glam``.

    Args:
        world_model: In eval mode. Later changes of its weights do not reach the layout.
    """
    assert isinstance(world_model.core, GlamCore)
    gmamba, lmamba = world_model.core.gmamba, world_model.core.lmamba
    parts = [gmamba, lmamba] if lmamba.cache_width else [gmamba]
    tops = [_block(part.blocks[-1]) for part in parts]
    into, into_bias = zip(*(_folded(top.norm, top.mamba.in_proj) for top in tops), strict=True)
    pairs = list(zip(parts, tops, strict=True))

    embed_first, embed_norm, _, embed_out = world_model.feature_encoder
    *hidden, prior = _layers(world_model.prior)
    code = world_model.reward_code
    reward, termination = world_model.reward.layers, world_model.termination.layers
    heads = list(zip(reward, termination, strict=True))  # layer by layer

    def both(layer: int, name: str) -> list[Tensor]:
        return [getattr(module, name) for module in heads[layer]]

    return Layout(
        config=world_model.config,
        window=lmamba.window,
        table=_linear(embed_first).weight.T.contiguous(),
        embed_norm=_norm(embed_norm),
        embed_out=_linear(embed_out),
        lower=[_block(block) for block in gmamba.blocks[:-1]],
        stack=None if lmamba.cache_width else lmamba,
        into=torch.stack(into),
        into_bias=torch.stack(into_bias).unsqueeze(1),
        scans=[_scan_weights(top.mamba) for top in tops],
        out=torch.stack([_joined(part.project, top.mamba) for part, top in pairs]),
        out_bias=torch.stack([part.project.bias for part in parts]).unsqueeze(1),
        variation_norm=gmamba.norm,
        prior_hidden=(_linear(hidden[0]), _norm(hidden[1])) if hidden else None,
        prior=_linear(prior),
        heads_into=torch.cat(both(0, "weight")).T.contiguous(),
        first_scale=torch.stack(both(1, "weight")).unsqueeze(0),
        first_shift=torch.stack(both(1, "bias")).unsqueeze(0),
        heads_middle=torch.stack([weight.T for weight in both(3, "weight")]),
        second_scale=torch.stack(both(4, "weight")).unsqueeze(1),
        second_shift=torch.stack(both(4, "bias")).unsqueeze(1),
        reward=_linear(reward[-1]).weight,
        reward_bias=code.bounded(_linear(reward[-1]).bias),
        termination=_linear(termination[-1]),
        bin_values=code.values if code.expected else code.centers,
        expand=not code.expected,
    )


def _scan_weights(mamba: Mamba) -> ScanWeights:
    assert mamba.conv1d.bias is not None
    a = -torch.exp(mamba.A_log)
    return ScanWeights(
        taps=mamba.conv1d.weight.squeeze(1).T.contiguous(),
        bias=mamba.conv1d.bias,
        select=mamba.x_proj.weight,
        dt=mamba.dt_proj.weight,
        dt_bias=mamba.dt_proj.bias,
        a=a,
        a_rows=a.T.contiguous(),
        skip=mamba.D,
    )


def _folded(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Fold a LayerNorm's scale and shift into a layer: weight (D, out) and bias (out)."""
    weight, bias = linear.weight.double(), linear.weight.double() @ norm.bias.double()
    if linear.bias is not None:
        bias = bias + linear.bias.double()
    return (weight * norm.weight.double()).T.float().contiguous(), bias.float()


def _joined(projection: nn.Linear, mamba: Mamba) -> Tensor:
    """Join two layers: (d_inner + D, D) projects base + out_proj(y), from [y, base]."""
    weight = projection.weight.double()
    return torch.cat([weight @ mamba.out_proj.weight.double(), weight], 1).T.float()


def _layers(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.Sequential) else [module]


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def _norm(module: nn.Module) -> nn.LayerNorm:
    assert isinstance(module, nn.LayerNorm)
    return module


def _block(module: nn.Module) -> MambaBlock:
    assert isinstance(module, MambaBlock)
    return module
