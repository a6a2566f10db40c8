"""The measures of a dream, one per file."""

from __future__ import annotations

from glam_env.evaluation.measures.action_effects import BranchReport
from glam_env.evaluation.measures.base import Measure
from glam_env.evaluation.measures.behavior import BehaviorReport
from glam_env.evaluation.measures.calibration import CalibrationReport
from glam_env.evaluation.measures.ceiling import CeilingReport
from glam_env.evaluation.measures.events import EventReport
from glam_env.evaluation.measures.images import ImageReport
from glam_env.evaluation.measures.latents import LatentReport
from glam_env.evaluation.measures.objects import ObjectReport
from glam_env.evaluation.measures.open_loop import OpenLoopReport
from glam_env.evaluation.measures.ranking import RankingReport
from glam_env.evaluation.measures.reward_forms import RewardFormReport
from glam_env.evaluation.measures.thresholds import CheckReport

MEASURES: dict[str, type[Measure]] = {
    "open_loop": OpenLoopReport,
    "images": ImageReport,
    "objects": ObjectReport,
    "events": EventReport,
    "reward_forms": RewardFormReport,
    "latents": LatentReport,
    "calibration": CalibrationReport,
    "behavior": BehaviorReport,
    "branches": BranchReport,
    "ranking": RankingReport,
    "ceiling": CeilingReport,
    "checks": CheckReport,
}
"""The measures by name, in the order in which they run and are shown."""
