"""Attributes of the rows of a vector env, asked for as of Gymnasium's ``SyncVectorEnv``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from gymnasium import Space

from glam_env.errors import GlamAttributeError, GlamError


class RowAttributes:
    """Of vector envs whose rows have all attributes in common: ``call``, ``get_attr`` and others.

    SB3's bridge and other libraries ask envs so, row by row.
    """

    rows_are: ClassVar[str]
    num_envs: int
    render: Callable[..., Any]

    _noted: frozenset[str] = frozenset()  # attributes that set_attr has added

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """An attribute of each row, or what a method of each row gives, of which there is one:
        ``render``.

        Raises:
            GlamError: another method, which acts on all rows at once.
            GlamAttributeError: no such attribute.
        """
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
        """An attribute, once a row.

        Raises:
            GlamAttributeError: there is none.
        """
        return self.call(name)

    def has_attr(self, name: str) -> bool:
        """Whether :meth:`get_attr` and :meth:`call` know it."""
        return hasattr(self, name)

    def set_attr(self, name: str, values: Any) -> None:
        """Notes an attribute of all rows, which share it.

        Args:
            name: any that the env has not got of its own.
            values: one value, or a list or tuple of E equal ones.

        Raises:
            GlamError: a fixed attribute, or values that differ.
        """
        if hasattr(self, name) and name not in self._noted:
            raise GlamError(f"{name} is fixed when the env is made: make another one")
        if isinstance(values, list | tuple):
            if len(values) != self.num_envs or any(value != values[0] for value in values):
                raise GlamError(
                    f"{name} is one for all {self.num_envs} {self.rows_are}: "
                    "give one value, or as many equal ones"
                )
            values = values[0]
        self._noted |= {name}
        setattr(self, name, values)
