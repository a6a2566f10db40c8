"""Training end to end on the real emulator: exact resumption, kills, failures."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from debug_runs import make_trainer
from glam_agents.storm import AGENT_PRESETS
from same_runs import assert_same_runs, metrics

from glam_env.cli.main import main
from glam_env.envs.latent_filter import LatentFilter
from glam_env.errors import GlamError
from glam_env.model.cores.glam import GlamConfig
from glam_env.training.config import HorizonConfig
from glam_env.training.export import draw_contexts, load_run
from glam_env.training.phases import count_freezes
from glam_env.training.presets import PRESETS
from glam_env.training.run_folder import RunFolder
from glam_env.training.trainer import Trainer

pytestmark = pytest.mark.emulator

DEBUG = replace(PRESETS["debug"], total_steps=280, random_steps=100, replay_capacity=200)
IMAGES_ALONE = replace(DEBUG, freeze=replace(DEBUG.freeze, end_to_end=0))


def make(path: Path, config=DEBUG, game: str = "Pong") -> Trainer:
    return make_trainer(path, config, game)


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name].nan_to_num(), b[name].nan_to_num()), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Train a run to its end; tests only read it."""
    path = tmp_path_factory.mktemp("finished") / "run"
    trainer = make(path)
    assert trainer.train()
    trainer.close()
    return path


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_a_run_resumed_twice_equals_one_that_never_stopped(tmp_path, sticky):
    config = replace(
        DEBUG,
        repeat_action_probability=sticky,
        exploration=(0.5,),
        exploration_hold=(1.0, 1 + 32 * sticky),
    )
    whole = make(tmp_path / "whole", config)
    assert whole.train()
    whole.close()

    # Stopped once in the image warm-up and once in joint training on stored latents.
    for stop_at in (52, 66, 10**9):
        trainer = make(tmp_path / "parts", config)
        work = iter(range(10**9))
        trainer.train(stop=lambda work=work, stop_at=stop_at: next(work) >= stop_at)
        trainer.close()

    assert_same_runs(tmp_path / "parts", tmp_path / "whole")
    assert len([m for m in metrics(tmp_path / "whole") if "loss" in m]) >= 2


def advance_past(trainer: Trainer, *names: str) -> None:
    while trainer.phase.name in names:
        trainer.advance()


def advance_to(trainer: Trainer, name: str) -> None:
    while trainer.phase.name != name:
        trainer.advance()


def test_image_model_is_frozen_and_fine_tuned_at_the_given_shares(tmp_path):
    trainer = make(tmp_path / "run", IMAGES_ALONE)

    def encoder() -> dict[str, torch.Tensor]:
        return {k: v.clone() for k, v in trainer.world_model.encoder.state_dict().items()}

    def core() -> dict[str, torch.Tensor]:
        return {k: v.clone() for k, v in trainer.world_model.core.state_dict().items()}

    start = encoder()
    advance_to(trainer, "image fine-tuning")
    assert trainer.latents is None
    assert trainer.env_steps == DEBUG.freeze.at[0] * DEBUG.total_steps
    joint, core_then = encoder(), core()
    advance_past(trainer, "image fine-tuning")
    assert trainer.image_updates == DEBUG.image_warmup + DEBUG.freeze.finetune
    assert not torch.equal(joint["head.weight"], encoder()["head.weight"])
    assert_same(core(), core_then)
    frozen = encoder()
    assert not torch.equal(start["head.weight"], frozen["head.weight"])
    updates = trainer.model_updates, trainer.agent_updates
    advance_past(trainer, "adaptation")
    assert trainer.model_updates == updates[0] + DEBUG.freeze.adapt
    assert trainer.agent_updates == updates[1]  # the sequence model adapts first
    while trainer.phase.name != "image fine-tuning":
        trainer.advance()
        assert_same(encoder(), frozen)
    assert trainer.train()
    assert count_freezes(trainer.phases[: trainer.phase_index]) == 2
    assert not torch.equal(encoder()["head.weight"], frozen["head.weight"])
    assert trainer.latents is not None
    assert trainer.latents.encoded == trainer.replay.added  # the last step brought an update
    old = trainer.replay.added - 80  # played before either freeze, and still in the ring (100)
    images = trainer.replay.take("images", (np.array([[0]]), np.array([[old]])))
    stored = torch.from_numpy(trainer.latents._array[0, old, 0]).float()
    computed = trainer.world_model.latents(images.flatten(0, 1))[0].flatten()
    torch.testing.assert_close(stored, computed, rtol=2e-3, atol=2e-3)  # of the second freeze
    changed = [name for name, value in core().items() if not torch.equal(value, core_then[name])]
    assert changed
    trainer.close()


