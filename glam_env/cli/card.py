"""`glam card`: a checkpoint's results and card, measured again or only written again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from glam_env.cli import trained
from glam_env.cli.options import Device, Game
from glam_env.errors import GlamError


@dataclass
class Card:
    """Options of `glam card`.

    Attributes:
        game: A game's name, or the path of a checkpoint.
        from_results: Measure nothing; write the card from the results that are stored.
        scores_only: Measure the scores alone, and keep the fidelity that is stored.
        episodes: Real games to play for the score of each protocol.
        fidelity_steps: As `steps` of `glam fidelity`.
        behavior_steps: As `behavior_steps` of `glam fidelity`.
        branch_steps: As `branch_steps` of `glam fidelity`.
        device: Where the models run.
    """

    game: Game
    from_results: bool = False
    scores_only: bool = False
    episodes: int = trained.SCORE_EPISODES
    fidelity_steps: int = trained.FIDELITY_STEPS
    behavior_steps: int = trained.BEHAVIOR_STEPS
    branch_steps: int = trained.BRANCH_STEPS
    device: Device = "auto"

    def execute(self) -> int:
        """Measure, and write the results."""
        from glam_env.checkpoint.folder import write_results
        from glam_env.checkpoint.replace import require_replaceable
        from glam_env.evaluation.report.card import write_card
        from glam_env.files import reading

        checkpoint = trained.open_checkpoint(self.game)
        config = checkpoint.config
        require_replaceable(checkpoint.path)
        if self.from_results and self.scores_only:
            raise GlamError("--from-results measures nothing: leave it or --scores-only out")
        if self.scores_only:
            loaded = trained.load_trained(checkpoint, self.device)
            kept = {name: part for name, part in config.results.items() if name != "score"}
            scores = trained.measure_scores(loaded, episodes=self.episodes)
            config = replace(config, results={**kept, "scores": scores})
        elif not self.from_results:
            results = trained.measure_all(
                trained.load_trained(checkpoint, self.device),
                episodes=self.episodes,
                steps=self.fidelity_steps,
                behavior_steps=self.behavior_steps,
                branch_steps=self.branch_steps,
            )
            config = replace(config, results=results)
        elif not config.results:
            raise GlamError(f"{checkpoint.path} has no results yet; leave out --from-results")
        with reading(f"{checkpoint.path}: results", "leave out --from-results"):
            card = write_card(config)
        write_results(checkpoint.path, config, card)
        print(f"{'written' if self.from_results else 'measured'} again: {checkpoint.path}")
        return 0
