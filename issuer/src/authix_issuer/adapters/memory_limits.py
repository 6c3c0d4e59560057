"""Limits in memory, for one process.

Rule: each step is done without a pause, so it is atomic on the event loop. What has expired is dropped when the number
of entries has doubled since the last time, so a step's cost does not grow with them; ``limits``' own storage looks at
every entry at every hit, 23 ms at 100,000. Past the bound the oldest half is dropped: memory is not the attacker's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from limits.aio.storage import Storage

from authix_issuer.ports import KEEP_ATTEMPTS, Tried, delay_after

_FEW = 1024
_MOST = 200_000

V = TypeVar("V")
Clock = Callable[[], float]


class _Expiring(Generic[V]):
    """Values by key, each until its moment."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[float, V]] = {}
        self._look_at = _FEW

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> tuple[float, V] | None:
        entry = self._entries.get(key)
        return entry if entry is not None and entry[0] > self._clock() else None

    def put(self, key: str, until: float, value: V) -> None:
        self._entries.pop(key, None)  # so that the order is that of the last change
        self._entries[key] = (until, value)
        if len(self._entries) >= self._look_at:
            self._drop()

    def pop(self, key: str) -> None:
        self._entries.pop(key, None)

    def _drop(self) -> None:
        now = self._clock()
        live = [(key, entry) for key, entry in self._entries.items() if entry[0] > now]
        if len(live) >= _MOST:
            live = live[len(live) // 2 :]
        self._entries = dict(live)
        self._look_at = min(max(_FEW, 2 * len(live)), _MOST)


class MemoryCounters(Storage):
    """A storage of ``limits``."""

    STORAGE_SCHEME = None

    def __init__(self, clock: Clock = time.time) -> None:
        super().__init__()
        self._counts: _Expiring[int] = _Expiring(clock)
        self._clock = clock

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        return ()

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        until, count = self._counts.get(key) or (self._clock() + expiry, 0)
        self._counts.put(key, until, count + amount)
        return count + amount

    async def get(self, key: str) -> int:
        entry = self._counts.get(key)
        return entry[1] if entry else 0

    async def get_expiry(self, key: str) -> float:
        entry = self._counts.get(key)
        return entry[0] if entry else self._clock()

    async def check(self) -> bool:
        return True

    async def reset(self) -> int | None:
        gone = len(self._counts)
        self._counts = _Expiring(self._clock)
        return gone

    async def clear(self, key: str) -> None:
        self._counts.pop(key)


class _Count(NamedTuple):
    failures: int
    not_before: float


class MemoryAttempts:
    """An ``AttemptStore``."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._counts: _Expiring[_Count] = _Expiring(clock)
        self._clock = clock

    def __len__(self) -> int:
        return len(self._counts)

    async def begin(self, tried: Sequence[Tried], max_delay: int) -> float:
        now = self._clock()
        counts = [self._count(each) for each in tried]
        wait = max(count.not_before for count in counts) - now
        if wait > 0:
            return wait
        for each, count in zip(tried, counts, strict=True):
            failures = count.failures + 1
            self._put(each, failures, now + delay_after(failures, each.free, max_delay))
        return 0

    async def withdraw(self, tried: Sequence[Tried]) -> None:
        for each in tried:
            if (failures := self._count(each).failures) > 1:
                self._put(each, failures - 1, 0)
            else:
                self._counts.pop(each.key)

    async def succeed(self, tried: Sequence[Tried]) -> None:
        for each in tried:
            self._counts.pop(each.key)

    def _count(self, tried: Tried) -> _Count:
        entry = self._counts.get(tried.key)
        return entry[1] if entry else _Count(0, 0)

    def _put(self, tried: Tried, failures: int, not_before: float) -> None:
        self._counts.put(tried.key, self._clock() + KEEP_ATTEMPTS, _Count(failures, not_before))
