"""The numbers of ``glam_env.model``, computed faster.

Importing this package makes :class:`~glam_env.model.cores.mamba.Mamba` run :mod:`.scan` and
:mod:`glam_env.model.distributions` run :mod:`.latents`, and forked children run one thread
(:mod:`glam_env.forks`).
"""

from glam_env import forks  # noqa: F401
from glam_env.fast import latents, scan
from glam_env.model import distributions
from glam_env.model.cores import mamba

mamba.use_operations(scan.OPERATIONS)
distributions.use_operations(latents.OPERATIONS)
