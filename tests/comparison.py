"""Comparisons that several tests of envs share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def to_numpy(value: Any) -> Any:
    """Convert tensors to arrays, in dicts too."""
    if isinstance(value, dict):
        return {name: to_numpy(item) for name, item in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value


def assert_same(a: Any, b: Any) -> None:
    """Assert equal values and dtypes, in dicts, sequences and arrays of objects too."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, list | tuple) or (isinstance(a, np.ndarray) and a.dtype == object):
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert type(a) is type(b)
        assert a == b
