"""Open streams: whatever goes on for longer than a request, by the user it was opened for.

Rule: a stream lives no longer than the token that opened it would be accepted. A revocation that covers the token cuts
it at once, expiry cuts it by a timer; and since a logout may have come in between the judgement and the opening, the
token is looked at again when the stream is added. A lasting stream outlives its token's expiry, but only while logouts
are heard of: one that could miss a logout is cut.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator
from types import TracebackType
from typing import Any, Self, TypeVar

from authix.claims import Claims
from authix.errors import AuthixError, KeyRevoked, TokenError, TokenExpired, TokenRevoked
from authix.events import KeyRevoked as KeyRevokedEvent
from authix.events import Revocation, SessionRevoked, UserRevoked
from authix.verifier import Verifier

logger = logging.getLogger("authix.streams")

T = TypeVar("T")

LOOK_AGAIN = 60.0
"""Seconds after which the wall clock is looked at again, because it may have been set."""

Cut = Callable[[AuthixError], None]


class Stream:
    """One open stream; ``cut`` ends it."""

    __slots__ = ("claims", "cut", "lasting", "timer")

    def __init__(self, claims: Claims, cut: Cut, *, lasting: bool) -> None:
        self.claims = claims
        self.cut = cut
        self.lasting = lasting
        self.timer: asyncio.TimerHandle | None = None


class OpenStreams:
    """Cuts streams by ``apply``, which takes the feed's revocations after the verifier has."""

    def __init__(
        self,
        verifier: Verifier,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verifier = verifier
        self._now = now
        self._monotonic = monotonic
        self._by_subject: dict[str, set[Stream]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_subject.values()))

    def add(self, claims: Claims, cut: Cut, *, lasting: bool = False) -> Stream:
        """Keep a stream opened for ``claims`` until ``remove``. Raises ``TokenError`` when the token has died since.

        ``lasting``: the token's expiry does not cut it. To be called in the event loop in which the stream expires.
        """
        self.check(claims)
        stream = Stream(claims, cut, lasting=lasting)
        self._by_subject.setdefault(claims.subject, set()).add(stream)
        self._watch_expiry(stream)
        return stream

    def remove(self, stream: Stream) -> None:
        if stream.timer is not None:
            stream.timer.cancel()
        streams = self._by_subject.get(stream.claims.subject)
        if streams is not None:
            streams.discard(stream)
            if not streams:
                del self._by_subject[stream.claims.subject]

    def check(self, claims: Claims) -> None:
        """Look at a verified token again. Raises ``TokenRevoked``, ``KeyRevoked`` or ``TokenExpired``."""
        revocations = self._verifier.revocations
        if revocations.revokes(
            subject=claims.subject, session=claims.session, issued_at_us=claims.issued_at_us
        ) or revocations.has_forgotten(claims.issued_at_us):
            raise TokenRevoked("the user logged out")
        if revocations.revokes_key(claims.key_id):
            raise KeyRevoked("the token's key was revoked")
        if self._life_left(claims) <= 0:
            raise TokenExpired

    def apply(self, event: Revocation) -> None:
        """Cut every stream whose token ``event`` revokes. Does not raise."""
        if not self._by_subject:
            return  # so it is in a replay of a million events
        if isinstance(event, UserRevoked | SessionRevoked):
            concerned = tuple(self._by_subject.get(event.sub, ()))
        else:
            concerned = self._all()
        for stream in concerned:
            claims = stream.claims
            match event:
                case UserRevoked(since_us=since) if claims.issued_at_us <= since:
                    self._cut(stream, TokenRevoked("the user logged out"))
                case SessionRevoked(sid=sid, since_us=since) if claims.session == sid and claims.issued_at_us <= since:
                    self._cut(stream, TokenRevoked("the user logged out"))
                case KeyRevokedEvent(kid=kid) if claims.key_id == kid:
                    self._cut(stream, KeyRevoked("the token's key was revoked"))

    def expire(self) -> None:
        """Cut every stream whose token has expired, without waiting for its timer."""
        for stream in self._all():
            if self._is_over(stream):
                self._cut(stream, TokenExpired())

    def _all(self) -> tuple[Stream, ...]:
        return tuple(stream for streams in self._by_subject.values() for stream in streams)

    def _life_left(self, claims: Claims) -> float:
        return claims.expires_at + self._verifier.leeway - self._now()

    def _is_over(self, stream: Stream) -> bool:
        if self._life_left(stream.claims) > 0:
            return False
        age = self._verifier.freshness.age(self._monotonic())
        return not stream.lasting or age is None or age > self._verifier.stale_after

    def _watch_expiry(self, stream: Stream) -> None:
        if self._is_over(stream):
            self._cut(stream, TokenExpired())
            return
        left = self._life_left(stream.claims)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # a test without a loop: there time passes by ``expire`` alone
        wait = min(left, LOOK_AGAIN) if left > 0 else LOOK_AGAIN
        stream.timer = loop.call_later(wait, self._watch_expiry, stream)

    def _cut(self, stream: Stream, why: AuthixError) -> None:
        self.remove(stream)
        try:
            stream.cut(why)
        except Exception:
            logger.exception("a stream could not be cut")


