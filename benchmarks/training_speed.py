"""How fast training is, beside an older commit: both measured by turns in one run.

    python benchmarks/training_speed.py --to benchmarks/results/training_speed.json
    python benchmarks/training_speed.py --profile

One process for each code base (``training_iteration.py``) runs training iterations on synthetic
experience with its own presets' real sizes. They take turns, so the ratio stands where the
machine's speed drifts; figures are medians over the turns. A preset that freezes its images halfway
is measured in both phases; an older commit that cannot freeze them goes on as it began.
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
        before: the older commit.
        presets: whose sizes.
        turns: of each preset and phase; the first two warm up and do not count.
        paper_turns: the same for ``paper``, whose iterations take long on a CPU.
        model_only: run the world model's updates alone.
        agent_hidden: width of the agent's layers in both (0: each its preset's own).
        profile: print where the time goes in place of the speeds.
        rows: operators of each profile.
        json: print the figures as JSON.
        to: a JSON file for the figures.
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
    """A commit's files in a folder of their own, for as long as they are needed."""
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
        tree: the code base.
        agent: see :class:`training_iteration.Iterations`.
    """

    tree: Path
    agent: dict[str, Any]
    process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Measurer:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "training_iteration.py")],
            env=os.environ | {"PYTHONPATH": str(self.tree)},
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
        """Has something done and waits for the answer."""
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
    """Median milliseconds of each part, of their sum, and the ratios after / before."""
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
    """The figures of all presets and phases; prints a table on the way."""
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
    """One line of the table."""
    print(
        f"{preset:8} {phase:8} {part:10} {before:11,.1f} {after:11,.1f} {after / before:6.2f}",
        flush=True,
    )


def profiles(args: Args, before: Measurer, after: Measurer) -> list[dict[str, Any]]:
    """The heaviest operators of both code bases; prints them as tables."""
    found = []
    for preset in args.presets:
        for phase, share in after.ask("shares", preset, "latents").items():
            if share == 0.0:
                continue
            for name, measurer in (("before", before), ("after", after)):
                turns = 1 if preset == "paper" else 3
                for _ in range(3):  # until no memory is new any more
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
    """Prints tables, and writes the figures if a file is named."""
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
