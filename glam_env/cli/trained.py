"""Shared parts of commands: a trained game, its scores and its fidelity."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glam_env.console import Progress
from glam_env.errors import GlamError

if TYPE_CHECKING:
    import torch

    from glam_env.checkpoint.folder import Checkpoint
    from glam_env.envs.atari import EmulatorStep, Episode
    from glam_env.envs.latent_filter import Act, FilteredPolicy
    from glam_env.envs.recordings.recording import Recording
    from glam_env.evaluation import Policy as RealPolicy
    from glam_env.evaluation import ScoreReport
    from glam_env.evaluation.examine import Examination
    from glam_env.evaluation.play.policies import Policy
    from glam_env.model.world_model import WorldModel
    from glam_env.protocols import PlaySettings
    from glam_env.training.export import TrainedRun
    from glam_env.training.imagination import Agent

RUNS = Path("runs")
HORIZON = 64  # steps of a dream, where nothing else is set
SCORE_EPISODES, SCORE_ENVS, SCORE_SEED = 20, 4, 1000  # of `glam eval`
CHOICE_SEED = 3000  # of the games that choose among kept weights
FIDELITY_STEPS, BEHAVIOR_STEPS, BRANCH_STEPS = 8000, 8192, 4000  # of `glam fidelity`
FIDELITY_HORIZON, FIDELITY_SEED = 64, 2000
RANKING_MOMENTS, CEILING_MOMENTS = 48, 160


@dataclass(frozen=True)
class Trained:
    """A game's world model and the agent that learned in it, ready to play.

    Attributes:
        game: Name of the game.
        world_model: The world model, in evaluation mode.
        agent: The agent; see `glam_agents.AGENTS`.
        agent_config: Its settings, as a checkpoint stores them.
        play: How the real game was played in the training.
        horizon: Steps of a dream.
        real_steps: Steps on the real game in all runs that made it.
        reward_values: The values that the game pays; empty if they are not known.
        weights: SHA-256 of the checkpoint's file of the world model; empty for a run.
    """

    game: str
    world_model: WorldModel
    agent: Agent
    agent_config: Mapping[str, Any]
    play: PlaySettings
    horizon: int
    real_steps: int
    reward_values: tuple[float, ...] = ()
    weights: str = ""

    def act(self, greedy: bool = False) -> Act:
        """Return the agent's choice of actions, on features."""
        return lambda features, generator: self.agent.act(
            features, greedy=greedy, generator=generator
        )

    def policy(self, greedy: bool = False) -> FilteredPolicy:
        """Return the agent's policy on frames of the real game."""
        from glam_env.envs.latent_filter import FilteredPolicy

        return FilteredPolicy(self.world_model, self.act(greedy))


def require_emulator() -> None:
    """Check that the real game can be played, before any work.

    Raises:
        GlamError: ale-py is not installed.
    """
    if find_spec("ale_py") is None:
        raise GlamError('the real game needs ale-py: pip install "glam-env[atari]"')


def require_file(option: str, path: Path, *libraries: str) -> None:
    """Check that a picture or a report can be written, before any work.

    Nothing is created.

    Args:
        option: Named in the message, such as ``"--gif"``.
        path: The file or folder; its parents may be missing.
        libraries: Modules of the extra ``video`` that draw it.

    Raises:
        GlamError: A library is missing, or the path cannot be written.
    """
    if missing := [name for name in libraries if find_spec(name) is None]:
        raise GlamError(f'{option} needs {missing[0]}: pip install "glam-env[video]"')
    there = next((each for each in (path, *path.parents) if each.exists()), Path("."))
    writable = os.access(there, os.W_OK) and (there == path or there.is_dir())
    if not writable or (path.suffix and path.is_dir()):
        raise GlamError(f"cannot write {path}; choose a writable {option}")


