"""The numbers of ``glam_env.model``, computed faster.

Importing this package makes :class:`~glam_env.model.cores.mamba.Mamba` run :mod:`.scan`, and
:mod:`glam_env.model.distributions` run :mod:`.latents`.
"""

from glam_env.fast import latents, scan
from glam_env.model import distributions
from glam_env.model.cores import mamba

mamba.use_operations(scan.OPERATIONS)
distributions.use_operations(latents.OPERATIONS)
