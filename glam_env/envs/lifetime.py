"""Lifetime of an env: closing it during a call, and copying it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from glam_env.errors import GlamError

Method = TypeVar("Method", bound=Callable[..., Any])


def until_closed(method: Method) -> Method:
    """Make a method report that another thread closed the env during the call.

    The original exception depends on how far the method had got.
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


class Copied:
    """Mixin of envs that can be copied and pickled.

    ``copy``, ``deepcopy`` and ``pickle`` make an env that continues as this one. The copy is made
    from the class and the arguments of :meth:`_recipe`, in this process or another one. It then
    takes over the state of :meth:`_moving`: the world, all random draws, and the spec.
    """

    def _is_closed(self) -> bool:
        raise NotImplementedError

    def _recipe(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments that make the env again."""
        raise NotImplementedError

    def _moving(self) -> dict[str, Any]:
        """Return the state that a copy takes over, in values that pickle supports."""
        names = ("_np_random", "_np_random_seed", "_spec")
        return {name: copy.deepcopy(vars(self)[name]) for name in names if name in vars(self)}

    def _continue(self, moving: dict[str, Any]) -> None:
        """Take over the state from :meth:`_moving`."""
        vars(self).update({name: moving[name] for name in moving if name.startswith("_")})

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._is_closed():
            raise GlamError("this env is closed: make a new one instead of a copy")
        return _make_copy, (type(self), *self._recipe(), self._moving())


def _make_copy(
    kind: type[Copied], words: tuple[Any, ...], options: dict[str, Any], moving: dict[str, Any]
) -> Copied:
    env = kind(*words, **options)
    env._continue(moving)
    return env


class NotCopied:
    """Mixin of envs that cannot be copied or pickled.

    ``copy``, ``deepcopy`` and ``pickle`` raise an error that says what to do instead.
    """

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise GlamError(
            f"a {type(self).__name__} cannot be copied or pickled, since its emulator cannot: make "
            "another one with the same options and reset it with the same seed"
        )
