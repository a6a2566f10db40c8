"""The speed of training beside an older commit's, measured by turns in one run.

    python benchmarks/training_speed.py --to benchmarks/results/training_speed.json
    python benchmarks/training_speed.py --profile

A process for each code base (`training_iteration.py`) runs training iterations on synthetic
experience, with its own presets' real sizes. The processes take turns, so that the ratio holds on a
machine whose speed drifts. Figures are medians over the turns. A preset that freezes its image
model halfway is measured in both phases; an older commit that cannot freeze it learns from images
in both.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from glam_env.training.export import describe_hardware

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Args:
    """Measure training iterations of two commits side by side.

    Attributes:
        before: The older commit.
        presets: Presets, whose sizes are measured.
        turns: Turns of each preset and phase. The first two warm up and do not count.
        paper_turns: The same for paper, whose iterations take long on a CPU.
        model_only: Run the world model's updates alone.
        agent_hidden: Width of the agent's layers in both. 0 leaves each its preset's own.
        profile: Print where the time goes instead of the speeds.
        rows: Operators of each profile.
        json: Print the figures as JSON.
        to: A JSON file for the figures.
    """

    before: str = "40344c2"
    presets: tuple[str, ...] = ("small", "paper")
    turns: int = 13
    paper_turns: int = 4
    model_only: bool = False
    agent_hidden: int = 0
    profile: bool = False
    rows: int = 12
    json: bool = False
    to: Path | None = None


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Check a commit out into a folder of its own, and remove the folder afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run(
            [*git, "add", "--detach", str(tree), commit],
            check=True,
            stdout=2,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


@dataclass
class Measurer:
    """A measuring process of one code base.

    Args:
        tree: The code base.
        agent: Settings of the agent, see `training_iteration.Iterations`.
    """

    tree: Path
    agent: dict[str, Any]
    process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Measurer:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "training_iteration.py")],
            env=os.environ | {"PYTHONPATH": f"{self.tree}{os.pathsep}{self.tree / 'agents'}"},
            cwd=self.tree,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def ask(self, do: str, preset: str, phase: str, **more: Any) -> dict[str, Any]:
        """Send a request, and wait for the answer."""
        request = {"do": do, "preset": preset, "phase": phase, "agent": self.agent, **more}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"the measuring process of {self.tree} ended")
        return json.loads(answer)


def measure(
    before: Measurer, after: Measurer, preset: str, phase: str, turns: int, model_only: bool
) -> dict[str, dict[str, float]]:
    """Return median milliseconds of each part and their sum, and the ratios after / before."""
    taken: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    for turn in range(turns):
        for name, measurer in (("before", before), ("after", after)):
            times = measurer.ask("turn", preset, phase, model_only=model_only)
            if turn > 1:
                taken[name].append(times | {"iteration": sum(times.values())})
    parts = list(taken["after"][0])
    figures: dict[str, dict[str, float]] = {
        name: {part: 1000 * statistics.median(t[part] for t in times) for part in parts}
        for name, times in taken.items()
    }
    figures["ratio"] = {part: figures["after"][part] / figures["before"][part] for part in parts}
    return figures


def speeds(args: Args, before: Measurer, after: Measurer) -> list[dict[str, Any]]:
    """Measure all presets and phases, and print a table on the way."""
    print(
        f"{'preset':8} {'phase':8} {'part':10} {'before (ms)':>11} {'after (ms)':>11} {'ratio':>6}"
    )
    rows: list[dict[str, Any]] = []
    for preset in args.presets:
        shares = after.ask("shares", preset, "latents")
        whole = {"before": 0.0, "after": 0.0}
        for phase, share in shares.items():
            if share == 0.0:
                continue
            turns = args.paper_turns if preset == "paper" else args.turns
            figures = measure(before, after, preset, phase, turns, args.model_only)
            rows.append({"preset": preset, "phase": phase, "share": share, **figures})
            for name in whole:
                whole[name] += share * figures[name]["iteration"]
            for part in figures["ratio"]:
                show(preset, phase, part, *(figures[name][part] for name in ("before", "after")))
        show(preset, "run", "mean", whole["before"], whole["after"])
        rows.append({"preset": preset, "phase": "run", "share": 1.0, **whole})
    return rows


def show(preset: str, phase: str, part: str, before: float, after: float) -> None:
    """Print one line of the table."""
    print(
        f"{preset:8} {phase:8} {part:10} {before:11,.1f} {after:11,.1f} {after / before:6.2f}",
        flush=True,
    )


def profiles(args: Args, before: Measurer, after: Measurer) -> list[dict[str, Any]]:
    """Find the heaviest operators of both code bases, and print them as tables."""
    found = []
    for preset in args.presets:
        for phase, share in after.ask("shares", preset, "latents").items():
            if share == 0.0:
                continue
            for name, measurer in (("before", before), ("after", after)):
                turns = 1 if preset == "paper" else 3
                for _ in range(3):  # until memory is no longer allocated
                    measurer.ask("turn", preset, phase, model_only=args.model_only)
                record = measurer.ask(
                    "profile",
                    preset,
                    phase,
                    turns=turns,
                    rows=args.rows,
                    model_only=args.model_only,
                )
                found.append({"preset": preset, "phase": phase, "code": name, **record})
                print(
                    f"\n{preset}, {phase}, {name}: {record['ms']:,.0f} ms and "
                    f"{record['calls']:,.0f} operators an iteration\n\n"
                    "| operator | ms | share | calls |\n|---|---|---|---|"
                )
                for row in record["operators"]:
                    print(
                        f"| `{row['operator']}` | {row['ms']:,.1f} | {row['share']:.0%} | "
                        f"{row['calls']:,.0f} |",
                        flush=True,
                    )
    return found


def main(args: Args) -> None:
    """Print tables, and write the figures if a file is named."""
    agent = {"hidden": args.agent_hidden} if args.agent_hidden else {}
    with ExitStack() as stack:
        tree = stack.enter_context(checked_out(args.before))
        before, after = (stack.enter_context(Measurer(code, agent)) for code in (tree, ROOT))
        if args.profile:
            figures = {"profiles": profiles(args, before, after)}
        else:
            figures = {"speeds": speeds(args, before, after)}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = {
        "hardware": describe_hardware(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "before": args.before,
        "agent_hidden": args.agent_hidden,
        **figures,
    }
    text = json.dumps(facts, indent=2)
    if args.json:
        print(text)
    if args.to is not None:
        args.to.parent.mkdir(parents=True, exist_ok=True)
        args.to.write_text(text + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
