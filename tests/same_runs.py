"""Comparison of training runs to the bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from glam_env.training.run_folder import RunFolder

TIMES = ("seconds", "metrics_size")  # the size has the digits of the times


def metrics(path: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run, without their times."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """List all that a checkpoint holds, with its place, but for times."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in TIMES:
                yield from leaves(part, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from leaves(part, f"{name}.{place}")
    else:
        yield name, value


def assert_same_runs(path: Path, other: Path) -> None:
    """Assert that two runs wrote the same metrics, and would go on alike."""
    assert metrics(path) == metrics(other)
    states = (RunFolder(folder).load_checkpoint() for folder in (path, other))
    one, two = (dict(leaves(state)) for state in states)
    assert one.keys() == two.keys()
    assert {".torch_random", ".numpy_random", ".counts.env_steps", ".filter.h"} <= one.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value.nan_to_num(), two[name].nan_to_num()), name
        else:
            assert value == two[name], name
