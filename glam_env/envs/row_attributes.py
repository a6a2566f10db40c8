"""``RowAttributes``: attributes of rows, as in Gymnasium's ``SyncVectorEnv``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from gymnasium import Space

from glam_env.errors import GlamAttributeError, GlamError

_SAME = ("get_action_meanings", "get_keys_to_action")  # methods that return each row's value


class RowAttributes:
    """Mixin of vector envs whose rows share all attributes.

    SB3's bridge and other libraries read attributes row by row, through ``call``, ``get_attr`` and
    ``set_attr``.
    """

    rows_are: ClassVar[str]
    num_envs: int
    render: Callable[..., Any]

    _added: frozenset[str] = frozenset()  # attributes that set_attr has added

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return an attribute of each row, or the result of a method for each row.

        Args:
            name: an attribute, ``"render"``, ``"get_action_meanings"`` or ``"get_keys_to_action"``.
            args, kwargs: passed to ``render``.

        Raises:
            GlamError: the name is another method, which acts on all rows at once.
            GlamAttributeError: there is no such attribute.
        """
        if name in _SAME:
            return tuple(getattr(self, name)() for _ in range(self.num_envs))
        if name == "render":
            frames = self.render(*args, **kwargs)
            return frames if isinstance(frames, tuple) else (frames,) * self.num_envs
        single = {
            "action_space": "single_action_space",
            "observation_space": "single_observation_space",
        }
        if not hasattr(self, name := single.get(name, name)):
            raise GlamAttributeError(f"{type(self).__name__} has no attribute {name!r}")
        value = getattr(self, name)
        if callable(value) and not isinstance(value, Space):
            raise GlamError(f"{name} acts on all {self.rows_are} at once: use envs.{name}(…)")
        return (value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute once for each row.

        Raises:
            GlamAttributeError: there is no such attribute.
        """
        return self.call(name)

    def has_attr(self, name: str) -> bool:
        """Return whether :meth:`get_attr` and :meth:`call` know the name."""
        return hasattr(self, name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute that all rows share.

        Args:
            name: any name that is not an attribute of the env itself.
            values: one value, or a list or tuple of E equal ones.

        Raises:
            GlamError: the attribute is fixed, or the values differ.
        """
        if hasattr(self, name) and name not in self._added:
            raise GlamError(f"{name} is fixed when the env is made: make another env")
        if isinstance(values, list | tuple):
            if len(values) != self.num_envs or any(value != values[0] for value in values):
                raise GlamError(
                    f"{name} is the same for all {self.num_envs} {self.rows_are}: "
                    "give one value, or as many equal ones"
                )
            values = values[0]
        self._added |= {name}
        setattr(self, name, values)
