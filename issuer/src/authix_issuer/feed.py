"""The issuer's HTTP feed: the revocation log, to everyone who follows it.

Rule: a heartbeat's moment is taken from the clock before the log is read, and it is sent after all that was read; so
all that it vouches for stands before it. A newcomer is shown the whole log from its cursor on first. A follower who
can't keep up is cut off and resumes, never skipped over. However many follow, others have their turn in between, and a
revocation never waits for a heartbeat to be through.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Self

from authix import sse
from authix.events import Heartbeat, KeyRevoked, Revocation, Snapshot, encode_event
from authix_issuer.errors import StoreUnavailable
from authix_issuer.ports import Entry, RevocationLog

logger = logging.getLogger("authix.issuer.feed")

HEARTBEAT_EVERY = 1.0
PAGE = 1000
_BACKLOG = 1000  # chunks that a follower may lag behind
_TRIM_EVERY = 10.0
_AT_ONCE = 100  # followers; some 2 ms

_Follower = asyncio.Queue[bytes | None]


class Feed:
    """Follows the log from its present end and passes it on."""

    def __init__(self, log: RevocationLog, on_key: Callable[[KeyRevoked], None] = lambda _: None) -> None:
        """``on_key`` is called with each signing key that is revoked from now on."""
        self._log = log
        self._on_key = on_key
        self._followers: set[_Follower] = set()
        self._newcomers: set[_Follower] = set()
        """Those who have all that is in the log and wait for a first heartbeat."""
        self._beat = b""
        self._owed: list[_Follower] = []
        """Those who still have to get it; all that it vouches for was sent before."""
        self._wake = asyncio.Event()
        self._ended = False
        self._heartbeat_due = 0.0
        self._cursor: str | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._cursor = await self._log.end()
        jobs = (self._pass_on(), self._log.follow(self.wake), self._trim())
        self._tasks = [asyncio.create_task(job) for job in jobs]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def followers(self) -> int:
        """How many follow it now."""
        return len(self._followers)

    def wake(self) -> None:
        """Read the log now."""
        self._wake.set()

    def end(self) -> None:
        """End every follower's stream, and that of whoever comes later once it has caught up."""
        self._ended = True
        for follower in tuple(self._followers):
            self._cut_off(follower)

    async def snapshot(self) -> Snapshot:
        """All live revocations and the cursor after them."""
        heartbeat = await self._heartbeat()
        cursor: str | None = None
        revocations: list[Revocation] = []
        while page := await self._log.read(cursor, PAGE):
            cursor = page[-1].cursor
            revocations += [entry.revocation for entry in page]
        return Snapshot(cursor or "", heartbeat, revocations)

    async def follow(self, cursor: str | None) -> AsyncGenerator[bytes, None]:
        """Server-sent events from ``cursor`` on (None, or one of another log: all live revocations), for ever."""
        follower: _Follower = asyncio.Queue()
        self._followers.add(follower)
        if self._ended:
            self._cut_off(follower)
        try:
            while page := await self._log.read(cursor, PAGE):
                cursor = page[-1].cursor
                yield _encode(page)
            self._newcomers.add(follower)
            self._wake.set()
            while (chunk := await follower.get()) is not None:
                yield chunk
        finally:
            self._followers.discard(follower)
            self._newcomers.discard(follower)

    async def _pass_on(self) -> None:
        stands_still = False
        while True:
            self._wake.clear()
            try:
                await self._pass_on_once()
            except StoreUnavailable as error:
                stands_still, reason = True, error.reason
                logger.error("the revocation log can't be read; the feed stands still: %s", reason)  # noqa: TRY400 - the reason is enough
                await asyncio.sleep(HEARTBEAT_EVERY)
                continue
            except Exception:  # whatever it is: without this task no follower would ever hear of a logout again
                stands_still = True
                logger.exception("the revocation log can't be read; the feed stands still")
                await asyncio.sleep(HEARTBEAT_EVERY)
                continue
            if stands_still:
                stands_still = False
                logger.info("the revocation log is read again; the feed goes on")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._heartbeat_due):
                    await self._wake.wait()

    async def _pass_on_once(self) -> None:
        now = asyncio.get_running_loop().time()
        heartbeat, due = None, now >= self._heartbeat_due and not self._owed
        newcomers, self._newcomers = self._newcomers, set()
        if due:
            self._heartbeat_due = now + HEARTBEAT_EVERY
        if due or newcomers:
            heartbeat = await self._heartbeat()
        while page := await self._log.read(self._cursor, PAGE):
            self._cursor = page[-1].cursor
            for entry in page:
                if isinstance(entry.revocation, KeyRevoked):
                    self._on_key(entry.revocation)
            await self._send(_encode(page))
        if heartbeat is not None:
            self._beat = sse.encode(encode_event(heartbeat))
            # A newcomer's is for him alone: if thousands come at once, each of theirs would go to all the others.
            self._owed = list(self._followers if due else newcomers.union(self._owed))
        while self._owed:
            for _ in range(min(_AT_ONCE, len(self._owed))):
                self._give(self._owed.pop(), self._beat)
            await asyncio.sleep(0)
            if self._wake.is_set():
                return

    async def _heartbeat(self) -> Heartbeat:
        tick = await self._log.tick()
        return Heartbeat(at_us=tick.at_us, complete_until_us=tick.complete_until_us)

    async def _send(self, chunk: bytes) -> None:
        owed, self._owed = set(self._owed), []
        both = chunk + self._beat
        for number, follower in enumerate(tuple(self._followers), 1):
            self._give(follower, both if follower in owed else chunk)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def _give(self, follower: _Follower, chunk: bytes) -> None:
        if follower not in self._followers:
            return
        if follower.qsize() >= _BACKLOG:
            self._cut_off(follower)
        else:
            follower.put_nowait(chunk)

    def _cut_off(self, follower: _Follower) -> None:
        self._followers.discard(follower)
        follower.put_nowait(None)

    async def _trim(self) -> None:
        while True:
            try:
                more = await self._log.trim(PAGE)
            except StoreUnavailable as error:
                logger.error("dead entries can't be trimmed: %s", error.reason)  # noqa: TRY400 - the reason is enough
                more = False
            except Exception:
                logger.exception("dead entries can't be trimmed")
                more = False
            await asyncio.sleep(0 if more else _TRIM_EVERY)


def _encode(page: list[Entry]) -> bytes:
    return b"".join(sse.encode(encode_event(entry.revocation), entry.cursor) for entry in page)
