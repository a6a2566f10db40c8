"""Runs that earlier versions began: read, resumed where they were, and finished.

``data/run_of_0_1.tar.xz`` is a debug run of version 0.1, before the schedule was a list of phases.
It holds two checkpoints, one in the middle of the first fine-tuning and one in the middle of the
adaptation after it, and the metrics and norms of the weights at the end of the run, as version 0.1
computed them. The figures differ, since version 0.1 did not draw every step equally often.
"""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from glam_agents import DEFAULT_AGENT, config_of

from glam_env.evaluation.report.history import read_history
from glam_env.training.config import FreezeConfig
from glam_env.training.earlier_runs import upgrade_state, upgrade_train
from glam_env.training.export import read_settings
from glam_env.training.phases import schedule
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

ARCHIVE = Path(__file__).parent / "data" / "run_of_0_1.tar.xz"
WORK = ("env_steps", "image_updates", "model_updates", "agent_updates", "learning_rate")


@pytest.fixture
def earlier(tmp_path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def resume(path: Path) -> Trainer:
    run = RunFolder(path)
    game, _, config = read_settings(run.settings, "config.json")
    kind, agent = config_of(run.settings["agent"], "config.json", DEFAULT_AGENT)
    return Trainer(game, config, run, lambda width, count: kind.make(agent, width, count))


def test_settings_have_their_present_names(earlier):
    settings = RunFolder(earlier / "run").settings
    assert (settings["train"]["freeze"]["polish"], settings["train"]["freeze"]["settle"]) == (3, 3)
    config = read_settings(settings, "config.json")[2]
    assert (config.freeze.finetune, config.freeze.adapt) == (3, 3)
    train = upgrade_train(settings["train"])
    assert train["freeze"].keys().isdisjoint({"polish", "settle"})
    assert train["exploration_hold"] == [settings["train"].get("exploration_hold", 1.0)]


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("checkpoint", "phase", "updates"),
    [("step_0000000249.pt", "image fine-tuning", 1), ("step_0000000252.pt", "adaptation", 1)],
)
def test_a_run_resumes_where_it_was_and_does_the_same_work(earlier, checkpoint, phase, updates):
    for path in RunFolder(earlier / "run").checkpoints():
        if path.name != checkpoint:
            path.unlink()
    trainer = resume(earlier / "run")
    assert (trainer.phase.name, trainer.phase_updates) == (phase, updates)
    assert trainer.train()
    trainer.close()

    expected = json.loads((earlier / "expected.json").read_text())
    lines = (earlier / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(expected["metrics"])
    for line, old in zip(map(json.loads, lines), expected["metrics"], strict=True):
        assert {n: line[n] for n in WORK if n in line} == {n: old[n] for n in WORK if n in old}
    agent, model = trainer.agent.learner_state()["agent"], trainer.world_model.state_dict()
    names = {f"world_model.{name}" for name in model} | {f"agent.{name}" for name in agent}
    assert names == expected["weight_norms"].keys()
    assert trainer.learner.find_broken() is None


def test_metrics_have_the_present_names_of_phases(earlier):
    """A phase that an earlier version began and this one ends is one phase."""
    file = earlier / "run" / "metrics.jsonl"
    last = json.loads(file.read_text().splitlines()[-1])
    assert last["phase"] == "settling"
    after = {**last, "phase": "adaptation", "model_updates": last["model_updates"] + 2}
    file.write_text(file.read_text() + json.dumps(after) + "\n")
    phases = read_history(file).phases
    assert [phase.name for phase in phases[-2:]] == ["image fine-tuning", "adaptation"]
    assert phases[-1].model_updates == 2


def counts(freezes=0, polished=0, settled=0, steps=200, images=0, model=0) -> dict[str, int]:
    return {
        "env_steps": steps,
        "image_updates": images,
        "model_updates": model,
        "agent_updates": 0,
        "freezes": freezes,
        "polished": polished,
        "settled": settled,
        "metrics_size": 9,
    }


@pytest.mark.parametrize(
    ("old", "at", "phase", "updates"),
    [
        (counts(steps=120), (0.7, 0.9), "random play", 0),
        (counts(), (0.7, 0.9), "image warm-up", 0),
        (counts(images=2), (0.7, 0.9), "image warm-up", 2),
        (counts(images=3, model=1), (0.7, 0.9), "model warm-up", 1),
        (counts(images=3, model=3), (0.7, 0.9), "joint training", 0),
        (counts(steps=420, images=3, model=9), (0.7, 0.9), "image fine-tuning", 0),
        (counts(steps=420, images=4, model=9, polished=1), (0.7,), "image fine-tuning", 1),
        (counts(images=3), (), "model warm-up", 0),
        (counts(1, images=5), (0.0,), "adaptation", 0),
        (counts(1, images=5, settled=2, model=2), (0.0,), "model warm-up", 0),
        (counts(1, images=5), (0.0, 0.1), "image fine-tuning", 0),
        (counts(2, steps=600, images=7, settled=2), (0.7, 0.9), "joint training", 0),
    ],
)
def test_the_phase_of_an_old_checkpoint_follows_from_its_counts(old, at, phase, updates):
    config = replace(PRESETS["debug"], freeze=FreezeConfig(at, finetune=2, adapt=2))
    phases = schedule(config)
    state = upgrade_state({"counts": old, "replay": {"streams": 2}}, phases)
    assert phases[state["schedule"]["phase"]].name == phase
    assert state["schedule"]["updates"] == updates
    assert state["metrics_size"] == 9
    assert torch.equal(state["exploration"]["left"], torch.zeros(2, dtype=torch.int64))
