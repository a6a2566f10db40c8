"""Evaluation: scores on the real game, and measures of how true dreams are to it."""

from glam_env.evaluation.play.scores import (
    Policy,
    RandomPolicy,
    ScoreReport,
    evaluate_policy,
    play_episodes,
)

__all__ = ["Policy", "RandomPolicy", "ScoreReport", "evaluate_policy", "play_episodes"]
