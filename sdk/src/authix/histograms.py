"""How long things take, counted in buckets: for Authix's own programs.

Rule: counting is adding to plain numbers. The bounds are one set, so that what one program tells can be laid upon what
another does.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""


class Histogram:
    """How long something takes, from several threads."""

    __slots__ = ("_counts", "_lock", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, seconds: float) -> None:
        place = bisect_left(BOUNDS, seconds)
        with self._lock:
            self._counts[place] += 1
            self._sum += seconds

    def values(self) -> tuple[float, ...]:
        """How many fell between one bound and the next, and the sum of all."""
        with self._lock:
            return *self._counts, self._sum


def buckets(values: Sequence[float]) -> tuple[list[tuple[str, float]], float]:
    """Such values as Prometheus takes them: up to each bound how many, and the sum."""
    *each, total = values
    return list(zip([*map(str, BOUNDS), "+Inf"], accumulate(each), strict=True)), total
