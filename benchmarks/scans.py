"""Mamba's selective scan, forward and backward: every implementation that runs here, by turns.

    python benchmarks/scans.py

On a CUDA device these are ours and, where it is installed, the kernel of ``mamba_ssm``; on a CPU
the one in C++ and that in PyTorch. The plain scan of the model is there too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from glam_env.bench.clock import take_turns, timed
from glam_env.bench.report import write_report
from glam_env.device import find_device
from glam_env.errors import GlamError
from glam_env.fast import scan
from glam_env.fast.native import scan as native
from glam_env.model.cores import mamba
from glam_env.training.export import describe_hardware

Scan = Callable[..., Tensor]


@dataclass
class Args:
    """Measure scans.

    Attributes:
        lengths: L, positions of a sequence, each a measurement.
        batch: B, sequences.
        inner: Channels, twice the model's width.
        states: N, states of each channel.
        repeats: Turns.
        device: auto, cpu or cuda.
        to: A JSON file for the figures.
    """

    lengths: tuple[int, ...] = (4, 16, 64)
    batch: int = 32
    inner: int = 512
    states: int = 16
    repeats: int = 20
    device: str = "auto"
    to: Path | None = None


def implementations(device: torch.device, parts: list[Tensor]) -> dict[str, Scan]:
    """Return the scans that run on a device, by name."""
    found: dict[str, Scan] = {"plain": lambda *x: mamba.selective_scan(*x)[0]}
    if device.type == "cuda":
        found["ours"] = lambda *x: scan.ParallelScan.apply(*x)[0]
        if not scan.scan_missing():
            found["mamba_ssm"] = scan.fused_scan
    else:
        found["ours, PyTorch"] = lambda *x: scan.LoopScan.apply(*x)[0]
        if native.suits(len(parts[2]), *parts):
            found["ours, C++"] = lambda *x: native.NativeScan.apply(*x)[0]
    return found


def make_parts(args: Args, length: int, device: torch.device) -> list[Tensor]:
    """Draw x, dt, A, B and C of a scan; all need gradients."""
    generator = torch.Generator().manual_seed(length)
    shape = (args.batch, length)
    normal = [torch.randn(*shape, n, generator=generator) for n in (args.inner, args.inner)]
    maps = [torch.randn(*shape, args.states, generator=generator) for _ in range(2)]
    decay = -torch.rand(args.inner, args.states, generator=generator) - 0.5
    parts = [normal[0], 0.1 * normal[1].abs(), decay, *maps]
    return [part.to(device).requires_grad_() for part in parts]


def measure(args: Args, length: int, device: torch.device) -> dict[str, Any]:
    """Time all implementations for one length, and compare what they return.

    Raises:
        GlamError: Two implementations differ.
    """
    parts = make_parts(args, length, device)
    scans = implementations(device, parts)
    outputs = {name: run(*parts).detach() for name, run in scans.items()}
    for name, output in outputs.items():
        if not torch.allclose(output, outputs["plain"], rtol=1e-3, atol=1e-3):
            worst = (output - outputs["plain"]).abs().max()
            raise GlamError(f"{name} differs from the plain scan by up to {worst:.3g}")

    def work(run: Scan) -> Callable[[], float]:
        def both() -> None:
            run(*parts).sum().backward()

        return lambda: timed(both, device)

    turns = {name: work(run) for name, run in scans.items()}
    for _ in range(3):
        for turn in turns.values():
            turn()
    figures = take_turns(turns, args.repeats)
    return {"length": length, **{name: figure.as_json() for name, figure in figures.items()}}


def main(args: Args) -> None:
    """Measure, print a table, and write the figures."""
    device, rows = find_device(args.device), []
    for length in args.lengths:
        rows.append(measure(args, length, device))
        times = {n: f"{1e3 * f['median']:.3f} ms" for n, f in rows[-1].items() if n != "length"}
        print(f"length {length}: " + ", ".join(f"{n} {t}" for n, t in times.items()), flush=True)
    if missing := scan.scan_missing():
        print(f"mamba_ssm is not measured ({missing})")
    if args.to is not None:
        settings = {"batch": args.batch, "inner": args.inner, "states": args.states}
        write_report(args.to, {"hardware": describe_hardware(device), **settings, "rows": rows})


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except GlamError as error:
        sys.exit(f"scans: {error}")