@pytest.mark.parametrize(
    "errors", [[0.3] * 4 + [0.1] * 8, [0.3, 0.3, 0.1, 0.1, 0.05, 0.1, 0.2, 0.0]]
)
def test_image_warm_up_ends_where_its_error_is_good_enough(tmp_path, monkeypatch, errors):
    """The error is that of a whole window of updates, and a resumed run remembers its part."""
    monkeypatch.setattr("glam_env.training.trainer.ERROR_WINDOW", 4)
    config = replace(DEBUG, image_warmup=40, target_error=0.15)
    shown = iter(errors)

    def update(*_: object) -> dict[str, torch.Tensor]:
        return {"rare_error": torch.tensor(next(shown))}

    means = np.array(errors).reshape(-1, 4).mean(1)
    expected = 4 * (1 + int(np.argmax(means < 0.15)))
    trainer = make(tmp_path / "run", config)
    monkeypatch.setattr(trainer.learner, "update_images", update)
    advance_to(trainer, "image warm-up")
    while trainer.phase_updates < 2:
        trainer.advance()
    trainer.save()
    trainer.close()
    trainer = make(tmp_path / "run", config)
    monkeypatch.setattr(trainer.learner, "update_images", update)
    assert trainer.phase_updates == 2
    advance_past(trainer, "image warm-up")
    assert trainer.image_updates == expected
    trainer.close()


def test_fine_tuning_has_weights_of_its_own(tmp_path, monkeypatch):
    own = {"margin": 1, "margin_weight": 3.0, "empty_weight": 0.5, "image_entropy": 2.0}
    own |= {"foreground_weight": 10.0}
    loss = replace(DEBUG.loss, diversity=0.1)
    config = replace(DEBUG, loss=loss, freeze=replace(DEBUG.freeze, **own))
    trainer, used = make(tmp_path / "run", config), {}
    update = trainer.learner.update_images

    def watch(images, loss_config, learning_rate):
        used[trainer.phase.name] = loss_config
        return update(images, loss_config, learning_rate)

    monkeypatch.setattr(trainer.learner, "update_images", watch)
    advance_to(trainer, "image fine-tuning")
    advance_past(trainer, "image fine-tuning")
    assert used == {
        "image warm-up": config.loss,
        "image fine-tuning": replace(config.loss, diversity=0.0, **own),
    }
    trainer.close()


@pytest.mark.parametrize(("own", "fastest"), [(0.0, 1e-3), (2e-3, 2e-3)])
def test_learning_rate_of_fine_tuning_falls_in_its_last_part(tmp_path, monkeypatch, own, fastest):
    freeze = replace(DEBUG.freeze, finetune=10, decay_from=0.6)
    trainer = make(tmp_path / "run", replace(DEBUG, freeze=freeze, image_learning_rate=own))
    rates: dict[str, list[float]] = {"image warm-up": [], "image fine-tuning": []}
    update = trainer.learner.update_images

    def watch(images, loss_config, learning_rate):
        rates[trainer.phase.name].append(learning_rate)
        return update(images, loss_config, learning_rate)

    monkeypatch.setattr(trainer.learner, "update_images", watch)
    advance_to(trainer, "image fine-tuning")
    # The run itself is past its decay_from at its first freeze.
    begins = own or trainer.config.learning_rate_at(trainer.env_steps)
    advance_past(trainer, "image fine-tuning")
    assert rates["image warm-up"] == [fastest] * DEBUG.image_warmup
    falling = [begins - gone * (begins - 1e-4) for gone in (0.0, 0.0, 0.25, 0.5, 0.75)]
    assert rates["image fine-tuning"] == pytest.approx([begins] * 5 + falling)
    trainer.close()


