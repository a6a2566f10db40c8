"""`glam web`: a static page in which trained games are played."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import tyro

from glam_env.cli import trained
from glam_env.cli.options import folder
from glam_env.errors import GlamError

if TYPE_CHECKING:
    from glam_env.checkpoint.folder import Checkpoint

LEAD, RECORDED, RECORDING_SEED = 90, 150, 4000  # the real play beside a dream


@dataclass
class Web:
    """Options of `glam web`.

    Attributes:
        games: Games' names, or paths or addresses of checkpoints; the page lets one choose.
        to: Folder for the site, to be put on any static host.
        serve: Serve the site on this machine until Ctrl-C.
        port: Of --serve; 0 takes a free one.
        starts: Start contexts of each game.
        recordings: Real games of each game, played by the agent, to show beside a dream. Without
            ale-py there are none.
    """

    games: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="GAME ...")]
    to: Annotated[Path | None, folder("a temporary one, with --serve")] = None
    serve: bool = False
    port: int = 8000
    starts: int = 8
    recordings: int = 2

    def execute(self) -> int:
        """Write the site, and serve it."""
        from glam_env.checks import require_count, require_within
        from glam_env.onnx.convert import require_onnx
        from glam_env.onnx.export import write_files
        from glam_env.web.serve import make_server
        from glam_env.web.site import page_files, site_files

        if not self.games:
            raise GlamError("GAME is missing; name at least one, such as `glam web Pong --serve`")
        if self.to is None and not self.serve:
            raise GlamError("say where the site goes: --to FOLDER, or --serve to show it here")
        require_count("starts", self.starts)
        require_within("recordings", self.recordings, "[0, 64]")
        require_onnx()
        if self.to is not None:
            trained.require_new_folder("--to", self.to)
        checkpoints = [trained.open_checkpoint(name) for name in self.games]
        names = [checkpoint.config.game for checkpoint in checkpoints]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise GlamError(f"{doubled[0]} is given twice; a site has one checkpoint of a game")
        page_files()  # reports missing files of npm before the work
        with ExitStack() as stack:
            path = self.to or Path(stack.enter_context(TemporaryDirectory()))
            # Before the work too: the port may be taken.
            server = stack.enter_context(make_server(path, self.port)) if self.serve else None
            made = {each.config.game: self._game(each) for each in checkpoints}
            files = site_files(made)
            write_files(path, files)
            sizes = {game: sum(map(len, own.values())) / 1e6 for game, own in made.items()}
            total = sum(map(len, files.values())) / 1e6
            own = ", ".join(f"{game} {size:.2f} MB" for game, size in sizes.items())
            print(f"{path}: {len(files)} files, {total:.2f} MB, of which {own}", flush=True)
            if server is not None:
                host, port = server.server_address[:2]
                print(f"http://{host}:{port}/ (Ctrl-C ends)", flush=True)
                server.serve_forever()
        return 0

    def _game(self, checkpoint: Checkpoint) -> Mapping[str, bytes]:
        """Make the files of one game."""
        from glam_env.onnx.export import export_game
        from glam_env.onnx.starts import context_states
        from glam_env.web.recordings import record
        from glam_env.web.site import game_files

        loaded = trained.load_trained(checkpoint, "cpu")
        model, recordings = loaded.world_model, []
        if find_spec("ale_py") is None:
            _say(f"{loaded.game}: no real game to show beside the dream, since ale-py is missing")
        elif self.recordings:
            _say(f"{loaded.game}: real play")
            for number in range(self.recordings):
                recordings.append(
                    record(
                        model,
                        loaded.act(),
                        loaded.game,
                        loaded.play,
                        lead=LEAD,
                        steps=RECORDED,
                        seed=RECORDING_SEED + number,
                    )
                )
        contexts = context_states(model, checkpoint.contexts(), self.starts)
        exported = export_game(
            loaded.game,
            model,
            loaded.agent,
            [*(recording.state for recording in recordings), *contexts],
            reward_values=loaded.reward_values,
            horizon=loaded.horizon,
            weights=loaded.weights,
            say=_say,
        )
        return game_files(exported, recordings)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
