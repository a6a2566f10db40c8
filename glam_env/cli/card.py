"""`glam card`: the results and the card of a checkpoint, written again.

The results are measured again, or taken from the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from glam_env.cli import trained
from glam_env.cli.options import Device, Game, folder
from glam_env.errors import GlamError

if TYPE_CHECKING:
    from glam_env.checkpoint.config import CheckpointConfig
    from glam_env.checkpoint.folder import Checkpoint


@dataclass
class Card:
    """Options of `glam card`.

    Attributes:
        game: A game's name, or the path or the address of a checkpoint.
        to: Folder for the checkpoint with its new card; a download needs one.
        from_results: Measure nothing; check the results that are stored against the thresholds
            and write the card from them.
        missing_only: Run the measures of fidelity that the stored results lack, such as those of a
            newer version, and keep the rest.
        scores_only: Measure the scores alone, and keep the fidelity that is stored.
        fidelity_only: Measure the fidelity alone, and keep the scores that are stored.
        episodes: Real games to play for the score of each protocol.
        fidelity_steps: As `steps` of `glam fidelity`.
        behavior_steps: As `behavior_steps` of `glam fidelity`.
        branch_steps: As `branch_steps` of `glam fidelity`.
        ranking_moments: As `ranking_moments` of `glam fidelity`.
        ceiling_moments: As `ceiling_moments` of `glam fidelity`.
        device: Where the models run.
    """

    game: Game
    to: Annotated[Path | None, folder("the checkpoint's own")] = None
    from_results: bool = False
    missing_only: bool = False
    scores_only: bool = False
    fidelity_only: bool = False
    episodes: int = trained.SCORE_EPISODES
    fidelity_steps: int = trained.FIDELITY_STEPS
    behavior_steps: int = trained.BEHAVIOR_STEPS
    branch_steps: int = trained.BRANCH_STEPS
    ranking_moments: int = trained.RANKING_MOMENTS
    ceiling_moments: int = trained.CEILING_MOMENTS
    device: Device = "auto"

    def execute(self) -> int:
        """Measure, and write the results."""
        from glam_env.checkpoint.folder import write_results
        from glam_env.checkpoint.hub import is_cached
        from glam_env.checkpoint.replace import require_replaceable
        from glam_env.evaluation.report.card import write_card
        from glam_env.files import reading

        chosen = [
            f"--{name}"
            for name in ("from-results", "missing-only", "scores-only", "fidelity-only")
            if getattr(self, name.replace("-", "_"))
        ]
        if len(chosen) > 1:
            raise GlamError(f"{' and '.join(chosen)} exclude each other: give only one of them")
        checkpoint = trained.open_checkpoint(self.game)
        config = checkpoint.config
        if self.to is None and is_cached(checkpoint.path):
            raise GlamError(f"{self.game} is a download, which stays as it is: give --to FOLDER")
        require_replaceable(checkpoint.path if self.to is None else self.to)
        if not self.from_results:
            trained.require_emulator()
            config = self._measure(checkpoint)
        elif not config.results:
            raise GlamError(f"{checkpoint.path} has no results yet; leave out --from-results")
        with reading(f"{checkpoint.path}: results", "leave out --from-results"):
            if self.from_results:
                config = _check_again(config)
            card = write_card(config)
        written = write_results(checkpoint.path, config, card, self.to)
        print(f"{'written' if self.from_results else 'measured'} again: {written}")
        return 0

    def _measure(self, checkpoint: Checkpoint) -> CheckpointConfig:
        """Return the config with new results, and with the reward values seen in play."""
        from glam_env.model.reward_values import seen_values

        config, values = checkpoint.config, checkpoint.config.reward_values
        results = dict(config.results)
        amounts = {
            "steps": self.fidelity_steps,
            "behavior_steps": self.behavior_steps,
            "branch_steps": self.branch_steps,
            "ranking_moments": self.ranking_moments,
            "ceiling_moments": self.ceiling_moments,
        }
        if self.missing_only and "fidelity" not in results:
            raise GlamError(f"{checkpoint.path} has no fidelity yet; leave out --missing-only")
        loaded = trained.load_trained(checkpoint, self.device)
        if self.missing_only:
            results["fidelity"] = trained.measure_missing(loaded, results["fidelity"], **amounts)
            return replace(config, results=results)
        if not self.fidelity_only:
            results.pop("score", None)  # of an earlier version
            results["scores"] = trained.measure_scores(loaded, episodes=self.episodes)
        if not self.scores_only:
            report, recording = trained.measure_fidelity(loaded, **amounts)
            results["fidelity"] = report
            values = seen_values(recording.rewards, known=values)
        return replace(config, results=results, reward_values=values)


def _check_again(config: CheckpointConfig) -> CheckpointConfig:
    """Check stored fidelity against the thresholds of this version.

    Return the config with the new checks; a config without fidelity is returned unchanged.
    """
    from dataclasses import asdict

    from glam_env.evaluation.examine import Examination

    fidelity = config.results.get("fidelity")
    if not fidelity:
        return config
    checks = Examination.from_json(fidelity, "results.fidelity").check_again().checks
    checked = {**fidelity, "checks": [asdict(check) for check in checks]}
    return replace(config, results={**config.results, "fidelity": checked})
