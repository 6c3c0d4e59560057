"""Several feeds, the first preferred.

Rule: the preferred feed is always followed; the next one is followed too while those before it are silent, and left as
soon as one of them is back. All feed the same map and the same watermark: what any of them vouches for is true.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from authix.events import Event, Heartbeat

logger = logging.getLogger("authix.feed")

_LOOK_EVERY = 0.25


Take = Callable[[Event], None]


class Feed(Protocol):
    url: str

    async def follow(self) -> None:
        """Follow for ever."""


class Feeds:
    """``patience``: seconds of silence after which the next feed is followed too."""

    def __init__(
        self,
        makers: Sequence[Callable[[Callable[[Event], None]], Feed]],
        *,
        take: Callable[[Event], None],
        patience: float,
    ) -> None:
        self._take = take
        self._patience = patience
        self._advanced_at = [float("-inf")] * len(makers)
        self._complete_until_us = [-1] * len(makers)
        self._feeds = [make(self._taker(n)) for n, make in enumerate(makers)]
        self._running: dict[int, asyncio.Task[None]] = {}

    @property
    def in_use(self) -> tuple[str, ...]:
        """The URLs that are followed now."""
        return tuple(self._feeds[n].url for n in sorted(self._running))

    async def follow(self) -> None:
        """Follow for ever. Raises what a feed raises that does not mend itself."""
        began = time.monotonic()
        try:
            while True:
                wanted = self._wanted(began)
                for n in range(wanted + 1):
                    if n not in self._running:
                        if n:
                            logger.warning(
                                "feed %s is silent; following %s", self._feeds[n - 1].url, self._feeds[n].url
                            )
                        self._running[n] = asyncio.create_task(self._feeds[n].follow())
                for n in [n for n in self._running if n > wanted]:
                    logger.info("feed %s is back; leaving %s", self._feeds[wanted].url, self._feeds[n].url)
                    await _end(self._running.pop(n))
                done, _ = await asyncio.wait(self._running.values(), timeout=_LOOK_EVERY)
                for task in done:
                    task.result()
        finally:
            for task in self._running.values():
                await _end(task)
            self._running.clear()

    def _wanted(self, began: float) -> int:
        """How far down the list feeds are to be followed."""
        now = time.monotonic()
        for n, advanced_at in enumerate(self._advanced_at):
            # the first feed may take its time to replay; each further one gets it after those before it
            if now - max(advanced_at, began + n * self._patience) <= self._patience:
                return n
        return len(self._feeds) - 1

    def _taker(self, n: int) -> Take:
        def take(event: Event) -> None:
            if isinstance(event, Heartbeat) and event.complete_until_us > self._complete_until_us[n]:
                self._complete_until_us[n] = event.complete_until_us
                self._advanced_at[n] = time.monotonic()
            self._take(event)

        return take


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
