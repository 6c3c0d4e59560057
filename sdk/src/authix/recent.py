"""What was found out of late, kept so that it need not be found out again.

Rule: the oldest makes room. A look changes nothing, so it needs no lock, and among thousands of entries it waits for
memory once, where a cache that orders its entries by their last use waits for their neighbours too.
"""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(dict[K, V]):
    """A dict that keeps the ``size`` entries that came last. Whoever adds from several threads holds a lock."""

    __slots__ = ("_size",)

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def keep(self, key: K, value: V) -> None:
        if len(self) >= self._size and key not in self:
            if not self._size:
                return
            del self[next(iter(self))]
        self[key] = value
