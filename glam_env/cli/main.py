"""``glam``: train, evaluate, look, export."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro
from glam_agents.sb3.run import sb3
from glam_agents.storm import AGENT_PRESETS, ActorCritic, AgentConfig

from glam_env.checkpoint.config import (
    CheckpointConfig,
    ContextsConfig,
    PlaySettings,
    from_json,
    to_json,
)
from glam_env.checkpoint.folder import (
    EXPORT_DTYPES,
    Checkpoint,
    save_checkpoint,
    write_results,
)
from glam_env.cli.info import curves, info, is_run
from glam_env.cli.options import (
    Bench,
    Card,
    Curves,
    Demo,
    Eval,
    Export,
    Fidelity,
    Info,
    Sb3,
    read_options,
)
from glam_env.console import StopRequest
from glam_env.device import find_device
from glam_env.errors import GlamError
from glam_env.games import find_game
from glam_env.training.presets import PRESETS, TrainConfig

if TYPE_CHECKING:
    import torch

    from glam_env.envs.atari import EmulatorStep, Episode
    from glam_env.envs.latent_filter import Act, FilteredPolicy
    from glam_env.evaluation import Policy, ScoreReport
    from glam_env.evaluation.examine import Examination
    from glam_env.evaluation.play.recording import Recording
    from glam_env.model.world_model import WorldModel
    from glam_env.training.export import TrainedRun

RUNS = Path("runs")


@dataclass
class Train:
    """Train a world model and its agent on a real game.

    Attributes:
        game: one of the 26 games of Atari 100k, such as Pong.
        preset: paper (a GPU), small (two CPU cores) or debug (seconds); the options below
            override it.
        run: the run's folder (default: runs/GAME).
        resume: go on with the run in that folder, with its own settings.
        minutes: save and stop after so many minutes.
        device: auto, cpu, cuda, …
        threads: CPU threads of PyTorch (default: its own choice).
        train: settings of the training.
        agent: settings of the agent.
    """

    game: tyro.conf.Positional[str]
    preset: str = "paper"
    run: Path | None = None
    resume: bool = False
    minutes: float | None = None
    device: str = "auto"
    threads: int | None = None
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)


# --- parts that commands share -----------------------------------------------------------------


class Trained(NamedTuple):
    """A game's world model and the agent that learned in it."""

    game: str
    world_model: WorldModel
    agent: ActorCritic
    protocol: PlaySettings
    max_episode_steps: int


def _load(name: str | Checkpoint, device: str) -> Trained:
    """From a game's shipped checkpoint, a checkpoint folder, or a run as it stands."""
    where = find_device(device)
    if isinstance(name, str) and is_run(Path(name)):
        return _load_run(Path(name), where)[0]
    checkpoint = Checkpoint.open(name)
    config, world_model = checkpoint.config, checkpoint.world_model(where)
    c = config.world_model
    agent = ActorCritic.from_export(
        config.agent, checkpoint.agent_state(), c.feature_dim, c.num_actions
    ).to(where)
    return Trained(config.game, world_model, agent, config.protocol, config.max_episode_steps)


def _load_run(path: Path, device: torch.device) -> tuple[Trained, TrainedRun]:
    """A run's last checkpoint, the weights as they were trained."""
    from glam_env.training.export import load_run
    from glam_env.training.run_folder import RunFolder

    run = RunFolder(path)
    trained = load_run(run, device)
    world_model = trained.world_model.requires_grad_(False)
    settings = from_json(AgentConfig, run.settings.get("agent"), str(path / "config.json"))
    c = world_model.config
    agent = ActorCritic(settings, c.feature_dim, c.num_actions).to(device)
    agent.load_learner_state(trained.learner)
    agent.eval().requires_grad_(False)
    protocol = PlaySettings(trained.config.repeat_action_probability)
    return Trained(trained.game, world_model, agent, protocol, Export.max_episode_steps), trained


def _act(agent: ActorCritic, greedy: bool = False) -> Act:
    return lambda features, generator: agent.act(features, greedy=greedy, generator=generator)


def _policy(trained: Trained, greedy: bool = False) -> FilteredPolicy:
    from glam_env.envs.latent_filter import FilteredPolicy

    return FilteredPolicy(trained.world_model, _act(trained.agent, greedy))


