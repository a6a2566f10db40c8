"""The report of a benchmark: as JSON, as a table, and as a plot of such files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glam_env.errors import GlamError
from glam_env.evaluation.report.plots import pyplot, save_figure

FORMAT = 1
COLORS = {"latent": "tab:blue", "rgb": "tab:orange", "grayscale": "tab:purple"}
STYLES = ("-", "--", "-.", ":")
_MAKERS = r"\(R\)|\(TM\)|\b(Intel|AMD|NVIDIA|Processor|CPU)\b|@.*?(?=,)|\d+-Core"


def hardware_name(hardware: str, threads: int, device: str) -> str:
    """Return a file name for a machine, such as `xeon-2-cores`.

    Args:
        hardware: The machine in words.
        threads: Threads of PyTorch, named if a CPU has more cores.
        device: Type of the device.
    """
    words = re.findall(r"[a-z0-9]+", re.sub(_MAKERS, "", hardware).lower())
    if device == "cpu" and f"{threads} cores" not in hardware:
        words += [str(threads), "thread" if threads == 1 else "threads"]
    return "-".join(words) or device


# --- table ---------------------------------------------------------------------------------------


def speed_table(report: Mapping[str, Any]) -> str:
    """Format a report as text. Figures are medians, with the least and the greatest value."""
    versions = report["versions"]
    lines = [
        f"{report['game']} on {report['hardware']}: {report['device']}, "
        f"{_count(report['threads'], 'thread')}, torch {versions['torch']}",
        "medians (least – greatest of the turns)",
    ]
    if emulator := report["emulator"]:
        lines += [
            "",
            f"the emulator, ale-py {versions['ale-py']}, {emulator['frames']}: fastest with "
            f"{_count(emulator['num_envs'], 'game')} on "
            f"{_count(emulator['num_threads'], 'thread')}, "
            f"of {len(emulator['tried'])} settings tried",
            f"  AtariVectorEnv alone  {_spread(emulator['bare'])} steps/s",
            f"  GLAMReal around it    {_spread(emulator['real'])} steps/s",
        ]
    for name, preset in report["presets"].items():
        lines += ["", f"{name}: {preset['parameters'] / 1e6:.2f} M parameters, {preset['weights']}"]
        lines += _dream_lines(preset["dreams"])
        lines += _long_lines(preset["long"])
        lines += _part_lines(preset["training"])
    return "\n".join(lines)


def _dream_lines(dreams: Sequence[Mapping[str, Any]]) -> list[str]:
    if not dreams:
        return []
    lines = [
        f"  {'shows':9} {'dreams':>6} {'steps/s':>26} {'µs/step':>8} "
        f"{': emulator':>20} {'memory':>9}"
    ]
    for one in dreams:
        head = f"  {one['obs_type']:9} {one['num_envs']:6}"
        if "why" in one:
            lines.append(f"{head} {one['why']}")
            continue
        ratio = "-" if one["ratio"] is None else _spread(one["ratio"], 2)
        lines.append(
            f"{head} {_spread(one['dream']):>26} {one['microseconds_per_step']:8.1f} "
            f"{ratio:>20} {_megabytes(one['memory']['growth']):>9}"
        )
    return lines


def _long_lines(dreams: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"  {_count(one['num_envs'], 'dream')} of {one['steps']:,} steps, {one['obs_type']}: "
        f"{1e3 * one['first']:.2f} ms a step in the first tenth, {1e3 * one['last']:.2f} in the "
        f"last ({one['last_to_first']:.2f}); memory {_megabytes(one['memory_growth'])} more"
        for one in dreams
    ]


def _part_lines(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    if not parts:
        return []
    width = max(len(f"{part['name']} ({part['what']})") for part in parts)
    lines = [f"  {'training':{width}} {'milliseconds':>26} {'memory':>9}"]
    for part in parts:
        title = f"{part['name']} ({part['what']})"
        seconds = part["seconds"]
        ms = {name: 1e3 * seconds[name] for name in ("median", "low", "high")}
        memory = _megabytes(part["memory"]["growth"])
        lines.append(f"  {title:{width}} {_spread(ms, 1):>26} {memory:>9}")
    return lines


def _spread(figure: Mapping[str, Any], digits: int = 0) -> str:
    median, low, high = (f"{figure[name]:,.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} ({low} – {high})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{round(count / 1e6, 1) + 0.0:,.1f} MB"  # no −0.0


# --- files ---------------------------------------------------------------------------------------


def report_path(to: Path, report: Mapping[str, Any]) -> Path:
    """Return the file of a report; in a folder, the hardware names the file."""
    if to.suffix == ".json":
        return to
    device = str(report["device"]).split(":")[0]
    return to / f"{hardware_name(report['hardware'], report['threads'], device)}.json"


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report as JSON.

    Raises:
        GlamError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise GlamError(f"cannot write {path} ({error}); choose a writable --to") from error


def require_writable(path: Path) -> None:
    """Make the folder of a file.

    Raises:
        GlamError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GlamError(f"cannot write {path} ({error}); choose a writable --to") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise GlamError(f"cannot write {path}; choose a writable --to")


