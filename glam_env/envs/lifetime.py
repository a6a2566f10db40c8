"""What an env does at the edges of its life: closed in the midst of a call, and never copied."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from glam_env.errors import GlamError

Method = TypeVar("Method", bound=Callable[..., Any])


def until_closed(method: Method) -> Method:
    """Let a method of an env say that another thread has closed the env meanwhile.

    What it fails with then depends on how far it has got.
    """

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except GlamError:
            raise
        except Exception as error:
            if not self.closed:
                raise
            name = method.__name__
            raise GlamError(f"this env was closed during {name}(): make a new one") from error

    return guarded  # type: ignore[return-value]


class NotCopied:
    """Mixin of envs: ``copy``, ``deepcopy`` and ``pickle`` say what to do instead."""

    copy_instead = "make another one with the same options and reset it with the same seed"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise GlamError(f"a {type(self).__name__} cannot be copied or pickled: {self.copy_instead}")
