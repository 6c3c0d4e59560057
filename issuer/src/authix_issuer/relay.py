"""The relay: from the revocation log to the logout topic.

Rule: whoever writes a revocation publishes it at once and then marks it as published; whatever is left unmarked for a
second is published by the one worker that holds the lease, so a worker may die anywhere and nothing is lost (twice does
no harm). The same worker sends the heartbeats: it takes the watermark first and sends it after, and gives the lease
away when the topic refuses it. Before each it looks whether the topic still holds what was published; if not, the whole
log is published again first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from types import TracebackType
from typing import Self

from authix import tracing
from authix.events import Heartbeat
from authix_issuer.errors import IssuerError, StoreUnavailable
from authix_issuer.ports import Extent, Logout, Outbox, Topic
from authix_issuer.trail import Trail

logger = logging.getLogger("authix.issuer.relay")

EVERY = 1.0
"""Seconds between two heartbeats, and the age from which an entry is taken over."""
LEASE = 4.0
"""Seconds after which another worker steps in for one that holds the lease and is gone."""
STEP_BACK = 2.0
"""Seconds for which a worker whose publishing failed leaves the lease to others."""
PAGE = 500
_MAX_FRESH = 10_000  # beyond this, revocations wait in the outbox alone


class Relay:
    """Publishes what this process writes, and what others left behind."""

    def __init__(self, outbox: Outbox, topic: Topic) -> None:
        self._outbox = outbox
        self._topic = topic
        self._holder = secrets.token_hex(8)
        self._fresh: list[Logout] = []
        self._contexts: dict[Logout, tracing.Headers] = {}
        """Of the traces that fresh ones belong to; the outbox keeps none."""
        self._wake = asyncio.Event()
        self.problem: str | None = None
        """Why publishing does not work now."""
        self.leads = False
        """Whether this worker holds the lease, as far as it knows."""
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._publish_fresh()), asyncio.create_task(self._lead())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(IssuerError, TimeoutError):
            async with asyncio.timeout(LEASE):
                await self._publish(self._take_fresh())
        with contextlib.suppress(IssuerError):
            await self._outbox.release(self._holder)

    def publish(self, revocation: Logout) -> None:
        """Publish a revocation that this process has just written; it is in the outbox already."""
        if len(self._fresh) < _MAX_FRESH:
            self._fresh.append(revocation)
            if context := tracing.carried():
                self._contexts[revocation] = context
            self._wake.set()

    async def _publish_fresh(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            fresh = self._take_fresh()
            try:
                await self._publish(fresh)
            except asyncio.CancelledError:
                self._fresh[:0] = fresh  # this process has not ended yet
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, without this task logouts would come late
                self._report(error)

    async def _lead(self) -> None:
        while True:
            try:
                more = await self._take_over()
                self._report(None)
            except Exception as error:  # noqa: BLE001 - whatever it is, without this task some would never come
                more = self.leads = False
                self._report(error)
                with contextlib.suppress(StoreUnavailable):
                    await self._outbox.release(self._holder)
                await asyncio.sleep(STEP_BACK)
            if not more:
                await asyncio.sleep(EVERY)

    async def _take_over(self) -> bool:
        """If the lease is to be had, publish a page of what was left and send a heartbeat; True when there was some."""
        self.leads = await self._outbox.lease(self._holder, LEASE)
        if not self.leads:
            await self._topic.check()
            return False
        known = Trail.read(await self._outbox.trail())
        extent = await self._topic.extent()
        trail = known if known is not None and known.fits(extent) else await self._publish_anew(extent)
        if trail is None:
            return True
        if known is not None and trail is not known:
            logger.warning("the topic was made anew or lost records; all live logouts were published again")
        left = await self._outbox.unpublished(age=EVERY, limit=PAGE)
        await self._publish(left)
        return not await self._send_heartbeat(trail) or bool(left)

    async def _publish_anew(self, extent: Extent) -> Trail | None:
        """Publish all that is live; None when somebody else is at it, or the topic is already another one again."""
        trail: Trail | None = Trail.begin(extent, (await self._outbox.tick()).at_us)
        cursor = None
        while trail and (page := await self._outbox.read(cursor, PAGE)):
            if not await self._outbox.lease(self._holder, LEASE):
                return None
            revocations = [entry.revocation for entry in page]
            trail = trail.further(trail.marks[0].at_us, await self._topic.publish(revocations))
            cursor = page[-1].cursor
        return trail

    async def _send_heartbeat(self, trail: Trail) -> bool:
        """False when the topic is another one than that of the trail, which will be found again."""
        watermark = await self._outbox.watermark()
        heartbeat = Heartbeat(at_us=watermark.at_us, complete_until_us=watermark.complete_until_us)
        further = trail.further(watermark.at_us, await self._topic.announce(heartbeat))
        if further is not None:
            await self._outbox.keep_trail(further.write())
        return further is not None

    async def _publish(self, revocations: list[Logout]) -> None:
        if revocations:
            contexts = {event: self._contexts.pop(event) for event in revocations if event in self._contexts}
            await self._topic.publish(revocations, contexts)
            await self._outbox.published(revocations)

    def _take_fresh(self) -> list[Logout]:
        taken, self._fresh = self._fresh, []
        return taken

    def _report(self, error: Exception | None) -> None:
        """Say it once when publishing begins to fail, and once when it works again."""
        problem = None if error is None else str(error) or type(error).__name__
        unforeseen = error if error is not None and not isinstance(error, IssuerError) else None
        if problem and (unforeseen or not self.problem):
            logger.warning(
                "logouts can't be published now (%s); they are kept and published later", problem, exc_info=unforeseen
            )
        elif self.problem and not problem:
            logger.info("logouts are published again")
        self.problem = problem
