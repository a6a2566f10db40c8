"""Dream steps a second beside other libraries of world models, by turns.

    pip install torchrl
    pip install --no-deps simulusion
    python benchmarks/peers.py

TorchRL's and Simulusion's `WorldModelEnv` are put around the world model of the dreams;
`wrapped_models.py` says how. torchwm, Simulusion's predecessor, has no env around a world model;
`torchwm_peer.py` says what is compared. It runs in a process of its own, in another Python, and
waits while the dreams step:

    python -m venv /tmp/peer
    /tmp/peer/bin/pip install torch torchvision einops
    /tmp/peer/bin/pip install --no-deps torchwm
    python benchmarks/peers.py --peers torchwm --peer-python /tmp/peer/bin/python --num-envs 64
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import torch
import tyro
from wrapped_models import LIBRARIES, library_version

from glam_env.bench.clock import Figure, Stepping, Turns, random_actions, take_turns
from glam_env.bench.dreams import open_dreams
from glam_env.bench.report import write_report
from glam_env.bench.world import BenchWorld, find_weights, make_world
from glam_env.errors import GlamError
from glam_env.games import find_game
from glam_env.training.export import describe_hardware

CPU = torch.device("cpu")

# What is compared with torchwm: this package's observations, and a player of the process.
PAIRS = (("rgb", "rgb"), ("latent", "latent"), ("rgb", "rgb, one at a time"))


@dataclass
class Args:
    """Measure dreams beside other libraries' envs around a world model.

    Attributes:
        game: Whose dreams.
        peers: The other libraries.
        preset: Presets, whose sizes this package's model has.
        num_envs: Numbers of dreams side by side.
        repeats: Turns.
        seconds: Length of a turn.
        threads: CPU threads of both. By default PyTorch chooses.
        peer_python: A Python that has torchwm.
        to: A JSON file for the figures.
    """

    game: str = "Pong"
    peers: tuple[Literal["torchrl", "simulusion", "torchwm"], ...] = ("torchrl", "simulusion")
    preset: tuple[str, ...] = ("small", "paper")
    num_envs: tuple[int, ...] = (1, 64)
    repeats: int = 5
    seconds: float = 1.0
    threads: int | None = None
    peer_python: Path = Path(sys.executable)
    to: Path | None = None


class Peer:
    """torchwm in a process of its own.

    Args:
        python: A Python that has it.
        settings: Settings for `torchwm_peer.py`.

    Raises:
        GlamError: If torchwm is not there, or the process failed.
    """

    def __init__(self, python: Path, settings: dict[str, Any]) -> None:
        script = Path(__file__).with_name("torchwm_peer.py")
        try:
            self._process = subprocess.Popen(
                [str(python), str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise GlamError(
                f"{python} is no Python ({error.strerror}); see --peer-python"
            ) from error
        self.made = self._ask(settings)
        if missing := self.made.get("missing"):
            self.close()
            raise GlamError(
                f"{python} has no {missing}: in a venv of its own, `pip install torch torchvision "
                "einops`, `pip install --no-deps torchwm`, then --peer-python VENV/bin/python"
            )

    def turn(self, player: str) -> float:
        """Return the env steps a second of one turn."""
        return self._ask(player)

    def _ask(self, question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the answer below reports its exit code
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        if not (answer := self._process.stdout.readline()):
            code = self._process.wait()
            raise GlamError(f"torchwm's process ended with exit code {code}; its reason is above")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def measure_wrapped(
    name: str, world: BenchWorld, obs_type: str, num_envs: int, turns: Turns
) -> dict[str, Any]:
    """Measure dreams, dreams in PyTorch, and a library's env around their world model."""
    spaces = gym.make_vec(
        f"GLAMDream-{world.game}-v0",
        num_envs=num_envs,
        device="cpu",
        obs_type=obs_type,
        checkpoint=str(world.folder),
    )
    with (
        contextlib.closing(spaces),
        open_dreams(world, obs_type, num_envs, CPU) as dreams,
        open_dreams(world, obs_type, num_envs, CPU, backend="torch") as plain,
    ):
        players: dict[str, Callable[[], float]] = {}
        step = LIBRARIES[name](world, obs_type, spaces)
        peer = Stepping(step, random_actions(spaces, CPU), num_envs, CPU)
        for player, stepping in {"dream": dreams, "dream_torch": plain, "peer": peer}.items():
            steps = turns.steps_of(stepping)
            players[player] = lambda stepping=stepping, steps=steps: stepping.rate(steps)
        figures = take_turns(players, turns.repeats)
    return _row(name, world, obs_type, num_envs, figures)


