"""`glam eval`: the score of a trained agent in the real game."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from glam_env.cli import trained
from glam_env.cli.options import Device, Game, Protocol
from glam_env.errors import GlamError


@dataclass
class Eval:
    """Options of `glam eval`.

    Attributes:
        game: A game's name, or the path of a checkpoint or of a run.
        episodes: Whole games to play.
        num_envs: Games side by side.
        seed: Seed of the games and the actions.
        greedy: Take the most likely action. By default actions are sampled.
        random: Play at random instead, for comparison.
        kept: Of a run, score all weights that `--keep-every` kept, choose the best, and report it
            on other seeds. Writes scores.json into the run's folder.
        protocol: How the game is played: atari100k (no sticky actions, up to 30 no-ops) or
            published (sticky actions 0.25, no no-ops). By default as in the training; atari100k
            for random play.
        repeat_action_probability: Probability in [0, 1] that the game repeats the last action
            (sticky actions). By default that of the protocol.
        noop_max: Each game begins with 0 to so many no-op frames. By default as in the protocol.
        context: How the world model remembers the game: recurrent (it carries its state on) or
            window (it computes its state again over the last 16 steps at each step).
        device: Where the agent runs.
        json: Print the report as JSON.
    """

    game: Game
    episodes: int = trained.SCORE_EPISODES
    num_envs: int = trained.SCORE_ENVS
    seed: int = trained.SCORE_SEED
    greedy: bool = False
    random: bool = False
    kept: bool = False
    protocol: Protocol = None
    repeat_action_probability: float | None = None
    noop_max: int | None = None
    context: Literal["recurrent", "window"] = "recurrent"
    device: Device = "auto"
    json: bool = False

    def execute(self) -> int:
        """Play, and print the score."""
        from glam_env.checkpoint.config import to_json
        from glam_env.checks import require_count
        from glam_env.evaluation import RandomPolicy
        from glam_env.games import find_game
        from glam_env.protocols import PlaySettings, choose_play

        require_count("episodes", self.episodes)
        require_count("num_envs", self.num_envs)
        trained.require_emulator()
        if self.kept:
            return self._score_kept()
        given = self.protocol, self.repeat_action_probability, self.noop_max
        if self.random:
            game = find_game(self.game)
            name, policy, play = game.name, RandomPolicy(game.num_actions), PlaySettings()
            origin, words = {}, ""
            play = choose_play(play, *given)
        else:
            choose_play(PlaySettings(), *given)  # a mistake is found before anything is loaded
            loaded = self._remembering(trained.load_trained(self.game, self.device))
            name, policy, play = loaded.game, loaded.policy(self.greedy), loaded.play
            origin = {"trained_under": to_json(play), "real_steps": loaded.real_steps}
            origin |= {"context": self.context}
            words = f"trained under: {play}; {loaded.real_steps:,} real steps in all runs together"
            play = choose_play(play, *given)
        report = trained.play_games(
            policy, name, play, episodes=self.episodes, seed=self.seed, num_envs=self.num_envs
        )
        if self.json:
            print(json.dumps({**report.as_json(), **origin}, indent=2))
        else:
            print("\n".join([report.table(), *([words] if words else [])]))
        return 0

    def _remembering(self, loaded: trained.Trained) -> trained.Trained:
        from glam_env.envs.context import with_context

        return replace(loaded, world_model=with_context(loaded.world_model, self.context))

    def _score_kept(self) -> int:
        """Score the kept weights of a run, and write and print the curve."""
        from glam_env.device import find_device
        from glam_env.evaluation.play.scores import CHOICE
        from glam_env.evaluation.report.real_scores import ScoreCurve, put_curve
        from glam_env.protocols import choose_play
        from glam_env.training.kept import list_kept
        from glam_env.training.run_folder import RunFolder, run_kind

        path, device = Path(self.game), find_device(self.device)
        if self.random or run_kind(path) != "train":
            raise GlamError("--kept needs the folder of a run of `glam train`, and no --random")
        if not (steps := list_kept(RunFolder(path))):
            raise GlamError(f"{path} has no kept weights; train with --keep-every 0.1")

        def play_with(step: int, seed: int, **options: Any) -> dict[str, Any]:
            loaded = self._remembering(trained.load_run(path, device, step)[0])
            given = self.protocol, self.repeat_action_probability, self.noop_max
            report = trained.play_games(
                loaded.policy(self.greedy),
                loaded.game,
                choose_play(loaded.play, *given),
                episodes=self.episodes,
                seed=seed,
                num_envs=self.num_envs,
                **options,
            )
            return report.as_json()

        curve = ScoreCurve({})
        for step in steps:
            point = play_with(step, trained.CHOICE_SEED, purpose=CHOICE)
            curve = ScoreCurve({**curve.points, step: point})
            put_curve(path, curve)  # keeps the scores so far if the command is stopped
        curve = ScoreCurve(curve.points, play_with(curve.best, self.seed))
        put_curve(path, curve)
        print(json.dumps(curve.as_json(), indent=2) if self.json else curve.table())
        return 0
