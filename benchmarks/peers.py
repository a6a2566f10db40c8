"""Dream steps a second beside another library of world models, torchwm, by turns.

    python -m venv /tmp/peer
    /tmp/peer/bin/pip install torch torchvision einops
    /tmp/peer/bin/pip install --no-deps torchwm
    python benchmarks/peers.py --peer-python /tmp/peer/bin/python

torchwm has no env around a world model; `torchwm_peer.py` says what is compared. It runs in a
process of its own, whose Python may differ, and waits while the dreams step.
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
from typing import Any

import torch
import tyro

from glam_env.bench.clock import Figure, Turns, take_turns
from glam_env.bench.dreams import open_dreams
from glam_env.bench.report import write_report
from glam_env.bench.world import find_weights, make_world
from glam_env.errors import GlamError
from glam_env.games import find_game
from glam_env.training.export import describe_hardware

# What is compared: this package's observations, and a player of the peer.
PAIRS = (("rgb", "rgb"), ("latent", "latent"), ("rgb", "rgb, one at a time"))


@dataclass
class Args:
    """Measure dreams beside torchwm's.

    Attributes:
        game: Whose dreams.
        preset: Presets, whose sizes this package's model has.
        num_envs: Dreams side by side.
        repeats: Turns.
        seconds: Length of a turn.
        threads: CPU threads of both. By default PyTorch chooses.
        peer_python: A Python that has torchwm.
        to: A JSON file for the figures.
    """

    game: str = "Pong"
    preset: tuple[str, ...] = ("small", "paper")
    num_envs: int = 64
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


def measure(args: Args, peer: Peer) -> list[dict[str, Any]]:
    """Measure all pairs of all presets, each pair by turns."""
    game, device = find_game(args.game).name, torch.device("cpu")
    turns = Turns(args.repeats, None, args.seconds)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for preset, weights in find_weights(game, args.preset, None).items():
            world = make_world(game, preset, weights, Path(folder))
            for obs_type, player in PAIRS:
                with open_dreams(world, obs_type, args.num_envs, device) as stepping:
                    steps = turns.steps_of(stepping)
                    players: dict[str, Callable[[], float]] = {
                        "dream": lambda stepping=stepping, steps=steps: stepping.rate(steps),
                        "peer": lambda player=player: peer.turn(player),
                    }
                    figures = take_turns(players, args.repeats)
                found.append(_pair(world.preset, world.parameters, obs_type, player, figures))
                print(_line(found[-1]), flush=True)
    return found


def _pair(
    preset: str, parameters: int, obs_type: str, player: str, figures: dict[str, Figure]
) -> dict[str, Any]:
    dream, peer = figures["dream"], figures["peer"]
    return {
        "preset": preset,
        "parameters": parameters,
        "obs_type": obs_type,
        "player": player,
        "dream": dream.as_json(),
        "peer": peer.as_json(),
        "ratio": dream.over(peer).as_json(),
    }


def _line(pair: dict[str, Any]) -> str:
    ratio = pair["ratio"]
    return (
        f"{pair['preset']:6} {pair['obs_type']:7} {pair['dream']['median']:10,.0f}   "
        f"torchwm {pair['player']:19} {pair['peer']['median']:10,.0f}   "
        f"ratio {ratio['median']:.2f} ({ratio['low']:.2f} – {ratio['high']:.2f})"
    )


def main(args: Args) -> int:
    """Print a line for each pair, and write the figures if a file is named."""
    try:
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        settings = {
            "num_envs": args.num_envs,
            "num_actions": find_game(args.game).num_actions,
            "threads": torch.get_num_threads(),
            "seconds": args.seconds,
        }
        peer = Peer(args.peer_python, settings)
        hardware = describe_hardware(torch.device("cpu"))
        print(
            f"{hardware}, threads: {settings['threads']}; env steps a second with "
            f"{args.num_envs} dreams, beside torchwm {peer.made['version']}'s Dreamer of "
            f"{peer.made['parameters'] / 1e6:.2f} M parameters"
        )
        with contextlib.closing(peer):
            pairs = measure(args, peer)
        if args.to is not None:
            facts = {"hardware": hardware, "torch": torch.__version__, **settings}
            write_report(args.to, facts | {"torchwm": peer.made, "pairs": pairs})
    except GlamError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
