"""Few rows are computed with one thread, which other processes on the cores cannot hold up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from glam_env.device import FEW, threads_for
from glam_env.envs.latent_filter import FilteredPolicy


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Let PyTorch have three threads; nothing here starts them."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (FEW, 1), (FEW + 1, 3)])
def test_few_rows_take_one_thread_and_give_the_others_back(three_threads, rows, threads):
    with threads_for(rows):
        assert torch.get_num_threads() == threads
        with threads_for(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 3
    with pytest.raises(KeyError), threads_for(rows):
        raise KeyError
    assert torch.get_num_threads() == 3


def test_a_policy_on_few_games_acts_with_one_thread(three_threads, make_world_model):
    used = []

    def act(features: torch.Tensor, _generator: torch.Generator) -> torch.Tensor:
        used.append(torch.get_num_threads())
        return torch.zeros(len(features), dtype=torch.int64)

    policy = FilteredPolicy(make_world_model(), act)
    policy.begin(2, seed=0)
    for first in (True, False):
        policy.act(np.zeros((2, 64, 64, 3), np.uint8), np.full(2, first))
    assert used == [1, 1]
    assert torch.get_num_threads() == 3