def _evaluate(
    policy: Policy,
    game: str,
    protocol: PlaySettings,
    *,
    episodes: int,
    seed: int,
    num_envs: int = Eval.num_envs,
) -> ScoreReport:
    """Plays whole real games, with progress."""
    from glam_env.console import ProgressLines
    from glam_env.evaluation import evaluate_policy

    steps = 0
    with ProgressLines() as progress:

        def tell(step: EmulatorStep, counted: list[Episode]) -> None:
            nonlocal steps
            steps += len(step.reward)
            progress(f"whole real games ({steps:,} agent steps)", len(counted), episodes)

        return evaluate_policy(
            policy,
            game,
            episodes=episodes,
            num_envs=num_envs,
            seed=seed,
            repeat_action_probability=protocol.repeat_action_probability,
            on_step=tell,
        )


# --- commands ------------------------------------------------------------------------------------


def train(args: Train) -> int:
    """Runs ``glam train``."""
    import time

    import torch

    from glam_env.training.export import read_settings
    from glam_env.training.logs import ProgressLine, TensorBoardLog
    from glam_env.training.run_folder import RunFolder
    from glam_env.training.trainer import Trainer

    game = find_game(args.game).name
    device = find_device(args.device)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    path = args.run or RUNS / game
    if args.resume:
        if (args.train, args.agent) != (PRESETS[args.preset], AGENT_PRESETS[args.preset]):
            raise GlamError("a resumed run keeps its own settings; leave out those given")
    else:
        args.train.validate()
        settings = {"train": asdict(args.train), "agent": asdict(args.agent)}
        if args.train.warm_start:
            origin = Checkpoint.open(args.train.warm_start).config.provenance
            settings["begun_from"] = to_json(origin)
        RunFolder(path, {"game": game, "preset": args.preset, **settings})
    run = RunFolder(path)
    where = str(path / "config.json")
    settings_game, _, config = read_settings(run.settings, where)
    if settings_game != game:
        raise GlamError(f"{path} holds a run of {settings_game}, not {game}; choose its --run")
    agent = from_json(AgentConfig, run.settings.get("agent"), where)
    listeners: list[Callable[[dict[str, Any]], None]] = []

    def tell(line: dict[str, Any]) -> None:
        for listen in listeners:
            listen(line)

    with StopRequest() as stop:
        trainer = Trainer(
            game,
            config,
            run,
            lambda width, actions: ActorCritic(agent, width, actions),
            device,
            tell,
        )
        board = TensorBoardLog(path / "tensorboard", trainer.image_updates + trainer.model_updates)
        listeners += [ProgressLine(trainer.config), board]

        until = float("inf") if args.minutes is None else time.monotonic() + 60 * args.minutes
        finished = trainer.train(stop=lambda: stop.asked or time.monotonic() >= until)
        trainer.close()
        board.close()
    state = "finished" if finished else "stopped"
    cure = f"glam export {game}" if finished else f"glam train {game} --resume"
    print(f"\n{state} at step {trainer.env_steps:,}, saved in {path}; next: {cure}")
    return 0


def evaluate(args: Eval) -> int:
    """Runs ``glam eval``."""
    from glam_env.evaluation import RandomPolicy

    if args.random:
        game = find_game(args.game)
        name, policy, protocol = game.name, RandomPolicy(game.num_actions), PlaySettings()
    else:
        trained = _load(args.game, args.device)
        name, policy, protocol = trained.game, _policy(trained, args.greedy), trained.protocol
    report = _evaluate(
        policy, name, protocol, episodes=args.episodes, seed=args.seed, num_envs=args.num_envs
    )
    print(json.dumps(report.as_json(), indent=2) if args.json else report.table())
    return 0


def _examine(
    trained: Trained,
    *,
    steps: int,
    behavior_steps: int,
    branch_steps: int,
    horizon: int,
    seed: int,
) -> tuple[Examination, Recording]:
    """Holds dreams to the real game, with progress."""
    from glam_env.console import ProgressLines
    from glam_env.evaluation.examine import examine

    with ProgressLines() as progress:
        return examine(
            trained.world_model,
            _act(trained.agent),
            trained.game,
            steps=steps,
            behavior_steps=behavior_steps,
            branch_steps=branch_steps,
            horizon=horizon,
            dream_horizon=trained.max_episode_steps,
            seed=seed,
            repeat_action_probability=trained.protocol.repeat_action_probability,
            on_progress=progress,
        )