def read_report(path: Path) -> dict[str, Any]:
    """Read what `write_report` wrote.

    Raises:
        GlamError: If it cannot be read, or is something else.
    """
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise GlamError(f"{path} cannot be read ({error}); give a file of `glam bench`") from error
    if not isinstance(report, dict) or report.get("bench_format") != FORMAT:
        raise GlamError(f"{path} is no report of this `glam bench`; measure again with --to")
    return report


# --- plot ----------------------------------------------------------------------------------------


def save_speed_plot(path: Path, reports: Sequence[Mapping[str, Any]]) -> None:
    """Draw dream steps a second over the number of dreams, and the emulator as a line.

    Args:
        path: The PNG file.
        reports: Reports, a panel each.

    Raises:
        GlamError: If matplotlib is missing, a report has no dreams, or the file cannot be written.
    """
    if not all(any(map(_drawable, report["presets"].values())) for report in reports):
        raise GlamError("a report without dreams cannot be drawn; measure without --skip dreams")
    plt = pyplot()
    figure, axes = plt.subplots(
        1,
        len(reports),
        figsize=(1 + 6 * len(reports), 5),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, report in zip(axes[0], reports, strict=True):
        _draw_speeds(axis, report)
    axes[0, 0].set_ylabel("environment steps a second")
    save_figure(figure, path)


def _drawable(preset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in preset["dreams"] if "dream" in one]


def _draw_speeds(axis: Any, report: Mapping[str, Any]) -> None:
    counts: set[int] = set()
    for style, (name, preset) in zip(STYLES * 2, report["presets"].items(), strict=False):
        measured = _drawable(preset)
        counts |= {one["num_envs"] for one in measured}
        for obs_type in dict.fromkeys(one["obs_type"] for one in measured):
            own = [one for one in measured if one["obs_type"] == obs_type]
            envs = [one["num_envs"] for one in own]
            spread = [[one["dream"][end] for one in own] for end in ("low", "high")]
            color = COLORS[obs_type]
            axis.plot(
                envs,
                [one["dream"]["median"] for one in own],
                style,
                color=color,
                marker="o",
                markersize=4,
                label=f"{name}, {obs_type}",
            )
            axis.fill_between(envs, *spread, color=color, alpha=0.2, linewidth=0)
    if emulator := report["emulator"]:
        bare = emulator["bare"]
        axis.axhspan(bare["low"], bare["high"], color="tab:green", alpha=0.2, linewidth=0)
        axis.axhline(bare["median"], color="tab:green", label="the emulator (ale-py)")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    ticks = sorted(counts)
    axis.set_xticks(ticks, [str(count) for count in ticks])
    title = f"{report['game']}: {report['hardware']}, {report['device']}"
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("dreams side by side")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
