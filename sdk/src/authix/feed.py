"""Follow the issuer's revocation feed over HTTP.

Rule: the feed replays every live revocation to a newcomer and then goes on live; a heartbeat counts only after all that
stands before it was taken. A broken stream is resumed from the last cursor, and silence is a broken stream. What a slow
link brings late is known to be late, and too late is broken too: whatever is still on its way is asked for anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable

import httpx

from authix import sse, transport
from authix.errors import SourceError
from authix.events import Event, Heartbeat, decode_event

logger = logging.getLogger("authix.feed")

SILENCE = 5.0
"""Seconds without a byte (the feed has a heartbeat every second), or by which a heartbeat may be late, after which the
stream is taken as broken."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_FORESEEN = (httpx.HTTPError, SourceError)


class HttpFeed:
    """A feed over server-sent events. ``take`` gets every event in the feed's order."""

    def __init__(
        self,
        url: str,
        *,
        token: str,
        take: Callable[[Event], None],
        tls: ssl.SSLContext | None = None,
        silence: float = SILENCE,
    ) -> None:
        self.url = url
        self._headers = {"Accept": sse.CONTENT_TYPE, "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._take = take
        self._tls = tls
        self._silence = silence
        self._cursor: str | None = None
        self._healthy = False

    async def follow(self) -> None:
        """Follow for ever, resuming after every failure."""
        pause = _FIRST_PAUSE
        timeout = httpx.Timeout(self._silence)
        async with transport.client(self._tls, timeout) as client:
            while True:
                self._healthy = False
                try:
                    await self._stream(client)
                    self._report("the stream ended")
                except Exception as error:  # noqa: BLE001 - whatever went wrong, the next try may do
                    trace = None if isinstance(error, _FORESEEN) else error
                    self._report(str(error) or type(error).__name__, trace)
                if self._healthy:
                    pause = _FIRST_PAUSE
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, no secret
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _stream(self, client: httpx.AsyncClient) -> None:
        headers = self._headers | ({"Last-Event-ID": self._cursor} if self._cursor else {})
        lateness = _Lateness(time.monotonic())
        async with client.stream("GET", self.url, headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                raise SourceError(f"answered {response.status_code}")
            if response.headers.get("content-type", "").partition(";")[0].strip().lower() != sse.CONTENT_TYPE:
                raise SourceError("is no event stream")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise SourceError("is compressed, which was not asked for")
            decoder = sse.Decoder()
            async for chunk in response.aiter_raw():
                for received in decoder.feed(chunk):
                    self._receive(received, lateness)

    def _receive(self, received: sse.ServerSentEvent, lateness: _Lateness) -> None:
        event, late = decode_event(received.data), 0.0
        if isinstance(event, Heartbeat):
            late = lateness.of(event, time.monotonic())
            event = Heartbeat(at_us=event.at_us + round(late * 1_000_000), complete_until_us=event.complete_until_us)
        if event is not None:
            self._take(event)
        if received.cursor is not None:
            self._cursor = received.cursor
        if not self._healthy:
            self._healthy = True
            logger.info("feed %s: connected", self.url)
        if late > self._silence:
            raise SourceError(f"a heartbeat came {late:.1f} s late")

    def _report(self, reason: str, trace: Exception | None = None) -> None:
        logger.warning("feed %s: %s; trying again", self.url, reason, exc_info=trace)


class _Lateness:
    """How late the heartbeats of one connection come, at most, on this host's monotonic clock. Does no I/O.

    The first was said after it was asked for, and each further one as long after the first as the feed's clock says.
    That clock can be put forward: what would come before it was said comes at once, and is counted from anew.
    """

    def __init__(self, asked: float) -> None:
        self._since = asked
        self._said_us: int | None = None

    def of(self, heartbeat: Heartbeat, now: float) -> float:
        """Seconds."""
        if self._said_us is None:
            self._said_us = heartbeat.at_us
        late = now - self._since - (heartbeat.at_us - self._said_us) / 1_000_000
        if late < 0:
            self._since, self._said_us = now, heartbeat.at_us
        return max(late, 0.0)
