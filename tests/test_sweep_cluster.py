"""A sweep on a Ray cluster: nodes, workers and the driver are killed, and no bit changes."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sweeps import EVERY, SHORT, glam, metrics, trainings, wait_for

from glam_env.cli.main import main

ray = pytest.importorskip("ray", reason="ray is not installed")

KILLS = int(os.environ.get("GLAM_SWEEP_KILLS", "2"))  # of workers; the full form has ten
WHOLE = KILLS >= 10  # whole debug runs of three games; the short form has runs of 300 steps
GAMES, SEEDS = ("Pong", "Boxing", "Breakout")[: 3 if WHOLE else 2], (0, 1)
SETTINGS = EVERY if WHOLE else EVERY + SHORT


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a cluster of two nodes on this machine, with one CPU each, beside a head without."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    store = {"object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    try:
        yield cluster
    finally:
        cluster.shutdown()


class Watch(threading.Thread):
    """Looks again and again for runs that two processes train at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.ended = folder, threading.Event()
        self.looks, self.twice, self.seen = 0, [], set()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            found = trainings(self.folder)
            self.looks += 1
            self.seen |= {pid for pids in found.values() for pid in pids}
            self.twice += [(run, pids) for run, pids in found.items() if len(pids) > 1]


def workers(folder: Path) -> set[int]:
    """Return the Ray workers that train a run now, by what they wrote beside it."""
    found = set()
    for path, sessions in trainings(folder).items():
        try:
            status = json.loads((Path(path) / "sweep.json").read_text())
            parents = {int(Path(f"/proc/{pid}/stat").read_text().split()[3]) for pid in sessions}
        except (OSError, ValueError):
            continue
        found |= parents & {status["worker"]}  # a process that dies has lost its worker
    return found


@pytest.mark.emulator
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_nodes_workers_and_the_driver_are_killed_and_no_bit_changes(cluster, tmp_path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "sweep"
    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    first = cluster.add_node(**node)
    cluster.add_node(**node)
    words = ["sweep", "--games", *GAMES, "--seeds", "0-1", "--preset", "debug"]
    words += ["--set", *SETTINGS, "--folder", folder]
    words += ["--address", cluster.address, "--retries", 5 + KILLS]
    disturbances = ["worker"] * KILLS
    disturbances[KILLS // 2 : KILLS // 2] = ["node", "driver"]
    generator, killed = random.Random(5), set()
    watch = Watch(folder)
    watch.start()
    driver = glam(*words)
    try:
        for what in disturbances:
            wait_for(lambda: workers(folder) - killed)
            time.sleep(generator.uniform(0.0, 2.0))
            if what == "node":
                cluster.remove_node(first, allow_graceful=False)
                cluster.add_node(**node)
            elif what == "driver":  # the same command goes on
                driver.kill()
                driver.communicate()
                driver = glam(*words)
            else:
                pid = generator.choice(sorted(wait_for(lambda: workers(folder) - killed)))
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        out, err = driver.communicate(timeout=1200)
    finally:
        driver.kill()
        driver.communicate()
        watch.ended.set()
        watch.join()
    assert driver.returncode == 0, out + err
    count = len(GAMES) * len(SEEDS)
    assert f"{count} of {count} runs finished" in out
    assert watch.looks > 100
    assert watch.twice == []
    assert len(killed) == KILLS
    assert len(watch.seen) >= count + KILLS
    for game in GAMES:
        for seed in SEEDS:
            run = whole / game / f"seed{seed}"
            options = ["--preset=debug", *(f"--{word}" for word in SETTINGS), f"--seed={seed}"]
            assert main(["train", game, *options, "--threads=1", f"--run={run}"]) == 0
            found = metrics(folder / game / f"glam-seed{seed}")
            assert len(found) > 20
            assert found == metrics(run)
    assert not trainings(folder)
