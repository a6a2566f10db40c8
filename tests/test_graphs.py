"""``Captured`` with a recorder that runs the function into the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from glam_env.envs.dream.engine import DreamEngine
from glam_env.envs.dream.options import DreamOptions
from glam_env.fast.graphs import Captured
from glam_env.model.structures import tree_tensors


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor | None


def record(function: Callable[[], Any], _device: torch.device) -> tuple[Any, Callable[[], None]]:
    """Act like a graph: a replay overwrites the tensors that the recording returned."""
    returned = function()

    def replay() -> None:
        for old, new in zip(tree_tensors(returned), tree_tensors(function()), strict=True):
            old.copy_(new)

    return returned, replay


def test_calls_take_new_inputs_and_return_new_outputs() -> None:
    calls = []

    def double(pair: Pair, more: tuple[torch.Tensor, ...]) -> tuple[Pair, torch.Tensor]:
        calls.append(1)
        return Pair(2 * pair.left, None), pair.left + sum(more)

    captured = Captured(double, record)
    results, inputs = [], []
    for value in (1.0, 5.0, -2.0):
        given = torch.full((3,), value)
        inputs.append(given)
        results.append(captured(Pair(given, None), (torch.ones(3), torch.ones(3))))
    for value, (pair, total), given in zip((1.0, 5.0, -2.0), results, inputs, strict=True):
        assert isinstance(pair, Pair)
        assert pair.right is None
        assert pair.left.tolist() == [2 * value] * 3
        assert total.tolist() == [value + 2] * 3
        assert given.tolist() == [value] * 3
    assert len(calls) == 4  # recorded once, then replayed


def test_other_shapes_are_refused() -> None:
    captured = Captured(lambda x: x + 1, record)
    captured(torch.zeros(3))
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(4,\)"):
        captured(torch.zeros(4))


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("sampled", [False, True])
def test_an_engine_dreams_the_same_with_a_graph(
    make_world_model, make_contexts, frames, sampled
) -> None:
    """Resets move the state between two replays."""

    def make() -> DreamEngine:
        return DreamEngine(
            make_world_model(),
            make_contexts(),
            5,
            DreamOptions(
                device="cpu",
                max_episode_steps=6,
                termination="sample" if sampled else "threshold",
                reward="sample" if sampled else "mean",
                obs_type="rgb" if frames else "latent",
            ),
        )

    plain, graphed = make(), make()
    graphed._graph = Captured(graphed._advance, record)
    plain.reset(seed=3)
    graphed.reset(seed=3)
    kept = []
    for t in range(15):
        actions = (torch.arange(5) + t) % 6
        steps = [engine.step(actions) for engine in (plain, graphed)]
        shown = [engine.observe() for engine in (plain, graphed)]
        assert torch.equal(*shown)
        for one, other in zip(*map(tree_tensors, steps), strict=True):
            assert torch.equal(one, other)
        kept.append((shown[1], shown[1].clone()))
        mask = steps[0].terminated | steps[0].truncated
        plain.reset(mask)
        graphed.reset(mask)
        assert torch.equal(plain.observe(), graphed.observe())
    assert all(torch.equal(now, then) for now, then in kept)