def test_some_envs_explore_and_the_filter_gets_the_actions_taken(tmp_path):
    config = replace(DEBUG, num_envs=4, exploration=(0.0, 1.0), replay_capacity=300)
    trainer = make(tmp_path / "run", config)
    trainer.agent.act = lambda features, **_: torch.full((len(features),), 3)
    taken = []
    act = trainer.collector.filter.act
    trainer.collector.filter.act = lambda actions: (taken.append(actions.clone()), act(actions))
    for _ in range(60):
        trainer._collect(random=False)
    places = np.arange(4)[:, None], np.arange(60)[None]
    actions = trainer.replay.take("actions", places)
    assert torch.equal(actions, torch.stack(taken, 1))
    assert (actions[::2] == 3).all()
    assert len(actions[1::2].unique()) == 6
    assert trainer.collector._scored.tolist() == [True, False, True, False]
    trainer.close()


@pytest.mark.parametrize("chances", [(), (0.5, 1.5), (-0.1,)])
def test_impossible_exploration_is_refused(chances):
    with pytest.raises(GlamError, match="exploration must hold chances"):
        replace(DEBUG, exploration=chances).validate()


@pytest.mark.parametrize("hold", [(), (8.0, 0.5), (0.0,), (float("nan"),)])
def test_an_impossible_hold_is_refused(hold):
    with pytest.raises(GlamError, match="exploration_hold must hold numbers"):
        replace(DEBUG, exploration_hold=hold).validate()


def test_work_lost_to_a_kill_is_repeated_exactly(finished, tmp_path):
    """By the kill the replay has overwritten steps, but none that the checkpoint needs."""
    killed, encoded = make(tmp_path / "killed"), 0
    while killed.env_steps < 250:  # past the ring's seam at 100 steps a stream
        killed.advance()
        if killed.env_steps == 200 and killed._saved_at != 200:
            killed.save()
            assert killed.latents is not None
            encoded = killed.latents.encoded
    killed.close()
    resumed = make(tmp_path / "killed")
    assert resumed.env_steps == 200
    assert resumed.latents is not None
    assert resumed.latents.encoded == encoded
    assert resumed.train()
    resumed.close()
    assert_same_runs(tmp_path / "killed", finished)


def start_cli(cwd: Path, *words: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "glam_env.cli", "train", "Pong", *words],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


LONG = ("--preset", "debug", "--total-steps", "100000", "--checkpoint-every", "60")
LONG += ("--random-steps", "60", "--log-every", "1")  # it soon trains the agent


