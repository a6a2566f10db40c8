"""``glam``: train, evaluate, look, export."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from agents.sb3_runner import sb3
from agents.storm import AGENT_PRESETS, ActorCritic, AgentConfig
from glam_env.checkpoint_config import (
    CheckpointConfig,
    ContextsConfig,
    Protocol,
    from_json,
    load_config,
    to_json,
)
from glam_env.checkpoints import (
    EXPORT_DTYPES,
    find_checkpoint,
    load_agent_state,
    load_world_model,
    save_checkpoint,
    shipped_checkpoints,
)
from glam_env.dream.engine import find_device
from glam_env.errors import GlamError
from glam_env.games import find_game
from glam_env.options import Demo, Eval, Export, Fidelity, Info, Sb3, read_options
from glam_env.training.presets import PRESETS, TrainConfig

if TYPE_CHECKING:
    from glam_env.atari.latent_filter import Act, FilteredPolicy
    from glam_env.evaluation.fidelity import FidelityReport
    from glam_env.model.world_model import WorldModel

RUNS = Path("runs")
NOISE = (0.0, 0.25, 0.5, 1.0)
"""Random actions' share in the held-out play of each env: from the agent's own to random."""


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


def _load(name: str, device: str) -> tuple[CheckpointConfig, WorldModel, ActorCritic]:
    folder, where = find_checkpoint(name), find_device(device)
    config, world_model = load_config(folder), load_world_model(folder, where)
    c = config.world_model
    agent = ActorCritic.from_export(
        config.agent, load_agent_state(folder), c.feature_dim, c.num_actions
    )
    return config, world_model, agent.to(where)


def _act(agent: ActorCritic, greedy: bool = False) -> Act:
    return lambda features, generator: agent.act(features, greedy=greedy, generator=generator)


def _policy(world_model: WorldModel, agent: ActorCritic, greedy: bool = False) -> FilteredPolicy:
    from glam_env.atari.latent_filter import FilteredPolicy

    return FilteredPolicy(world_model, _act(agent, greedy))


def _show_score(report: dict[str, Any]) -> None:
    error = report["standard_error"]
    spread = "" if error is None else f" ± {error:.2f}"
    print(
        f"{report['game']}: {report['mean']:.2f}{spread} over {report['episodes']} whole games "
        f"(random {report['random']}, human {report['human']}; "
        f"human-normalised {100 * report['human_normalized']:.1f} %), "
        f"{report['steps_per_second']:.0f} agent steps/s"
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

    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        asked.append(number)
        signal.signal(number, signal.SIG_DFL)  # a second one kills

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)

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
    finished = trainer.train(stop=lambda: bool(asked) or time.monotonic() >= until)
    trainer.close()
    board.close()
    state = "finished" if finished else "stopped"
    cure = f"glam export {game}" if finished else f"glam train {game} --resume"
    print(f"\n{state} at step {trainer.env_steps:,}, saved in {path}; next: {cure}")
    return 0


def evaluate(args: Eval) -> int:
    """Runs ``glam eval``."""
    from glam_env.evaluation import RandomPolicy, evaluate_policy

    if args.random:
        game = find_game(args.game)
        policy, name, sticky = RandomPolicy(game.num_actions), game.name, 0.0
    else:
        config, world_model, agent = _load(args.game, args.device)
        policy, name = _policy(world_model, agent, args.greedy), config.game
        sticky = config.protocol.repeat_action_probability
    report = evaluate_policy(
        policy,
        name,
        episodes=args.episodes,
        num_envs=args.num_envs,
        seed=args.seed,
        repeat_action_probability=sticky,
    ).as_json()
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _show_score(report)
    return 0


def _measure_fidelity(
    world_model: WorldModel,
    agent: ActorCritic,
    game: str,
    protocol: Protocol,
    *,
    steps: int,
    horizon: int,
    seed: int,
    pictures: Path | None = None,
) -> FidelityReport:
    """Records held-out play, from the agent's own to random, and dreams along it."""
    from glam_env.atari.latent_filter import FilteredPolicy
    from glam_env.evaluation.fidelity import DETECTORS, measure_fidelity
    from glam_env.evaluation.recording import add_noise, record_play
    from glam_env.evaluation.strips import save_strips

    act = add_noise(_act(agent), find_game(game).num_actions, NOISE)
    recording = record_play(
        FilteredPolicy(world_model, act),
        game,
        steps=steps,
        num_envs=len(NOISE),
        seed=seed,
        repeat_action_probability=protocol.repeat_action_probability,
    )
    if pictures is not None:
        save_strips(pictures, world_model, recording, horizon=horizon, seed=seed)
    return measure_fidelity(
        world_model, recording, horizon=horizon, seed=seed, objects=DETECTORS.get(game)
    )


def fidelity(args: Fidelity) -> int:
    """Runs ``glam fidelity``."""
    config, world_model, agent = _load(args.game, args.device)
    report = _measure_fidelity(
        world_model,
        agent,
        config.game,
        config.protocol,
        steps=args.steps,
        horizon=args.horizon,
        seed=args.seed,
        pictures=args.pictures,
    )
    print(json.dumps(report.as_json(), indent=2) if args.json else report.table())
    return 0


