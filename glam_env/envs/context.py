"""How dreams and filters remember: the state is carried on, or computed again over a window."""

from __future__ import annotations

from typing import Literal, get_args

from glam_env.errors import GlamError
from glam_env.model.world_model import WorldModel

Context = Literal["recurrent", "window"]
CONTEXTS = get_args(Context)


def with_context(world_model: WorldModel, context: Context) -> WorldModel:
    """Return a world model in evaluation mode that remembers as asked for; weights are shared.

    Raises:
        GlamError: Its core needs more steps than the window has.
    """
    if context == "recurrent":
        return world_model
    try:
        return world_model.windowed()
    except ValueError as error:
        raise GlamError(f"context 'window' does not suit this world model: {error}") from error
