"""The options of the ``glam`` commands, and reading them: a mistake becomes one line."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
from glam_agents.sb3.settings import Sb3Settings

from glam_env.errors import GlamError

T = TypeVar("T")


@dataclass
class Eval:
    """Play whole real games with a checkpoint's agent.

    Attributes:
        game: a game's name, or the path of a checkpoint.
        episodes: whole games.
        num_envs: games side by side.
        seed: of games and actions.
        greedy: take the likeliest action; by default actions are sampled.
        random: play at random instead, for comparison.
        device: auto, cpu, cuda, …
        json: print the report as JSON.
    """

    game: tyro.conf.Positional[str]
    episodes: int = 20
    num_envs: int = 4
    seed: int = 1000
    greedy: bool = False
    random: bool = False
    device: str = "auto"
    json: bool = False


@dataclass
class Fidelity:
    """Measure how well dreams match the game, on play that training never saw.

    Attributes:
        game: a game's name, or the path of a checkpoint or of a run.
        steps: real steps to dream along, played by the agent, ever noisier, and at random.
        behavior_steps: real steps that the agent plays by itself, to be compared with its dreams.
        branch_steps: real steps at moments of which each action is tried, in the game and in
            dreams; 0 tries none.
        horizon: steps of an open-loop dream.
        seed: of the games and the dreams.
        out: a folder for the report as JSON, plots, strips and a film.
        check: exit with code 1 if the figures miss one of the thresholds.
        device: auto, cpu, cuda, …
        json: print the report as JSON.
    """

    game: tyro.conf.Positional[str]
    steps: int = 8000
    behavior_steps: int = 8192
    branch_steps: int = 4000
    horizon: int = 64
    seed: int = 2000
    out: Path | None = None
    check: bool = False
    device: str = "auto"
    json: bool = False


@dataclass
class Demo:
    """Dream with a checkpoint's agent, play the real game with it, and show both.

    Attributes:
        game: a game's name, or the path of a checkpoint.
        episodes: whole real games.
        num_envs: dreams side by side.
        steps: steps of each dream env.
        gif: where the picture goes.
        seed: of everything.
        device: auto, cpu, cuda, …
    """

    game: tyro.conf.Positional[str] = "Pong"
    episodes: int = 4
    num_envs: int = 64
    steps: int = 256
    gif: Path = Path("demo/dream_and_game.gif")
    seed: int = 1
    device: str = "auto"


@dataclass(frozen=True)
class Sb3(Sb3Settings):
    """Train an agent of Stable-Baselines3 in dreams, then play the real game with it.

    Attributes:
        json: print the report as JSON.
    """

    json: bool = False


@dataclass
class Export:
    """Turn a run into a checkpoint folder, with its measured score and fidelity.

    Attributes:
        game: the game whose run is exported.
        run: the run's folder (default: runs/GAME).
        to: the checkpoint folder (default: checkpoints/GAME).
        episodes: real games played for the score.
        fidelity_steps, behavior_steps, branch_steps: as ``steps``, ``behavior_steps`` and
            ``branch_steps`` of ``glam fidelity``.
        contexts: start contexts shipped.
        max_episode_steps: the dream's horizon.
        dtype: of the stored weights, bfloat16 or float32.
        note: what the card shall say of how the run went, beside its figures.
        device: auto, cpu, cuda, …
    """

    game: tyro.conf.Positional[str]
    run: Path | None = None
    to: Path | None = None
    episodes: int = 20
    fidelity_steps: int = Fidelity.steps
    behavior_steps: int = Fidelity.behavior_steps
    branch_steps: int = Fidelity.branch_steps
    contexts: int = 2048
    max_episode_steps: int = 64
    dtype: str = "bfloat16"
    note: str = ""
    device: str = "auto"


@dataclass
class Card:
    """Measure a checkpoint anew, and write what came out into its config and its card.

    Attributes:
        game: a game's name, or the path of a checkpoint.
        episodes: real games played for the score.
        fidelity_steps, behavior_steps, branch_steps: as ``steps``, ``behavior_steps`` and
            ``branch_steps`` of ``glam fidelity``.
        device: auto, cpu, cuda, …
    """

    game: tyro.conf.Positional[str]
    episodes: int = 20
    fidelity_steps: int = Fidelity.steps
    behavior_steps: int = Fidelity.behavior_steps
    branch_steps: int = Fidelity.branch_steps
    device: str = "auto"


@dataclass
class Info:
    """Show what is here: devices, kernels and checkpoints; or one checkpoint or run.

    Attributes:
        what: a game's name, or the path of a checkpoint or of a run.
        plot: a PNG file for its learning curves.
        json: print as JSON.
    """

    what: tyro.conf.Positional[str] = ""
    plot: Path | None = None
    json: bool = False


@dataclass
class Curves:
    """Draw the learning curves of some runs into one picture.

    Attributes:
        runs: metrics.jsonl files, by whatever name, or folders of runs or of checkpoints.
        to: the PNG file.
        game: whose random, human and published scores are drawn beside the returns.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    to: Path = Path("curves.png")
    game: str | None = None


@dataclass
class Bench:
    """Measure the speed of dreams beside the emulator, and of training; or plot what was measured.

    Attributes:
        game: a game's name.
        preset: one or several of paper, small, debug, whose sizes are measured.
        checkpoint: whose dreams are measured for the preset of its sizes (default: the game's own;
            a preset that none has the sizes of gets random weights).
        envs: dreams side by side, of each measurement.
        obs: what the dreams show: latent, rgb, grayscale.
        repeats: turns of each measurement.
        steps: vector steps of a turn (default: as many as fill ``seconds``).
        seconds: length of a turn; of training's parts, their number is cut to fit 20 of them.
        long: vector steps of the long dream, whose cost and memory should not grow.
        long_envs: dreams side by side in it.
        skip: what to leave out: emulator, dreams, long, training.
        graphs: on CUDA, time training whose updates are graphs, see ``glam train --help``.
        threads: CPU threads of PyTorch, and the most that the emulator gets (default: all cores).
        device: auto, cpu, cuda, …
        json: print the figures as JSON.
        to: a file for the figures as JSON, or a folder, where the hardware names the file; with
            ``--plot`` the PNG file.
        plot: measure nothing; draw dream steps/s of such files.
    """

    game: tyro.conf.Positional[str] = "Pong"
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
    json: bool = False
    to: Path | None = None
    plot: tuple[Path, ...] = ()


def read_options(kind: type[T], command: str, words: list[str], **settings: Any) -> T:
    """Reads a command's words.

    Args:
        kind: a dataclass of options.
        command: its name, for messages.
        words: of the command line, without the command.
        settings: for tyro, such as ``default``.

    Raises:
        GlamError: what is wrong with them, in one line.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=f"glam {command}", args=words, **settings)
    except SystemExit as end:
        if not end.code:  # --help
            raise
        text = re.sub(r"[─╭╮╰╯│]+", " ", complaint.getvalue())
        said = " ".join(" ".join(line.split()) for line in text.splitlines() if line.strip())
        said = said.split(" For full helptext")[0]
        raise GlamError(f"{said}; see `glam {command} --help`") from end
