"""Sequence cores; each line below registers one by its name."""

from glam_env.model.cores.base import CORES, CoreKind
from glam_env.model.cores.glam import GlamConfig, GlamCore

CORES["glam"] = CoreKind(GlamConfig, GlamCore)
