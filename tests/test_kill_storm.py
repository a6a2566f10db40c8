"""A training that is killed again and again at random moments ends as one that never was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from same_runs import assert_same_runs

KILLS = 8
STORM = """
import json, os, random, signal, sys, time
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch._dynamo  # an optimiser imports it, for two seconds; children find it here
from glam_agents.storm import AGENT_PRESETS, ActorCritic

from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

SAVES = 20  # about as many as a run makes; kills come within 0 to 4 of them, and between two
torch.set_num_threads(1)
config = replace(
    PRESETS["debug"],
    total_steps=200,
    random_steps=60,
    replay_capacity=160,
    checkpoint_every=20,
    exploration=(0.3,),
)


def train(path: Path) -> None:
    exists = (path / "config.json").exists()
    run = RunFolder(path, None if exists else {"train": asdict(config)})
    make = lambda width, actions: ActorCritic(AGENT_PRESETS["debug"], width, actions)
    trainer = Trainer("Pong", config, run, make)
    trainer.train()
    trainer.close()


def fork(path: Path) -> int:
    if child := os.fork():
        return child
    code = 1
    try:
        train(path)
        code = 0
    finally:
        os._exit(code)


def alive(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None


def newest(path: Path) -> str:
    return max((each.name for each in (path / "checkpoints").glob("*.pt")), default="")


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


whole, killed, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
begin = time.monotonic()
assert wait(fork(whole)) == 0
span, generator, codes, steps = time.monotonic() - begin, random.Random(seed), [], []
for _ in range(kills):
    child, saves, last = fork(killed), generator.randrange(5), newest(killed)
    while saves and alive(child):
        if (found := newest(killed)) != last:
            saves, last = saves - 1, found
        time.sleep(0.003)
    time.sleep(generator.uniform(0.0, 2.0 * span / SAVES))
    os.kill(child, signal.SIGKILL)
    codes.append(wait(child))
    state = RunFolder(killed).load_checkpoint() if (killed / "config.json").exists() else None
    steps.append(0 if state is None else state["counts"]["env_steps"])
assert wait(fork(killed)) == 0
print(json.dumps({"codes": codes, "steps": steps}))
"""


@pytest.mark.emulator
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the storm forks")
def test_a_storm_of_kills_changes_no_bit_of_a_run(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kills = os.environ.get("GLAM_KILLS", str(KILLS))
    words = [sys.executable, "-c", STORM, str(whole), str(killed), kills, "3"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    storm = json.loads(done.stdout)
    print(storm)
    assert storm["codes"].count(-9) >= int(kills) / 2  # the others had ended by then
    assert storm["steps"] == sorted(storm["steps"])  # no kill cost a checkpoint
    assert len(set(storm["steps"])) > 2  # they came at different moments
    assert_same_runs(killed, whole)
