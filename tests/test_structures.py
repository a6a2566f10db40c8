"""Functions of trees of tensors."""

from typing import NamedTuple

import pytest
import torch

from glam_env.model.structures import DreamState, tree_map, tree_tensors


class Pair(NamedTuple):
    one: object
    other: object


TREE = Pair([torch.tensor(1), None], {"a": torch.tensor(2), "b": (torch.tensor(3), Pair(None, ()))})


def test_a_map_keeps_the_structure() -> None:
    doubled = tree_map(lambda x: 2 * x, TREE)
    assert isinstance(doubled, Pair)
    assert isinstance(doubled.other["b"][1], Pair)
    assert doubled == Pair(
        [torch.tensor(2), None], {"a": torch.tensor(4), "b": (torch.tensor(6), Pair(None, ()))}
    )
    assert tree_tensors(doubled) == [torch.tensor(2), torch.tensor(4), torch.tensor(6)]
    assert tree_map(torch.add, TREE, doubled).other["a"] == 6


def test_trees_of_other_structures_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        tree_map(torch.add, (torch.ones(1),), (torch.ones(1), torch.ones(1)))
    with pytest.raises(KeyError):
        tree_map(torch.add, {"a": torch.ones(1)}, {"b": torch.ones(1)})


@pytest.mark.parametrize("core", [torch.arange(12.0).view(3, 4), {"m": [torch.arange(3.0)]}, None])
def test_rows_of_any_state_are_copies(core) -> None:
    state = DreamState(torch.arange(6).view(3, 2), torch.arange(3.0).view(3, 1), core)
    rows = state.rows(torch.tensor([2, 0, 2]))
    assert type(rows.core) is type(core)
    for part, whole in zip(tree_tensors(rows), tree_tensors(state), strict=True):
        assert torch.equal(part, whole[[2, 0, 2]])
        part.zero_()
    assert state.h[2] == 2.0