def measure_torchwm(
    process: Peer, player: str, world: BenchWorld, obs_type: str, num_envs: int, turns: Turns
) -> dict[str, Any]:
    """Measure dreams and one of the players of torchwm's process."""
    with open_dreams(world, obs_type, num_envs, CPU) as dreams:
        steps = turns.steps_of(dreams)
        players = {"dream": lambda: dreams.rate(steps), "peer": lambda: process.turn(player)}
        figures = take_turns(players, turns.repeats)
    return _row(f"torchwm {player}", world, obs_type, num_envs, figures)


def _row(
    peer: str, world: BenchWorld, obs_type: str, num_envs: int, figures: dict[str, Figure]
) -> dict[str, Any]:
    row = {
        "against": peer,
        "preset": world.preset,
        "parameters": world.parameters,
        "obs_type": obs_type,
        "num_envs": num_envs,
        **{name: figure.as_json() for name, figure in figures.items()},
    }
    for name in figures.keys() - {"peer"}:
        row[f"{name}_ratio"] = figures[name].over(figures["peer"]).as_json()
    print(_line(row), flush=True)
    return row


def _line(row: dict[str, Any]) -> str:
    ratios = [
        f"{title} {row[name]['median']:.2f} ({row[name]['low']:.2f} – {row[name]['high']:.2f})"
        for name, title in (("dream_ratio", "ratio"), ("dream_torch_ratio", "in PyTorch"))
        if name in row
    ]
    return (
        f"{row['preset']:6} {row['obs_type']:7} {row['num_envs']:4} dreams "
        f"{row['dream']['median']:9,.0f}   {row['against']} {row['peer']['median']:9,.0f}   "
        f"{'   '.join(ratios)}"
    )


def measure(args: Args) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure all that is asked for; return the libraries and the rows of figures.

    Raises:
        GlamError: A library is missing, an option is impossible, or torchwm's process failed.
    """
    game, turns = find_game(args.game), Turns(args.repeats, None, args.seconds)
    libraries: dict[str, Any] = {
        name: {"version": library_version(name)} for name in args.peers if name in LIBRARIES
    }
    for name, facts in libraries.items():
        print(f"{name} {facts['version']}", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        processes: dict[int, Peer] = {}
        for num_envs in args.num_envs if "torchwm" in args.peers else ():
            settings = {
                "num_envs": num_envs,
                "num_actions": game.num_actions,
                "threads": torch.get_num_threads(),
                "seconds": args.seconds,
            }
            processes[num_envs] = process = Peer(args.peer_python, settings)
            opened.callback(process.close)
            libraries["torchwm"] = process.made
        worlds = [
            make_world(game.name, preset, weights, Path(folder))
            for preset, weights in find_weights(game.name, args.preset, None).items()
        ]
        for world in worlds:
            for num_envs in args.num_envs:
                for name in (name for name in args.peers if name in LIBRARIES):
                    for obs_type in ("rgb", "latent"):
                        rows.append(measure_wrapped(name, world, obs_type, num_envs, turns))
                for obs_type, player in PAIRS if num_envs in processes else ():
                    process = processes[num_envs]
                    rows.append(measure_torchwm(process, player, world, obs_type, num_envs, turns))
    return libraries, rows


def main(args: Args) -> int:
    """Print a line for each measurement, and write the figures if a file is named."""
    try:
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        hardware, threads = describe_hardware(CPU), torch.get_num_threads()
        print(f"{hardware}, threads: {threads}; env steps a second", flush=True)
        libraries, rows = measure(args)
        if args.to is not None:
            facts = {
                "hardware": hardware,
                "torch": torch.__version__,
                "threads": threads,
                "seconds": args.seconds,
            }
            write_report(args.to, facts | {"libraries": libraries, "rows": rows})
    except GlamError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
