"""CARD.md: what a checkpoint is and what was measured of it, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glam_env.checkpoint_config import CheckpointConfig
from glam_env.games import find_game

HORIZONS = (1, 4, 8, 16, 32)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def _fidelity(report: Mapping[str, Any]) -> list[str]:
    """The part on fidelity, from a FidelityReport as JSON."""
    images, horizons = report["images"], [h for h in HORIZONS if h <= report["horizon"]]
    lines = [
        "## The dream against the game",
        "",
        f"{report['windows']} windows of held-out real play (the agent's own, ever noisier, and "
        f"random), open loop: {report['context']} real steps, then the real actions alone.",
        "",
        "Squared error on the foreground, the pixels that differ from the game's background "
        "(a background alone: 1), and PSNR over the whole image:",
        "",
        *_table(
            ["steps ahead", "dream", "last real frame", "average real frame", "dream's PSNR (dB)"],
            [
                [
                    str(h),
                    *(
                        _number(images[painter]["foreground_error"][h - 1])
                        for painter in ("dream", "repeat", "average")
                    ),
                    _number(images["dream"]["psnr"][h - 1], 1),
                ]
                for h in horizons
            ],
        ),
        "Rewards of the dream, matched with the real ones within ± 2 steps:",
        "",
        *_table(
            ["steps", "real", "found", "false", "precision", "recall", "F1"],
            [
                [
                    f"1–{score['horizon']}",
                    *(str(score[key]) for key in ("real", "found", "false_alarms")),
                    *(_number(score[key]) for key in ("precision", "recall", "f1")),
                ]
                for score in report["rewards"]
            ],
        ),
    ]
    if objects := report["objects"].get("dream"):
        lines += [
            "Objects, found by one detector in both pictures (distance in pixels of 64, median):",
            "",
            *_table(
                ["object", "steps ahead", "distance", "real ones missed", "dreamt ones not there"],
                [
                    [
                        name.replace("_", " "),
                        str(h),
                        *(_number(curve[key][h - 1]) for key in ("distance", "missed", "spurious")),
                    ]
                    for name, curve in objects.items()
                    for h in horizons
                ],
            ),
        ]
    return lines


def write_card(config: CheckpointConfig) -> str:
    """The card of a checkpoint, from its config.json alone.

    Args:
        config: with ``results``: ``score`` (a ScoreReport as JSON) and ``fidelity`` (a
            FidelityReport as JSON), each if it was measured.
    """
    game, origin, protocol = find_game(config.game), config.provenance, config.protocol
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    lines = [
        f"# {game.name}",
        "",
        "| | |",
        "|---|---|",
        f"| preset | `{origin.preset}` |",
        f"| real environment steps | {origin.environment_steps:,} |",
        f"| world-model updates | {origin.updates:,} |",
        f"| training time | {origin.hours:.2f} h on {origin.hardware} |",
        f"| seed | {origin.seed} |",
        f"| sticky actions | {protocol.repeat_action_probability} |",
        f"| frames to an agent step | {protocol.frame_skip} |",
        f"| dream horizon | {config.max_episode_steps} steps |",
        f"| start contexts | {config.contexts.count} of {config.contexts.length} steps |",
        f"| versions | {versions} |",
        "",
    ]
    score = config.results.get("score")
    if score is not None:
        lines += [
            "## Score on the real game",
            "",
            "| agent | score | |",
            "|---|---|---|",
            f"| this checkpoint | {score['mean']:.2f} ± {_number(score['standard_error'])} "
            f"| {score['episodes']} whole games, mean ± standard error; 95 % interval "
            f"{_number(score['interval_low'])} to {_number(score['interval_high'])} |",
            f"| random | {game.random} | published |",
            f"| human | {game.human} | published |",
        ]
        lines += [f"| {name} | {value} | published |" for name, value in game.published.items()]
        lines += [
            "",
            f"Human-normalised: {100 * score['human_normalized']:.1f} %. Again by "
            f"`glam eval {game.name} --episodes {score['episodes']} --seed {score['seed']}`.",
            "",
        ]
    fidelity = config.results.get("fidelity")
    if fidelity is not None:
        lines += _fidelity(fidelity)
        lines += [f"Again by `glam fidelity {game.name}`.", ""]
    return "\n".join(lines)
