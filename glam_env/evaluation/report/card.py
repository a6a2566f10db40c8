"""CARD.md: a description of a checkpoint, with its measured figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glam_env.checkpoint.config import CheckpointConfig
from glam_env.evaluation.examine import Examination
from glam_env.evaluation.measures.thresholds import CheckReport
from glam_env.evaluation.play.scores import play_of, stored_scores
from glam_env.evaluation.report.summary import summarize
from glam_env.evaluation.report.tables import NONE, markdown, markdown_tables
from glam_env.games import Game, find_game
from glam_env.protocols import METHODS, PlaySettings

RECORDED = "recorded steps of `glam play` among them"
PAPER_CORE = "glam"  # a card names any other sequence core


def write_card(config: CheckpointConfig) -> str:
    """Write the card of a checkpoint from its config alone; nothing is measured.

    Args:
        config: Its `results` hold `scores` (a `ScoreReport` as JSON for each protocol) and
            `fidelity` (an `Examination` as JSON), each if it was measured.

    Raises:
        GlamError: If the results are no such JSON.
    """
    game, origin, settings = find_game(config.game), config.provenance, config.protocol
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    facts = {
        "preset": f"`{origin.preset}`",
        "real environment steps": f"{origin.environment_steps:,}",
        "real environment steps, all runs together": f"{origin.real_steps:,}",
        **({RECORDED: f"{recorded:,}"} if (recorded := origin.all_recorded_steps) else {}),
        "world-model updates": f"{origin.updates:,}",
        "training time": f"{origin.hours:.2f} h on {origin.hardware}",
        "seed": str(origin.seed),
        "protocol of the training": str(settings),
        "frames to an agent step": str(settings.frame_skip),
        "dream horizon": f"{config.max_episode_steps} steps",
        "start contexts": f"{config.contexts.count} of {config.contexts.length} steps",
        "versions": versions,
    }
    core = config.world_model.core.name
    if core != PAPER_CORE:
        facts = {"preset": facts["preset"], "sequence core": f"`{core}`", **facts}
    fidelity, examination = config.results.get("fidelity"), None
    lines = [f"# {game.name}", ""]
    if fidelity is not None:
        examination = Examination.from_json(fidelity, "results.fidelity")
        lines += [*(f"- {one}" for one in summarize(list(examination.found.values()))), ""]
    lines += [*markdown(["", ""], facts.items()), ""]
    if origin.begun_from:
        lines += [
            "It starts from the weights of earlier runs, the latest first:",
            "",
            *markdown(
                ["preset", "steps", "updates", "hours", "hardware", "seed"],
                (
                    [
                        f"`{run['preset']}`",
                        f"{run['environment_steps']:,}",
                        f"{run['updates']:,}",
                        f"{run['hours']:.2f}",
                        run["hardware"],
                        str(run["seed"]),
                    ]
                    for run in origin.earlier_runs
                ),
            ),
            "",
        ]
    lines += [origin.note, ""] if origin.note else []
    if scores := stored_scores(config.results):
        lines += _scores(scores, game, origin.real_steps)
    if examination is not None:
        verdict_first = sorted(
            examination.found.values(), key=lambda report: not isinstance(report, CheckReport)
        )
        lines += [
            "## The dream against the game",
            "",
            *markdown_tables(verdict_first),
            f"To measure again: `glam fidelity {game.name}`, with pictures by `--out FOLDER`.",
            "",
        ]
    return "\n".join(lines)


def _scores(scores: Sequence[Mapping[str, Any]], game: Game, real_steps: int) -> list[str]:
    """Write the part on the scores, `ScoreReport`s as JSON, and the published ones."""

    def fixed(figure: float | None) -> str:
        return NONE if figure is None else f"{figure:.2f}"

    def under(play: PlaySettings | None) -> list[str]:
        if play is None:
            return [NONE] * 3
        return [play.protocol or NONE, f"{play.repeat_action_probability:g}", play.no_ops]

    rows = [
        [
            "this checkpoint",
            f"{score['mean']:.2f} ± {fixed(score['standard_error'])}",
            *under(play_of(score)),
            f"{score['episodes']} whole games, mean ± standard error; 95 % interval "
            f"{fixed(score['interval_low'])} to {fixed(score['interval_high'])}; "
            f"human-normalised {100 * score['human_normalized']:.1f} %",
        ]
        for score in scores
    ]
    published = {"random": game.random, "human": game.human, **game.published}
    rows += [
        [name, str(value), *under(METHODS.get(name)), "published"]
        for name, value in published.items()
    ]
    commands = " or ".join(
        f"`glam eval {game.name} {play_of(score).options} --episodes {score['episodes']} "
        f"--seed {score['seed']}`"
        for score in scores
    )
    return [
        "## Score on the real game",
        "",
        *markdown(["agent", "score", "protocol", "sticky actions", "no-ops", " "], rows),
        "",
        "The protocol of a published score is that of the method's own code, where it is known. "
        f"This checkpoint's model has seen {real_steps:,} real steps in all its runs together; the "
        "published methods have seen 100,000.",
        "",
        f"To play it again: {commands}. Name a checkpoint that is not `checkpoints/{game.name}` by "
        "its folder.",
        "",
    ]
