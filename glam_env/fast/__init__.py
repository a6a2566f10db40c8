"""The numbers of ``glam_env.model``, computed faster.

Importing this package makes :class:`~glam_env.model.cores.mamba.Mamba` run :mod:`.scan`, and forked
children run one thread (:mod:`glam_env.forks`).
"""

from glam_env import forks  # noqa: F401
from glam_env.fast.scan import OPERATIONS
from glam_env.model.cores.mamba import use_operations

use_operations(OPERATIONS)
