"""`glam demo`: one agent in dreams and in the real game, and a picture of both."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from glam_env.cli import trained
from glam_env.cli.options import Device, Game

LEAD, SHOWN = 200, 150  # steps before the moment at which the picture begins, and after it


@dataclass
class Demo:
    """Options of `glam demo`.

    Attributes:
        game: A game's name, or the path of a checkpoint.
        episodes: Whole real games to play.
        num_envs: Dreams side by side.
        steps: Steps of each dream env.
        gif: File of the picture.
        seed: Seed of the dreams, the games and the actions.
        device: Where dreams and agent run.
    """

    game: Game = "Pong"
    episodes: int = 4
    num_envs: int = 64
    steps: int = 256
    gif: Path = Path("demo/dream_and_game.gif")
    seed: int = 1
    device: Device = "auto"

    def execute(self) -> int:
        """Play in both worlds, print the scores, and draw the picture."""
        from glam_env.checks import require_count
        from glam_env.envs.dream.env import DreamVectorEnv
        from glam_env.evaluation.demo import branch_moment, play_dreams
        from glam_env.evaluation.report.strips import side_by_side_gif

        for name in ("episodes", "num_envs", "steps"):
            require_count(name, getattr(self, name))
        trained.require_emulator()
        trained.require_file("--gif", self.gif, "PIL")
        checkpoint = trained.open_checkpoint(self.game)
        loaded = trained.load_trained(checkpoint, self.device)
        env = DreamVectorEnv(
            loaded.game,
            self.num_envs,
            device=self.device,
            array_type="torch",
            obs_type="latent",
            checkpoint=checkpoint,
        )
        with closing(env):
            dreamt = play_dreams(env, loaded.act(), self.steps, self.seed)
        print(
            f"dream: {dreamt.mean:+.2f} ± {dreamt.standard_error:.2f} points a dream of "
            f"{loaded.horizon} steps over {dreamt.dreams} dreams "
            f"({1000 * dreamt.reward_rate:+.1f} points in 1000 steps); "
            f"{dreamt.env_steps_per_second:,.0f} dream steps/s, "
            f"{dreamt.steps_per_second:,.0f} with the agent",
            flush=True,
        )
        report = trained.play_games(
            loaded.policy(), loaded.game, loaded.play, episodes=self.episodes, seed=self.seed
        )
        rate = 1000 * sum(report.scores) / report.agent_steps
        print(
            f"real:  {report.mean:+.2f} points a game over {report.episodes} whole games "
            f"({rate:+.1f} points in 1000 steps; random play {report.random}, human "
            f"{report.human}; {report.play}); {report.steps_per_second:,.0f} agent steps/s with "
            "the agent",
            flush=True,
        )
        dream, game = branch_moment(
            loaded.world_model,
            loaded.act(),
            loaded.game,
            lead=LEAD,
            steps=SHOWN,
            seed=self.seed,
            **loaded.play.emulator,
        )
        side_by_side_gif(self.gif, dream, game)
        print(f"both from one real moment, side by side: {self.gif}")
        return 0
