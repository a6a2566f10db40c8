"""Plots of a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from glam_env.errors import GlamError
from glam_env.games import find_game

COLORS = {"dream": "tab:blue", "repeat": "tab:orange", "average": "tab:gray"}
PAINTERS = {"dream": "dream", "repeat": "last real frame", "average": "average real frame"}
IMAGES = {
    "foreground_error": "error on the foreground",
    "union_error": "the same, and on what is drawn on nothing",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
}
OBJECTS = {
    "distance": "distance in pixels (median)",
    "missed": "share missing",
    "spurious": "share drawn where none is",
}


def pyplot() -> ModuleType:
    """matplotlib's pyplot, which draws into files only.

    Raises:
        GlamError: If matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise GlamError('plots need matplotlib: pip install "glam-env[video]"') from error
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def save_figure(figure: Any, path: Path) -> Path:
    """Writes a figure, makes its folder if there is none, and closes it.

    Raises:
        GlamError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:  # ValueError: no such kind of picture
        raise GlamError(f"cannot write {path} ({error}); choose a writable .png") from error
    finally:
        pyplot().close(figure)
    return path


def save_plots(folder: Path, report: Mapping[str, Any]) -> list[Path]:
    """Draws a report as PNG files: images, objects (if there are any), rewards, behavior.

    Args:
        folder: Made if missing.
        report: An Examination as JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        _save_images(folder / "images.png", report),
        _save_rewards(folder / "rewards.png", report),
        _save_behavior(folder / "behavior.png", report["behavior"], report["game"]),
    ]
    if report["objects"]:
        paths.append(_save_objects(folder / "objects.png", report))
    return paths


def _save_images(path: Path, report: Mapping[str, Any]) -> Path:
    plt = pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for axis, (name, title) in zip(axes.flat, IMAGES.items(), strict=True):
        for painter, label in PAINTERS.items():
            _curve(axis, report["images"][painter][name], color=COLORS[painter], label=label)
        axis.set(title=title, xlabel="steps ahead")
        if name.endswith("error"):
            axis.axhline(1.0, color="black", linewidth=0.8, linestyle=":", label="background only")
            axis.set_ylim(bottom=0)
    axes[0, 0].legend()
    figure.suptitle(f"{report['game']}: dreams beside the game, {report['windows']} windows")
    return save_figure(figure, path)


def _save_objects(path: Path, report: Mapping[str, Any]) -> Path:
    plt = pyplot()
    names = list(report["objects"]["dream"])
    figure, axes = plt.subplots(
        len(OBJECTS),
        len(names),
        figsize=(4 * len(names), 9),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for row, (key, title) in zip(axes, OBJECTS.items(), strict=True):
        row[0].set_ylabel(title)
        for axis, name in zip(row, names, strict=True):
            for painter in ("dream", "repeat"):
                curve = report["objects"][painter][name][key]
                _curve(axis, curve, color=COLORS[painter], label=PAINTERS[painter])
            axis.set_ylim(bottom=0)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name)
    for axis in axes[-1]:
        axis.set_xlabel("steps ahead")
    axes[0, 0].legend()
    figure.suptitle(f"{report['game']}: where things are, dreamt and real")
    return save_figure(figure, path)


def _save_rewards(path: Path, report: Mapping[str, Any]) -> Path:
    plt = pyplot()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
    horizons = [str(score["horizon"]) for score in report["rewards"]]
    for i, key in enumerate(("precision", "recall", "f1")):
        figures = [score[key] or 0.0 for score in report["rewards"]]
        places = [place + 0.25 * (i - 1) for place in range(len(horizons))]
        left.bar(places, figures, width=0.23, label="F1" if key == "f1" else key)
        if key == "f1":
            spread = [score["f1_interval"] for score in report["rewards"]]
            for place, interval in zip(places, spread, strict=True):
                if interval is not None:
                    left.plot([place, place], interval, color="black", linewidth=1)
            chance = [score["chance_f1"] or 0.0 for score in report["rewards"]]
            left.plot(places, chance, "k_", markersize=14, label="F1 by chance")
    left.set(title="points foretold within ± 2 steps", xlabel="to step", ylim=(0, 1))
    left.set_xticks(range(len(horizons)), horizons)
    left.legend()

    for player, score in report["player_rewards"].items():
        middle.barh(player.replace(", ", ",\n"), score["f1"] or 0.0, color=COLORS["dream"])
        middle.text(0.02, player.replace(", ", ",\n"), f"{score['real']} points", va="center")
    steps = next(iter(report["rewards"]))["horizon"]
    middle.set(title=f"F1 to step {steps}, by who played", xlim=(0, 1))
    middle.invert_yaxis()

    for sums in report["reward_sums"]:
        dreamt, real = ([b[side] for b in sums["bins"]] for side in ("dreamt", "real"))
        sizes = [10 + 150 * b["windows"] / report["windows"] for b in sums["bins"]]
        right.scatter(dreamt, real, sizes, alpha=0.7, label=f"to step {sums['horizon']}")
    right.axline((0, 0), slope=1, color="black", linewidth=0.8, linestyle=":")
    right.set(
        title="points of a window (size: windows)",
        xlabel="dreamt (expected)",
        ylabel="real (mean)",
    )
    right.legend()
    figure.suptitle(f"{report['game']}: rewards of dreams along the real actions")
    return save_figure(figure, path)


def _save_behavior(path: Path, behavior: Mapping[str, Any], game: str) -> Path:
    plt = pyplot()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
    for i, world in enumerate(("game", "dream")):
        color = "tab:green" if world == "game" else COLORS["dream"]
        for place, name in enumerate(("won", "lost", "net")):
            rate, at = behavior[name], place + 0.4 * (i - 0.5)
            label = world if name == "won" else None
            left.bar(at, rate[world], width=0.36, color=color, label=label)
            if (ends := rate[f"{world}_interval"]) is not None:
                left.plot([at, at], ends, color="black", linewidth=1)
        early = [*behavior["early"]]
        whole = {f"{world}_{name}": behavior[name][world] for name in ("won", "lost")}
        early.append({"horizon": behavior["horizon"], **whole})
        for name, style in (("won", "-"), ("lost", "--")):
            middle.plot(
                [str(part["horizon"]) for part in early],
                [part[f"{world}_{name}"] for part in early],
                style,
                color=color,
                marker="o",
                label=f"{name}, {world}",
            )
        shares = behavior[world]["actions"]
        places = [action + 0.4 * (i - 0.5) for action in range(len(shares))]
        right.bar(places, shares, width=0.36, color=color, label=world)
    left.set_xticks(range(3), ["won", "lost", "net"])
    left.axhline(0, color="black", linewidth=0.8)
    left.set(title="points in 1000 steps")
    middle.set(title="points in 1000 steps, over the first steps alone", xlabel="to step")
    middle.set_ylim(bottom=0)
    meanings = find_game(game).action_meanings
    right.set_xticks(range(len(meanings)), meanings, rotation=90 if len(meanings) > 6 else 20)
    right.set(title="share of each action")
    for axis in (left, middle, right):
        axis.legend()
    figure.suptitle(f"{game}: one policy from {behavior['moments']} real moments, in both worlds")
    return save_figure(figure, path)


def _curve(axis: Any, figures: list[float | None], **style: Any) -> None:
    known = [(k + 1, figure) for k, figure in enumerate(figures) if figure is not None]
    if known:
        axis.plot(*zip(*known, strict=True), **style)