def fidelity(args: Fidelity) -> int:
    """Runs ``glam fidelity``."""
    from glam_env.evaluation.examine import save_examination
    from glam_env.evaluation.measures.thresholds import Thresholds

    if args.check and args.horizon < (least := Thresholds().horizon):
        raise GlamError(f"--check needs a horizon of at least {least}, not {args.horizon}")
    trained = _load(args.game, args.device)
    report, recording = _examine(
        trained,
        steps=args.steps,
        behavior_steps=args.behavior_steps,
        branch_steps=args.branch_steps,
        horizon=args.horizon,
        seed=args.seed,
    )
    print(json.dumps(report.as_json(), indent=2) if args.json else report.table())
    if args.out is not None:
        save_examination(args.out, report, trained.world_model, recording)
        print(f"written to {args.out}", file=sys.stderr)
    return int(args.check and not report.passed)


def demo(args: Demo) -> int:
    """Runs ``glam demo``."""
    from glam_env.envs.dream.env import DreamVectorEnv
    from glam_env.evaluation import evaluate_policy
    from glam_env.evaluation.demo import branch_moment, play_dreams
    from glam_env.evaluation.report.strips import side_by_side_gif

    trained = _load(args.game, args.device)
    act = _act(trained.agent)
    env = DreamVectorEnv(
        trained.game,
        args.num_envs,
        device=args.device,
        array_type="torch",
        obs_type="latent",
        checkpoint=Checkpoint.open(args.game),
    )
    dreamt = play_dreams(env, act, args.steps, args.seed)
    env.close()
    print(
        f"dream: {dreamt.mean:+.2f} ± {dreamt.standard_error:.2f} points a dream of "
        f"{trained.max_episode_steps} steps over {dreamt.dreams} dreams "
        f"({1000 * dreamt.reward_rate:+.1f} points in 1000 steps); "
        f"{dreamt.env_steps_per_second:,.0f} dream steps/s, "
        f"{dreamt.steps_per_second:,.0f} with the agent"
    )
    sticky = trained.protocol.repeat_action_probability
    report = evaluate_policy(
        _policy(trained),
        trained.game,
        episodes=args.episodes,
        seed=args.seed,
        repeat_action_probability=sticky,
    )
    rate = 1000 * sum(report.scores) / report.agent_steps
    print(
        f"real:  {report.mean:+.2f} points a game over {report.episodes} whole games "
        f"({rate:+.1f} points in 1000 steps; random play {report.random}, human "
        f"{report.human}); {report.steps_per_second:,.0f} agent steps/s with the agent"
    )
    left, right = branch_moment(
        trained.world_model,
        act,
        trained.game,
        lead=200,
        steps=150,
        seed=args.seed,
        repeat_action_probability=sticky,
    )
    side_by_side_gif(args.gif, left, right)
    print(f"both from one real moment, side by side: {args.gif}")
    return 0


def export(args: Export) -> int:
    """Runs ``glam export``."""
    from dataclasses import replace

    from glam_env.evaluation.report.card import write_card
    from glam_env.evaluation.report.history import METRICS
    from glam_env.training.export import as_stored, draw_contexts

    game = find_game(args.game).name
    path = args.run or RUNS / game
    if args.dtype not in EXPORT_DTYPES:
        raise GlamError(f"dtype must be one of {', '.join(EXPORT_DTYPES)}; got {args.dtype!r}")
    trained, run = _load_run(path, find_device(args.device))
    if trained.game != game:
        raise GlamError(f"{path} holds a run of {trained.game}, not {game}; choose its --run")
    # From here on the weights are as they will be stored: what is measured is what is shipped.
    dtype, world_model, agent = EXPORT_DTYPES[args.dtype], trained.world_model, trained.agent
    world_model.load_exported(as_stored(world_model.export_state(), dtype))
    agent.load_state_dict(as_stored(agent.state_dict(), dtype))
    trained = trained._replace(max_episode_steps=args.max_episode_steps)
    length = run.config.context
    contexts = draw_contexts(world_model, run.replay, args.contexts, length, seed=0)
    config = CheckpointConfig(
        game=game,
        world_model=world_model.config,
        agent={"class": "storm", **asdict(agent.config)},
        contexts=ContextsConfig(args.contexts, length),
        max_episode_steps=args.max_episode_steps,
        protocol=trained.protocol,
        provenance=replace(run.provenance, note=args.note),
    )
    config = replace(config, results=_measure(trained, args))
    folder = save_checkpoint(
        args.to or Path("checkpoints") / game,
        config=config,
        world_model_state=world_model.export_state(),
        agent_state=agent.export_state(),
        contexts=contexts,
        card=write_card(config),
        dtype=args.dtype,
    )
    shutil.copyfile(path / METRICS, folder / METRICS)  # the learning curves
    print(f"exported to {folder}")
    return 0


