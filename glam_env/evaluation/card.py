"""CARD.md: what a checkpoint is and what was measured of it, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glam_env.checkpoint_config import CheckpointConfig
from glam_env.games import find_game


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _fidelity(report: Mapping[str, Any]) -> list[str]:
    curve, rewards = report["curve"], report["rewards"]
    lines = [
        "## The dream against the game",
        "",
        f"{report['windows']} windows of held-out real play (random, noisy and the agent's own), "
        f"open loop: {report['context']} real steps, then the real actions alone.",
        "",
        "Error on the foreground (pixels that differ from the background; 1 is an empty table):",
        "",
        "| step | dream | last real frame | average real frame | PSNR (dB) |",
        "|---|---|---|---|---|",
    ]
    for h in report["horizons"]:
        at = h - 1
        lines.append(
            f"| {h} | {_number(curve['foreground_error'][at])} "
            f"| {_number(curve['repeat_foreground_error'][at])} "
            f"| {_number(curve['average_foreground_error'][at])} "
            f"| {_number(curve['psnr'][at], 1)} |"
        )
    lines += [
        "",
        "Rewards, matched to the real ones within ± 2 steps:",
        "",
        "| steps | real | dreamt | precision | recall | F1 |",
        "|---|---|---|---|---|---|",
    ]
    for horizon, found in rewards.items():
        lines.append(
            f"| 1–{horizon} | {found['real']} | {found['dreamt']} | {_number(found['precision'])} "
            f"| {_number(found['recall'])} | {_number(found['f1'])} |"
        )
    if report.get("objects"):
        lines += ["", "Objects found in both pictures (distance in pixels of 64):", ""]
        lines += [
            "| object | step | distance | real ones missed | not there |",
            "|---|---|---|---|---|",
        ]
        for name, figures in report["objects"].items():
            for h in report["horizons"]:
                at = figures["horizons"].index(h)
                lines.append(
                    f"| {name} | {h} | {_number(figures['distance'][at])} "
                    f"| {_number(figures['missed'][at])} | {_number(figures['spurious'][at])} |"
                )
    return [*lines, ""]


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
