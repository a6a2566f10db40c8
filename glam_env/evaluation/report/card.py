"""CARD.md: what a checkpoint is and what was measured of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from glam_env.checkpoint.config import CheckpointConfig
from glam_env.evaluation.examine import Examination
from glam_env.evaluation.measures.thresholds import CheckReport
from glam_env.evaluation.report.tables import NONE, markdown, markdown_tables
from glam_env.games import Game, find_game


def write_card(config: CheckpointConfig) -> str:
    """Write the card of a checkpoint from its config alone; nothing is measured.

    Args:
        config: Its `results` hold `score` (a `ScoreReport` as JSON) and `fidelity` (an
            `Examination` as JSON), each if it was measured.

    Raises:
        GlamError: If the results are no such JSON.
    """
    game, origin, settings = find_game(config.game), config.provenance, config.protocol
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    facts = {
        "preset": f"`{origin.preset}`",
        "real environment steps": f"{origin.environment_steps:,}",
        "world-model updates": f"{origin.updates:,}",
        "training time": f"{origin.hours:.2f} h on {origin.hardware}",
        "seed": str(origin.seed),
        "sticky actions": str(settings.repeat_action_probability),
        "frames to an agent step": str(settings.frame_skip),
        "dream horizon": f"{config.max_episode_steps} steps",
        "start contexts": f"{config.contexts.count} of {config.contexts.length} steps",
        "versions": versions,
    }
    lines = [f"# {game.name}", "", *markdown(["", ""], facts.items()), ""]
    if origin.begun_from:
        lines += [
            "It starts from the weights of earlier runs, the latest first:",
            "",
            *markdown(
                ["preset", "steps", "updates", "hours", "hardware", "seed"],
                _earlier_runs(origin.begun_from),
            ),
            "",
        ]
    lines += [origin.note, ""] if origin.note else []
    score = config.results.get("score")
    if score is not None:
        lines += _score(score, game)
    fidelity = config.results.get("fidelity")
    if fidelity is not None:
        examination = Examination.from_json(fidelity, "results.fidelity")
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


def _earlier_runs(origin: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield a line for each run that handed its weights on, the latest first."""
    while origin:
        yield [
            f"`{origin['preset']}`",
            f"{origin['environment_steps']:,}",
            f"{origin['updates']:,}",
            f"{origin['hours']:.2f}",
            origin["hardware"],
            str(origin["seed"]),
        ]
        origin = origin.get("begun_from", {})


def _score(score: Mapping[str, Any], game: Game) -> list[str]:
    """The part on the score, from a `ScoreReport` as JSON, beside the published ones."""

    def fixed(figure: float | None) -> str:
        return NONE if figure is None else f"{figure:.2f}"

    here = (
        f"{score['episodes']} whole games, mean ± standard error; 95 % interval "
        f"{fixed(score['interval_low'])} to {fixed(score['interval_high'])}"
    )
    published = {"random": game.random, "human": game.human, **game.published}
    return [
        "## Score on the real game",
        "",
        *markdown(
            ["agent", "score", " "],
            [
                [
                    "this checkpoint",
                    f"{score['mean']:.2f} ± {fixed(score['standard_error'])}",
                    here,
                ],
                *([name, str(value), "published"] for name, value in published.items()),
            ],
        ),
        "",
        f"Human-normalised: {100 * score['human_normalized']:.1f} %. To play it again: "
        f"`glam eval {game.name} --episodes {score['episodes']} --seed {score['seed']}`. Name a "
        f"checkpoint that is not `checkpoints/{game.name}` by its folder.",
        "",
    ]
