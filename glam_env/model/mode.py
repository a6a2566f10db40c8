"""The mode of a module, training or evaluation, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Have a module in evaluation mode inside, without dropout."""
    training = module.training
    if training:  # setting the mode of all parts takes as long as a step of a small model
        module.eval()
    try:
        yield
    finally:
        if training:
            module.train()
