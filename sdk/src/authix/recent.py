"""What was found out of late, kept so that it need not be found out again.

Rule: the oldest makes room. A look changes nothing, so it needs no lock, and among thousands of entries it waits for
memory once, where a cache that orders its entries by their last use waits for their neighbours too.
"""

from __future__ import annotations

from collections import deque
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(dict[K, V]):
    """A dict that keeps the ``size`` entries that came last. Whoever adds from several threads holds a lock."""

    __slots__ = ("_order", "_size")

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        # A dict's own first key costs a walk over all that were deleted before it.
        self._order: deque[K] = deque()

    def keep(self, key: K, value: V) -> None:
        """Only by this anything comes or goes."""
        if key not in self:
            if not self._size:
                return
            if len(self._order) >= self._size:
                del self[self._order.popleft()]
            self._order.append(key)
        self[key] = value
