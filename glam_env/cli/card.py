"""`glam card`: a checkpoint's results and card, measured again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from glam_env.cli import trained
from glam_env.cli.options import Device, Game


@dataclass
class Card:
    """Options of `glam card`.

    Attributes:
        game: A game's name, or the path of a checkpoint.
        episodes: Real games to play for the score.
        fidelity_steps: As `steps` of `glam fidelity`.
        behavior_steps: As `behavior_steps` of `glam fidelity`.
        branch_steps: As `branch_steps` of `glam fidelity`.
        device: Where the models run.
    """

    game: Game
    episodes: int = trained.SCORE_EPISODES
    fidelity_steps: int = trained.FIDELITY_STEPS
    behavior_steps: int = trained.BEHAVIOR_STEPS
    branch_steps: int = trained.BRANCH_STEPS
    device: Device = "auto"

    def execute(self) -> int:
        """Measure, and write the results."""
        from glam_env.checkpoint.folder import write_results
        from glam_env.evaluation.report.card import write_card

        checkpoint = trained.open_checkpoint(self.game)
        results = trained.measure_all(
            trained.load_trained(checkpoint, self.device),
            episodes=self.episodes,
            steps=self.fidelity_steps,
            behavior_steps=self.behavior_steps,
            branch_steps=self.branch_steps,
        )
        config = replace(checkpoint.config, results=results)
        write_results(checkpoint.path, config, write_card(config))
        print(f"measured again: {checkpoint.path}")
        return 0
