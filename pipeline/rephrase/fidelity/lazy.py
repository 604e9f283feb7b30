"""A property worked out when first asked, then an attribute like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class lazy(Generic[T]):
    """`functools.cached_property` without the lock that it takes in Python 3.11, which costs more than most of these.

    Two threads may work the same value out twice; either is right.
    """

    def __init__(self, work_out: Callable[[Any], T]) -> None:
        """Wrap the method `work_out`."""
        self._work_out = work_out
        self._name = work_out.__name__
        self.__doc__ = work_out.__doc__

    def __get__(self, owner: Any, kind: type | None = None) -> T:
        """Return the value, and keep it in the place of this."""
        value = owner.__dict__[self._name] = self._work_out(owner)
        return value
