"""What a benchmark measures, and how long."""

from __future__ import annotations

from dataclasses import dataclass

PARTS = ("emulator", "dreams", "long", "training")
"""What can be left out."""


@dataclass(frozen=True)
class BenchSettings:
    """Settings of a benchmark.

    Attributes:
        preset: Training presets whose sizes are measured: paper, small, debug.
        checkpoint: Checkpoint whose dreams are measured, for the preset of its sizes. By default
            the game's own. A preset whose sizes no checkpoint has gets random weights.
        envs: Numbers of dreams side by side, each a measurement.
        obs: What the dreams show: latent, rgb, grayscale.
        repeats: Turns of each measurement.
        steps: Vector steps of a turn. By default as many as fill its seconds.
        seconds: Length of a turn. A part of training repeats at most as often as fits into 20
            turns.
        long: Vector steps of the long dream, whose cost and memory should not grow.
        long_envs: Dreams side by side in it.
        skip: Parts to leave out: emulator, dreams, long, training.
        graphs: On CUDA, time training with its updates as graphs; see `glam train --help`.
        threads: CPU threads of PyTorch, and the most that the emulator gets. By default all cores.
        device: Where the models run.
    """

    preset: tuple[str, ...] = ("small",)
    checkpoint: str | None = None
    envs: tuple[int, ...] = (1, 16, 256, 1024, 4096)
    obs: tuple[str, ...] = ("latent", "rgb")
    repeats: int = 5
    steps: int | None = None
    seconds: float = 0.4
    long: int = 2000
    long_envs: int = 16
    skip: tuple[str, ...] = ()
    graphs: bool = False
    threads: int | None = None
    device: str = "auto"
