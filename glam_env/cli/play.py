"""`glam play`: a window in which dream and real game are played by hand."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from glam_env.cli import trained
from glam_env.cli.options import Device, Game, Protocol, folder
from glam_env.errors import GlamError

if TYPE_CHECKING:
    from glam_env.checkpoint.contexts import Contexts
    from glam_env.play.session.session import Subject

RUN_CONTEXTS = 64  # drawn from the replay of a run


@dataclass
class Play:
    """Options of `glam play`.

    Attributes:
        game: A game's name, or the path of a checkpoint or of a run.
        agent: Who plays when you hand over, as KIND:PATH: `sb3:RUN` of `glam sb3`, `storm:PATH` of
            a checkpoint or a run.
        greedy: That agent takes its most probable actions; of `storm` agents.
        real: Begin in the real game.
        contexts: Recorded play to begin dreams from, such as an .npz file of this command.
        temperature: Of the dreams' draws.
        protocol: How the real game is played: atari100k or published.
        fps: Steps a second; 0 for no limit.
        to: Folder for recordings.
        seed: Seed of the dreams, the games and the agent.
        device: Where the models run.
    """

    game: Game = "Pong"
    agent: Annotated[str | None, tyro.conf.arg(metavar="KIND:PATH")] = None
    greedy: bool = False
    real: bool = False
    contexts: Annotated[Path | None, folder("those of the checkpoint")] = None
    temperature: float = 1.0
    protocol: Protocol = None
    fps: float = 15.0
    to: Path = Path("recordings")
    seed: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: a new one)")] = None
    device: Device = "auto"

    def execute(self) -> int:
        """Open the window and play until it is closed."""
        import secrets

        from glam_env.play.session.session import Session

        if find_spec("pygame") is None:
            raise GlamError('`glam play` needs pygame: pip install "glam-env[human]"')
        if not 0.0 <= self.fps <= 1000.0:
            raise GlamError(f"fps must be from 0, for no limit, to 1000; got {self.fps:g}")
        if self.real or self.protocol is not None:
            trained.require_emulator()
        trained.require_file("--to", self.to)
        seed = secrets.randbits(31) if self.seed is None else self.seed
        session = Session(self._subject(), seed=seed, real=self.real)

        from glam_env.play.window.app import PlayWindow

        window = PlayWindow(session, to=self.to, fps=self.fps)
        try:
            window.run()
        finally:
            for path in window.saved:
                print(f"saved {path}")
        return 0

    def _subject(self) -> Subject:
        """Load the game, the models and the contexts."""
        from glam_env.cli.ranking import load_policies
        from glam_env.envs.dream.options import DreamOptions
        from glam_env.evaluation.play.policies import agent_policy
        from glam_env.games import find_game
        from glam_env.play.session.session import Subject
        from glam_env.protocols import find_protocol

        options = DreamOptions(device=self.device, temperature=self.temperature)
        play = None if self.protocol is None else find_protocol(self.protocol)
        loaded, contexts = self._load()
        policy = agent_policy("the agent", loaded.act(self.greedy))
        if self.agent is not None:
            policy, *more = load_policies([self.agent], loaded, self.device, option="--agent")
            if more:
                raise GlamError(f"--agent takes one agent; {self.agent} has {1 + len(more)}")
        return Subject(
            find_game(loaded.game),
            loaded.world_model,
            contexts,
            policy,
            play or loaded.play,
            loaded.reward_values,
            options,
        )

    def _load(self) -> tuple[trained.Trained, Contexts]:
        """Load a checkpoint or a run, and where its dreams begin."""
        from glam_env.checkpoint.contexts import CONTEXT_LENGTH
        from glam_env.device import find_device
        from glam_env.envs.recordings.contexts import read_contexts
        from glam_env.training.export import draw_contexts
        from glam_env.training.run_folder import run_kind

        if run_kind(Path(self.game)) == "train":
            loaded, run = trained.load_run(Path(self.game), find_device(self.device))
            contexts = draw_contexts(
                loaded.world_model, run.replay, RUN_CONTEXTS, run.config.context, seed=0
            )
        else:
            checkpoint = trained.open_checkpoint(self.game)
            loaded = trained.load_trained(checkpoint, self.device)
            contexts = checkpoint.contexts()
        if self.contexts is not None:
            contexts = read_contexts(self.contexts, loaded.world_model, CONTEXT_LENGTH)
        return loaded, contexts
