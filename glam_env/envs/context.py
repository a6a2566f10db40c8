"""Context of dreams and filters: a recurrent state or a window of steps.

``"recurrent"`` carries the state on; ``"window"`` computes it again over a window at each step.
"""

from __future__ import annotations

from typing import Literal, get_args

from glam_env.errors import GlamError
from glam_env.model.world_model import WorldModel

Context = Literal["recurrent", "window"]
CONTEXTS = get_args(Context)


def with_context(world_model: WorldModel, context: Context) -> WorldModel:
    """Return a world model with the given context, which shares its weights.

    Args:
        world_model: In evaluation mode; returned itself for ``"recurrent"``.
        context: The context.

    Raises:
        GlamError: Its core needs more steps than the window has.
    """
    if context == "recurrent":
        return world_model
    try:
        return world_model.windowed()
    except ValueError as error:
        raise GlamError(f"context 'window' does not suit this world model: {error}") from error
