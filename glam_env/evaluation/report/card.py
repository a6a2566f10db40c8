"""CARD.md: what a checkpoint is and what was measured of it, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glam_env.checkpoint.config import CheckpointConfig
from glam_env.games import find_game

HORIZONS = (1, 4, 8, 16, 32, 64)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _range(interval: list[float] | None, digits: int = 2) -> str:
    return "–" if interval is None else " to ".join(f"{end:.{digits}f}" for end in interval)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def _fidelity(report: Mapping[str, Any]) -> list[str]:
    """The part on fidelity, from an Examination as JSON."""
    images, horizons = report["images"], [h for h in HORIZONS if h <= report["horizon"]]
    players = "; ".join(report["player_rewards"])
    painters = ("dream", "repeat", "average")
    return [
        "## The dream against the game",
        "",
        *_checks(report["checks"]),
        f"{report['windows']} windows of held-out real play ({players}), open loop: "
        f"{report['context']} real steps, then the real actions alone.",
        "",
        "Squared error on the foreground, the pixels that differ from the game's background "
        "(a background alone: 1), and PSNR and SSIM over the whole image, in which an empty table "
        "looks well already; dream / last real frame / average real frame:",
        "",
        *_table(
            ["steps ahead", "foreground error", "PSNR (dB)", "SSIM"],
            [
                [
                    str(h),
                    *(
                        " / ".join(_number(images[painter][key][h - 1], n) for painter in painters)
                        for key, n in (("foreground_error", 2), ("psnr", 1), ("ssim", 3))
                    ),
                ]
                for h in horizons
            ],
        ),
        *_objects(report["objects"], horizons),
        "Rewards and ends of life in the dream, matched with the real ones within ± 2 steps (F1 "
        "with its 95 % interval, and that of the base rate):",
        "",
        *_table(
            ["steps", "real", "found", "false", "precision", "recall", "F1", "95 %", "by chance"],
            [
                [name, *_events(score)]
                for name, score in (
                    *((f"1–{score['horizon']}", score) for score in report["rewards"]),
                    *(
                        (f"1–{score['horizon']}, {player}", score)
                        for player, score in report["player_rewards"].items()
                    ),
                    *(
                        (f"1–{score['horizon']}, ends of life", score)
                        for score in report["endings"]
                    ),
                )
            ],
        ),
        "Points of a window; a slope of 1 can be taken at face value, a squared error is good if "
        "it is less than that of never a point and of always the average:",
        "",
        *_table(
            ["steps", "real", "dreamt", "correlation", "slope", "squared error", "never / average"],
            [
                [
                    f"1–{sums['horizon']}",
                    *(_number(sums[key], 3) for key in ("real", "dreamt")),
                    *(_number(sums[key]) for key in ("correlation", "slope")),
                    _number(sums["error"], 3),
                    " / ".join(_number(sums[f"{key}_error"], 3) for key in ("never", "average")),
                ]
                for sums in report["reward_sums"]
            ],
        ),
        "Latent KL one step ahead: "
        f"{_number(report['latent_kl']['dream'])} nats (last frame "
        f"{_number(report['latent_kl']['repeat'])}, average "
        f"{_number(report['latent_kl']['average'])}).",
        "",
        *_behavior(report["behavior"]),
        *_branches(report.get("branches")),
    ]


def _checks(checks: list[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            check["name"],
            _number(check["figure"]),
            f"{check['relation']} {check['bound']:g}",
            "pass" if check["passed"] else "**fail**",
        ]
        for check in checks
    ]
    return _table(["threshold", "measured", "bound", ""], rows) if rows else []


def _objects(objects: Mapping[str, Any], horizons: list[int]) -> list[str]:
    if not objects:
        return []
    return [
        "Objects, found by one detector in both pictures (distance in pixels of 64, median; in "
        "parentheses those of the last real frame):",
        "",
        *_table(
            ["object", "steps ahead", "distance", "real ones missed", "dreamt ones not there"],
            [
                [
                    name.replace("_", " "),
                    str(h),
                    *(
                        f"{_number(curve[key][h - 1])} "
                        f"({_number(objects['repeat'][name][key][h - 1])})"
                        for key in ("distance", "missed", "spurious")
                    ),
                ]
                for name, curve in objects["dream"].items()
                for h in horizons
            ],
        ),
    ]


def _events(score: Mapping[str, Any]) -> list[str]:
    return [
        *(str(score[key]) for key in ("real", "found", "false_alarms")),
        *(_number(score[key]) for key in ("precision", "recall", "f1")),
        _range(score["f1_interval"]),
        _number(score["chance_f1"]),
    ]


def _behavior(report: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            name,
            *(
                text
                for world in ("game", "dream")
                for text in (_number(rate[world]), _range(rate[f"{world}_interval"]))
            ),
        ]
        for name, rate in ((name, report[name]) for name in ("won", "lost", "net"))
    ]
    rows += [
        [
            f"{name}, first {part['horizon']} steps",
            *(
                text
                for world in ("game", "dream")
                for text in (_number(part[f"{world}_{name}"]), "")
            ),
        ]
        for part in report["early"]
        for name in ("won", "lost")
    ]
    game, dream = report["game"], report["dream"]
    return [
        f"The agent from {report['moments']} moments of its own held-out play, {report['horizon']} "
        f"steps in the game and {report['dreams_per_moment']} times in dreams; points in 1000 "
        "steps, with 95 % intervals:",
        "",
        *_table(["points", "game", "95 %", "dream", "95 %"], rows),
        f"Steps to the first point: {_number(game['first_point'], 1)} in the game, "
        f"{_number(dream['first_point'], 1)} in dreams; plays without any: "
        f"{_number(game['pointless'])} and {_number(dream['pointless'])}; distance between the "
        f"shares of actions: {_number(report['action_distance'], 3)} (total variation).",
        "",
    ]


def _branches(report: Mapping[str, Any] | None) -> list[str]:
    if report is None:
        return []
    return [
        f"Each action held for {report['horizon']} steps from {report['moments']} moments of "
        "held-out play, in the game, which was wound back, and in dreams "
        f"({report['futures']} of each); at {report['decided']} moments it matters in the game "
        "which one. An action's effect is its return less the actions' mean:",
        "",
        *_table(
            ["", "dreams", "95 %", "by chance"],
            [
                [title, _number(report[name]), _range(report[f"{name}_interval"]), chance]
                for title, name, chance in (
                    ("pairs of actions of which dreams tell the better", "right", "0.50"),
                    ("variance of effects explained (1: all)", "explained", "0 (none supposed)"),
                    ("share of points missed by dreams' best action", "regret", "1.00"),
                )
            ],
        ),
        f"Largest less least return of an action: {_number(report['true_difference'])} in the game "
        f"and {_number(report['dreamt_difference'])} in dreams where it matters, "
        f"{_number(report['false_difference'])} in dreams where it does not.",
        "",
    ]


def _begun_from(origin: Mapping[str, Any]) -> list[str]:
    """A row for each run that handed its weights on, the latest first."""
    rows = []
    while origin:
        rows.append(
            f"| begun from the weights of | an earlier run: preset `{origin['preset']}`, "
            f"{origin['environment_steps']:,} steps, {origin['updates']:,} updates, "
            f"{origin['hours']:.2f} h on {origin['hardware']}, seed {origin['seed']} |"
        )
        origin = origin.get("begun_from", {})
    return rows


def write_card(config: CheckpointConfig) -> str:
    """The card of a checkpoint, from its config.json alone.

    Args:
        config: with ``results``: ``score`` (a ScoreReport as JSON) and ``fidelity`` (a
            Examination as JSON), each if it was measured.
    """
    game, origin, protocol = find_game(config.game), config.provenance, config.protocol
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    lines = [
        f"# {game.name}",
        "",
        "| | |",
        "|---|---|",
        f"| preset | `{origin.preset}` |",
        *_begun_from(origin.begun_from),
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
        *((origin.note, "") if origin.note else ()),
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
            f"`glam eval {game.name} --episodes {score['episodes']} --seed {score['seed']}`; a "
            f"checkpoint that is not `checkpoints/{game.name}` is named by its folder.",
            "",
        ]
    fidelity = config.results.get("fidelity")
    if fidelity is not None:
        lines += _fidelity(fidelity)
        lines += [f"Again by `glam fidelity {game.name}`, with pictures by `--out FOLDER`.", ""]
    return "\n".join(lines)
