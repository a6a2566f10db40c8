"""What a policy is worth in the real game."""

from glam_env.evaluation.play.scores import (
    Policy,
    RandomPolicy,
    ScoreReport,
    evaluate_policy,
    play_episodes,
)

__all__ = ["Policy", "RandomPolicy", "ScoreReport", "evaluate_policy", "play_episodes"]
