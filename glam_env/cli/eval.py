"""`glam eval`: the score of a trained agent in the real game."""

from __future__ import annotations

import json
from dataclasses import dataclass

from glam_env.cli import trained
from glam_env.cli.options import Device, Game, Protocol


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
        protocol: How the game is played: atari100k (no sticky actions, up to 30 no-ops) or
            published (sticky actions 0.25, no no-ops). By default as in the training; atari100k
            for random play.
        repeat_action_probability: Probability in [0, 1] that the game repeats the last action
            (sticky actions). By default that of the protocol.
        noop_max: Each game begins with 0 to so many no-op frames. By default as in the protocol.
        device: Where the agent runs.
        json: Print the report as JSON.
    """

    game: Game
    episodes: int = trained.SCORE_EPISODES
    num_envs: int = trained.SCORE_ENVS
    seed: int = trained.SCORE_SEED
    greedy: bool = False
    random: bool = False
    protocol: Protocol = None
    repeat_action_probability: float | None = None
    noop_max: int | None = None
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
        given = self.protocol, self.repeat_action_probability, self.noop_max
        if self.random:
            game = find_game(self.game)
            name, policy, play = game.name, RandomPolicy(game.num_actions), PlaySettings()
            origin, words = {}, ""
            play = choose_play(play, *given)
        else:
            choose_play(PlaySettings(), *given)  # a mistake is found before anything is loaded
            loaded = trained.load_trained(self.game, self.device)
            name, policy, play = loaded.game, loaded.policy(self.greedy), loaded.play
            origin = {"trained_under": to_json(play), "real_steps": loaded.real_steps}
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