def demo(args: Demo) -> int:
    """Runs ``glam demo``."""
    from glam_env.dream.vector_env import DreamVectorEnv
    from glam_env.evaluation import evaluate_policy
    from glam_env.evaluation.demo import branch_moment, play_dreams
    from glam_env.evaluation.strips import side_by_side_gif

    config, world_model, agent = _load(args.game, args.device)

    act = _act(agent)
    env = DreamVectorEnv(
        config.game,
        args.num_envs,
        device=args.device,
        array_type="torch",
        obs_type="latent",
        checkpoint=str(find_checkpoint(args.game)),
    )
    dreamt = play_dreams(env, act, args.steps, args.seed)
    env.close()
    print(
        f"dream: {dreamt.mean:+.2f} ± {dreamt.standard_error:.2f} points a dream of "
        f"{config.max_episode_steps} steps over {dreamt.dreams} dreams "
        f"({1000 * dreamt.reward_rate:+.1f} points in 1000 steps); "
        f"{dreamt.env_steps_per_second:,.0f} dream steps/s, "
        f"{dreamt.steps_per_second:,.0f} with the agent"
    )
    sticky = config.protocol.repeat_action_probability
    report = evaluate_policy(
        _policy(world_model, agent),
        config.game,
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
        world_model,
        act,
        config.game,
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

    from glam_env.evaluation import evaluate_policy
    from glam_env.evaluation.card import write_card
    from glam_env.training.export import as_stored, draw_contexts, load_run
    from glam_env.training.run_folder import RunFolder

    game = find_game(args.game).name
    path = args.run or RUNS / game
    if args.dtype not in EXPORT_DTYPES:
        raise GlamError(f"dtype must be one of {', '.join(EXPORT_DTYPES)}; got {args.dtype!r}")
    run, device = RunFolder(path), find_device(args.device)
    trained = load_run(run, device)
    if trained.game != game:
        raise GlamError(f"{path} holds a run of {trained.game}, not {game}; choose its --run")
    # From here on the weights are as they will be stored: what is measured is what is shipped.
    dtype, world_model = EXPORT_DTYPES[args.dtype], trained.world_model
    world_model.load_exported(as_stored(world_model.export_state(), dtype))
    c = world_model.config
    settings = from_json(AgentConfig, run.settings.get("agent"), str(path / "config.json"))
    agent = ActorCritic(settings, c.feature_dim, c.num_actions).to(device)
    agent.load_learner_state(trained.learner)
    agent.load_state_dict(as_stored(agent.state_dict(), dtype))
    length = trained.config.context
    contexts = draw_contexts(world_model, trained.replay, args.contexts, length, seed=0)
    config = CheckpointConfig(
        game=game,
        world_model=c,
        agent={"class": "storm", **asdict(settings)},
        contexts=ContextsConfig(args.contexts, length),
        max_episode_steps=args.max_episode_steps,
        protocol=Protocol(trained.config.repeat_action_probability),
        provenance=trained.provenance,
    )
    print(f"playing {args.episodes} whole games …")
    score = evaluate_policy(
        _policy(world_model, agent),
        game,
        episodes=args.episodes,
        seed=Eval.seed,
        repeat_action_probability=config.protocol.repeat_action_probability,
    ).as_json()
    _show_score(score)
    print("dreaming along held-out play …")
    report = _measure_fidelity(
        world_model,
        agent,
        game,
        config.protocol,
        steps=args.fidelity_steps,
        horizon=Fidelity.horizon,
        seed=Fidelity.seed,
    )
    print(report.table())
    config = replace(config, results={"score": score, "fidelity": report.as_json()})
    folder = save_checkpoint(
        args.to or Path("checkpoints") / game,
        config=config,
        world_model_state=world_model.export_state(),
        agent_state=agent.export_state(),
        contexts=contexts,
        card=write_card(config),
        dtype=args.dtype,
    )
    shutil.copyfile(run.metrics, folder / run.metrics.name)  # the learning curves
    print(f"exported to {folder}")
    return 0


def info(args: Info) -> int:
    """Runs ``glam info``."""
    import importlib.metadata

    import torch

    from glam_env.model.mamba import convolution_missing, scan_missing
    from glam_env.training.run_folder import RunFolder

    path = Path(args.what)
    if not args.what:
        facts: dict[str, Any] = {
            "glam-env": importlib.metadata.version("glam-env"),
            "torch": torch.__version__,
            "device": str(find_device("auto")),
            "cpu threads": torch.get_num_threads(),
            "mamba scan": f"PyTorch ({why})" if (why := scan_missing()) else "mamba-ssm",
            "mamba convolution": (
                f"PyTorch ({why})" if (why := convolution_missing()) else "causal-conv1d"
            ),
            "checkpoints": {game: str(p) for game, p in shipped_checkpoints().items()},
        }
    elif (path / "checkpoints").is_dir() and (path / "config.json").is_file():
        run = RunFolder(path)
        lines = run.metrics.read_text().splitlines() if run.metrics.exists() else []
        figures = [line for line in map(json.loads, lines) if "phase" in line]
        facts = {
            "settings": run.settings,
            "checkpoints": [str(p) for p in run.checkpoints()],
            "last figures": figures[-1] if figures else None,
        }
    else:
        folder = find_checkpoint(args.what)
        facts = {"folder": str(folder), **to_json(load_config(folder))}
    print(json.dumps(facts, indent=2) if args.json else _outline(facts))
    return 0


def _outline(value: Any, depth: int = 0) -> str:
    """Nested facts as indented lines; long lists are cut."""
    if isinstance(value, list):
        shown = [str(item) for item in value[:8]]
        return ", ".join(shown) + (f", … ({len(value)})" if len(value) > 8 else "")
    if not isinstance(value, dict):
        return str(value)
    lines = []
    for name, item in value.items():
        text = _outline(item, depth + 1)
        gap = "\n" if isinstance(item, dict) and item else " "
        lines.append(f"{'  ' * depth}{name}:{gap}{text}")
    return "\n".join(lines)


COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "train": (Train, train),
    "eval": (Eval, evaluate),
    "fidelity": (Fidelity, fidelity),
    "demo": (Demo, demo),
    "sb3": (Sb3, sb3),
    "export": (Export, export),
    "info": (Info, info),
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
