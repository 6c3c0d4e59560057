"""A connection to the upstream.

Rule: it carries one request at a time. It goes back to the pool only when both messages are complete, nothing came
behind the answer, and the upstream keeps it open; anything else ends it, so no answer can reach the wrong request.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import NamedTuple, Protocol, cast

from authix_sidecar.answer_reader import AnswerReader
from authix_sidecar.answers import AnswerHead
from authix_sidecar.errors import UpstreamBroken, UpstreamError, UpstreamTimeout
from authix_sidecar.fields import Field
from authix_sidecar.half_close import write_end

# Times in seconds
LEAVE_TIME = 60.0
"""For what a connection that is left has still to send."""
POOL_TIME = 4.0
"""In the pool. Shorter than the keep-alive time of common servers (5 s), so that few connections go stale in it."""


class Patience(NamedTuple):
    """How long an answer is waited for, in seconds."""

    answer: float
    """From the last byte of the request to the answer's head, and between two pieces of the answer."""
    total: float
    """From the request's beginning to the answer's end."""


class Receiver(Protocol):
    """Whoever waits for an answer."""

    def interim(self, status: int, found: list[Field]) -> None:
        """An answer of class 1xx, before the real one."""

    def answer(self, head: AnswerHead, content: list[bytes], *, complete: bool) -> None:
        """The answer's head, with what is here of its body."""

    def answer_more(self, content: list[bytes], *, complete: bool) -> None:
        """More of the answer's body."""

    def upgraded(self, head: AnswerHead, behind: bytes) -> None:
        """The upstream switches protocols; ``behind`` came after the head. From now on bytes are passed unread."""

    def tunnelled_back(self, data: bytes) -> None:
        """Bytes from the upstream, since it switched protocols."""

    def upstream_ended(self) -> None:
        """The upstream will send no more through the tunnel."""

    def upstream_slow(self) -> None:
        """Too much is waiting to be sent to the upstream."""

    def upstream_ready(self) -> None:
        """The upstream has taken what was waiting."""

    def upstream_lost(self, error: UpstreamError, *, stale: bool) -> None:
        """There will be no answer, or no more of it. ``stale``: the connection may have died before the request."""


class Owner(Protocol):
    """Whoever keeps the connections."""

    connections: set[UpstreamConnection]

    def put(self, connection: UpstreamConnection) -> None:
        """Take one that waits for its next request."""


class UpstreamConnection(asyncio.Protocol):
    """Sends requests and passes on answers."""

    def __init__(self, owner: Owner, patience: Patience) -> None:
        self.deadline = inf
        self._owner = owner
        self._patience = patience
        self._reader = AnswerReader()
        self._receiver: Receiver | None = None
        self._reused = False
        self._tunnel = False
        self._silence = patience.answer
        self._until = inf
        self._reading = True

    # --- what the receiver calls

    @property
    def closing(self) -> bool:
        return self._transport.is_closing()

    def begin(self, receiver: Receiver, data: bytes, *, method: bytes, asked: bytes) -> None:
        """Send a request's head and what is here of its body; ``asked`` are the protocols it would upgrade to."""
        self._receiver = receiver
        self._silence, total = self._patience
        now = monotonic()
        self._until = now + total
        self.deadline = min(now + self._silence, self._until)
        self._reader.expect(method, asked)
        self._transport.write(data)

    def write(self, data: bytes) -> None:
        self.deadline = min(monotonic() + self._silence, self._until)
        self._transport.write(data)

    def write_end(self) -> None:
        """Nothing more will be sent; the other direction goes on, except over TLS, which has no half."""
        write_end(self._transport)

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            self.deadline = self._until
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._reading:
            self._reading = True
            self.deadline = min(monotonic() + self._silence, self._until)
            self._transport.resume_reading()

    def be_patient(self) -> None:
        """The answer may be silent, and last, for as long as it likes."""
        self._silence = self._until = self.deadline = inf

    def leave(self, *, done: bool) -> None:
        """Whatever comes is of no interest any more; ``done``: request and answer are complete."""
        self._receiver = None
        reader = self._reader
        if done and reader.complete and reader.keep_alive and not reader.surplus and not self.closing:
            self._until = inf
            self.resume()
            self._reused = True
            self.deadline = monotonic() + POOL_TIME
            self._owner.put(self)
        else:
            self.deadline = monotonic() + LEAVE_TIME
            self._transport.close()

    # --- what the owner calls

    def abort(self) -> None:
        """End now, whatever waits to be sent."""
        self._receiver = None
        self._transport.abort()

    def expire(self) -> None:
        """The deadline has passed."""
        self._fail(UpstreamTimeout("the upstream did not answer in time"))

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._owner.connections.add(self)

    def data_received(self, data: bytes) -> None:
        receiver, reader = self._receiver, self._reader
        if receiver is None:
            self._transport.abort()  # nobody asked
            return
        self.deadline = min(monotonic() + self._silence, self._until)
        if self._tunnel:
            receiver.tunnelled_back(data)
            return
        first = reader.head is None
        try:
            reader.feed(data)
        except UpstreamBroken as error:
            self._fail(error)
            return
        if reader.interims:
            interims, reader.interims = reader.interims, []
            for status, found in interims:
                receiver.interim(status, found)
        head = reader.head
        if head is None:
            return
        if head.upgrade:
            self._tunnel = True
            self.be_patient()
            receiver.upgraded(head, reader.behind)
            return
        content, reader.content = reader.content, []
        if first:
            receiver.answer(head, content, complete=reader.complete)
        else:
            receiver.answer_more(content, complete=reader.complete)

    def eof_received(self) -> bool:
        receiver, head = self._receiver, self._reader.head
        if receiver is not None and self._tunnel:
            receiver.upstream_ended()
            return True
        if receiver is not None and head is not None and head.until_close:
            receiver.answer_more([], complete=True)
        return False

    def pause_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.upstream_slow()

    def resume_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.upstream_ready()

    def connection_lost(self, _: Exception | None) -> None:
        self._owner.connections.discard(self)
        self._fail(UpstreamBroken("the upstream closed the connection before its answer was complete"))

    def _fail(self, error: UpstreamError) -> None:
        receiver, self._receiver = self._receiver, None
        self._transport.abort()
        if receiver is not None:
            receiver.upstream_lost(error, stale=self._reused and not self._reader.head_bytes)
