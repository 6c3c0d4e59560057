"""Several feeds, the first preferred.

Rule: the preferred feed is always followed; the next one is followed too while those before it are stale, and left as
soon as one of them is fresh again. All feed the same map and the same watermark: what any of them vouches for is true.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from authix.events import Event, Heartbeat, Take
from authix.freshness import Freshness

logger = logging.getLogger("authix.feed")

_LOOK_EVERY = 0.25


class Feed(Protocol):
    url: str

    async def follow(self) -> None:
        """Follow for ever."""


class FeedState(NamedTuple):
    """How one of the feeds does."""

    kind: str
    """``kafka`` or ``http``."""
    followed: bool
    """Whether it is followed now: the preferred one always is, others while those before them are stale."""
    stale: bool
    """Whether it is followed in vain: it makes the next one necessary, where there is one."""
    age: float | None
    """Seconds by which what it told may be old; None when it never told, or is not followed."""


class Feeds:
    """``patience``: the age in seconds from which a feed is stale, and what each has to begin with."""

    def __init__(self, makers: Sequence[Callable[[Take], Feed]], *, take: Take, patience: float) -> None:
        self._take = take
        self._patience = patience
        self._freshness = [Freshness() for _ in makers]
        self._feeds = [make(partial(self._taken, n)) for n, make in enumerate(makers)]
        self._began = [0.0] * len(makers)
        self._running: dict[int, asyncio.Task[None]] = {}

    @property
    def in_use(self) -> tuple[str, ...]:
        """The URLs that are followed now."""
        return tuple(self._feeds[n].url for n in sorted(self._running))

    @property
    def states(self) -> tuple[FeedState, ...]:
        """Of all feeds, in order of preference."""
        now = time.monotonic()
        return tuple(
            FeedState(
                kind="kafka" if feed.url.startswith("kafka:") else "http",
                followed=n in self._running,
                stale=self._stale(n, now),
                age=self._freshness[n].age(now) if n in self._running else None,
            )
            for n, feed in enumerate(self._feeds)
        )

    async def follow(self) -> None:
        """Follow for ever. Raises what a feed raises that does not mend itself."""
        try:
            while True:
                wanted = self._wanted()
                if wanted not in self._running:
                    self._begin(wanted)
                for n in [n for n in self._running if n > wanted]:
                    logger.info("feed %s is back; leaving %s", self._feeds[wanted].url, self._feeds[n].url)
                    await _end(self._running[n])
                    del self._running[n]
                done, _ = await asyncio.wait(self._running.values(), timeout=_LOOK_EVERY)
                for task in done:
                    raise _why(task) or RuntimeError("a feed has ended")
        finally:
            running, self._running = self._running, {}
            await _end(*running.values())

    def _begin(self, n: int) -> None:
        if n:
            logger.warning("feed %s is stale; following %s too", self._feeds[n - 1].url, self._feeds[n].url)
        self._began[n] = time.monotonic()
        self._running[n] = asyncio.create_task(self._feeds[n].follow())

    def _wanted(self) -> int:
        """How far down the list feeds are to be followed: to the first that is fresh or has just begun."""
        now = time.monotonic()
        last = len(self._feeds) - 1
        return next((n for n in range(last) if n not in self._running or not self._stale(n, now)), last)

    def _stale(self, n: int, now: float) -> bool:
        age = self._freshness[n].age(now)
        # One that has made another necessary must do better, or they would change places again and again.
        enough = self._patience / 2 if n + 1 in self._running else self._patience
        begins = now - self._began[n] <= self._patience
        return n in self._running and not begins and (age is None or age > enough)

    def _taken(self, n: int, *events: Event) -> None:
        for event in events:
            if isinstance(event, Heartbeat):
                self._freshness[n].observe(event, time.monotonic())
        self._take(*events)


def _why(ended: asyncio.Task[None]) -> BaseException | None:
    return None if ended.cancelled() else ended.exception()


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