def require_new_folder(option: str, path: Path) -> None:
    """Check that a folder can be written and holds no files yet, before any work.

    Args:
        option: Named in the message, such as ``"--to"``.
        path: The folder; its parents may be missing.

    Raises:
        GlamError: It is a file, holds something, or cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise GlamError(f"{path} is a file; choose another folder for {option}")
    require_file(option, path)
    if path.is_dir() and any(path.iterdir()):
        raise GlamError(f"{path} is not empty; remove it, or choose another folder for {option}")


def open_checkpoint(name: str) -> Checkpoint:
    """Open a checkpoint by a game's name, a path or an address.

    Raises:
        GlamError: If there is none, as in the folder of a run.
    """
    from glam_env.checkpoint.folder import Checkpoint
    from glam_env.training.run_folder import run_kind

    kind = run_kind(Path(name))
    if kind == "sb3":
        raise GlamError(f"{name} is a run of `glam sb3`, no checkpoint; see `glam info {name}`")
    if kind == "train":
        raise GlamError(f"{name} is a run, no checkpoint; make one with `glam export --run {name}`")
    return Checkpoint.open(name)


def load_trained(name: str | Checkpoint, device: str) -> Trained:
    """Load a trained game.

    Args:
        name: A game's name, a checkpoint, or the path of a checkpoint or of a training run, which
            may still be under way.
        device: Where it will play.

    Raises:
        GlamError: If there is no such thing, or it cannot be read.
    """
    from glam_agents import load_agent

    from glam_env.checkpoint.config import WORLD_MODEL
    from glam_env.device import find_device
    from glam_env.training.run_folder import run_kind

    where = find_device(device)
    if isinstance(name, str) and run_kind(Path(name)) == "train":
        return load_run(Path(name), where)[0]
    checkpoint = open_checkpoint(name) if isinstance(name, str) else name
    config = checkpoint.config
    sizes = config.world_model
    agent = load_agent(
        config.agent,
        checkpoint.agent_state(),
        sizes.feature_dim,
        sizes.num_actions,
        where,
        str(checkpoint.path),
    )
    return Trained(
        config.game,
        checkpoint.world_model(where),
        agent,
        config.agent,
        config.protocol,
        config.max_episode_steps,
        config.provenance.real_steps,
        config.reward_values,
        config.files[WORLD_MODEL].sha256,
    )


def load_run(
    path: Path, device: torch.device, step: int | None = None
) -> tuple[Trained, TrainedRun]:
    """Load the last checkpoint of a training run, or weights that it kept.

    Args:
        path: The run's folder.
        device: Where the models live.
        step: Environment step of the kept weights; None for the last checkpoint.

    Returns:
        What was trained, and the run itself.

    Raises:
        GlamError: If it is no training run, has no checkpoint yet, or cannot be read.
    """
    from glam_agents import DEFAULT_AGENT, load_agent, load_run_agent

    from glam_env.model.reward_values import seen_values
    from glam_env.training.export import load_run, put_back
    from glam_env.training.kept import load_kept
    from glam_env.training.run_folder import RunFolder

    run = RunFolder(path)
    trained, kept = load_run(run, device), None
    if step is not None:
        kept = load_kept(run, step, device)
        trained = put_back(trained, kept)
    world_model = trained.world_model.requires_grad_(False)
    settings = run.settings.get("agent", {})
    if isinstance(settings, Mapping):
        settings = {"class": DEFAULT_AGENT, **settings}  # old runs store no class
    sizes = world_model.config
    build, state = (load_run_agent, trained.learner) if kept is None else (load_agent, kept.agent)
    agent = build(
        settings,
        dict(state),
        sizes.feature_dim,
        sizes.num_actions,
        device,
        str(path / "config.json"),
    )
    play, steps = trained.config.play, trained.provenance.real_steps
    values = seen_values(trained.replay.rewards)
    return (
        Trained(trained.game, world_model, agent, settings, play, HORIZON, steps, values),
        trained,
    )


def play_games(
    policy: RealPolicy,
    game: str,
    play: PlaySettings,
    *,
    episodes: int,
    seed: int = SCORE_SEED,
    num_envs: int = SCORE_ENVS,
    **options: Any,
) -> ScoreReport:
    """Play whole real games, with progress; see `evaluate_policy`."""
    from glam_env.evaluation import evaluate_policy

    steps = 0
    with Progress() as progress:

        def show(step: EmulatorStep, counted: list[Episode]) -> None:
            nonlocal steps
            steps += len(step.reward)
            note = f"{steps:,} agent steps"
            progress("real games", len(counted), episodes, "games", note)

        return evaluate_policy(
            policy,
            game,
            episodes=episodes,
            num_envs=num_envs,
            seed=seed,
            play=play,
            on_step=show,
            **options,
        )


def measure_dreams(
    trained: Trained,
    *,
    steps: int,
    behavior_steps: int,
    branch_steps: int,
    ranking_moments: int,
    ceiling_moments: int,
    horizon: int = FIDELITY_HORIZON,
    seed: int = FIDELITY_SEED,
    policies: Sequence[Policy] = (),
    recording: Recording | None = None,
) -> tuple[Examination, Recording]:
    """Compare dreams with the real game, with progress; see `examine`.

    The greedy agent and the further policies are ranked as well. With a recording, dreams follow
    its play.
    """
    from glam_env.evaluation.examine import examine
    from glam_env.evaluation.play.policies import agent_policy

    with Progress() as progress:
        return examine(
            trained.world_model,
            trained.act(),
            trained.game,
            steps=steps,
            behavior_steps=behavior_steps,
            branch_steps=branch_steps,
            ranking_moments=ranking_moments,
            ceiling_moments=ceiling_moments,
            horizon=horizon,
            dream_horizon=trained.horizon,
            seed=seed,
            play=trained.play,
            reward_values=trained.reward_values,
            policies=[agent_policy("agent, greedy", trained.act(greedy=True)), *policies],
            recording=recording,
            on_progress=progress,
        )


def measure_missing(trained: Trained, known: Mapping[str, Any], **amounts: int) -> dict[str, Any]:
    """Measure the figures that stored fidelity lacks, with progress.

    Return all figures as a checkpoint stores them.
    """
    from glam_env.evaluation.examine import Examination, examine_missing
    from glam_env.evaluation.play.policies import agent_policy

    with Progress() as progress:
        return examine_missing(
            Examination.from_json(known, "results.fidelity"),
            trained.world_model,
            trained.act(),
            trained.game,
            horizon=FIDELITY_HORIZON,
            dream_horizon=trained.horizon,
            seed=FIDELITY_SEED,
            play=trained.play,
            reward_values=trained.reward_values,
            policies=[agent_policy("agent, greedy", trained.act(greedy=True))],
            on_progress=progress,
            **amounts,
        ).figures()


def measure_scores(trained: Trained, *, episodes: int) -> list[dict[str, Any]]:
    """Play under each protocol, and print the scores.

    The settings of the training are played as well if no protocol has them. Return the scores as a
    checkpoint stores them.
    """
    from glam_env.protocols import PROTOCOLS

    scores = []
    for play in dict.fromkeys([*PROTOCOLS.values(), trained.play]):
        score = play_games(trained.policy(), trained.game, play, episodes=episodes)
        print(score.table(), end="\n\n", flush=True)
        scores.append(score.as_json())
    return scores


def measure_all(
    trained: Trained,
    *,
    episodes: int,
    steps: int,
    behavior_steps: int,
    branch_steps: int,
    ranking_moments: int,
    ceiling_moments: int,
) -> dict[str, Any]:
    """Measure and print scores and fidelity.

    Return them as a checkpoint stores them.
    """
    scores = measure_scores(trained, episodes=episodes)
    fidelity, _ = measure_fidelity(
        trained,
        steps=steps,
        behavior_steps=behavior_steps,
        branch_steps=branch_steps,
        ranking_moments=ranking_moments,
        ceiling_moments=ceiling_moments,
    )
    return {"scores": scores, "fidelity": fidelity}


def measure_fidelity(trained: Trained, **amounts: Any) -> tuple[dict[str, Any], Recording]:
    """Measure fidelity with `measure_dreams`, and print it.

    Return the figures as a checkpoint stores them, and the recording.
    """
    report, recording = measure_dreams(trained, **amounts)
    print(report.table())
    return report.figures(), recording
