"""`glam push`: a checkpoint onto the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from glam_env.cli import trained
from glam_env.cli.options import Game


@dataclass
class Push:
    """Options of `glam push`.

    Attributes:
        game: A game's name, or the path of a checkpoint.
        name: The repository on the Hub, OWNER/NAME; it is made if it does not exist.
        license: The Hub's identifier of the weights' licence, such as mit.
        revision: Branch to push to, made if missing.
        private: Make a new repository private.
        replace: Add a commit to a repository that exists.
        dry_run: Print the card, and push nothing.
    """

    game: Game
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OWNER/NAME")]
    license: Annotated[str | None, tyro.conf.arg(metavar="LICENCE")] = None
    revision: Annotated[str | None, tyro.conf.arg(metavar="BRANCH")] = None
    private: bool = False
    replace: bool = False
    dry_run: bool = False

    def execute(self) -> int:
        """Check the checkpoint, and push it."""
        from glam_env.checkpoint.push import push_checkpoint
        from glam_env.evaluation.report.hub_card import write_hub_card
        from glam_env.files import reading

        checkpoint = trained.open_checkpoint(self.game)
        with reading(f"{checkpoint.path}: results", "measure them again with `glam card`"):
            card = write_hub_card(checkpoint.config, self.name, self.license)
        if self.dry_run:
            print(card)
            return 0
        address = push_checkpoint(
            checkpoint,
            self.name,
            card,
            revision=self.revision,
            private=self.private,
            replace=self.replace,
        )
        print(f"pushed to {address}")
        return 0
