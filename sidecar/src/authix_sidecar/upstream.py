"""A connection to the upstream.

Rule: it carries one request at a time. It goes back to the pool only when both messages are complete, nothing came
behind the answer, and the upstream keeps it open; anything else ends it, so no answer can reach the wrong request.
"""

from __future__ import annotations

import asyncio
import os
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

_PIECE = 65536  # bytes


class Patience(NamedTuple):
    """How long an answer is waited for, in seconds."""

    answer: float
    """From the last byte of the request to the answer's head, and between two pieces of the answer; for a go-ahead too
    (100 Continue), and to take what waits to be sent."""
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
        self._blocked = False
        self._sent = False
        self._go_ahead = True

    # --- what the receiver calls

    @property
    def closing(self) -> bool:
        return self._transport.is_closing()

    def begin(
        self, receiver: Receiver, data: bytes, *, method: bytes, asked: bytes, whole: bool = True, waits: bool = False
    ) -> None:
        """Send a request's head and what is here of its body; ``asked`` are the protocols it would upgrade to.

        Unless it is here ``whole``, ``request_end`` must follow. ``waits``: its body waits for the upstream's go-ahead.
        """
        self._receiver = receiver
        self._silence, total = self._patience
        self._until = monotonic() + total
        self._sent = whole
        self._go_ahead = not waits
        self._restart_clock()
        self._reader.expect(method, asked)
        self._transport.write(data)

    def write(self, data: bytes) -> None:
        if not self._go_ahead:  # the client did not wait for it
            self._go_ahead = True
            self._restart_clock()
        self._transport.write(data)

    def request_end(self) -> None:
        """The request is sent whole: from now on it is the upstream that is waited for."""
        self._sent = True
        self._restart_clock()

    def write_end(self) -> None:
        """Nothing more will be sent; the other direction goes on, except over TLS, which has no half."""
        write_end(self._transport)

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            self._restart_clock()
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._reading:
            self._reading = True
            self._restart_clock()
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
        self._fail(UpstreamTimeout("the upstream did not answer in time"), stale=False)

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._owner.connections.add(self)

    def data_received(self, data: bytes) -> None:
        receiver, reader = self._receiver, self._reader
        if receiver is None:
            self._transport.abort()  # nobody asked
            return
        self._go_ahead = True
        self._restart_clock()
        if self._tunnel:
            receiver.tunnelled_back(data)
            return
        first = reader.head is None
        try:
            reader.feed(data)
        except UpstreamBroken as error:
            self._fail(error, stale=False)
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
        self._blocked = True
        if self._receiver is not None:
            self._restart_clock()
            self._receiver.upstream_slow()

    def resume_writing(self) -> None:
        self._blocked = False
        if self._receiver is not None:
            self._restart_clock()
            self._receiver.upstream_ready()

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.connections.discard(self)
        if error is not None:
            self._read_rest()
        self._fail(
            UpstreamBroken("the upstream closed the connection before its answer was complete"),
            stale=self._reused and not self._reader.head_bytes,
        )

    def _restart_clock(self) -> None:
        """Who is not waited for may be silent: amid an upload that is the client's turn, or while we don't read."""
        if self._reading and (self._sent or self._blocked or not self._go_ahead):
            self.deadline = min(monotonic() + self._silence, self._until)
        else:
            self.deadline = self._until

    def _read_rest(self) -> None:
        """Take what came before the connection broke.

        An upstream that refuses an upload answers and closes; what is written after that fails before the answer is
        read, and asyncio reads no more. Bytes of TLS are lost, because only its transport could decrypt them. An end
        says nothing here: after the failed write, a reset looks like one.
        """
        if self._transport.get_extra_info("sslcontext") is not None:
            return
        number = self._transport.get_extra_info("socket").fileno()
        try:
            while self._receiver is not None and not self._tunnel and (data := os.read(number, _PIECE)):
                self.data_received(data)
        except OSError:  # nothing is left but the error
            return

    def _fail(self, error: UpstreamError, *, stale: bool) -> None:
        receiver, self._receiver = self._receiver, None
        self._transport.abort()
        if receiver is not None:
            receiver.upstream_lost(error, stale=stale)