class UntilRevoked:
    """The time until the token behind ``claims`` is revoked or expires.

    ``await`` it for the error that says why it ended; or ``async with`` it: the block is cancelled then, and the error
    raised in its place (as ``asyncio.timeout`` does).
    """

    def __init__(
        self,
        streams: OpenStreams,
        claims: Claims | None = None,
        *,
        on_end: Callable[[AuthixError], None] | None = None,
    ) -> None:
        """``claims`` None: a block that is watched only from ``begin`` on. ``on_end`` is called in the block's loop
        before the block is cancelled.
        """
        self._streams = streams
        self._claims = claims
        self._on_end = on_end
        self._stream: Stream | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self.ended_by: AuthixError | None = None
        """Why the block was cancelled; None while it was not."""

    def __await__(self) -> Generator[object, None, AuthixError]:
        return self._wait().__await__()

    async def _wait(self) -> AuthixError:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[AuthixError] = loop.create_future()

        def end(why: AuthixError) -> None:
            if not ended.done():
                ended.set_result(why)

        assert self._claims is not None  # noqa: S101 - only a block may begin without
        try:
            stream = self._streams.add(self._claims, lambda why: _in_loop(loop, lambda: end(why)))
        except TokenError as error:
            return error
        try:
            return await ended
        finally:
            self._streams.remove(stream)

    async def __aenter__(self) -> Self:
        """Raises ``TokenError`` when the token has died since it was verified."""
        if self._task is not None:
            raise RuntimeError("this block has been entered already")
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101 - a coroutine always runs in a task
        self._cancelling = self._task.cancelling()
        if self._claims is not None:
            self._watch(self._claims)
        return self

    def begin(self, claims: Claims) -> None:
        """Watch over a block entered without claims, from now on and once; ends it at once for a dead token."""
        if self._task is not None and self._stream is None:
            try:
                self._watch(claims)
            except TokenError as error:
                self._interrupt(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        assert task is not None  # noqa: S101 - entered before
        if self._stream is not None:
            self._streams.remove(self._stream)
        if self.ended_by is None or task.uncancel() > self._cancelling:
            return  # not by us, or not by us alone
        if kind is None or issubclass(kind, asyncio.CancelledError):
            raise self.ended_by from error

    def _watch(self, claims: Claims) -> None:
        loop = asyncio.get_running_loop()
        self._stream = self._streams.add(claims, lambda why: _in_loop(loop, lambda: self._interrupt(why)))

    def _interrupt(self, why: AuthixError) -> None:
        if self._task is not None and self.ended_by is None:
            self.ended_by = why
            if self._on_end is not None:
                self._on_end(why)
            self._task.cancel()


async def items_until(items: AsyncIterable[T], end: asyncio.Future[Any]) -> AsyncGenerator[T, None]:
    """``items`` until ``end`` is done; then their source is cancelled, wherever it waits.

    The source runs in one task, at most two items ahead.
    """
    given: asyncio.Queue[T] = asyncio.Queue(1)

    async def take() -> None:
        try:
            async for item in items:
                await given.put(item)
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    taking = asyncio.create_task(take())
    getting: asyncio.Task[T] | None = None
    try:
        while True:
            getting = asyncio.create_task(given.get())
            await asyncio.wait({getting, taking, end}, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                return
            if not getting.done() and given.empty():
                await taking
                return
            yield await getting
    finally:
        for task in (taking, getting):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})


def _in_loop(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    """Let ``loop`` act: revocations may come from another thread, and the loop may have ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(act)