def wait_for_joint_training(folder: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        file = folder / "metrics.jsonl"
        if file.exists() and "dream_return" in file.read_text():
            return
        time.sleep(0.05)
    pytest.fail(f"no joint training: {process.communicate()[0] if process.poll() else 'too slow'}")


def test_kill_9_in_the_middle_and_resume(tmp_path):
    folder = tmp_path / "runs" / "Pong"
    process = start_cli(tmp_path, *LONG)
    wait_for_joint_training(folder, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = RunFolder(folder).load_checkpoint()
    assert last is not None
    before = last["counts"]

    assert main(["train", "Pong", "--run", str(folder), "--resume", "--minutes", "0.02"]) == 0
    after = RunFolder(folder).load_checkpoint()["counts"]
    assert after["env_steps"] > before["env_steps"]
    assert after["model_updates"] > before["model_updates"]
    steps = [m["env_steps"] for m in metrics(folder)]
    assert steps == sorted(steps)


def test_sigterm_saves_and_leaves_with_one_line(tmp_path):
    folder = tmp_path / "runs" / "Pong"
    process = start_cli(tmp_path, *LONG)
    wait_for_joint_training(folder, process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # as `timeout` sends it
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    last = output.strip().splitlines()[-1]
    assert last.startswith("stopped at step")
    assert "--resume" in last
    assert RunFolder(folder).load_checkpoint()["counts"]["env_steps"] > 0


def test_losses_that_are_not_finite_stop_the_run(tmp_path):
    trainer = make(tmp_path)
    with torch.no_grad():
        trainer.world_model.reward.layers[-1].weight.fill_(float("nan"))
    with pytest.raises(GlamError, match="not finite"):
        trainer.train()
    trainer.close()


def test_filter_starts_again_where_random_play_ends(tmp_path):
    """In the middle of an episode of which it has seen nothing."""
    trainer = make(tmp_path)
    advance_past(trainer, "random play")
    fresh = LatentFilter(trainer.world_model, DEBUG.num_envs)
    trainer.world_model.eval()
    for follow in (trainer.collector.filter, fresh):
        torch.manual_seed(0)
        first = (
            trainer.collector._first
            if follow is trainer.collector.filter
            else [True] * DEBUG.num_envs
        )
        follow.see(trainer.collector._frames, first)
        follow.act(torch.ones(DEBUG.num_envs, dtype=torch.int64))
    torch.testing.assert_close(trainer.collector.filter.state, fresh.state, rtol=0, atol=0)
    trainer.close()


@pytest.mark.parametrize(
    ("part", "match"),
    [
        (lambda t: t.world_model.reward.layers[-1].weight, "the world model's weights not finite"),
        (lambda t: t.agent.actor.layers[0].weight, "the agent's weights not finite"),
        (
            lambda t: t.agent.optimizer.state[t.agent.actor.layers[0].weight]["exp_avg"],
            "the agent's optimizer not finite",
        ),
    ],
)
def test_what_is_not_finite_replaces_no_checkpoint(finished, tmp_path, part, match):
    trainer = make(Path(shutil.copytree(finished, tmp_path / "run")))
    before = {p: p.read_bytes() for p in trainer.run.checkpoints()}
    with torch.no_grad():
        part(trainer)[0, 0] = float("nan")
    with pytest.raises(GlamError, match=match):
        trainer.save()
    assert {p: p.read_bytes() for p in trainer.run.checkpoints()} == before
    trainer.close()


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("total_steps", 0, r"total_steps must be in \[1, 1000000000\]"),
        ("length", 16, "must exceed context"),
        ("context", 2, "4 steps"),
        ("dream_starts", "nowhere", "computed or fresh"),
        ("imagination_batch", 10_000, "lower it"),
        ("repeat_action_probability", 1.5, r"in \[0, 1\)"),
        ("noop_max", -1, r"noop_max must be in \[0, 10000\]"),
        ("random_steps", 10, "raise them to"),
        ("replay_capacity", 10, "raise it to"),
        ("decay_from", 1.5, "decay_from must be in"),
        ("model", replace(DEBUG.model, unimix=-0.1), "model.unimix must be"),
        ("seed", -1, "seed must be in"),
        ("learning_rate", float("inf"), "learning_rate must be in"),
        ("learning_rate", float("nan"), "learning_rate must be in"),
        ("image_learning_rate", -1.0, "image_learning_rate must be in"),
        ("image_warmup", -1, "image_warmup must be in"),
        ("horizon", replace(DEBUG.horizon, every=0), "horizon.every must be in"),
        ("horizon", replace(DEBUG.horizon, initial=0), "horizon.initial must be in"),
        ("horizon", replace(DEBUG.horizon, maximum=1), "horizon.maximum 1 is less"),
        ("freeze", replace(DEBUG.freeze, adapt=-1), "freeze.adapt must be in"),
        ("loss", replace(DEBUG.loss, dynamics=float("nan")), "loss.dynamics must be in"),
        ("loss", replace(DEBUG.loss, decode_fraction=0.0), "loss.decode_fraction must be in"),
        ("model", replace(DEBUG.model, classes=300), "model.classes must be at most 256"),
        ("final_learning_rate", 0.0, r"final_learning_rate must be in \(0, inf\)"),
    ],
)
def test_impossible_settings(field, value, match):
    with pytest.raises(GlamError, match=match):
        replace(PRESETS["debug"], **{field: value}).validate()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_possible(preset):
    PRESETS[preset].validate()


def test_paper_preset_is_table_3():
    paper = PRESETS["paper"]
    assert (paper.batch, paper.length, paper.learning_rate, paper.gradient_clip) == (
        32,
        64,
        1e-4,
        1000.0,
    )
    assert (paper.model.width, paper.model.core) == (256, GlamConfig(global_depth=1, local_depth=1))
    assert (paper.imagination_batch, paper.context) == (1024, 16)
    assert paper.horizon == HorizonConfig(initial=16, increase=8, every=25_000, maximum=32)
    assert (paper.update_every, paper.agent_updates) == (1, 1)
    assert (paper.loss.dynamics, paper.loss.representation, paper.loss.variation) == (0.5, 0.1, 0.1)
    agent = AGENT_PRESETS["paper"]
    assert (agent.learning_rate, agent.gradient_clip) == (3e-5, 100.0)
    assert (agent.gamma, agent.lambda_, agent.entropy) == (0.985, 0.95, 3e-4)


def test_learning_rate_falls_only_at_the_end():
    falls = {"learning_rate": 1e-3, "decay_from": 0.6, "final_learning_rate": 1e-4}
    config = replace(PRESETS["small"], total_steps=100_000, **falls)
    rates = [config.learning_rate_at(step) for step in (0, 60_000, 80_000, 100_000, 110_000)]
    assert rates == pytest.approx([1e-3, 1e-3, 5.5e-4, 1e-4, 1e-4])
    assert {PRESETS["paper"].learning_rate_at(step) for step in (0, 99_999, 100_000)} == {1e-4}


def test_the_agents_learning_rate_falls_with_that_of_the_world_model(tmp_path):
    falls = {"learning_rate": 1e-3, "decay_from": 0.7, "final_learning_rate": 1e-4}
    trainer = make(tmp_path, replace(DEBUG, **falls))
    own, seen = AGENT_PRESETS["debug"].learning_rate, {}
    agent = trainer.learner.agent
    update = agent.update

    def observed(rollout):
        seen[trainer.env_steps] = agent.optimizer.param_groups[0]["lr"]
        return update(rollout)

    agent.update = observed
    assert trainer.train()
    total = DEBUG.total_steps
    assert min(seen) < 0.7 * total < max(seen)
    for steps, rate in seen.items():
        factor = 1.0 - 0.9 * max(0.0, (steps / total - 0.7) / 0.3)
        assert rate == pytest.approx(factor * own)
    trainer.close()


def test_the_agent_knows_the_usual_reward_of_the_replay(tmp_path):
    trainer = make(tmp_path, game="Alien")  # pays 10 points at a time
    agent = trainer.learner.agent
    agent.config = replace(agent.config, relative_floor=True, range_floor=0.2)
    while not trainer.agent_updates:
        trainer.advance()
    rewards = trainer.replay.rewards
    usual = np.abs(rewards[rewards != 0.0]).mean()
    assert usual >= 10.0
    assert agent._floor.item() == pytest.approx(0.2 * usual)
    trainer.close()


def test_each_of_several_world_model_updates_gives_its_share_of_the_starts(tmp_path, monkeypatch):
    config = replace(DEBUG, model_updates=3, agent_updates=2, imagination_batch=8)
    trainer = make(tmp_path, config)
    learner, work = trainer.learner, []
    update, draw, imagined = learner.update_model, learner.draw_starts, learner.update_agent
    parts = []

    def drawn(count):
        parts.append(draw(count))
        work.append(count)
        return parts[-1]

    def learned(start, horizon, rate, usual_reward):
        work.append("agent")
        assert torch.equal(start.code, torch.cat([part.code for part in (*parts[:2], parts[-1])]))
        return imagined(start, horizon, rate)

    monkeypatch.setattr(learner, "update_model", lambda *x: (work.append("model"), update(*x))[1])
    monkeypatch.setattr(learner, "draw_starts", drawn)
    monkeypatch.setattr(learner, "update_agent", learned)
    while "agent" not in work:
        work.clear()
        parts.clear()
        trainer.advance()
    assert work == ["model", 2, "model", 2, "model", 4, "agent", 4, "agent"]
    trainer.close()


def test_fewer_dreams_than_world_model_updates_start_at_the_last_of_them(tmp_path):
    trainer = make(tmp_path, replace(DEBUG, model_updates=3, imagination_batch=2, total_steps=140))
    assert trainer.config.dream_share == 0
    assert trainer.train()
    assert trainer.agent_updates > 0
    trainer.close()


def test_fresh_dream_starts_train_too(tmp_path):
    trainer = make(tmp_path, replace(DEBUG, dream_starts="fresh", total_steps=180))
    assert trainer.train()
    assert trainer.agent_updates > 0
    trainer.close()


def test_reading_a_run_under_way_changes_nothing(tmp_path):
    trainer = make(tmp_path)
    while trainer.env_steps < 200:
        trainer.advance()
    trainer.save()
    trainer.advance()
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    run = RunFolder(tmp_path)
    run.settings |= {"game": "Pong", "preset": "debug"}
    trained = load_run(run, torch.device("cpu"))
    assert trained.provenance.environment_steps == 200
    contexts = draw_contexts(trained.world_model, trained.replay, 10, 16, seed=0)
    assert (contexts.count, contexts.length) == (10, 16)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files
    trainer.close()
