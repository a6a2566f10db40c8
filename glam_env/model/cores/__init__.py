"""Sequence cores; each line below registers one by its name."""

from glam_env.model.cores.base import CORES, CoreKind
from glam_env.model.cores.double import (
    DoubleMambaConfig,
    DoubleMambaCore,
    DoubleTransformerConfig,
    DoubleTransformerCore,
)
from glam_env.model.cores.glam import GlamConfig, GlamCore
from glam_env.model.cores.parts import GlobalConfig, GlobalCore, LocalConfig, LocalCore
from glam_env.model.cores.transformer import TransformerConfig, TransformerCore

CORES["glam"] = CoreKind(GlamConfig, GlamCore)
CORES["local"] = CoreKind(LocalConfig, LocalCore)
CORES["global"] = CoreKind(GlobalConfig, GlobalCore)
CORES["transformer"] = CoreKind(TransformerConfig, TransformerCore)
CORES["double_mamba"] = CoreKind(DoubleMambaConfig, DoubleMambaCore)
CORES["double_transformer"] = CoreKind(DoubleTransformerConfig, DoubleTransformerCore)
