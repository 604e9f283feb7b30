"""Where each key's record lies: 16 bytes a key in sorted arrays, and the newest ones in a dictionary.

Only eight bytes of a key are kept; the caller compares the rest with what the file holds. A place is one number that
grows with the order of writing, so of several records of a key the largest place is the newest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_NEWEST = 1 << 14
_SHARE = 32


class KeyIndex:
    """Key to places, growing."""

    def __init__(self) -> None:
        self._prefixes: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._places: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._view = self._prefixes.data
        self._newest: dict[int, int] = {}
        self._more: list[tuple[int, int]] = []  # records of prefixes that `_newest` has already

    def add(self, key: bytes, place: int) -> None:
        """Note a record; `place` is larger than any before."""
        prefix = int.from_bytes(key[:8], "little")
        if prefix in self._newest:
            self._more.append((prefix, place))
        else:
            self._newest[prefix] = place
        if len(self._newest) + len(self._more) >= max(_NEWEST, len(self._prefixes) // _SHARE):
            self._merge()

    def places(self, key: bytes) -> Sequence[int]:
        """Return the places of records whose key may be this one, the newest first."""
        prefix = int.from_bytes(key[:8], "little")
        found: list[int] = []
        at = bisect_left(self._view, prefix)
        while at < len(self._view) and self._view[at] == prefix:
            found.append(int(self._places[at]))
            at += 1
        newest = self._newest.get(prefix)
        if newest is not None:
            found.append(newest)
            if self._more:
                found += [place for other, place in self._more if other == prefix]
        if len(found) > 1:
            found.sort(reverse=True)
        return found

    def __iter__(self) -> Iterator[int]:
        """Yield the place of every record, in order of writing."""
        self._merge()
        for place in np.sort(self._places):
            yield int(place)

    def _merge(self) -> None:
        if not self._newest:
            return
        pairs = sorted([*self._newest.items(), *self._more])
        new = np.array(pairs, np.uint64)
        at = np.searchsorted(self._prefixes, new[:, 0])
        self._prefixes = np.insert(self._prefixes, at, new[:, 0])
        self._places = np.insert(self._places, at, new[:, 1])
        self._view = self._prefixes.data
        self._newest, self._more = {}, []
