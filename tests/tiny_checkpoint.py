"""The sizes of the checkpoint that `conftest.py` makes."""

from glam_env.model.config import WorldModelConfig

TINY = WorldModelConfig(num_actions=6, stem=4, categoricals=4, classes=4, width=16)
