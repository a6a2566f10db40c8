"""`glam eval`: the score of a trained agent in the real game."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from glam_env.cli import trained
from glam_env.cli.options import Device, Game


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
        repeat_action_probability: Probability in [0, 1) that the game repeats the last action
            (sticky actions). By default that of the training; 0 for random play.
        device: Where the agent runs.
        json: Print the report as JSON.
    """

    game: Game
    episodes: int = trained.SCORE_EPISODES
    num_envs: int = trained.SCORE_ENVS
    seed: int = trained.SCORE_SEED
    greedy: bool = False
    random: bool = False
    repeat_action_probability: float | None = None
    device: Device = "auto"
    json: bool = False

    def execute(self) -> int:
        """Play, and print the score."""
        from glam_env.checkpoint.config import PlaySettings
        from glam_env.checks import require_count
        from glam_env.evaluation import RandomPolicy
        from glam_env.games import find_game

        require_count("episodes", self.episodes)
        require_count("num_envs", self.num_envs)
        if self.random:
            game = find_game(self.game)
            name, policy, play = game.name, RandomPolicy(game.num_actions), PlaySettings()
        else:
            loaded = trained.load_trained(self.game, self.device)
            name, policy, play = loaded.game, loaded.policy(self.greedy), loaded.play
        if self.repeat_action_probability is not None:
            play = replace(play, repeat_action_probability=self.repeat_action_probability)
        report = trained.play_games(
            policy, name, play, episodes=self.episodes, seed=self.seed, num_envs=self.num_envs
        )
        print(json.dumps(report.as_json(), indent=2) if self.json else report.table())
        return 0