def _measure(trained: Trained, args: Export | Card) -> dict[str, Any]:
    """The results that a card tells: score and fidelity."""
    print(f"playing {args.episodes} whole games …")
    score = _evaluate(
        _policy(trained), trained.game, trained.protocol, episodes=args.episodes, seed=Eval.seed
    )
    print(score.table())
    print("holding dreams to held-out play …")
    report, _ = _examine(
        trained,
        steps=args.fidelity_steps,
        behavior_steps=args.behavior_steps,
        branch_steps=args.branch_steps,
        horizon=Fidelity.horizon,
        seed=Fidelity.seed,
    )
    print(report.table())
    return {"score": score.as_json(), "fidelity": report.as_json()}


def card(args: Card) -> int:
    """Runs ``glam card``."""
    from dataclasses import replace

    from glam_env.evaluation.report.card import write_card

    checkpoint = Checkpoint.open(args.game)
    folder, trained = checkpoint.path, _load(checkpoint, args.device)
    config = replace(checkpoint.config, results=_measure(trained, args))
    write_results(folder, config, write_card(config))
    print(f"measured anew: {folder}")
    return 0


def bench(args: Bench) -> int:
    """Runs ``glam bench``."""
    from glam_env.bench.run import bench as measure

    def agent_of(preset: str) -> Callable[[int, int], ActorCritic]:
        return lambda width, actions: ActorCritic(AGENT_PRESETS[preset], width, actions)

    return measure(args, agent_of)


COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "train": (Train, train),
    "eval": (Eval, evaluate),
    "fidelity": (Fidelity, fidelity),
    "demo": (Demo, demo),
    "sb3": (Sb3, sb3),
    "bench": (Bench, bench),
    "export": (Export, export),
    "card": (Card, card),
    "info": (Info, info),
    "curves": (Curves, curves),
}


def _preset_of(words: list[str]) -> str:
    """The value of --preset, which decides the defaults of all the other options."""
    for at, word in enumerate(words):
        if word.startswith("--preset="):
            return word.split("=", 1)[1]
        if word == "--preset" and at + 1 < len(words):
            return words[at + 1]
    return Train.preset


def _parse(name: str, words: list[str]) -> Any:
    kind, _ = COMMANDS[name]
    if kind is not Train:
        return read_options(kind, name, words)
    preset = _preset_of(words)
    if preset not in PRESETS:
        raise GlamError(f"preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    default = Train(
        game=tyro.MISSING, preset=preset, train=PRESETS[preset], agent=AGENT_PRESETS[preset]
    )
    return read_options(kind, name, words, default=default)


def main(words: list[str] | None = None) -> int:
    """The command ``glam``: exit code 2 and one line for a mistake that the user can mend."""
    words = sys.argv[1:] if words is None else words
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        print("usage: glam COMMAND …\n")
        for known, (kind, _) in COMMANDS.items():
            print(f"  glam {known:9} {(kind.__doc__ or '').splitlines()[0]}")
        print("\n`glam COMMAND --help` tells its options.")
        return 0
    try:
        if name not in COMMANDS:
            raise GlamError(f"command must be one of {', '.join(COMMANDS)}; got {name!r}")
        return COMMANDS[name][1](_parse(name, words[1:]))
    except GlamError as error:
        print(f"glam: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("glam: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
